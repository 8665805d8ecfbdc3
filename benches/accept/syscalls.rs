//! The system calls that one connection costs a server, from accept to close.
//!
//! Where they go, for a client that connects, says one thing, and hangs up when it has heard it
//! back:
//!
//! | | ours | twin | epoll | std |
//! |---|---|---|---|---|
//! | the connection: accept4, recvfrom, sendto, recvfrom, close | 5 | 5 | 5 | 5 |
//! | watched and unwatched: epoll_ctl | 2 | 2 | 1 | |
//! | sleeps: epoll_wait and what async-io does around it | 1 × 5 | 4 | 3 | |
//! | does another client wait? accept4 in vain; and the listener watched again | 1 + 1 | 1 | | |
//! | the loop is woken by the end of a connection: write to an eventfd | | 1 | | |
//!
//! That is 14 for ours where all is there when it looks, and fewer where it does not even sleep in
//! between. Each sleep more, in the middle of a connection, is five more, and two for a read in
//! vain and the stream watched again.
//!
//! Five calls for a sleep, because polling, which async-io is built on, arms its timerfd anew
//! before each epoll_wait (it has finer timeouts than milliseconds), reads its eventfd after it,
//! and tells epoll of both again, for it watches everything for one event only. tokio asks for
//! edges, once, and rounds its timeouts up. futex calls come on top where async-io's helper thread
//! and ours take turns in waiting.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::servers::{NAMES, Server};
use crate::{Result, round};

/// For a server to go to sleep after each step: what comes while it is awake costs it less.
const PAUSE: Duration = Duration::from_millis(2);

/// Prints what each server calls, and returns the sum of ours; none without strace.
pub fn table(connections: u32) -> Result<Option<f64>> {
    match Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        status => status.map(|_| ())?,
    }
    println!("\nSystem calls for one connection that says one thing\n");
    let mut ours = None;
    for name in NAMES {
        // What is left when the start and the end are taken away.
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

/// All calls of a server that has so many connections, one after the other, by their names.
fn count(name: &'static str, connections: u32) -> Result<BTreeMap<String, u32>> {
    // -D: the server is our child, and strace ends when that has ended.
    let mut server = Server::start_under(name, &["strace", "-D", "-f", "-c"])?;
    for _ in 0..connections {
        thread::sleep(PAUSE);
        round(&server.path, 1);
    }
    thread::sleep(PAUSE);
    let mut summary = String::new();
    let mut stderr = server.process.stderr.take().ok_or("its stderr is ours")?;
    drop(server);
    stderr.read_to_string(&mut summary)?;
    Ok(summary.lines().filter_map(row).collect())
}

/// A row of strace's summary: share, seconds, microseconds for one, calls, perhaps errors, name.
fn row(line: &str) -> Option<(String, u32)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (calls, name) = (words.get(3)?.parse().ok()?, words.last()?);
    (*name != "total").then(|| ((*name).to_owned(), calls))
}
