//! Callers that misbehave beside a regular caller, which is answered in time. All that they took is
//! returned.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::{Call, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::{Daemon, Unit};
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::frames::{
    CANCEL, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, clean, frame, head,
    header, hello, request,
};
use crate::lab::program::need;
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc};
use crate::{program, tell};

trials![
    two_thousand_silent_connections,
    a_flood_of_connections,
    three_hundred_slow_connections,
    three_hundred_connections_with_unfinished_requests,
    floods_of_pings_and_settings,
    a_flood_of_calls,
    calls_on_two_hundred_connections,
    one_call_on_each_of_two_hundred_connections,
    answers_that_are_never_read,
    rapid_reset,
    rapid_reset_of_whole_calls,
    sixty_four_setups_of_one_container,
];

fn two_thousand_silent_connections() -> Result {
    beside("silent", silent)
}

fn a_flood_of_connections() -> Result {
    beside("connections", churn)
}

fn three_hundred_slow_connections() -> Result {
    beside("slow", slow)
}

fn three_hundred_connections_with_unfinished_requests() -> Result {
    beside("unfinished", unfinished)
}

fn floods_of_pings_and_settings() -> Result {
    beside("pings", |target, over| flood(target, over, 4, true, pings))
}

fn a_flood_of_calls() -> Result {
    beside("calls", |target, over| flood(target, over, 16, true, calls))
}

fn calls_on_two_hundred_connections() -> Result {
    beside("200", |target, over| flood(target, over, 200, true, calls))
}

fn one_call_on_each_of_two_hundred_connections() -> Result {
    beside("one call each", visits)
}

fn answers_that_are_never_read() -> Result {
    beside("unread", |target, over| {
        flood(target, over, 16, false, calls)
    })
}

fn rapid_reset() -> Result {
    beside("reset", |target, over| flood(target, over, 4, true, resets))
}

fn rapid_reset_of_whole_calls() -> Result {
    beside("taken back", |target, over| {
        flood(target, over, 4, true, taken_back)
    })
}

fn sixty_four_setups_of_one_container() -> Result {
    beside("64", |target, over| flood(target, over, 4, true, setups))
}

/// The longest that another caller waits for any answer.
const AT_MOST: Duration = Duration::from_millis(500);

/// The time of an attack.
const TIME: Duration = Duration::from_secs(4);

/// Memory that the worst attack may take while it lasts, and that may be left of it, in kB.
const MEMORY: (u64, u64) = (96 * 1024, 16 * 1024);

/// The target of an attack.
#[derive(Debug)]
struct Target {
    socket: PathBuf,
    /// A container whose caller is the attacker.
    config: NetworkConfig,
}

/// Runs `attack` in the usual bounds of a process, with a caller beside it that makes one call
/// after the other.
fn beside(name: &str, attack: impl FnOnce(&Target, &AtomicBool) -> Result + Send) -> Result {
    let stage = stage_of_1024_descriptors()?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    // Once through everything, so that what is made on first use has been made.
    for container in [0, 1] {
        stage.setup(container)?;
        stage.teardown(container)?;
    }
    let (at_rest, memory) = (
        stage.daemon.settled_descriptors()?,
        stage.daemon.status("RssAnon")?,
    );
    let target = Target {
        socket: stage.unit.socket(),
        config: stage.config(1),
    };
    let over = AtomicBool::new(false);
    let (attacked, called) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack(&target, &over));
        let called = call_on(&stage);
        over.store(true, Ordering::Relaxed);
        (
            attacker
                .join()
                .unwrap_or_else(|_| Err("a panic of the attacker".into())),
            called,
        )
    });
    let (count, (slowest, call), peak) = called?;
    attacked?;
    let processor = processor_time(&stage.daemon)?;
    // The attackers have hung up.
    stage.teardown(1)?;
    stage.daemon.await_descriptors(&at_rest)?;
    let mut left = 0;
    eventually("the memory comes back", Duration::from_secs(5), || {
        left = stage.daemon.status("RssAnon")?;
        Ok((left < memory + MEMORY.1).then_some(()))
    })
    .map_err(|error| format!("{error}: {left} kB, {memory} kB before"))?;
    tell(&format!(
        "{name}: {count} calls, the slowest, a {call}, took {slowest:?}; {peak} kB at most, {memory} before, {left} after; {processor:?} of processor time"
    ));
    assert!(
        slowest <= AT_MOST,
        "the slowest of {count} calls, a {call}, took {slowest:?}"
    );
    assert!(
        peak - memory < MEMORY.0,
        "{peak} kB at most, {memory} kB before"
    );
    let Stage { mut daemon, .. } = stage;
    daemon.signal(Signal::SIGTERM)?;
    assert!(daemon.await_exit(Duration::from_secs(6))?.success());
    Ok(())
}

/// The usual limit, which a start by hand has; the unit sets a higher one.
fn stage_of_1024_descriptors() -> Result<Stage> {
    // Only a test makes thousands of connections; here, each takes a descriptor, too.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    let topology = Topology::new(2)?;
    let program = program().to_str().ok_or("a path in UTF-8")?;
    let limited = ["--nofile=1024:1024", program, "-a", "60"];
    // A flood of words beside the flood would tell how fast a disk is.
    let unit = Unit::new(need("prlimit", "util-linux")?, &limited)?.set("RUST_LOG", "info");
    let daemon = unit.start_ready(&topology.host)?;
    Ok(Stage {
        daemon,
        unit,
        topology,
    })
}

/// Calls without a pause, each on a connection of its own; returns how many, the slowest, and the
/// most memory seen.
fn call_on(stage: &Stage) -> Result<(usize, (Duration, &'static str), u64)> {
    let unknown = NetworkConfig {
        container_mac_addr: "02:00:00:00:ff:ff".to_owned(),
        ..stage.config(0)
    };
    let refused = NetworkConfig {
        container_iface: "eth7".to_owned(),
        ..stage.config(0)
    };
    let (mut count, mut slowest, mut peak) = (0, (Duration::ZERO, ""), 0);
    let end = rt::now() + TIME;
    let mut time = |name, call: &mut dyn FnMut() -> Result| -> Result {
        let (asked, waited) = (rt::now(), waited_for_processors(&stage.daemon)?);
        call()?;
        let took = rt::now() - asked;
        // On a machine that is busy with other things, the daemon and this thread wait for their
        // turns as well.
        let waits = waited_for_processors(&stage.daemon)?;
        let others = (waits.0 - waited.0).max(waits.1 - waited.1);
        slowest = slowest.max((took.saturating_sub(others), name));
        count += 1;
        Ok(())
    };
    while rt::now() < end {
        time("Setup", &mut || stage.setup(0).map(drop))?;
        time("Teardown of the unknown", &mut || {
            Ok(grpc::teardown(&stage.unit.socket(), &unknown)
                .map(drop)
                .map_err(|status| status.message)?)
        })?;
        time(
            "refused Setup",
            &mut || match grpc::setup(&stage.unit.socket(), &refused) {
                Err(status) if status.message.contains("No such device") => Ok(()),
                other => Err(format!("{other:?}").into()),
            },
        )?;
        time("Teardown", &mut || stage.teardown(0).map(drop))?;
        peak = peak.max(stage.daemon.status("RssAnon")?);
    }
    Ok((count, slowest, peak))
}

/// Returns how long the daemon and this thread, each, were ready to run while other threads ran.
fn waited_for_processors(daemon: &Daemon) -> Result<(Duration, Duration)> {
    let waited = |file: &str| -> Result<Duration> {
        let text = std::fs::read_to_string(file)?;
        let second = text
            .split_whitespace()
            .nth(1)
            .ok_or("no second field in schedstat")?;
        Ok(Duration::from_nanos(second.parse()?))
    };
    Ok((
        waited(&format!("/proc/{}/schedstat", daemon.id()))?,
        waited("/proc/thread-self/schedstat")?,
    ))
}

/// The processor time that a process has taken so far.
fn processor_time(daemon: &Daemon) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id()))?;
    // Fields 14 and 15, in hundredths of a second, counted from behind the name.
    let fields = stat
        .rsplit_once(") ")
        .ok_or("no name in /proc/PID/stat")?
        .1
        .split(' ')
        .skip(11)
        .take(2);
    let hundredths = fields
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    Ok(Duration::from_millis(hundredths * 10))
}

fn rest() {
    std::thread::sleep(Duration::from_millis(5));
}

fn silent(target: &Target, over: &AtomicBool) -> Result {
    let connections: Vec<_> = (0..2000)
        .map(|_| UnixStream::connect(&target.socket))
        .collect::<std::io::Result<_>>()?;
    while !over.load(Ordering::Relaxed) {
        rest();
    }
    drop(connections);
    Ok(())
}

/// As many new connections as the daemon takes, of which the last thousand stay open.
fn churn(target: &Target, over: &AtomicBool) -> Result {
    let mut connections = std::collections::VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        connections.push_back(UnixStream::connect(&target.socket)?);
        if connections.len() > 1000 {
            connections.pop_front();
        }
    }
    Ok(())
}

/// Requests that arrive byte by byte.
fn slow(target: &Target, over: &AtomicBool) -> Result {
    let bytes = [hello(), clean(1)].concat();
    let mut connections = Vec::new();
    for at in 0.. {
        connections.resize_with(300, || UnixStream::connect(&target.socket));
        if over.load(Ordering::Relaxed) {
            break;
        }
        // Whichever the daemon has closed begins anew; not one of them gets to its end.
        let byte = &bytes[at % (bytes.len() - 1)..][..1];
        connections.retain_mut(|stream| {
            stream
                .as_mut()
                .is_ok_and(|stream| stream.write_all(byte).is_ok())
        });
        rest();
    }
    Ok(())
}

/// As much as a connection can hold: headers up to the limit on each stream, and of each body all
/// but the end.
fn unfinished(target: &Target, over: &AtomicBool) -> Result {
    let (path, _) = Call::Clean.encode();
    let many: Vec<u8> = (0..150)
        .flat_map(|number| header(&format!("a{number}"), "b"))
        .collect();
    let streams = (0..64).flat_map(|number| {
        let id = 2 * number + 1;
        let headers = frame(
            HEADERS,
            END_HEADERS,
            id,
            &[head(&path, "localhost"), many.clone()].concat(),
        );
        [headers, frame(DATA, 0, id, &[0; 1020])].concat()
    });
    let bytes: Vec<u8> = hello().into_iter().chain(streams).collect();
    let mut connections = Vec::new();
    while !over.load(Ordering::Relaxed) {
        connections.resize_with(300, || Loud::connect(&target.socket, &bytes));
        connections.retain_mut(|loud| loud.as_mut().is_ok_and(|loud| loud.go_on(true)));
        rest();
    }
    Ok(())
}

/// Writes pieces without end on so many connections, and opens those again that the daemon closes.
fn flood(
    target: &Target,
    over: &AtomicBool,
    connections: usize,
    reads: bool,
    piece: Piece,
) -> Result {
    let mut louds = Vec::new();
    while !over.load(Ordering::Relaxed) {
        louds.resize_with(connections, || Loud::connect(&target.socket, &hello()));
        louds.retain_mut(|loud| {
            let Ok(loud) = loud else { return false };
            if loud.unsaid.is_empty() {
                loud.unsaid = piece(target, &mut loud.next_stream);
            }
            loud.go_on(reads)
        });
    }
    Ok(())
}

/// Two hundred connections at any time, each of which hangs up when its only call has been
/// answered.
fn visits(target: &Target, over: &AtomicBool) -> Result {
    let bytes = [hello(), request(1, &calls_at_once(target)[0])].concat();
    let mut visitors: Vec<std::io::Result<(Loud, Vec<u8>)>> = Vec::new();
    let mut answered = 0;
    while !over.load(Ordering::Relaxed) {
        visitors.resize_with(200, || {
            Ok((Loud::connect(&target.socket, &bytes)?, Vec::new()))
        });
        visitors.retain_mut(|visitor| {
            let Ok((loud, heard)) = visitor else {
                return false;
            };
            let is_open = loud.go_on_hearing(heard);
            let is_answered =
                frames(heard).any(|(kind, flags)| kind == HEADERS && flags & END_STREAM != 0);
            answered += u32::from(is_answered);
            is_open && !is_answered
        });
    }
    assert!(answered > 200, "{answered} calls have been answered");
    Ok(())
}

/// Kind and flags of each frame that begins in these bytes (RFC 9113 §4.1).
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8)> {
    std::iter::from_fn(move || {
        let &[high, middle, low, kind, flags, ..] = bytes else {
            return None;
        };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        bytes = bytes.get(9 + length..).unwrap_or_default();
        Some((kind, flags))
    })
}

/// Makes the next bytes of a flood; the number is that of the next stream.
type Piece = fn(&Target, &mut u32) -> Vec<u8>;

/// A client that never waits.
#[derive(Debug)]
struct Loud {
    stream: UnixStream,
    unsaid: Vec<u8>,
    next_stream: u32,
}

impl Loud {
    fn connect(socket: &Path, bytes: &[u8]) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            unsaid: bytes.to_vec(),
            next_stream: 1,
        })
    }

    /// Writes what can be written and reads what has come; returns `false` where the connection is
    /// over.
    fn go_on(&mut self, reads: bool) -> bool {
        let blocks = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        if !self.unsaid.is_empty() {
            match self.stream.write(&self.unsaid) {
                Ok(length) => drop(self.unsaid.drain(..length)),
                Err(error) if blocks(&error) => {}
                Err(_) => return false,
            }
        }
        !reads || self.hear().is_some()
    }

    /// As `go_on`, and keeps what it reads.
    fn go_on_hearing(&mut self, heard: &mut Vec<u8>) -> bool {
        let bytes = if self.go_on(false) { self.hear() } else { None };
        heard.extend(bytes.iter().flatten());
        bytes.is_some()
    }

    /// Returns received data, possibly none; `None` at the end of the connection.
    fn hear(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(length) => Some(buffer[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(_) => None,
        }
    }
}

fn on_streams(next: &mut u32, count: u32, bytes: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let first = *next;
    *next += 2 * count;
    (0..count)
        .flat_map(|number| bytes(first + 2 * number))
        .collect()
}

fn pings(_: &Target, _: &mut u32) -> Vec<u8> {
    [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])]
        .concat()
        .repeat(500)
}

/// Calls that are answered at once: a Teardown of what there is not, and a Setup that is refused
/// after a look.
fn calls(target: &Target, next: &mut u32) -> Vec<u8> {
    let calls = calls_at_once(target);
    on_streams(next, 16, |id| request(id, &calls[usize::from(id % 4 == 1)]))
}

fn calls_at_once(target: &Target) -> [Call; 2] {
    let unknown = NetworkConfig {
        container_mac_addr: "02:00:00:00:ff:fe".to_owned(),
        ..target.config.clone()
    };
    let refused = NetworkConfig {
        container_iface: "eth7".to_owned(),
        ..target.config.clone()
    };
    [Call::Teardown(unknown), Call::Setup(refused)]
}

fn resets(_: &Target, next: &mut u32) -> Vec<u8> {
    let (path, _) = Call::Clean.encode();
    let headers = head(&path, "localhost");
    on_streams(next, 100, |id| {
        [
            frame(HEADERS, END_HEADERS, id, &headers),
            frame(RST_STREAM, 0, id, &CANCEL),
        ]
        .concat()
    })
}

/// Whole Setups, each taken back at once.
fn taken_back(target: &Target, next: &mut u32) -> Vec<u8> {
    let setup = Call::Setup(target.config.clone());
    on_streams(next, 20, |id| {
        [request(id, &setup), frame(RST_STREAM, 0, id, &CANCEL)].concat()
    })
}

fn setups(target: &Target, next: &mut u32) -> Vec<u8> {
    let setup = Call::Setup(target.config.clone());
    on_streams(next, 64, |id| request(id, &setup))
}
