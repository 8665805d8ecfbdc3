//! Attackers: threads inside a namespace that do harm there as fast as they can, for a bounded
//! time.

use std::fs;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use super::Result;
use super::namespace::Namespace;

pub mod frames;
pub mod http2;
pub mod rtnetlink;

/// The end of an attack that is not ended earlier.
const LONGEST: Duration = Duration::from_secs(40);

/// A running attack; dropped, it is over.
#[derive(Debug)]
pub struct Attacker {
    threads: Vec<(Sender<()>, JoinHandle<Result<u64>>)>,
}

/// The time that an attack has.
#[derive(Debug)]
pub struct Span {
    stopped: Receiver<()>,
    end: Instant,
}

impl Attacker {
    /// Runs `attack` on a thread inside `namespace`. It returns how often it did its harm, once its
    /// span is over.
    pub fn start(
        namespace: &Namespace,
        attack: impl FnOnce(&Span) -> Result<u64> + Send + 'static,
    ) -> Result<Self> {
        let (file, (stop, stopped)) = (namespace.file().try_clone()?, channel());
        let span = Span {
            stopped,
            end: rt::now() + LONGEST,
        };
        let thread = std::thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            drop(file);
            attack(&span)
        });
        Ok(Self {
            threads: vec![(stop, thread)],
        })
    }

    /// The same attack twice at once, for what one processor alone does not do fast enough.
    pub fn pair(
        namespace: &Namespace,
        attack: impl FnOnce(&Span) -> Result<u64> + Clone + Send + 'static,
    ) -> Result<Self> {
        let (mut one, mut other) = (
            Self::start(namespace, attack.clone())?,
            Self::start(namespace, attack)?,
        );
        one.threads.append(&mut other.threads);
        Ok(one)
    }

    /// Ends it, and tells how often it did its harm.
    pub fn stop(mut self) -> Result<u64> {
        self.end()
    }

    fn end(&mut self) -> Result<u64> {
        // All are told before one of them is waited for: the end of a sender is the end of the
        // span.
        let threads: Vec<_> = self.threads.drain(..).map(|(_, thread)| thread).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err("an attacker panicked".into()))
            })
            .sum()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Span {
    /// Tells whether the attack goes on.
    pub fn goes_on(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Empty) && rt::now() < self.end
    }

    /// Waits until the attack is over, for an attack that only holds something.
    pub fn wait(&self) {
        self.pause(self.end - rt::now());
    }

    /// Waits for so long, or until the attack is over.
    pub fn pause(&self, time: Duration) {
        // A sender that is dropped ends the wait; nothing is ever sent.
        let _: Result<(), RecvTimeoutError> = self.stopped.recv_timeout(time);
    }

    /// Does `harm` again and again, and counts.
    pub fn repeat(&self, mut harm: impl FnMut(u64) -> Result) -> Result<u64> {
        let mut count = 0;
        while self.goes_on() {
            harm(count)?;
            count += 1;
        }
        Ok(count)
    }
}

/// The ports of the namespace's rtnetlink sockets, but for the kernel's own.
fn rtnetlink_ports() -> Result<Vec<u32>> {
    let table = fs::read_to_string("/proc/thread-self/net/netlink")?;
    // The socket, its protocol (0 is NETLINK_ROUTE), its port, and more; the first line is a
    // heading.
    let ports = table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        (columns.next()? == "0").then_some(columns.next()?.parse().ok()?)
    });
    Ok(ports.filter(|port| *port != 0).collect())
}
