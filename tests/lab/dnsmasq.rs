//! The real dnsmasq, where it is installed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::{Result, Skip, eventually, sandbox};

/// A running dnsmasq that gives out 10.88.1.0 to 10.88.200.0; dropped, it is killed.
#[derive(Debug)]
pub struct Dnsmasq {
    child: Child,
    folder: PathBuf,
}

impl Dnsmasq {
    /// Starts it on the link `name` of `namespace`, with a lease of that many seconds (it takes 120 at least) and more
    /// options as its command line knows them. Skips where there is no dnsmasq.
    pub fn start(namespace: &Namespace, name: &str, lease: u32, more: &[&str]) -> Result<Self> {
        let program = find("dnsmasq").ok_or_else(|| Skip("dnsmasq is not installed (Debian: dnsmasq-base)".into()))?;
        let folder = sandbox::folder("dnsmasq")?;
        let file = |name| folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--log-dhcp"])
            .args(["--dhcp-authoritative", "--dhcp-option=3,10.88.0.1", "--pid-file=", "--user=root", "--group=root"])
            // A ping before each offer would cost three seconds.
            .arg("--no-ping")
            .arg(format!("--interface={name}"))
            .arg(format!("--dhcp-range=10.88.1.0,10.88.200.0,255.255.0.0,{lease}"))
            .arg(format!("--dhcp-leasefile={}", file("leases")))
            .arg(format!("--log-facility={}", file("log")))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("stderr"))?);
        let child = namespace.spawn(&mut command)?;
        let mut dnsmasq = Self { child, folder };
        eventually("dnsmasq listens", Duration::from_secs(5), || {
            if let Some(status) = dnsmasq.child.try_wait()? {
                let words = fs::read_to_string(dnsmasq.folder.join("stderr"))?;
                return Err(format!("dnsmasq left with {status}: {words}").into());
            }
            Ok(dnsmasq.log()?.contains("sockets bound exclusively").then_some(()))
        })?;
        Ok(dnsmasq)
    }

    /// All that it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("log")).unwrap_or_default())
    }

    /// How often `words` is in its log.
    pub fn count(&self, words: &str) -> Result<usize> {
        Ok(self.log()?.matches(words).count())
    }

    /// Waits until `words` is in its log `times` times.
    pub fn await_log(&self, words: &str, times: usize, within: Duration) -> Result {
        eventually(&format!("dnsmasq logs {words} for time {times}"), within, || {
            Ok((self.count(words)? >= times).then_some(()))
        })
    }

    /// Its lease file: a line for each client.
    pub fn leases(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("leases"))?)
    }

    /// Holds it, deaf and dumb, or lets it go on.
    pub fn hold(&self, hold: bool) -> Result {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(kill(pid, if hold { Signal::SIGSTOP } else { Signal::SIGCONT })?)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program by its name, in PATH or where root's programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
