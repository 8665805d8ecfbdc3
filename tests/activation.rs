//! The examples as real processes, with this test in the part of systemd: activation, idle exit, signals.
//!
//! `cargo test` builds the examples first; `cargo test --test activation` alone takes them as they were last built.

#![allow(clippy::unwrap_used, reason = "a test that meets an error ends, and says where")]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use std::{env, thread};

use futures_lite::future::pending;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{self, Connection, Idle, Notify, Options, Prepare, Reason};

/// Longer than anything here takes on the slowest machine; reached only by a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// An example, beside the folder of this test's own executable.
fn example(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(example.exists(), "{} is missing: cargo build --examples", example.display());
    example
}

/// A directory that goes with the test, and in it a socket that plays the service manager's.
struct Lab {
    directory: PathBuf,
    manager: UnixDatagram,
}

impl Lab {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("activation-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let directory = env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let manager = UnixDatagram::bind(directory.join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, manager }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn listener(&self) -> UnixListener {
        UnixListener::bind(self.path()).unwrap()
    }

    /// The next message to the service manager.
    fn hears(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.manager.recv(&mut buffer).expect("a message to the service manager");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Starts the daemon in manual mode and waits until it is ready.
    fn manual(&self, idle: &str) -> Daemon {
        let daemon = Daemon::start(self.command(idle));
        assert_eq!(self.hears(), "READY=1");
        daemon
    }

    /// The daemon as a manual start would have it.
    fn command(&self, idle: &str) -> Command {
        let mut command = Command::new(example("echo"));
        command.arg(self.path()).arg(idle).env("NOTIFY_SOCKET", self.directory.join("notify")).stderr(Stdio::piped());
        command
    }

    /// Starts the daemon with `first` as its descriptor 3, as systemd would, and waits until it is ready.
    fn activated(&self, first: impl AsFd, idle: &str) -> Daemon {
        let daemon = Daemon::start(self.handed(first, idle, "LISTEN_PID=$$ LISTEN_FDS=1"));
        assert_eq!(self.hears(), "READY=1");
        daemon
    }

    /// The daemon with `first` as its descriptor 3, and with `variables` as the shell sets them.
    fn handed(&self, first: impl AsFd, idle: &str, variables: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!(r#"{variables} exec "$0" "$@" 3<&0 0</dev/null"#)).arg(example("echo"));
        command.arg(self.path()).arg(idle).env("NOTIFY_SOCKET", self.directory.join("notify"));
        command.stdin(first.as_fd().try_clone_to_owned().unwrap()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A process that ends with the test at the latest.
struct Daemon(Child);

impl Daemon {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the end, and returns how it was and what went to stderr.
    fn ends(mut self) -> (ExitStatus, String) {
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        assert!(readable(&pidfd, PATIENCE), "the daemon does not end");
        let mut errors = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.0.wait().unwrap(), errors)
    }

    fn ends_well(self) {
        let (status, errors) = self.ends();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    }

    fn ends_with_error(self, expected: &str) {
        let (status, errors) = self.ends();
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        assert!(errors.contains(expected), "{errors:?} should say {expected:?}");
    }

    /// A file of its folder in /proc.
    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    /// How often any of its threads was given the processor.
    fn context_switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let status = |task: io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        tasks.map(|task| field(&status(task), "voluntary_ctxt_switches:")).sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number from a file of /proc.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

/// The flags of an open descriptor (proc(5)).
fn flags(fdinfo: &str) -> u64 {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    u64::from_str_radix(flags.trim(), 8).unwrap()
}

fn readable(fd: &impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// One conversation: connect, say it, hear it, hang up.
fn talk(path: &Path, text: &[u8]) -> io::Result<()> {
    finish(UnixStream::connect(path)?, text)
}

fn finish(mut stream: UnixStream, text: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, text);
    Ok(())
}

#[test]
fn a_blocking_descriptor_is_adopted_and_the_idle_timeout_fires() {
    const O_NONBLOCK: u64 = 0o4000;
    const O_CLOEXEC: u64 = 0o2000000;

    let lab = Lab::new();
    let listener = lab.listener();
    let ours = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&listener));
    assert_eq!(flags(&fs::read_to_string(ours).unwrap()) & O_NONBLOCK, 0, "handed over as systemd does: blocking");

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
    assert!(!readable(&pidfd, Duration::from_millis(600)), "it left its connection alone");
    let start = rt::now();
    finish(held, b"still there").unwrap();
    daemon.ends_well();
    assert!(rt::now() - start >= Duration::from_millis(200));
}

#[test]
fn asleep_it_has_two_threads_and_is_never_scheduled() {
    let lab = Lab::new();
    let daemon = lab.activated(lab.listener(), "60");
    talk(&lab.path(), b"once").unwrap();
    // The daemon's last work is to notice the hang-up; after that, the most that a test can do is wait.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(field(&daemon.proc("status"), "Threads:"), 2);
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
            // systemd's part: whenever the service is gone and somebody waits, start it.
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
    assert!((20..ARRIVALS).contains(&starts), "{starts} starts: the arrivals missed the moment of leaving");
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
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
                absences += 1;
                daemon.ends_well();
                assert_eq!(lab.hears(), "STOPPING=1");
                daemon = lab.manual("0.005");
            }
            Err(error) => panic!("{error}"),
        }
        thread::sleep(around_expiry(arrival));
    }
    assert!((20..ARRIVALS).contains(&absences), "{absences} absences: the arrivals missed the moment of leaving");
}

/// A wait that ends about when an idle time of 5 ms does, swept over a millisecond and a half.
fn around_expiry(arrival: u32) -> Duration {
    Duration::from_micros(4200 + u64::from(arrival * 37 % 1500))
}

#[test]
fn descriptors_that_cannot_be_served_are_explained() {
    let lab = Lab::new();
    let refuses = |fd: OwnedFd, why: &str| {
        Daemon::start(lab.handed(fd, "1", "LISTEN_PID=$$ LISTEN_FDS=1")).ends_with_error(why);
    };
    refuses(File::create(lab.directory.join("file")).unwrap().into(), "descriptor 3 is a regular file");
    refuses(File::open("/dev/null").unwrap().into(), "descriptor 3 is a character device");
    refuses(io::pipe().unwrap().0.into(), "descriptor 3 is a pipe");
    refuses(UnixDatagram::unbound().unwrap().into(), "descriptor 3 is a Unix socket of another type");
    refuses(UnixStream::pair().unwrap().0.into(), "descriptor 3 is a stream socket that does not listen");
    refuses(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(), "descriptor 3 is a socket of another family");

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
    for variables in ["LISTEN_PID=1 LISTEN_FDS=1", "LISTEN_PID=$$ LISTEN_FDS=0", "LISTEN_FDS=1", "LISTEN_PID=$$"] {
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
    let (first, second) = (lab.listener(), UnixListener::bind(lab.directory.join("second")).unwrap());
    let mut command = Command::new("sh");
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b exec "$0" "$@" 3<&0 4<&1 0</dev/null 1>&2"#;
    command.arg("-c").arg(script).arg(example("echo")).arg(lab.path()).arg("0.1").stderr(Stdio::piped());
    command.stdin(OwnedFd::from(first)).stdout(OwnedFd::from(second));
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
    assert_eq!(talk(&lab.path(), b"?").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

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
    let daemon = Daemon::start(lab.handed(&listener, "60", "ulimit -n 20; LISTEN_PID=$$ LISTEN_FDS=1"));
    assert_eq!(lab.hears(), "READY=1");
    let crowd: Vec<_> = (0..40).map(|_| UnixStream::connect(lab.path()).unwrap()).collect();
    let before = daemon.context_switches();
    thread::sleep(Duration::from_secs(1));
    assert!(daemon.context_switches() - before < 200, "ten tries a second are no spinning");
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
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "200000");
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

/// A daemon whose connections never end by themselves.
fn stubborn(lab: &Lab, drain: &str) -> Daemon {
    let mut command = Command::new(example("linger"));
    command.arg(lab.path()).arg(drain).env("NOTIFY_SOCKET", lab.directory.join("notify"));
    let daemon = Daemon::start({
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    });
    assert_eq!(lab.hears(), "READY=1");
    daemon
}

/// Asks it to leave, and sees that the connections are told and the guards of leases are not waited for.
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

/// A service that does something before it leaves: this program, which becomes one when the environment says so. It stays for
/// 50 ms, and tells the manager when it begins to prepare and when that is broken off.
#[test]
fn thoughtful_service() {
    struct Told(Notify, &'static str);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.status(self.1);
        }
    }

    let (Some(path), Ok(habit)) = (env::var_os("THOUGHTFUL_PATH"), env::var("THOUGHTFUL_HABIT")) else { return };
    let timeout = Duration::from_millis(if habit == "hasty" { 0 } else { 50 });
    let options = Options::new(Idle::new(Some(timeout))).unwrap();
    let (idle, notify) = (options.idle.clone(), options.notify.clone());
    let objection = Rc::new(RefCell::new(None));
    let (held, first) = (Rc::clone(&objection), Cell::new(true));
    let prepare = Prepare::new(move || {
        let (idle, notify, held) = (idle.clone(), notify.clone(), Rc::clone(&held));
        let habit = if first.replace(false) { habit.clone() } else { "agrees".into() };
        async move {
            notify.status("preparing");
            match habit.as_str() {
                "objects" => *held.borrow_mut() = Some(idle.activity()),
                "ponders" => {
                    let _told = Told(notify, "broken off");
                    pending::<()>().await;
                }
                "reconsiders" => drop(idle.activity()),
                _ => {}
            }
        }
    });
    let options = Options { prepare: Some(prepare), ..options };
    let mut sockets = service::activation::listen_fds().unwrap();
    if sockets.is_empty() {
        sockets.push(service::bind(Path::new(&path)).unwrap());
    }
    let handler = |Connection { stream, activity, .. }| {
        // Whoever talks to it talks it out of its objection.
        let objection = objection.take();
        async move {
            let _ = futures_lite::io::copy(stream.clone(), stream).await;
            drop((activity, objection));
        }
    };
    let reason = rt::block_on(async |runtime| service::serve(&runtime, sockets, options, handler).await).unwrap();
    std::process::exit(if reason == Reason::Idle { 0 } else { 7 });
}

/// Starts [`thoughtful_service`] and waits until it is ready.
fn thoughtful(lab: &Lab, habit: &str) -> Daemon {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "thoughtful_service", "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("THOUGHTFUL_PATH", lab.path()).env("THOUGHTFUL_HABIT", habit);
    let daemon = Daemon::start({
        command.env("NOTIFY_SOCKET", lab.directory.join("notify"));
        command
    });
    assert_eq!(lab.hears(), "READY=1");
    daemon
}

#[test]
fn before_it_leaves_it_prepares_once() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "agrees");
    assert_eq!([lab.hears(), lab.hears()], ["STATUS=preparing", "STOPPING=1"]);
    daemon.ends_well();
}

#[test]
fn an_objection_to_leaving_keeps_it_until_it_is_taken_back() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "objects");
    assert_eq!(lab.hears(), "STATUS=preparing");
    let pidfd = pidfd_open(Pid::from_child(&daemon.0), PidfdFlags::empty()).unwrap();
    assert!(!readable(&pidfd, Duration::from_millis(300)), "it left in spite of the objection");
    talk(&lab.path(), b"please").unwrap();
    assert_eq!([lab.hears(), lab.hears()], ["STATUS=preparing", "STOPPING=1"]);
    daemon.ends_well();
}

#[test]
fn who_comes_while_it_prepares_is_served_and_it_prepares_again_later() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "ponders");
    assert_eq!(lab.hears(), "STATUS=preparing");
    let held = UnixStream::connect(lab.path()).unwrap();
    assert_eq!(lab.hears(), "STATUS=broken off");
    lab.manager.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(lab.manager.recv(&mut [0; 64]).is_err(), "nothing is prepared while somebody is there");
    lab.manager.set_read_timeout(Some(PATIENCE)).unwrap();
    finish(held, b"served").unwrap();
    assert_eq!([lab.hears(), lab.hears()], ["STATUS=preparing", "STOPPING=1"]);
    daemon.ends_well();
}

#[test]
fn work_that_came_and_went_while_it_prepared_lets_it_wait_and_prepare_again() {
    let lab = Lab::new();
    let start = rt::now();
    let daemon = thoughtful(&lab, "reconsiders");
    assert_eq!([lab.hears(), lab.hears(), lab.hears()], ["STATUS=preparing", "STATUS=preparing", "STOPPING=1"]);
    daemon.ends_well();
    assert!(rt::now() - start >= Duration::from_millis(100), "it waited twice");
}

#[test]
fn a_signal_ends_it_while_it_prepares() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let daemon = thoughtful(&lab, "ponders");
        assert_eq!(lab.hears(), "STATUS=preparing");
        daemon.signal(signal);
        let (status, errors) = daemon.ends();
        assert_eq!(status.code(), Some(7), "{errors}");
        let rest = [lab.hears(), lab.hears()];
        assert!(rest.contains(&"STATUS=broken off".to_owned()) && rest.contains(&"STOPPING=1".to_owned()), "{rest:?}");
    }
}

#[test]
fn without_patience_it_leaves_at_once_and_serves_who_waits() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "hasty");
    assert_eq!([lab.hears(), lab.hears()], ["STATUS=preparing", "STOPPING=1"]);
    daemon.ends_well();

    let lab = Lab::new();
    let listener = lab.listener();
    let waiting = UnixStream::connect(lab.path()).unwrap();
    let daemon = lab.activated(&listener, "0");
    finish(waiting, b"in time").unwrap();
    daemon.ends_well();
}
