//! The lease file in trouble: a disk without room, and whatever else is found where the file should
//! be.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use smol_dhcp_proxy::rpc::{Answer, Call, Reply};
use smol_dhcp_proxy::rt;

use crate::lab::daemon::Unit;
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::{program, stage};

trials![
    a_full_disk_is_told_of_and_mended,
    whatever_is_found_at_the_start_is_no_reason_not_to_serve,
    what_is_whole_of_a_file_cut_short_is_used,
    a_fifo_in_the_place_of_another_file_blocks_nothing,
];

const SOON: Duration = Duration::from_secs(5);
const T1: Duration = Duration::from_secs(2);

fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(60),
        t1: Some(T1),
        t2: Some(Duration::from_secs(40)),
        ..Settings::default()
    }
}

/// A file system of 64 KiB.
struct TinyDisk<'a>(&'a Path);

impl<'a> TinyDisk<'a> {
    fn mount(path: &'a Path) -> Result<Self> {
        mount(
            Some("tiny"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64k,mode=0755"),
        )?;
        Ok(Self(path))
    }

    fn fill(&self) -> Result {
        let mut filler = File::create(self.0.join("filler"))?;
        while filler.write(&[0; 4096]).is_ok() {}
        Ok(())
    }

    fn make_room(&self) -> Result {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn a_full_disk_is_told_of_and_mended() -> Result {
    let folder = sandbox::folder("tiny")?;
    let disk = TinyDisk::mount(&folder)?;
    let unit = Unit::new(program(), &[])?.with_leases_in(&folder);
    let topology = Topology::new(2)?;
    let daemon = unit.start_ready(&topology.host)?;
    let stage = Stage {
        daemon,
        unit,
        topology,
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings())?;
    let setup = |container: usize| -> Result<(String, Option<String>)> {
        let mut channel =
            grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
        let pending = channel
            .begin(&Call::Setup(stage.config(container)))
            .map_err(|status| status.message)?;
        match channel.answer(pending).map_err(|status| status.message)? {
            Answer {
                reply: Reply::Lease(lease),
                warning,
            } => Ok((lease.yiaddr, warning)),
            other => Err(format!("not a lease: {other:?}").into()),
        }
    };
    assert_eq!(setup(0)?, ("10.88.1.1".to_owned(), None));
    stage.topology.containers[0].namespace.await_rest()?;
    // A renewal is in it, too, and nothing is to be written for a moment.
    server.await_message(MessageType::Request, 2, SOON)?;
    std::thread::sleep(T1 / 4);

    disk.fill()?;
    let before = fs::read(stage.unit.state_file())?;
    let (address, warning) = setup(1)?;
    let warning = warning.ok_or("the reply says nothing of a file that could not be written")?;
    assert!(
        warning.contains("state file") && warning.contains("No space left"),
        "{warning}"
    );
    assert_eq!(
        stage.topology.containers[1]
            .address()?
            .map(|has| has.address.to_string())
            .as_ref(),
        Some(&address)
    );
    let full = rt::now();
    for container in &stage.topology.containers {
        eventually("a lease is renewed all the same", T1 + SOON, || {
            let requests = server.heard_of(MessageType::Request);
            let renewed = requests
                .iter()
                .any(|heard| heard.client() == container.mac && heard.at > full + T1 / 4);
            Ok((renewed
                && container
                    .address()?
                    .is_some_and(|address| address.valid > 57))
            .then_some(()))
        })?;
    }
    assert_eq!(
        fs::read(stage.unit.state_file())?,
        before,
        "the file is as it was"
    );
    assert_eq!(
        fs::metadata(stage.unit.state_file())?.permissions().mode() & 0o7777,
        0o600
    );
    // Just now one may be being tried.
    let half = folder.join("nv-proxy.state.new");
    eventually("no half a file is left on the full disk", SOON, || {
        Ok((!half.exists()).then_some(()))
    })?;
    let complaints = stage
        .unit
        .log()?
        .matches("cannot write the state file")
        .count();
    assert!(
        (1..=3).contains(&complaints),
        "said {complaints} times in the log"
    );

    disk.make_room()?;
    let entry = |container: usize| -> Result<serde_json::Value> {
        Ok(
            stage.unit.leases()?[stage.topology.containers[container].mac.to_string()][0]["yiaddr"]
                .clone(),
        )
    };
    eventually("the file is right again", Duration::from_secs(15), || {
        Ok((entry(0)? == "10.88.1.1" && entry(1)? == *address).then_some(()))
    })?;
    assert_eq!(setup(0)?.1, None, "the warning goes with its reason");
    stage.teardown(0)?;
    stage.teardown(1)?;
    assert_eq!(stage.unit.leases()?, json!({}));
    Ok(())
}

const NETAVARKS: &str =
    r#"{"02:88:00:00:00:01":[{"t1":1,"mac_address":"02:88:00:00:00:01","yiaddr":"10.88.9.9"}]}"#;

/// Puts something where the lease file should be.
type Put = fn(&Path) -> Result;

/// The cases in which a find is kept under another name.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Never,
    /// In the place of the state file. In that of the copy it says that there are no leases.
    Own,
    Always,
}

fn whatever_is_found_at_the_start_is_no_reason_not_to_serve() -> Result {
    // The thing in a file's place, how it comes there, and the files that are then kept under
    // another name: both, or not netavark's.
    let finds: &[(&str, Put, Kept)] = &[
        ("nothing", |_| Ok(()), Kept::Never),
        ("an empty file", |path| Ok(fs::write(path, "")?), Kept::Own),
        (
            "garbage",
            |path| Ok(fs::write(path, [0xff; 10_000])?),
            Kept::Always,
        ),
        (
            "zero bytes before the text, as netavark leaves them",
            |path| Ok(fs::write(path, "\0\0\0{}")?),
            Kept::Own,
        ),
        (
            "another kind of JSON",
            |path| Ok(fs::write(path, r#"["leases", 1]"#)?),
            Kept::Always,
        ),
        (
            "JSON of great depth",
            |path| Ok(fs::write(path, "[".repeat(1_000_000))?),
            Kept::Always,
        ),
        (
            "entries that make no sense",
            |path| {
                Ok(fs::write(
                    path,
                    r#"{"x":[1,{"yiaddr":5},{"state":"BOUND"}]}"#,
                )?)
            },
            Kept::Always,
        ),
        (
            "no arrays",
            |path| {
                Ok(fs::write(
                    path,
                    r#"{"02:88:00:00:00:01":{"yiaddr":"10.88.9.9"}}"#,
                )?)
            },
            Kept::Always,
        ),
        (
            "a file of netavark's",
            |path| Ok(fs::write(path, NETAVARKS)?),
            Kept::Always,
        ),
        (
            "a file of nobody's",
            |path| {
                fs::write(path, "{}")?;
                Ok(fs::set_permissions(path, Permissions::from_mode(0o000))?)
            },
            Kept::Own,
        ),
        (
            "a huge file",
            |path| Ok(File::create(path)?.set_len(10 << 30)?),
            Kept::Always,
        ),
        (
            "a directory",
            |path| Ok(fs::create_dir(path)?),
            Kept::Always,
        ),
        (
            "a FIFO",
            |path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0)?),
            Kept::Always,
        ),
        (
            "a link to nowhere",
            |path| Ok(std::os::unix::fs::symlink("nowhere", path)?),
            Kept::Always,
        ),
        (
            "a link to an endless file",
            |path| Ok(std::os::unix::fs::symlink("/dev/zero", path)?),
            Kept::Always,
        ),
    ];
    let mut stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let (state, copy) = (stage.unit.state_file(), stage.unit.lease_file());
    let both = finds
        .iter()
        .flat_map(|find| [(find, &state), (find, &copy)]);
    for ((what, put, kept), file) in both {
        let what = format!("{what} as {}", file.display());
        let is_kept = *kept == Kept::Always || (*kept == Kept::Own && *file == state);
        let mut aside = file.clone().into_os_string();
        aside.push(".unused");
        let aside = std::path::PathBuf::from(aside);
        stage.daemon.kill()?;
        fs::remove_file(file)?;
        let logged = stage.unit.log()?.len();
        put(file)?;
        let was = fs::symlink_metadata(file)
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len());
        stage.unit.notifications();
        let start = rt::now();
        stage.daemon = stage
            .unit
            .start_ready(&stage.topology.host)
            .map_err(|error| format!("{what}: {error}"))?;
        let took = rt::now() - start;
        assert!(
            took < Duration::from_secs(1),
            "{what}: ready after {took:?}"
        );
        let log = stage.unit.log()?.split_off(logged);
        let told = log.contains(&aside.display().to_string());
        assert_eq!(told, is_kept, "{what}: {log}");
        if is_kept {
            let kept = fs::symlink_metadata(&aside)
                .map_err(|error| format!("{what} is not kept: {error}"))?;
            assert!(
                was.is_none_or(|length| length == kept.len()),
                "{what}: {} bytes of {was:?}",
                kept.len()
            );
        }
        let lease = stage.setup(0).map_err(|error| format!("{what}: {error}"))?;
        for leases in [stage.unit.leases()?, stage.unit.copy()?] {
            let entry = &leases[stage.topology.containers[0].mac.to_string()];
            assert_eq!(entry.as_array().map(Vec::len), Some(1), "{what}: {entry}");
            assert_eq!(entry[0]["yiaddr"], lease.yiaddr, "{what}");
        }
        for file in [&state, &copy] {
            assert_eq!(
                fs::symlink_metadata(file)?.permissions().mode(),
                0o100_600,
                "{what}: a file of its owner's"
            );
        }
        stage.teardown(0)?;
        assert_eq!(
            (stage.unit.leases()?, stage.unit.copy()?),
            (json!({}), json!({})),
            "{what}"
        );
    }
    Ok(())
}

fn what_is_whole_of_a_file_cut_short_is_used() -> Result {
    let mut stage = stage(2, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings())?;
    let first = stage.setup(0)?;
    stage.setup(1)?;
    stage.daemon.kill()?;
    let whole = fs::read_to_string(stage.unit.state_file())?;
    let second = whole
        .find(&stage.topology.containers[1].mac.to_string())
        .ok_or("the second is not in the file")?;
    fs::write(stage.unit.state_file(), &whole[..second + 100])?;
    stage.daemon = stage.unit.start_ready(&stage.topology.host)?;
    let restarted = rt::now();
    eventually("the first lease goes on", T1 + SOON, || {
        let requests = server.heard_of(MessageType::Request);
        let address: Ipv4Addr = first.yiaddr.parse()?;
        Ok(requests
            .iter()
            .any(|heard| heard.at > restarted && heard.message.ciaddr() == address)
            .then_some(()))
    })?;
    assert_eq!(
        server.heard_of(MessageType::Discover).len(),
        2,
        "nobody looked for another one"
    );
    let entry = &stage.unit.leases()?;
    assert_eq!(
        entry.as_object().map(serde_json::Map::len),
        Some(1),
        "{entry}"
    );
    assert_eq!(
        fs::read_to_string(stage.unit.state_file().with_extension("state.unused"))?,
        whole[..second + 100]
    );
    Ok(())
}

/// FIFOs have neither readers nor writers: opening one like a file would block for ever.
fn a_fifo_in_the_place_of_another_file_blocks_nothing() -> Result {
    let mut stage = stage(1, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let file = stage.unit.state_file();
    let (new, known) = (
        file.with_extension("state.new"),
        file.with_extension("known"),
    );
    let put = |path: &Path| -> Result {
        Ok(mknodat(
            CWD,
            path,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )?)
    };
    // In the place of `known` from before it is first read, in that of `new` whenever it is
    // written.
    put(&known)?;
    put(&new)?;
    let call = |call: Call| -> Result {
        let mut channel =
            grpc::Channel::connect(&stage.unit.socket()).map_err(|status| status.message)?;
        channel.set_patience(SOON);
        channel
            .call(&call)
            .map(drop)
            .map_err(|status| status.message.into())
    };
    call(Call::Setup(stage.config(0)))?;
    assert_eq!(
        stage.unit.leases()?.as_object().map(serde_json::Map::len),
        Some(1)
    );
    stage.topology.containers[0].namespace.await_rest()?;
    put(&new)?;
    call(Call::Teardown(stage.config(0)))?;
    assert_eq!(stage.unit.leases()?, json!({}));
    let log = stage.unit.log()?;
    for words in ["cannot read", "cannot write"] {
        let line = format!("{words} {}", known.display());
        assert_eq!(
            log.matches(&line).count(),
            1,
            "the log does not say once: {line}"
        );
    }
    assert!(stage.daemon.is_running()?);
    Ok(())
}
