//! The system calls of a server for one connection, from accept to close.
//!
//! For a client that connects, sends one message, and disconnects after the echo:
//!
//! | | ours | twin | epoll | std |
//! |---|---|---|---|---|
//! | the connection: accept4, recvfrom, sendto, recvfrom, close | 5 | 5 | 5 | 5 |
//! | registration and its end: epoll_ctl | 2 | 2 | 1 | |
//! | waits: epoll_wait and the calls of async-io around it | 1 × 5 | 4 | 3 | |
//! | the backlog is empty: accept4; and the registration of the listener | 1 + 1 | 1 | | |
//! | the end of a connection wakes the loop: write to an eventfd | | 1 | | |
//!
//! That is 14 for ours if all data has arrived before each read, and fewer without a wait in
//! between. Each further wait in a connection costs five more calls, and two for a read without data
//! and the registration of the stream.
//!
//! A wait costs five calls, because polling, on which async-io is built, arms its timerfd before
//! each epoll_wait (its timeouts are finer than milliseconds), reads its eventfd after it, and
//! registers both again: it registers everything for one event only. tokio registers once,
//! edge-triggered, and rounds its timeouts up. futex calls come on top when async-io's helper thread
//! and the executor thread take turns in waiting.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::servers::{NAMES, Server};
use crate::{Result, round};

/// The pause after which a server waits again: an event without a wait costs fewer calls.
const PAUSE: Duration = Duration::from_millis(2);

/// Prints the system calls of each server. Returns the sum for ours, or `None` without strace.
pub fn table(connections: u32) -> Result<Option<f64>> {
    match Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        status => status.map(|_| ())?,
    }
    println!("\nSystem calls for one connection with one message\n");
    let mut ours = None;
    for name in NAMES {
        // The difference of two runs leaves out start and end.
        let (few, many) = (
            count(name, connections / 2)?,
            count(name, connections + connections / 2)?,
        );
        let mut calls: Vec<_> = many
            .iter()
            .map(|(call, count)| {
                (
                    call,
                    f64::from(count - few.get(call).unwrap_or(&0).min(count))
                        / f64::from(connections),
                )
            })
            .filter(|(_, each)| *each >= 0.01)
            .collect();
        calls.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let sum: f64 = calls.iter().map(|(_, each)| each).sum();
        let calls: Vec<_> = calls
            .iter()
            .map(|(call, each)| format!("{call} {each:.2}"))
            .collect();
        println!("{name:8} {sum:>6.2}  {}", calls.join(", "));
        ours = ours.or(Some(sum));
    }
    Ok(ours)
}

/// Counts the calls of a server by name, for that many connections one after the other.
fn count(name: &'static str, connections: u32) -> Result<BTreeMap<String, u32>> {
    // -D: the server is our child process, and strace ends with it.
    let mut server = Server::start_under(name, &["strace", "-D", "-f", "-c"])?;
    for _ in 0..connections {
        thread::sleep(PAUSE);
        round(&server.path, 1);
    }
    thread::sleep(PAUSE);
    let mut summary = String::new();
    let mut stderr = server.process.stderr.take().ok_or("no pipe of stderr")?;
    drop(server);
    stderr.read_to_string(&mut summary)?;
    Ok(summary.lines().filter_map(row).collect())
}

/// Parses a row of strace's summary: share, seconds, microseconds per call, calls, perhaps errors,
/// name.
fn row(line: &str) -> Option<(String, u32)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (calls, name) = (words.get(3)?.parse().ok()?, words.last()?);
    (*name != "total").then(|| ((*name).to_owned(), calls))
}
