//! Attacks by callers on the daemon, each beside an innocent caller.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::process::{Resource, getrlimit, setrlimit};
use smol_dhcp_proxy::rpc::{Call, Code, NetworkConfig};
use smol_dhcp_proxy::rt;

use crate::lab::attacker::{Attacker, Span, http2};
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::grpc::Channel;
use crate::lab::prober::Prober;
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::{Result, Skip, eventually};
use crate::{Boxed, program};

/// The name of an attack, and the attack.
type Row = (&'static str, fn(&Span, &Path, &Targets) -> Result<u64>);

const ROWS: &[Row] = &[
    ("silent", |span, socket, _| {
        http2::hold(span, socket, MANY, b"")
    }),
    ("half_a_preface", |span, socket, _| {
        http2::hold(span, socket, MANY, &http2::PREFACE[..12])
    }),
    ("a_preface_and_no_more", |span, socket, _| {
        http2::hold(span, socket, MANY, http2::PREFACE)
    }),
    ("a_byte_now_and_then", |span, socket, _| {
        http2::crawl(span, socket, MANY, Duration::from_millis(200))
    }),
    ("calls_without_end", calls_without_end),
    ("connections_without_end", connections_without_end),
    ("rapid_reset", |span, socket, _| {
        http2::pour(span, socket, http2::reset)
    }),
    ("headers_without_end", |span, socket, _| {
        http2::pour(span, socket, http2::endless_headers)
    }),
    ("pings_without_end", |span, socket, _| {
        http2::pour(span, socket, http2::ping)
    }),
    ("answers_never_read", answers_never_read),
    ("bodies_never_finished", |span, socket, _| {
        http2::pour_deaf(span, socket, 32, http2::unfinished)
    }),
    ("64_streams_at_once", streams_at_once),
];

/// The rows, each as a trial; and once more where the daemon has no more descriptors than a program
/// that is started by hand.
pub(crate) fn trials() -> impl Iterator<Item = (String, Boxed)> {
    let rows = |place: &'static str, limit| {
        ROWS.iter().map(move |row| {
            (
                format!("{place}::{}", row.0),
                Box::new(move || judge(row, limit)) as _,
            )
        })
    };
    rows("hostile_callers", None).chain(rows("hostile_callers_1024", Some(1024)))
}

/// Connections that are held at once.
const MANY: usize = 2000;
const ATTACK: Duration = Duration::from_secs(3);
/// The longest that SIGTERM takes.
const END: Duration = Duration::from_secs(6);
/// The longest until descriptors and memory are given back.
const RECOVERY: Duration = Duration::from_secs(6);
/// The growth of memory that is allowed in the end, in kB: the allocator keeps some of what it has
/// had.
const SLACK: u64 = 4096;

/// The containers that calls are about.
struct Targets {
    /// A lease that there is none of.
    unknown: NetworkConfig,
    /// A container without a lease.
    container: NetworkConfig,
}

/// Calls on one connection, without waiting for their answers, which are read.
fn calls_without_end(span: &Span, socket: &Path, targets: &Targets) -> Result<u64> {
    let call = Call::Teardown(targets.unknown.clone());
    http2::pour(span, socket, |stream| http2::call(stream, &call))
}

/// A connection for each call.
fn connections_without_end(span: &Span, socket: &Path, targets: &Targets) -> Result<u64> {
    let call = Call::Teardown(targets.unknown.clone());
    span.repeat(|_| {
        // The daemon may refuse it and be well.
        if let Some(mut channel) = channel(socket)? {
            let _ = channel.call(&call);
        }
        Ok(())
    })
}

/// A connection that does not wait for long: behind the daemon's end there is nothing at the socket
/// that answers.
fn channel(socket: &Path) -> Result<Option<Channel>> {
    let channel = http2::join(socket)?.and_then(|connection| Channel::over(connection).ok());
    Ok(channel.map(|mut channel| {
        channel.set_patience(Duration::from_secs(1));
        channel
    }))
}

fn answers_never_read(span: &Span, socket: &Path, targets: &Targets) -> Result<u64> {
    let call = Call::Teardown(targets.unknown.clone());
    http2::pour_deaf(span, socket, 64, |stream| http2::call(stream, &call))
}

/// As many calls as a connection has room for, all of them for one container: each takes over from
/// the one before.
fn streams_at_once(span: &Span, socket: &Path, targets: &Targets) -> Result<u64> {
    let call = Call::Setup(targets.container.clone());
    span.repeat(|_| {
        let Some(mut channel) = channel(socket)? else {
            return Ok(());
        };
        let pending: Vec<_> = (0..64).map_while(|_| channel.begin(&call).ok()).collect();
        for pending in pending {
            // All but the last are told that a newer one has taken over.
            if channel
                .finish(pending)
                .is_err_and(|status| status.code == Code::DeadlineExceeded)
            {
                break;
            }
        }
        Ok(())
    })
}

/// Makes the test itself able to hold that many connections.
fn make_room() -> Result {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 2 * MANY as u64 + 1000;
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = rustix::process::Rlimit {
            current: Some(wanted),
            ..limit
        };
        setrlimit(Resource::Nofile, raised)
            .map_err(|_| Skip::Impossible(format!("the limit of descriptors is below {wanted}")))?;
    }
    Ok(())
}

/// A daemon, with so many descriptors at the most.
fn stage(limit: Option<u32>) -> Result<Stage> {
    let topology = Topology::new(2)?;
    match limit {
        None => Stage::new(topology, program(), &[]),
        Some(limit) => {
            // The shell becomes the daemon, with the process id that the socket was handed to.
            let script = format!(r#"ulimit -n {limit} && exec "$0" "$@""#);
            let daemon = program().to_str().ok_or("a path that is no text")?;
            Stage::new(topology, Path::new("/bin/sh"), &["-c", &script, daemon])
        }
    }
}

/// Runs one row of the table; an error tells everything that was wrong.
fn judge((name, attack): &'static Row, limit: Option<u32>) -> Result {
    make_room()?;
    let mut stage = stage(limit)?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    for container in [0, 1] {
        stage.setup(container)?;
        stage.teardown(container)?;
        stage.topology.containers[container]
            .namespace
            .await_rest()?;
    }
    let (open, memory) = (
        stage.daemon.settled_descriptors()?.len(),
        stage.daemon.status("RssAnon")?,
    );

    let unknown = NetworkConfig {
        container_mac_addr: "02:88:00:00:ff:ff".to_owned(),
        ..NetworkConfig::default()
    };
    let visitor = stage.config(0);
    let (socket, host) = (stage.unit.socket(), &stage.topology.host);
    let begin = |container: NetworkConfig| {
        let (socket, targets) = (
            socket.clone(),
            Targets {
                unknown: unknown.clone(),
                container,
            },
        );
        Attacker::start(host, move |span| attack(span, &socket, &targets))
    };
    let processor = stage.daemon.processor_time()?;
    let attacker = begin(stage.config(1))?;
    let nothing = Prober::start(
        &stage.daemon,
        socket.clone(),
        vec![Call::Teardown(unknown.clone())],
    );
    let visits = Prober::start(
        &stage.daemon,
        socket.clone(),
        vec![Call::Setup(visitor.clone()), Call::Teardown(visitor)],
    );
    std::thread::sleep(ATTACK);
    let (nothing, visits) = (nothing.stop()?, visits.stop()?);
    let harm = attacker.stop()?;
    let processor = stage.daemon.processor_time()? - processor;
    let mut faults = nothing.faults("Teardown of the unknown");
    faults.extend(visits.faults("the visitor"));
    if harm == 0 {
        faults.push("there was no attack".to_owned());
    }
    faults.extend(stage.teardown(1).err().map(|error| error.to_string()));

    let (mut now_open, mut now_memory) = (0, 0);
    let recovery = eventually("descriptors and memory are as before", RECOVERY, || {
        (now_open, now_memory) = (stage.daemon.descriptors()?, stage.daemon.status("RssAnon")?);
        Ok((now_open <= open && now_memory <= memory + SLACK).then_some(()))
    });
    if let Err(error) = recovery {
        faults.push(format!(
            "{error}: {now_open} descriptors, not {open}, and {now_memory} kB, not {memory}"
        ));
    }
    let peak = stage.daemon.status("VmHWM").unwrap_or(0);

    let attacker = begin(stage.config(1))?;
    std::thread::sleep(Duration::from_millis(200));
    let start = rt::now();
    stage.daemon.signal(Signal::SIGTERM)?;
    match stage.daemon.await_exit(END) {
        Ok(status) if status.success() => {}
        Ok(status) => faults.push(format!("the daemon ended with {status}")),
        Err(error) => faults.push(error.to_string()),
    }
    let took = rt::now() - start;
    drop(attacker);
    crate::tell(&format!(
        "{name}{}: done {harm}; slowest answers: {} of {}, the visitor {} of {}; processor {processor:?}; RssAnon {memory} to \
         {now_memory} kB, peak {peak}; {open} to {now_open} descriptors; ended in {took:?}{}",
        limit.map_or(String::new(), |limit| format!(" ({limit} descriptors)")),
        nothing.slowest,
        nothing.count,
        visits.slowest,
        visits.count,
        if faults.is_empty() { "" } else { ": FAILED" },
    ));
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("\n").into())
    }
}
