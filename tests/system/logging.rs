//! Log lines that are not read, and foreign text in log lines.

use std::fs;
use std::io::{PipeReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Code, NetworkConfig, Status};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Daemon;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::topology::{LINK, SERVER_LINK};
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::{program, stage};

trials![
    a_log_that_is_not_read_holds_no_call_up_and_its_lines_are_counted,
    a_reader_that_has_gone_holds_no_call_up,
    control_characters_make_no_line_of_their_own,
];

const SOON: Duration = Duration::from_secs(5);
/// Some 700 bytes of log each, and a pipe has room for 64 kB.
const CALLS: usize = 500;

/// A daemon whose standard error is a pipe, and its socket.
fn start() -> Result<(Daemon, std::path::PathBuf, PipeReader)> {
    let folder = sandbox::folder("logging")?;
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(program());
    command
        .arg("--dir")
        .arg(&folder)
        .env_remove("NETAVARK_PROXY_RUN_DIR_ENV")
        .env_remove("RUST_LOG");
    command.env("SMOL_DHCP_PROXY_SANDBOX", "strict");
    let mut daemon = Daemon::from(command.stdin(Stdio::null()).stderr(writer).spawn()?);
    let socket = folder.join("nv-proxy.sock");
    eventually("the daemon serves", SOON, || {
        assert!(daemon.is_running()?, "it left");
        Ok(grpc::teardown(&socket, &NetworkConfig::default())
            .ok()
            .map(drop))
    })?;
    Ok((daemon, socket, reader))
}

/// Makes a call that is refused, and told of in the log.
fn refused(socket: &std::path::Path) -> Result<Status> {
    let config = NetworkConfig {
        container_mac_addr: "z".repeat(250),
        ..NetworkConfig::default()
    };
    let mut channel = grpc::Channel::connect(socket).map_err(|status| status.message)?;
    channel.set_patience(SOON);
    match channel.call(&smol_dhcp_proxy::rpc::Call::Setup(config)) {
        Ok(reply) => Err(format!("not refused: {reply:?}").into()),
        Err(status) => Ok(status),
    }
}

fn many_calls(socket: &std::path::Path) -> Result {
    let start = rt::now();
    for call in 0..CALLS {
        let status = refused(socket)?;
        assert_eq!(
            status.code,
            Code::InvalidArgument,
            "call {call}: {}",
            status.message
        );
    }
    let took = rt::now() - start;
    assert!(
        took < Duration::from_secs(30),
        "{CALLS} calls took {took:?}"
    );
    Ok(())
}

fn a_log_that_is_not_read_holds_no_call_up_and_its_lines_are_counted() -> Result {
    let (daemon, socket, mut reader) = start()?;
    many_calls(&socket)?;
    // All that the pipe has taken.
    let mut read = vec![0; rustix::io::ioctl_fionread(&reader)? as usize];
    reader.read_exact(&mut read)?;
    let first = String::from_utf8(read)?;
    assert!(
        first.ends_with('\n'),
        "a line was cut: {:?}",
        first.lines().last()
    );
    refused(&socket)?;
    drop(daemon);
    let mut later = String::new();
    reader.read_to_string(&mut later)?;
    let told = later.lines().next().unwrap_or_default();
    let (count, why) = told
        .split_once(" log lines lost: ")
        .ok_or_else(|| format!("no count of lost lines: {later}"))?;
    assert_eq!(why, "standard error was not read");
    let lost: usize = count.rsplit(' ').next().unwrap_or_default().parse()?;
    let (taken, last) = (
        first.matches("Setup refused").count(),
        later.matches("Setup refused").count(),
    );
    assert_eq!((taken + lost, last), (CALLS, 1), "{taken} lines were taken");
    assert!(lost > CALLS / 4, "the pipe was not full: {lost} lines lost");
    Ok(())
}

fn a_reader_that_has_gone_holds_no_call_up() -> Result {
    let (mut daemon, socket, reader) = start()?;
    drop(reader);
    many_calls(&socket)?;
    assert!(daemon.is_running()?);
    Ok(())
}

fn control_characters_make_no_line_of_their_own() -> Result {
    const NAME: &str = "e\x1b[31m\x07";
    let second = Duration::from_secs(1);
    let stage = stage(1, &[])?;
    let settings = Settings {
        lease: second * 60,
        t1: Some(second),
        t2: Some(second * 40),
        ..Settings::default()
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    // No interface has a line feed in its name, but a caller may write one.
    let config = NetworkConfig {
        container_iface: "a\n<0>forged".to_owned(),
        ..stage.config(0)
    };
    let status =
        grpc::setup(&stage.unit.socket(), &config).expect_err("there is no such interface");
    assert_eq!(status.code, Code::InvalidArgument);
    let config = NetworkConfig {
        container_mac_addr: "a\n<0>forged".to_owned(),
        ..stage.config(0)
    };
    grpc::setup(&stage.unit.socket(), &config).expect_err("that is no MAC");

    let namespace = &stage.topology.containers[0].namespace;
    namespace.set_state(LINK, false)?;
    namespace.rename_link(LINK, NAME)?;
    namespace.set_state(NAME, true)?;
    let config = NetworkConfig {
        container_iface: NAME.to_owned(),
        ..stage.config(0)
    };
    grpc::setup(&stage.unit.socket(), &config).map_err(|status| status.message)?;
    eventually("the log speaks of the interface", SOON, || {
        Ok(stage
            .unit
            .log()?
            .contains("e\\u{1b}[31m\\u{7} in ")
            .then_some(()))
    })?;
    let log = fs::read(stage.unit.socket().with_file_name("log"))?;
    assert!(!log.contains(&0x1b) && !log.contains(&0x07));
    let log = String::from_utf8(log)?;
    assert!(log.contains(r"address a\n<0>forged"), "{log}");
    let whole = |line: &str| line.starts_with('[') && line.contains("smol_dhcp_proxy");
    let broken: Vec<_> = log
        .lines()
        .filter(|line| !whole(line) && !line.starts_with("[TRACE"))
        .collect();
    assert_eq!(broken, [""; 0]);
    Ok(())
}
