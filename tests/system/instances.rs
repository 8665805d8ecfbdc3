//! Several instances, and what local users may do to keep one from starting: locks on the directory
//! and its files.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dhcproto::v4::MessageType;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use smol_dhcp_proxy::rpc::NetworkConfig;
use smol_dhcp_proxy::rt;

use crate::lab::daemon::{Daemon, Unit};
use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::namespace::Namespace;
use crate::lab::stage::Stage;
use crate::lab::topology::{SERVER_LINK, Topology};
use crate::lab::{Result, eventually, grpc, sandbox};
use crate::{program, stage};

trials![
    the_second_in_one_directory_refuses_and_takes_nothing,
    an_activated_one_refuses_as_well,
    a_killed_one_leaves_the_directory_free,
    of_many_starts_at_once_one_serves,
    a_directory_that_another_process_locks_holds_no_start_up,
    a_lock_file_that_is_no_file_of_ours_is_refused,
    in_a_directory_that_cannot_be_written_one_serves_all_the_same,
];

const SOON: Duration = Duration::from_secs(5);

/// A start by hand with the lease file and, unless `socket` is named, the socket in `folder`.
struct Manual {
    socket: PathBuf,
    log: PathBuf,
    daemon: Daemon,
}

impl Manual {
    fn start(host: &Namespace, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let own = sandbox::folder("manual")?;
        let (socket, log) = (own.join("nv-proxy.sock"), own.join("log"));
        sandbox::keep_evidence(log.clone());
        let mut command = Command::new(program());
        command
            .arg("--dir")
            .arg(folder)
            .arg("--uds")
            .arg(&socket)
            .args(arguments);
        command.env("SMOL_DHCP_PROXY_SANDBOX", "strict");
        command
            .env_remove("NETAVARK_PROXY_RUN_DIR_ENV")
            .stdin(Stdio::null())
            .stderr(File::create(&log)?);
        Ok(Self {
            socket,
            log,
            daemon: host.spawn(&mut command)?.into(),
        })
    }

    fn await_serving(&mut self) -> Result {
        eventually("the daemon serves", SOON, || {
            assert!(
                self.daemon.is_running()?,
                "it left: {}",
                fs::read_to_string(&self.log)?
            );
            Ok(grpc::teardown(&self.socket, &stranger()).ok().map(drop))
        })
    }

    /// Waits for the refusal with this exit status, and returns its words.
    fn refusal(mut self, code: i32) -> Result<String> {
        let status = self.daemon.await_exit(SOON)?;
        let words = fs::read_to_string(&self.log)?;
        assert_eq!(status.code(), Some(code), "{words}");
        Ok(words)
    }
}

/// A container without a lease: a call for it changes nothing.
fn stranger() -> NetworkConfig {
    NetworkConfig {
        container_mac_addr: "02:88:00:00:ff:ff".to_owned(),
        ..NetworkConfig::default()
    }
}

fn the_second_in_one_directory_refuses_and_takes_nothing() -> Result {
    let stage = stage(1, &[])?;
    let server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let lease = stage.setup(0)?;
    stage.topology.containers[0].namespace.await_rest()?;
    let file = stage.unit.state_file();
    let folder = file.parent().ok_or("no folder")?;
    // What a Setup leaves to be written is written when the address has been watched for two
    // seconds, and one later.
    eventually("the lease file is left alone", SOON * 2, || {
        Ok(
            (fs::metadata(&file)?.modified()?.elapsed()? > Duration::from_millis(3500))
                .then_some(()),
        )
    })?;
    let before = (fs::read(&file)?, fs::metadata(&file)?.modified()?);

    for arguments in [
        &[][..],
        &["--on-stop", "release"],
        &["-a", "0.1", "--on-stop", "release"],
    ] {
        let second = Manual::start(&stage.topology.host, folder, arguments)?;
        let words = second.refusal(1)?;
        let holder = format!("process {} (smol-dhcp-proxy)", stage.daemon.id());
        for expected in [&*holder, &folder.display().to_string(), "--dir"] {
            assert!(words.contains(expected), "no {expected} in: {words}");
        }
    }
    assert_eq!(
        (fs::read(&file)?, fs::metadata(&file)?.modified()?),
        before,
        "the lease file is as it was"
    );
    assert_eq!(server.heard_of(MessageType::Release).len(), 0);
    let address = stage.topology.containers[0]
        .address()?
        .map(|has| has.address.to_string());
    assert_eq!(address.as_ref(), Some(&lease.yiaddr));
    assert_eq!(
        stage.teardown(0)?.yiaddr,
        lease.yiaddr,
        "the first one has its lease, and serves"
    );
    server.await_message(MessageType::Release, 1, SOON)?;
    Ok(())
}

fn an_activated_one_refuses_as_well() -> Result {
    let folder = sandbox::folder("shared")?;
    let host = Namespace::new("host")?;
    let mut first = Manual::start(&host, &folder, &[])?;
    first.await_serving()?;
    let unit = Unit::new(program(), &[])?.with_leases_in(&folder);
    let mut second = unit.start(&host)?;
    assert_eq!(second.await_exit(SOON)?.code(), Some(1));
    assert!(
        unit.log()?.contains("is in use by another instance"),
        "{}",
        unit.log()?
    );
    // It is started again, as systemd does, and finds the directory free.
    drop(first);
    unit.start_ready(&host)?;
    Ok(())
}

fn a_killed_one_leaves_the_directory_free() -> Result {
    let mut stage = stage(0, &[])?;
    let lock = stage.unit.lease_file().with_extension("lock");
    for _ in 0..5 {
        let id = fs::read_to_string(&lock)?;
        assert_eq!(id.trim(), stage.daemon.id().to_string());
        assert_eq!(fs::metadata(&lock)?.permissions().mode() & 0o7777, 0o600);
        let start = rt::now();
        stage.restart()?;
        assert!(
            rt::now() - start < Duration::from_secs(1),
            "a dead instance holds nothing"
        );
    }
    Ok(())
}

fn of_many_starts_at_once_one_serves() -> Result {
    let host = Namespace::new("host")?;
    for round in 0..3 {
        let folder = sandbox::folder("shared")?;
        let mut instances = (0..8)
            .map(|_| Manual::start(&host, &folder, &[]))
            .collect::<Result<Vec<_>>>()?;
        eventually("all but one leave", SOON, || {
            let mut running = 0;
            for instance in &mut instances {
                running += usize::from(instance.daemon.is_running()?);
            }
            assert!(running > 0, "none is left in round {round}");
            Ok((running == 1).then_some(()))
        })?;
        for mut instance in instances {
            if instance.daemon.is_running()? {
                instance.await_serving()?;
            } else {
                let words = instance.refusal(1)?;
                assert!(words.contains("is in use by another instance"), "{words}");
            }
        }
    }
    Ok(())
}

fn a_directory_that_another_process_locks_holds_no_start_up() -> Result {
    let folder = sandbox::folder("shared")?;
    // Any user with read permission can do this.
    let held = File::open(&folder)?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    let mut command = Command::new(program());
    command
        .arg("--dir")
        .arg(&folder)
        .stdin(Stdio::null())
        .env_remove("NETAVARK_PROXY_RUN_DIR_ENV");
    command.env("SMOL_DHCP_PROXY_SANDBOX", "strict");
    let start = rt::now();
    let mut daemon = Daemon::from(command.spawn()?);
    eventually("the daemon serves", SOON, || {
        assert!(daemon.is_running()?, "it left");
        Ok(grpc::teardown(&folder.join("nv-proxy.sock"), &stranger())
            .ok()
            .map(drop))
    })?;
    assert!(
        rt::now() - start < Duration::from_secs(1),
        "it waited for the lock"
    );
    let names: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    assert!(
        !names.iter().any(|name| name == "nv-proxy.sock.lock"),
        "{names:?}"
    );
    Ok(())
}

/// Puts something where the lock file should be.
type Put = fn(&Path) -> Result;

fn a_lock_file_that_is_no_file_of_ours_is_refused() -> Result {
    let host = Namespace::new("host")?;
    let put: [(&str, Put); 3] = [
        ("symbolic link", |lock| Ok(symlink("precious", lock)?)),
        ("not a regular file", |lock| {
            Ok(mknodat(
                CWD,
                lock,
                FileType::Fifo,
                Mode::RUSR | Mode::WUSR,
                0,
            )?)
        }),
        ("a directory", |lock| Ok(fs::create_dir(lock)?)),
    ];
    for (words, put) in put {
        let folder = sandbox::folder("shared")?;
        fs::write(folder.join("precious"), "precious")?;
        put(&folder.join("nv-proxy.lock"))?;
        let start = rt::now();
        let said = Manual::start(&host, &folder, &[])?.refusal(2)?;
        assert!(
            rt::now() - start < Duration::from_secs(1),
            "{words}: it waited"
        );
        assert!(
            said.contains("nv-proxy.lock") && said.contains(words),
            "{words}: {said}"
        );
        assert_eq!(fs::read(folder.join("precious"))?, b"precious");
    }
    Ok(())
}

/// A folder that cannot be written under one of its two names.
struct ReadOnly {
    folder: PathBuf,
    view: PathBuf,
}

impl ReadOnly {
    fn new() -> Result<Self> {
        let (folder, view) = (sandbox::folder("folder")?, sandbox::folder("view")?);
        mount(
            Some(&folder),
            &view,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        let mounted = Self { folder, view };
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(
            None::<&str>,
            &mounted.view,
            None::<&str>,
            read_only,
            None::<&str>,
        )?;
        Ok(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = umount2(&self.view, MntFlags::MNT_DETACH);
    }
}

fn in_a_directory_that_cannot_be_written_one_serves_all_the_same() -> Result {
    let mounted = ReadOnly::new()?;
    let unit = Unit::new(program(), &[])?.with_leases_in(&mounted.view);
    let topology = Topology::new(1)?;
    let daemon = unit.start_ready(&topology.host)?;
    let stage = Stage {
        daemon,
        unit,
        topology,
    };
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let log = stage.unit.log()?;
    for words in [
        "cannot lock",
        "cannot create the state file",
        "Read-only file system",
    ] {
        assert!(log.contains(words), "no {words} in: {log}");
    }
    let lease = stage.setup(0)?;
    assert_eq!(stage.teardown(0)?.yiaddr, lease.yiaddr);
    drop(stage);

    // A lock that is there is respected, though it cannot be written.
    let host = Namespace::new("host")?;
    let mut first = Manual::start(&host, &mounted.folder, &[])?;
    first.await_serving()?;
    let words = Manual::start(&host, &mounted.view, &[])?.refusal(1)?;
    assert!(
        words.contains(&format!("process {} (", first.daemon.id())),
        "{words}"
    );
    Ok(())
}
