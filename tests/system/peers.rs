//! The scripts with real peers in tests/peers, a trial each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::{Result, Skip};

pub(crate) fn trials() -> Vec<(String, Box<dyn FnOnce() -> Result + Send>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut scripts: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    scripts.retain(|script| {
        script
            .extension()
            .is_some_and(|extension| extension == "sh")
    });
    scripts.sort();
    let trial = |script: PathBuf| -> (String, Box<dyn FnOnce() -> Result + Send>) {
        let name = script.file_stem().unwrap_or_default().display().to_string();
        (format!("peers::{name}"), Box::new(move || run(&script)))
    };
    scripts.into_iter().map(trial).collect()
}

/// Runs a script: exit code 0 is a pass, 77 a skip whose reason is its last line. Scripts know
/// SMOL_DHCP_PROXY_REQUIRE themselves.
fn run(script: &Path) -> Result {
    let mut command = Command::new(script);
    let output = command
        .env("DAEMON", crate::program())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(77) => Err(Skip::Impossible(
            text.lines().last().unwrap_or("no reason given").to_owned(),
        )
        .into()),
        _ => Err(format!(
            "{}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}
