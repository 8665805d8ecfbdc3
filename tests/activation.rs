//! Services as real processes, with this test in the part of systemd: activation, idle exit,
//! signals.
//!
//! `cargo test` builds `examples/echo.rs` first; `cargo test --test activation` alone takes it as it
//! was last built. The other services are this program itself (`lab::service::this_program`).

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an error ends, and says where"
)]

#[path = "lab/service.rs"]
mod service;

use std::env;
use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use futures_lite::AsyncWriteExt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use service::{Daemon, Lab, PATIENCE, example, field, finish, flags, readable, talk, this_program};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{Connection, Error, Service};

#[test]
fn a_blocking_descriptor_is_adopted_and_the_idle_timeout_fires() {
    const O_NONBLOCK: u64 = 0o4000;
    const O_CLOEXEC: u64 = 0o2000000;

    let lab = Lab::new();
    let listener = lab.listener();
    let ours = format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&listener)
    );
    assert_eq!(
        flags(&fs::read_to_string(ours).unwrap()) & O_NONBLOCK,
        0,
        "handed over as systemd does: blocking"
    );

    let daemon = lab.activated(&listener, "0.5");
    let theirs = flags(&daemon.proc("fdinfo/3"));
    assert_eq!(theirs & O_NONBLOCK, O_NONBLOCK);
    assert_eq!(theirs & O_CLOEXEC, O_CLOEXEC);
    talk(&lab.path(), b"hello").unwrap();
    let start = rt::now();
    daemon.ends_well();
    assert!(rt::now() - start > Duration::from_millis(400));
    assert_eq!(lab.hears(), "STOPPING=1");
    assert!(lab.path().exists(), "the socket is the service manager's");
}

#[test]
fn a_start_without_any_connection_ends_too() {
    let lab = Lab::new();
    lab.activated(lab.listener(), "0.1").ends_well();
    let lab = Lab::new();
    lab.manual("0.1").ends_well();
    assert!(!lab.path().exists(), "the socket was the daemon's");
}

#[test]
fn an_open_connection_keeps_it_alive_and_the_wait_starts_when_it_closes() {
    let lab = Lab::new();
    let daemon = lab.manual("0.2");
    let held = UnixStream::connect(lab.path()).unwrap();
    let pidfd = pidfd_open(Pid::from_child(&daemon.0), PidfdFlags::empty()).unwrap();
    assert!(
        !readable(&pidfd, Duration::from_millis(600)),
        "it left its connection alone"
    );
    let start = rt::now();
    finish(held, b"still there").unwrap();
    daemon.ends_well();
    assert!(rt::now() - start >= Duration::from_millis(200));
}

#[test]
fn asleep_it_has_two_threads_and_is_never_scheduled() {
    // async-io's helper is parked beside ours; tokio has none.
    let threads = if cfg!(feature = "tokio-twin") { 1 } else { 2 };
    let lab = Lab::new();
    let daemon = lab.activated(lab.listener(), "60");
    talk(&lab.path(), b"once").unwrap();
    // The daemon's last work is to notice the hang-up; after that, the most that a test can do is
    // wait.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(field(&daemon.proc("status"), "Threads:"), threads);
    let before = daemon.context_switches();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(daemon.context_switches() - before, 0);
}

#[test]
fn nobody_is_lost_who_comes_at_the_moment_of_leaving_an_activated_service() {
    const ARRIVALS: u32 = 600;

    let lab = Lab::new();
    let listener = lab.listener();
    let over = AtomicBool::new(false);
    let starts = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Plays systemd: starts the service whenever it has exited and a connection is pending.
            while !over.load(Ordering::SeqCst) {
                if readable(&listener, Duration::from_millis(50)) {
                    starts.fetch_add(1, Ordering::SeqCst);
                    let mut command = lab.handed(&listener, "0.005", "LISTEN_PID=$$ LISTEN_FDS=1");
                    command.env_remove("NOTIFY_SOCKET");
                    Daemon::start(command).ends_well();
                }
            }
        });
        let arrivals = || {
            for arrival in 0..ARRIVALS {
                talk(&lab.path(), b"let me in")?;
                thread::sleep(around_expiry(arrival));
            }
            io::Result::Ok(())
        };
        let result = arrivals();
        over.store(true, Ordering::SeqCst);
        result.unwrap();
    });
    let starts = starts.into_inner();
    assert!(
        (20..ARRIVALS).contains(&starts),
        "{starts} starts: the arrivals missed the moment of leaving"
    );
}

#[test]
fn nobody_who_is_let_in_is_lost_when_a_manual_service_leaves() {
    const ARRIVALS: u32 = 600;

    let lab = Lab::new();
    let mut absences = 0;
    let mut daemon = lab.manual("0.005");
    for arrival in 0..ARRIVALS {
        match UnixStream::connect(lab.path()) {
            Ok(stream) => finish(stream, b"let me in").unwrap(),
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                    .contains(&error.kind()) =>
            {
                absences += 1;
                daemon.ends_well();
                assert_eq!(lab.hears(), "STOPPING=1");
                daemon = lab.manual("0.005");
            }
            Err(error) => panic!("{error}"),
        }
        thread::sleep(around_expiry(arrival));
    }
    assert!(
        (20..ARRIVALS).contains(&absences),
        "{absences} absences: the arrivals missed the moment of leaving"
    );
}

/// A wait that ends about when an idle time of 5 ms does, swept over a millisecond and a half.
fn around_expiry(arrival: u32) -> Duration {
    // tokio counts in whole milliseconds, and rounds up.
    let first = if cfg!(feature = "tokio-twin") {
        5200
    } else {
        4200
    };
    Duration::from_micros(first + u64::from(arrival * 37 % 1500))
}

#[test]
fn descriptors_that_cannot_be_served_are_explained() {
    let lab = Lab::new();
    let refuses = |fd: OwnedFd, why: &str| {
        Daemon::start(lab.handed(fd, "1", "LISTEN_PID=$$ LISTEN_FDS=1")).ends_with_error(why);
    };
    refuses(
        File::create(lab.directory.join("file")).unwrap().into(),
        "descriptor 3 is a regular file",
    );
    refuses(
        File::open("/dev/null").unwrap().into(),
        "descriptor 3 is a character device",
    );
    refuses(io::pipe().unwrap().0.into(), "descriptor 3 is a pipe");
    refuses(
        UnixDatagram::unbound().unwrap().into(),
        "descriptor 3 is a Unix socket of another type",
    );
    refuses(
        UnixStream::pair().unwrap().0.into(),
        "descriptor 3 is a stream socket that does not listen",
    );
    refuses(
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        "descriptor 3 is an Internet socket of another type",
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    refuses(
        client.into(),
        "descriptor 3 is a stream socket that does not listen",
    );
    refuses(
        rustix::net::socket(
            rustix::net::AddressFamily::NETLINK,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .unwrap(),
        "descriptor 3 is a socket of another family",
    );

    let listener = lab.listener();
    let missing = lab.handed(&listener, "1", "LISTEN_PID=$$ LISTEN_FDS=2");
    Daemon::start(missing).ends_with_error("descriptor 4 is not open");
    let garbage = lab.handed(&listener, "1", "LISTEN_PID=$$ LISTEN_FDS=many");
    Daemon::start(garbage).ends_with_error("LISTEN_FDS");
}

#[test]
fn descriptors_of_another_process_mean_manual_mode() {
    let lab = Lab::new();
    let other = UnixListener::bind(lab.directory.join("other")).unwrap();
    for variables in [
        "LISTEN_PID=1 LISTEN_FDS=1",
        "LISTEN_PID=$$ LISTEN_FDS=0",
        "LISTEN_FDS=1",
        "LISTEN_PID=$$",
    ] {
        let daemon = Daemon::start(lab.handed(&other, "0.1", variables));
        assert_eq!(lab.hears(), "READY=1");
        talk(&lab.path(), b"manual").unwrap();
        daemon.ends_well();
        assert_eq!(lab.hears(), "STOPPING=1");
    }
}

#[test]
fn several_descriptors_are_all_served() {
    let lab = Lab::new();
    let (first, second) = (
        lab.listener(),
        UnixListener::bind(lab.directory.join("second")).unwrap(),
    );
    let mut command = Command::new("sh");
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b exec "$0" "$@" 3<&0 4<&1 0</dev/null 1>&2"#;
    command
        .arg("-c")
        .arg(script)
        .arg(example("echo"))
        .arg(lab.path())
        .arg("0.1")
        .stderr(Stdio::piped());
    command
        .stdin(OwnedFd::from(first))
        .stdout(OwnedFd::from(second));
    let daemon = Daemon::start(command);
    let held = UnixStream::connect(lab.path()).unwrap();
    talk(&lab.directory.join("second"), b"second").unwrap();
    finish(held, b"first").unwrap();
    daemon.ends_well();
}

#[test]
fn what_a_killed_daemon_leaves_behind_is_replaced_and_a_living_one_is_not() {
    let lab = Lab::new();
    let killed = lab.manual("60");
    killed.signal(Signal::KILL);
    drop(killed);
    assert_eq!(
        talk(&lab.path(), b"?").unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );

    let living = lab.manual("60");
    Daemon::start(lab.command("60")).ends_with_error("another process listens on it");
    talk(&lab.path(), b"unharmed").unwrap();
    living.signal(Signal::TERM);
    living.ends_well();
    assert!(!lab.path().exists());
}

#[test]
fn sigterm_and_sigint_end_it_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let manual = lab.manual("60");
        let mut held = UnixStream::connect(lab.path()).unwrap();
        held.write_all(b"x").unwrap();
        held.read_exact(&mut [0]).unwrap();
        manual.signal(signal);
        manual.ends_well();
        assert_eq!(held.read(&mut [0]).unwrap(), 0, "hung up in good order");
        assert_eq!(lab.hears(), "STOPPING=1");
        assert!(!lab.path().exists(), "the socket was the daemon's");

        let lab = Lab::new();
        let listener = lab.listener();
        let activated = lab.activated(&listener, "60");
        activated.signal(signal);
        activated.ends_well();
        let waiting = UnixStream::connect(lab.path()).expect("the socket is the service manager's");
        lab.hears();
        let _next = lab.activated(&listener, "60");
        finish(waiting, b"served by the next instance").unwrap();
    }
}

#[test]
fn want_of_descriptors_neither_ends_nor_spins_it() {
    let lab = Lab::new();
    let listener = lab.listener();
    let daemon =
        Daemon::start(lab.handed(&listener, "60", "ulimit -n 20; LISTEN_PID=$$ LISTEN_FDS=1"));
    assert_eq!(lab.hears(), "READY=1");
    let crowd: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(lab.path()).unwrap())
        .collect();
    let before = daemon.context_switches();
    thread::sleep(Duration::from_secs(1));
    assert!(
        daemon.context_switches() - before < 200,
        "ten tries a second are no spinning"
    );
    for guest in crowd {
        finish(guest, b"in the end").unwrap();
    }
    daemon.signal(Signal::TERM);
    daemon.ends_well();
}

#[test]
fn the_service_manager_hears_what_it_asked_for() {
    let lab = Lab::new();
    let name = format!("activation-notify-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = lab.command("0.5");
    command
        .env("NOTIFY_SOCKET", format!("@{name}"))
        .env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start(command);
    let hears = || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(hears(), "READY=1");
    let mut watchdogs = 0;
    while hears() == "WATCHDOG=1" {
        watchdogs += 1;
    }
    // The first at once, then every 100 ms; and what ended the loop was STOPPING=1.
    assert!((3..=7).contains(&watchdogs), "{watchdogs}");
    daemon.ends_well();
}

/// A service whose connections get the shutdown notice and never end by themselves: this program,
/// if the environment names its drain timeout. It holds an activity that belongs to no connection.
#[test]
fn stubborn_service() {
    let (Some(path), Ok(drain)) = (env::var_os("STUBBORN_PATH"), env::var("STUBBORN_DRAIN")) else {
        return;
    };
    let service = Service::new(path)
        .idle_timeout(None)
        .drain_timeout(Duration::from_millis(drain.parse().unwrap()));
    let _lease = service.idle().activity();
    let handler = |Connection {
                       mut stream,
                       shutdown,
                       ..
                   }: Connection| async move {
        shutdown.await;
        let _ = stream.write_all(b"closing").await;
        pending::<()>().await;
    };
    service.run(handler).unwrap();
}

/// Starts [`stubborn_service`] and waits until it is ready.
fn stubborn(lab: &Lab, drain: &str) -> Daemon {
    let mut command = this_program("stubborn_service");
    command
        .env("STUBBORN_PATH", lab.path())
        .env("STUBBORN_DRAIN", drain)
        .env("NOTIFY_SOCKET", lab.directory.join("notify"));
    let daemon = Daemon::start(command);
    assert_eq!(lab.hears(), "READY=1");
    daemon
}

/// Sends SIGTERM, and checks that the connection is told.
fn begin_drain(lab: &Lab, daemon: &Daemon) -> UnixStream {
    let mut stream = UnixStream::connect(lab.path()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.signal(Signal::TERM);
    let mut told = [0; 7];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"closing");
    assert!(!lab.path().exists(), "nobody else is let in");
    stream
}

#[test]
fn a_drain_is_bounded() {
    let lab = Lab::new();
    let daemon = stubborn(&lab, "300");
    let start = rt::now();
    let mut stream = begin_drain(&lab, &daemon);
    let (status, errors) = daemon.ends();
    assert!(status.success(), "{errors}");
    assert!(rt::now() - start >= Duration::from_millis(300));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let lab = Lab::new();
    let daemon = stubborn(&lab, "3600000");
    let _stream = begin_drain(&lab, &daemon);
    daemon.signal(Signal::TERM);
    let (status, errors) = daemon.ends();
    assert!(status.success(), "{errors}");
}

#[test]
fn a_drain_waits_for_connections_and_not_for_leases() {
    let lab = Lab::new();
    let daemon = stubborn(&lab, "3600000");
    daemon.signal(Signal::TERM);
    let (status, errors) = daemon.ends();
    assert!(status.success(), "{errors}");
}

/// A service whose handlers take only the stream, or release their hold on the service: this
/// program, if the environment says so.
#[test]
fn service_of_a_plain_handler() {
    let Some(path) = env::var_os("PLAIN_PATH") else {
        return;
    };
    let service = Service::new(path).idle_timeout(Duration::from_millis(100));
    let echoed = async |stream: smol_dhcp_proxy::service::Stream| {
        let _ = futures_lite::io::copy(stream.clone(), stream).await;
    };
    let reason = if env::var_os("PLAIN_RELEASES").is_some() {
        service.run(
            move |Connection {
                      stream, keep_alive, ..
                  }| async move {
                keep_alive.release();
                echoed(stream).await;
            },
        )
    } else {
        service.run(move |Connection { stream, .. }| async move { echoed(stream).await })
    };
    reason.unwrap();
}

/// Starts [`service_of_a_plain_handler`] and waits until it is ready.
fn plain(lab: &Lab, releases: bool) -> Daemon {
    let mut command = this_program("service_of_a_plain_handler");
    command
        .env("PLAIN_PATH", lab.path())
        .envs(releases.then_some(("PLAIN_RELEASES", "1")))
        .env("NOTIFY_SOCKET", lab.directory.join("notify"));
    let daemon = Daemon::start(command);
    assert_eq!(lab.hears(), "READY=1");
    daemon
}

#[test]
fn a_handler_that_ignores_its_hold_keeps_the_service_alive() {
    let lab = Lab::new();
    let daemon = plain(&lab, false);
    let held = UnixStream::connect(lab.path()).unwrap();
    let pidfd = pidfd_open(Pid::from_child(&daemon.0), PidfdFlags::empty()).unwrap();
    assert!(
        !readable(&pidfd, Duration::from_millis(500)),
        "the service left over a live connection"
    );
    let start = rt::now();
    finish(held, b"still there").unwrap();
    daemon.ends_well();
    assert!(rt::now() - start >= Duration::from_millis(100));
}

#[test]
fn a_handler_that_releases_its_hold_lets_the_service_leave() {
    let lab = Lab::new();
    let daemon = plain(&lab, true);
    let mut held = UnixStream::connect(lab.path()).unwrap();
    held.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.ends_well();
    assert_eq!(held.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_tcp_socket_is_served_like_a_unix_socket() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = lab.activated(&listener, "0.3");
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    drop(stream);
    daemon.ends_well();
    let mut waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    lab.hears();
    let _next = lab.activated(&listener, "60");
    waiting.write_all(b"again").unwrap();
    waiting.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"again", "served by the next instance");
}

/// A program whose `main` returns the error of a service: this one, if the environment says so.
#[test]
fn main_that_returns_the_error() -> Result<(), Error> {
    let Some(path) = env::var_os("RETURNED_PATH") else {
        return Ok(());
    };
    Service::new(path).run(async |_| {})?;
    Ok(())
}

#[test]
fn a_main_that_returns_the_error_prints_its_text() {
    let lab = Lab::new();
    let path = lab.directory.join("file");
    fs::write(&path, "precious").unwrap();
    let mut command = this_program("main_that_returns_the_error");
    command.env("RETURNED_PATH", &path);
    Daemon::start(command).ends_with_error(&format!(
        "Error: {} exists and is not a socket: it stays as it is",
        path.display()
    ));
}
