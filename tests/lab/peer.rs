//! The peer: netavark's own proxy, where tests/run has built netavark 2.1.0 or `NETAVARK_BIN` names
//! its folder.

use std::env;
use std::path::PathBuf;

use super::daemon::Unit;
use super::stage::Stage;
use super::topology::Topology;
use super::{Result, Skip};

/// The program. Skips where there is none.
pub fn netavark() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = || {
        env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home)
    };
    let built = || Some(cache()?.join("smol-dhcp-proxy/netavark-2.1.0/bin"));
    let folder = env::var_os("NETAVARK_BIN")
        .map(PathBuf::from)
        .or_else(built)
        .unwrap_or_default();
    let path = folder.join("netavark");
    match path.is_file() {
        true => Ok(path),
        false => Err(Skip::Lacking(format!(
            "there is no {} (tests/run builds it)",
            path.display()
        ))
        .into()),
    }
}

/// Starts it on the host of `topology`, with a lease timeout of `patience` seconds. It does not
/// report when it is ready: a connection before that waits.
pub fn stage(topology: Topology, patience: u32) -> Result<Stage> {
    let unit = Unit::new(
        netavark()?,
        &["dhcp-proxy", "-a", "0", "-t", &patience.to_string()],
    )?;
    let daemon = unit.start(&topology.host)?;
    Ok(Stage {
        daemon,
        unit,
        topology,
    })
}
