//! The daemon started by hand: command line, exit codes, and a socket of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use smol_dhcp_proxy::rpc::NetworkConfig;

use crate::lab::daemon::Daemon;
use crate::lab::namespace::Namespace;
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::program;

trials![
    help_version_and_a_wrong_command_line,
    the_socket_is_made_and_unlinked,
    directories_come_from_uds_and_environment,
    a_stale_socket_is_replaced_and_a_live_one_is_not,
    two_listening_sockets_are_refused,
    a_tcp_socket_is_refused_and_nothing_is_answered_there,
    netavarks_lease_file_is_moved_aside,
];

const SOON: Duration = Duration::from_secs(5);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_remove("NETAVARK_PROXY_RUN_DIR_ENV")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command.env("SMOL_DHCP_PROXY_SANDBOX", "strict");
    command
}

fn run(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    Ok(told(command(arguments).output()?))
}

fn told(
    Output {
        status,
        stdout,
        stderr,
    }: Output,
) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// Starts it and waits until it serves at `socket`; it listens a moment before it minds signals.
fn start(command: &mut Command, socket: &Path) -> Result<Daemon> {
    let log = sandbox::folder("manual")?.join("log");
    sandbox::keep_evidence(log.clone());
    let mut daemon = Daemon::from(command.stderr(File::create(log)?).spawn()?);
    // A call that changes nothing.
    let nobody = NetworkConfig {
        container_mac_addr: "02:88:00:00:ff:ff".to_owned(),
        ..NetworkConfig::default()
    };
    eventually("the daemon serves", SOON, || {
        assert!(daemon.is_running()?, "it left");
        Ok(grpc::teardown(socket, &nobody).ok())
    })?;
    Ok(daemon)
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("nv-proxy.sock")
}

fn text(path: &Path) -> Result<&str> {
    Ok(path.to_str().ok_or("not UTF-8")?)
}

fn help_version_and_a_wrong_command_line() -> Result {
    for help in ["-h", "--help"] {
        let (code, out, errors) = run(&[help])?;
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        let usual = [
            "--dir",
            "--uds",
            "--timeout",
            "--activity-timeout",
            "NETAVARK_PROXY_RUN_DIR_ENV",
            "RUST_LOG",
        ];
        let habits = [
            "--arp-probe",
            "--broadcast",
            "--client-id",
            "--rapid-commit",
            "--server",
            "--deny-server",
            "--fqdn",
            "--mtu",
        ];
        for option in usual.into_iter().chain(habits) {
            assert!(out.contains(option), "{option} is not in:\n{out}");
        }
    }
    for version in ["-V", "--version"] {
        let expected = format!("smol-dhcp-proxy {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(&[version])?, (Some(0), expected, String::new()));
    }
    for (wrong, words) in [
        (&["--colour"][..], "--colour"),
        (&["-a", "soon"], "soon"),
        (&["extra"], "extra"),
    ] {
        let (code, out, errors) = run(wrong)?;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(errors.contains(words), "{wrong:?}: {errors}");
    }
    // A folder that cannot be made is no fault of the command line's.
    let (code, _, errors) = run(&["--dir", "/dev/null/folder"])?;
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("/dev/null/folder"), "{errors}");
    Ok(())
}

fn the_socket_is_made_and_unlinked() -> Result {
    let folder = sandbox::folder("manual")?.join("not").join("yet");
    let (socket, file) = (socket_in(&folder), folder.join("nv-proxy.lease"));
    let arguments = ["--dir", text(&folder)?, "-a", "0.5"];
    let mut daemon = start(&mut command(&arguments), &socket)?;
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o7777, 0o660);
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read(&file)?, b"{}");
    assert_eq!(daemon.await_exit(SOON)?.code(), Some(0));
    assert!(!socket.exists(), "it made the socket, so it removes it");
    assert!(file.exists());

    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = start(&mut command(&["--dir", text(&folder)?]), &socket)?;
        daemon.signal(signal)?;
        assert_eq!(daemon.await_exit(SOON)?.code(), Some(0), "{signal}");
        assert!(!socket.exists());
    }

    // A file that another process has put there meanwhile is not removed.
    let mut daemon = start(&mut command(&["--dir", text(&folder)?]), &socket)?;
    fs::remove_file(&socket)?;
    fs::write(&socket, "another's")?;
    daemon.signal(Signal::SIGTERM)?;
    assert_eq!(daemon.await_exit(SOON)?.code(), Some(0));
    assert_eq!(fs::read(&socket)?, b"another's");
    let (code, _, errors) = run(&["--dir", text(&folder)?])?;
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(
        fs::read(&socket)?,
        b"another's",
        "no socket, so nothing to replace"
    );
    Ok(())
}

fn directories_come_from_uds_and_environment() -> Result {
    let (one, other, third) = (
        sandbox::folder("one")?,
        sandbox::folder("other")?,
        sandbox::folder("third")?,
    );
    let fourth = sandbox::folder("fourth")?;
    // A directory means the usual name in it, and the lease file stays where --dir says.
    let _first = start(
        &mut command(&["--dir", text(&one)?, "--uds", text(&other)?]),
        &socket_in(&other),
    )?;
    assert!(one.join("nv-proxy.lease").exists() && !socket_in(&one).exists());
    assert!(!other.join("nv-proxy.lease").exists());

    let socket = one.join("any.name");
    let _second = start(
        &mut command(&["-d", text(&fourth)?, "-u", text(&socket)?]),
        &socket,
    )?;
    assert!(fs::metadata(&socket)?.file_type().is_socket());

    let mut command = command(&["--dir", text(&one)?]);
    let _third = start(
        command.env("NETAVARK_PROXY_RUN_DIR_ENV", &third),
        &socket_in(&third),
    )?;
    assert!(third.join("nv-proxy.lease").exists(), "the variable wins");
    Ok(())
}

fn a_stale_socket_is_replaced_and_a_live_one_is_not() -> Result {
    let folder = sandbox::folder("manual")?;
    let socket = socket_in(&folder);
    let arguments = ["--dir", text(&folder)?];
    start(&mut command(&arguments), &socket)?.crash()?;
    assert!(
        socket.exists() && UnixStream::connect(&socket).is_err(),
        "a crash leaves its socket behind"
    );

    let _living = start(&mut command(&arguments), &socket)?;
    let (code, _, errors) = run(&arguments)?;
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains(text(&folder)?) && errors.contains("is in use by another instance"),
        "{errors}"
    );
    let other = sandbox::folder("other")?;
    let (code, _, errors) = run(&["--dir", text(&other)?, "--uds", text(&socket)?])?;
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains(text(&socket)?) && errors.contains("another process listens"),
        "{errors}"
    );
    assert!(
        grpc::clean(&socket).map_err(|status| status.message)?,
        "the first one serves on"
    );
    Ok(())
}

fn two_listening_sockets_are_refused() -> Result {
    let folder = sandbox::folder("manual")?;
    let listen = |name: &str| UnixListener::bind(folder.join(name)).map(OwnedFd::from);
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            r#"LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@" 3<&0 4<&1 0</dev/null 1>&2"#,
        ])
        .arg(program())
        // Should it serve after all, it leaves soon, and the trial fails.
        .args(["--dir", text(&folder)?, "-a", "1"])
        .stdin(listen("one")?)
        .stdout(listen("two")?)
        .stderr(Stdio::piped());
    let (code, _, errors) = told(command.spawn()?.wait_with_output()?);
    assert_eq!(code, Some(2), "{errors}");
    assert!(
        errors.contains("Received more than one FD from systemd"),
        "{errors}"
    );
    Ok(())
}

/// The daemon is for callers on this host: the network gets no byte from it, not even with the
/// reason, whichever mistake is found first.
fn a_tcp_socket_is_refused_and_nothing_is_answered_there() -> Result {
    // There its loopback is up.
    let host = Namespace::new("host")?;
    host.run(|| {
        let folder = sandbox::folder("manual")?;
        for (arguments, words) in [
            (&["-a", "1"][..], "hands over a TCP socket"),
            (&["--colour"], "invalid option '--colour'"),
        ] {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let mut client = TcpStream::connect(listener.local_addr()?)?;
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
            let mut command = Command::new("/bin/sh");
            command
                .args([
                    "-c",
                    r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#,
                ])
                .arg(program())
                .args(["--dir", text(&folder)?])
                .args(arguments)
                .stdin(OwnedFd::from(listener))
                .stderr(Stdio::piped());
            let child = command.spawn()?;
            // It has the listening socket, too.
            drop(command);
            let (code, _, errors) = told(child.wait_with_output()?);
            assert_eq!(code, Some(2), "{errors}");
            assert!(errors.contains(words), "{errors}");
            // Closed or reset, without an answer.
            client.set_read_timeout(Some(SOON))?;
            let mut answer = Vec::new();
            let end = client.read_to_end(&mut answer);
            assert!(
                end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
                "the connection is still open"
            );
            assert_eq!(answer, b"", "{words}");
        }
        Ok(())
    })
}

fn netavarks_lease_file_is_moved_aside() -> Result {
    let folder = sandbox::folder("manual")?;
    let file = folder.join("nv-proxy.lease");
    let before = br#"{"02:88:00:00:00:01":[{"yiaddr":"10.88.1.1"}]}"#;
    fs::write(&file, before)?;
    let mut daemon = start(
        &mut command(&["--dir", text(&folder)?, "-a", "0.2"]),
        &socket_in(&folder),
    )?;
    assert!(daemon.await_exit(SOON)?.success());
    assert_eq!(fs::read(&file)?, b"{}");
    assert_eq!(fs::read(folder.join("nv-proxy.lease.unused"))?, before);
    Ok(())
}
