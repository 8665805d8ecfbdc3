//! Actions of other users, links and forgers on the daemon's files: it is up within a second,
//! serves, and writes nowhere else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Unit;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::{Result, Skip, eventually, sandbox};
use crate::program;

trials![
    what_others_may_write_is_not_believed,
    a_forged_entry_changes_nothing_in_another_namespace,
    bytes_that_were_changed_cost_their_own_lease_at_most,
    a_directory_that_was_removed_is_made_again,
    a_confined_daemon_goes_on_without_its_directory,
];

const SOON: Duration = Duration::from_secs(5);

/// A daemon with its lease file in a folder of its own, which has nothing else in it.
fn stage(containers: u16) -> Result<Stage> {
    stage_with(containers, &[])
}

fn stage_with(containers: u16, arguments: &[&str]) -> Result<Stage> {
    let folder = sandbox::folder("state")?;
    let unit = Unit::new(program(), arguments)?.with_leases_in(&folder);
    let topology = Topology::new(containers)?;
    let daemon = unit.start_ready(&topology.host)?;
    Ok(Stage {
        daemon,
        unit,
        topology,
    })
}

/// Starts the daemon again, which has to be ready at once.
fn restart(stage: &mut Stage, what: &str) -> Result {
    let start = rt::now();
    stage.daemon = stage
        .unit
        .start_ready(&stage.topology.host)
        .map_err(|error| format!("{what}: {error}"))?;
    let took = rt::now() - start;
    assert!(
        took < Duration::from_secs(1),
        "{what}: ready after {took:?}"
    );
    Ok(())
}

/// Has another user own something; where there is none in this sandbox, the trial ends.
fn give_away(path: &Path) -> Result {
    chown(path, Some(1), None).map_err(|error| {
        Skip::Impossible(format!("files cannot be given to another user: {error}")).into()
    })
}

/// Puts something into the folder of a lease file.
type Put = fn(&Path) -> Result;

fn what_others_may_write_is_not_believed() -> Result {
    fn mode(path: &Path, mode: u32) -> Result {
        Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
    }
    fn folder(file: &Path) -> &Path {
        file.parent().expect("it is in a folder")
    }
    fn linked(file: &Path, name: &str) -> Result {
        let path = folder(file).join(name);
        let _ = fs::remove_file(&path);
        Ok(symlink("precious", path)?)
    }
    // What it is, how it comes there, and whether the lease in the file goes on.
    let finds: &[(&str, Put, bool)] = &[
        ("the file as it was", |_| Ok(()), true),
        (
            "a file that all may read, as netavark makes it",
            |file| mode(file, 0o644),
            true,
        ),
        (
            "a file that its group may write",
            |file| mode(file, 0o664),
            false,
        ),
        ("a file that all may write", |file| mode(file, 0o666), false),
        ("a file of another user", |file| give_away(file), false),
        (
            "a symbolic link to a lease file",
            |file| {
                fs::rename(file, folder(file).join("elsewhere"))?;
                Ok(symlink("elsewhere", file)?)
            },
            false,
        ),
        (
            "a directory in a directory that all may write",
            |file| mode(folder(file), 0o777),
            false,
        ),
        (
            "a directory that its group may write",
            |file| mode(folder(file), 0o775),
            false,
        ),
        (
            "a directory like /tmp",
            |file| mode(folder(file), 0o1777),
            true,
        ),
        (
            "a directory of another user",
            |file| give_away(folder(file)),
            false,
        ),
        (
            "a link in the place of the temporary file",
            |file| linked(file, "nv-proxy.state.new"),
            true,
        ),
        (
            "a link in the place of the known addresses",
            |file| linked(file, "nv-proxy.known"),
            true,
        ),
        (
            "a link in the place of their temporary file",
            |file| linked(file, "nv-proxy.known.new"),
            true,
        ),
        (
            "a link in the place of the networks",
            |file| linked(file, "nv-proxy.networks"),
            true,
        ),
        (
            "a link in the place of the networks' temporary file",
            |file| linked(file, "nv-proxy.networks.new"),
            true,
        ),
        (
            "a link in the place of what is of no use",
            |file| {
                linked(file, "nv-proxy.state.unused")?;
                Ok(fs::write(file, "garbage")?)
            },
            false,
        ),
        (
            "another name of another file in the place of the known addresses",
            |file| {
                let known = folder(file).join("nv-proxy.known");
                let _ = fs::remove_file(&known);
                Ok(fs::hard_link(folder(file).join("precious"), known)?)
            },
            true,
        ),
        (
            "FIFOs all over",
            |file| {
                let known = [
                    "nv-proxy.known",
                    "nv-proxy.known.new",
                    "nv-proxy.networks",
                    "nv-proxy.networks.new",
                ];
                for name in known
                    .iter()
                    .chain(&["nv-proxy.state.new", "nv-proxy.state.unused"])
                {
                    let path = folder(file).join(name);
                    let _ = fs::remove_file(&path);
                    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
                }
                Ok(())
            },
            true,
        ),
        (
            "directories all over",
            |file| {
                let known = [
                    "nv-proxy.known",
                    "nv-proxy.known.new",
                    "nv-proxy.networks",
                    "nv-proxy.networks.new",
                ];
                for name in known.iter().chain(&["nv-proxy.state.unused"]) {
                    let path = folder(file).join(name);
                    let _ = fs::remove_file(&path);
                    fs::create_dir(path)?;
                }
                Ok(())
            },
            true,
        ),
    ];
    for (what, put, goes_on) in finds {
        let mut stage = stage(1)?;
        let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
        let file = stage.unit.state_file();
        let precious = file.with_file_name("precious");
        let lease = stage.setup(0)?;
        stage.daemon.kill()?;
        fs::write(&precious, "precious")?;
        put(&file).map_err(|error| {
            if Skip::reason(&*error).is_some() {
                error
            } else {
                format!("{what}: {error}").into()
            }
        })?;
        let elsewhere = fs::read(file.with_file_name("elsewhere")).ok();
        let logged = stage.unit.log()?.len();
        restart(&mut stage, what)?;
        let ended = stage
            .teardown(0)
            .map_err(|error| format!("{what}: {error}"))?;
        assert_eq!(
            ended.yiaddr == lease.yiaddr,
            *goes_on,
            "{what}: {}",
            stage.unit.log()?.split_off(logged)
        );
        // What is not believed is kept, and told of.
        let log = stage.unit.log()?.split_off(logged);
        assert_eq!(
            log.contains("nv-proxy.state.unused"),
            !goes_on,
            "{what}: {log}"
        );
        let of_directory = log.matches("ignoring the files in it").count();
        assert_eq!(
            of_directory,
            usize::from(!goes_on && what.contains("directory")),
            "{what}: {log}"
        );
        let again = stage.setup(0).map_err(|error| format!("{what}: {error}"))?;
        assert_eq!(
            stage.unit.leases()?[stage.topology.containers[0].mac.to_string()][0]["yiaddr"],
            again.yiaddr,
            "{what}"
        );
        stage
            .teardown(0)
            .map_err(|error| format!("{what}: {error}"))?;
        assert_eq!(
            fs::symlink_metadata(&file)?.permissions().mode(),
            0o100_600,
            "{what}: a file of its owner's"
        );
        assert_eq!(fs::read(&precious)?, b"precious", "{what}");
        assert_eq!(
            fs::read(file.with_file_name("elsewhere")).ok(),
            elsewhere,
            "{what}"
        );
    }
    Ok(())
}

/// Changes an entry, given that of another container.
type Forge = fn(&mut Value, &Value);

/// The fields by which an entry names its namespace.
const NAMESPACE: [&str; 4] = ["ns_path", "ns_cookie", "ns_dev", "ns_ino"];

fn a_forged_entry_changes_nothing_in_another_namespace() -> Result {
    let mut stage = stage(3)?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let addresses: Vec<String> = (0..3)
        .map(|n| Ok(stage.setup(n)?.yiaddr))
        .collect::<Result<_>>()?;
    let macs: Vec<String> = stage
        .topology
        .containers
        .iter()
        .map(|container| container.mac.to_string())
        .collect();
    // The Setups are in the file as finished a second after their answers.
    let whole = eventually("all rest in the file", SOON, || {
        let leases = stage.unit.leases()?;
        Ok(macs
            .iter()
            .all(|mac| leases[mac][0]["state"] == "BOUND")
            .then_some(leases))
    })?;
    let forgeries: [(&str, Forge); 3] = [
        ("only the path of the other's namespace", |entry, other| {
            entry["ns_path"] = other["ns_path"].clone()
        }),
        ("the path and the inode, and no cookie", |entry, other| {
            NAMESPACE
                .iter()
                .for_each(|name| entry[name] = other[name].clone());
            entry["ns_cookie"] = json!(null);
        }),
        (
            "all of the other's namespace, and its interface",
            |entry, other| {
                NAMESPACE
                    .iter()
                    .chain(&["container_ifindex"])
                    .for_each(|name| entry[name] = other[name].clone());
            },
        ),
    ];
    for (what, forge) in forgeries {
        for state in ["BOUND", "ENDING", "INTENT"] {
            let what = format!("{what}, {state}");
            stage.daemon.kill()?;
            let mut forged = whole.clone();
            let other = forged[&macs[1]][0].clone();
            forge(&mut forged[&macs[0]][0], &other);
            forged[&macs[0]][0]["state"] = json!(state);
            forged[&macs[0]][0]["due_at"] = json!(0);
            stage.unit.forge_leases(&forged)?;
            restart(&mut stage, &what)?;
            eventually("the forged entry comes to nothing", SOON, || {
                Ok(stage.unit.leases()?.get(&macs[0]).is_none().then_some(()))
            })
            .map_err(|error| format!("{what}: {error}"))?;
            for container in [1, 2] {
                let there = stage.topology.containers[container].address()?;
                let there = there
                    .ok_or_else(|| format!("{what}: container {container} has lost its address"))?;
                assert_eq!(there.address.to_string(), addresses[container], "{what}");
                assert_eq!(
                    stage.unit.leases()?[&macs[container]][0]["yiaddr"],
                    addresses[container],
                    "{what}"
                );
            }
        }
    }
    for container in [1, 2] {
        assert_eq!(stage.teardown(container)?.yiaddr, addresses[container]);
    }
    Ok(())
}

fn bytes_that_were_changed_cost_their_own_lease_at_most() -> Result {
    let mut stage = stage(2)?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let address = stage.setup(1)?.yiaddr;
    stage.setup(0)?;
    let macs: Vec<String> = stage
        .topology
        .containers
        .iter()
        .map(|container| container.mac.to_string())
        .collect();
    let whole = eventually("both rest in the file", SOON, || {
        let leases = stage.unit.leases()?;
        Ok(macs
            .iter()
            .all(|mac| leases[mac][0]["state"] == "BOUND")
            .then_some(leases))
    })?;
    stage.daemon.kill()?;
    // The innocent one first, as it is what comes before the damage that is read.
    let (first, second) = (whole[&macs[1]].to_string(), whole[&macs[0]].to_string());
    stage.unit.forge_leases(&json!({}))?;
    let head = fs::read_to_string(stage.unit.state_file())?;
    let head = head
        .strip_suffix("{}}")
        .ok_or("no leases in the state file")?;
    let text = format!(
        r#"{head}{{"{}":{first},"{}":{second}}}}}"#,
        macs[1], macs[0]
    )
    .into_bytes();
    let from = text.len() - second.len();
    for step in 0..12 {
        let mut changed = text.clone();
        let at = from + step * (second.len() / 12);
        let what = format!("bytes {at} and {} of {}", at + 1, text.len());
        match step % 3 {
            0 => changed.swap(at, at + 1),
            1 => changed[at] ^= 0x80,
            _ => changed[at] = b'9',
        }
        fs::write(stage.unit.state_file(), &changed)?;
        restart(&mut stage, &what)?;
        let there = stage.topology.containers[1]
            .address()?
            .ok_or_else(|| format!("{what}: the address is gone"))?;
        assert_eq!(there.address.to_string(), address, "{what}");
        let kept = eventually("the innocent lease is kept", SOON, || {
            Ok(stage
                .unit
                .leases()
                .ok()
                .and_then(|leases| leases[&macs[1]][0]["yiaddr"].as_str().map(str::to_owned)))
        })?;
        assert_eq!(kept, address, "{what}");
        stage.daemon.kill()?;
    }
    restart(&mut stage, "at the end")?;
    assert_eq!(stage.teardown(1)?.yiaddr, address);
    assert_eq!(stage.setup(1)?.yiaddr, address);
    Ok(())
}

/// Its sandbox knows the directory that was removed, and no other: the next instance makes it
/// again.
fn a_confined_daemon_goes_on_without_its_directory() -> Result {
    let mut stage = stage(2)?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let folder = stage
        .unit
        .lease_file()
        .parent()
        .ok_or("no folder")?
        .to_owned();
    let first = stage.setup(0)?.yiaddr;
    stage.topology.containers[0].namespace.await_rest()?;
    fs::remove_dir_all(&folder)?;
    stage.setup(1)?;
    let log = stage.unit.log()?;
    let words = format!(
        "the directory {} was removed, and the sandbox allows no new one",
        folder.display()
    );
    assert!(log.contains(&words), "{log}");
    assert!(!folder.exists());
    assert_eq!(stage.teardown(0)?.yiaddr, first);
    assert_eq!(stage.setup(0)?.yiaddr, first);
    assert!(stage.daemon.is_running()?);

    stage.restart()?;
    assert!(folder.is_dir());
    stage.setup(0)?;
    assert!(
        stage.unit.leases()?[stage.topology.containers[0].mac.to_string()][0]["yiaddr"].is_string()
    );
    Ok(())
}

fn a_directory_that_was_removed_is_made_again() -> Result {
    let stage = stage_with(2, &["--sandbox", "off"])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let file = stage.unit.state_file();
    let folder = file.parent().ok_or("no folder")?;
    stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    fs::remove_dir_all(folder)?;
    stage.setup(1)?;
    let leases = stage.unit.leases()?;
    for container in &stage.topology.containers {
        assert!(
            leases[container.mac.to_string()][0]["yiaddr"].is_string(),
            "{leases}"
        );
    }
    assert_eq!(fs::metadata(folder)?.permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o7777, 0o600);
    let log = stage.unit.log()?;
    assert_eq!(
        log.matches(&format!("the directory {} was removed", folder.display()))
            .count(),
        1,
        "{log}"
    );

    // It is locked as before: another instance is refused.
    let second = || -> Result {
        let unit = Unit::new(program(), &[])?.with_leases_in(folder);
        let mut daemon = unit.start(&stage.topology.host)?;
        assert_eq!(daemon.await_exit(SOON)?.code(), Some(1), "{}", unit.log()?);
        Ok(())
    };
    second()?;
    // As it is where the lock file alone was removed.
    fs::remove_file(file.with_extension("lock"))?;
    stage.teardown(0)?;
    second()?;
    stage.teardown(1)?;
    assert_eq!(stage.unit.leases()?, json!({}));
    Ok(())
}
