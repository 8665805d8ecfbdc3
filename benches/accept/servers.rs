//! The five servers: build, start and end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use smol_dhcp_proxy::rt::now;

use crate::{Result, round};

/// The names of the servers, the floor last.
pub const NAMES: [&str; 5] = ["ours", "twin", "threads", "std", "epoll"];

/// The build profile of the programs and its folder: a release build, except in `cargo test`, which
/// is a quick check.
const PROFILE: (&str, &str) = if cfg!(debug_assertions) {
    ("dev", "debug")
} else {
    ("release", "release")
};

/// The timeout for the start of a server.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the target folder of this bench, which is two levels below it, in `release/deps` or
/// `debug/deps`.
fn target() -> Result<PathBuf> {
    let bench = env::current_exe()?;
    Ok(bench
        .ancestors()
        .nth(3)
        .ok_or("cargo puts a bench three folders deep")?
        .to_owned())
}

/// Builds the programs for both runtimes, each into its own folder. As part of a bench, cargo would
/// build them with unwinding.
pub fn build() -> Result {
    let target = target()?;
    cargo(&target, &["--example", "echo"])?;
    cargo(
        &target.join("twin"),
        &[
            "--example",
            "echo",
            "--bin",
            "echo-threads",
            "--features",
            "tokio-twin-threads",
        ],
    )
}

fn cargo(target: &Path, arguments: &[&str]) -> Result {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "build",
            "--profile",
            PROFILE.0,
            "--quiet",
            "--no-default-features",
        ])
        .args(arguments);
    command
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !command.status()?.success() {
        return Err(format!("{command:?} failed").into());
    }
    Ok(())
}

/// A running server. Its process and its socket are removed on drop.
pub struct Server {
    pub name: &'static str,
    pub path: PathBuf,
    pub process: Child,
}

impl Server {
    /// Starts a server, and waits until it has answered a client.
    pub fn start(name: &'static str) -> Result<Self> {
        Self::start_under(name, &[])
    }

    /// Does the same by a wrapper, a program that starts another one.
    pub fn start_under(name: &'static str, wrapper: &[&str]) -> Result<Self> {
        let target = target()?;
        let built = target.join(PROFILE.1);
        let twins = target.join("twin").join(PROFILE.1);
        let (program, arguments): (PathBuf, &[&str]) = match name {
            "ours" => (built.join("examples/echo"), &[]),
            "twin" => (twins.join("examples/echo"), &[]),
            "threads" => (twins.join("echo-threads"), &[]),
            own => (
                env::current_exe()?,
                if own == "std" {
                    &["--serve", "std"]
                } else {
                    &["--serve", "epoll"]
                },
            ),
        };
        let path = env::temp_dir().join(format!(
            "accept-{}-{name}-{}",
            std::process::id(),
            wrapper.len()
        ));
        let mut command = match wrapper {
            [] => Command::new(&program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        command.args(arguments).arg(&path);
        if matches!(name, "ours" | "twin") {
            // The idle timeout in seconds.
            command.arg("3600");
        }
        command.stdin(Stdio::null());
        if !wrapper.is_empty() {
            command.stderr(Stdio::piped());
        }
        let server = Self {
            name,
            process: command.spawn()?,
            path,
        };
        let begun = now();
        while std::os::unix::net::UnixStream::connect(&server.path).is_err() {
            if now() - begun > START_TIMEOUT {
                return Err(format!("{name} does not listen").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        round(&server.path, 1);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.path);
    }
}
