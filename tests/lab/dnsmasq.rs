//! The real dnsmasq, where it is installed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::namespace::Namespace;
use super::{Result, Skip, eventually, sandbox};

/// A running dnsmasq that gives out 10.88.1.0 to 10.88.200.0; dropped, it is killed.
#[derive(Debug)]
pub struct Dnsmasq<'a> {
    namespace: &'a Namespace,
    command: Command,
    child: Child,
    folder: PathBuf,
}

impl<'a> Dnsmasq<'a> {
    /// Starts it on the link `name` of `namespace`, with a lease of that many seconds (it takes 120 at least) and more
    /// options as its command line knows them. Skips where there is no dnsmasq.
    pub fn start(namespace: &'a Namespace, name: &str, lease: u32, more: &[&str]) -> Result<Self> {
        let program =
            find("dnsmasq").ok_or_else(|| Skip::Lacking("dnsmasq is not installed (Debian: dnsmasq-base)".into()))?;
        let folder = sandbox::folder("dnsmasq")?;
        sandbox::keep_evidence(folder.join("log"));
        let file = |name| folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command
            // It changes no user then, which it could not do in a user namespace.
            .arg("--no-daemon")
            .args(["--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--log-dhcp", "--dhcp-authoritative"])
            .args(["--dhcp-option=3,10.88.0.1", "--pid-file="])
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
        let mut dnsmasq = Self { namespace, command, child, folder };
        dnsmasq.await_start(1)?;
        Ok(dnsmasq)
    }

    fn await_start(&mut self, times: usize) -> Result {
        eventually("dnsmasq listens", Duration::from_secs(5), || {
            if let Some(status) = self.child.try_wait()? {
                let words = fs::read_to_string(self.folder.join("stderr"))?;
                return Err(format!("dnsmasq left with {status}: {words}").into());
            }
            Ok((self.count("sockets bound exclusively")? >= times).then_some(()))
        })
    }

    /// Kills it. Its log and its leases stay.
    pub fn stop(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`Dnsmasq::stop`].
    pub fn start_again(&mut self) -> Result {
        let times = self.count("sockets bound exclusively")?;
        self.child = self.namespace.spawn(&mut self.command)?;
        self.await_start(times + 1)
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
}

impl Drop for Dnsmasq<'_> {
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
