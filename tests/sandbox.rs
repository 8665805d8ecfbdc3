//! The daemon's confinement from within: a process that is confined as the daemon is tries what the
//! daemon never does.
//!
//! Confinement is for good, so that each attempt is made by a child of this program.
#![cfg(feature = "proxy")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that meets an error ends, and says where"
)]

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::{env, thread};

use landlock::{ABI, AccessFs, LandlockStatus, Ruleset, RulesetAttr};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode as FileMode, SFlag, makedev, mknod};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::{Pid, chroot, gethostname, sethostname};
use rustix::thread::{Uid, set_thread_uid};
use smol_dhcp_proxy::net::netns::Netns;
use smol_dhcp_proxy::proxy::sandbox::{self, Allowed, Mode};

/// Tells the child process its attempt, its folder and the confinement.
const ATTEMPT: &str = "SANDBOX_TEST_ATTEMPT";
const FOLDER: &str = "SANDBOX_TEST_FOLDER";
const MODE: &str = "SANDBOX_TEST_MODE";

/// The mechanism that refuses an attempt.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// The system call filter.
    Filter,
    /// Landlock, from this version on.
    Landlock(ABI),
}
use By::{Filter, Landlock};

type Try = fn(&Path) -> io::Result<()>;

const ALLOWED: &[(&str, Try)] = &[
    (
        "write, rename and remove in the state directory",
        |folder| {
            fs::write(folder.join("new"), "text")?;
            fs::rename(folder.join("new"), folder.join("file"))?;
            fs::hard_link(folder.join("file"), folder.join("aside"))?;
            fs::remove_file(folder.join("aside"))?;
            fs::remove_file(folder.join("file"))
        },
    ),
    ("listen in the state directory", |folder| {
        drop(UnixListener::bind(folder.join("socket"))?);
        fs::remove_file(folder.join("socket"))
    }),
    ("read elsewhere", |_| fs::read("/etc/passwd").map(drop)),
    ("run a program that is named", |_| {
        run(&mut Command::new("true"))
    }),
    ("start a thread", |_| {
        thread::spawn(|| ())
            .join()
            .map_err(|_| io::ErrorKind::Other.into())
    }),
    (
        "find and enter the network namespace of a process outside",
        |_| {
            let namespace = Netns::open(Path::new(&format!("/proc/{}/ns/net", Pid::parent())))
                .map_err(io::Error::other)?;
            namespace.enter(|| ())
        },
    ),
    ("open the sockets of an exchange", |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW)?;
        socket(libc::AF_NETLINK, libc::SOCK_RAW)?;
        socket(libc::AF_INET, libc::SOCK_DGRAM)
    }),
];

const REFUSED: &[(&str, By, Try)] = &[
    ("write to a file outside", Landlock(ABI::V1), |folder| {
        fs::write(outside(folder), "text")
    }),
    (
        "write to a file outside through a link",
        Landlock(ABI::V1),
        |folder| fs::write(folder.join("link"), "text"),
    ),
    ("truncate a file outside", Filter, |folder| {
        Ok(nix::unistd::truncate(&outside(folder), 0)?)
    }),
    ("make a file outside", Landlock(ABI::V1), |folder| {
        File::create(outside(folder).with_extension("new")).map(drop)
    }),
    ("remove a file outside", Landlock(ABI::V1), |folder| {
        fs::remove_file(outside(folder))
    }),
    ("make a directory outside", Landlock(ABI::V1), |folder| {
        fs::create_dir(outside(folder).with_extension("new"))
    }),
    ("move a file out", Landlock(ABI::V1), |folder| {
        fs::rename(folder.join("kept"), outside(folder).with_extension("moved"))
    }),
    ("read a home", Landlock(ABI::V1), |_| {
        fs::read_dir("/root").map(drop)
    }),
    ("read a device", Landlock(ABI::V1), |_| {
        File::open("/dev/zero").map(drop)
    }),
    (
        "make a program that runs as another user",
        Filter,
        |folder| fs::set_permissions(folder.join("program"), fs::Permissions::from_mode(0o4755)),
    ),
    ("make a device", Filter, |folder| {
        Ok(mknod(
            &folder.join("device"),
            SFlag::S_IFCHR,
            FileMode::S_IRUSR,
            makedev(1, 3),
        )?)
    }),
    ("make a link", Filter, |folder| {
        symlink("/etc/passwd", folder.join("another"))
    }),
    ("run another program", Landlock(ABI::V1), |_| {
        run(Command::new("/bin/sh").arg("-c").arg("true"))
    }),
    (
        "run a program of its own making",
        Landlock(ABI::V1),
        |folder| run(&mut Command::new(folder.join("program"))),
    ),
    (NO_PROGRAM, Filter, |_| Err(Command::new("true").exec())),
    ("mount", Filter, |folder| {
        Ok(mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?)
    }),
    ("leave its mount namespace", Filter, |_| {
        Ok(unshare(CloneFlags::CLONE_NEWNS)?)
    }),
    ("make a user namespace", Filter, |_| {
        Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
    }),
    ("enter another kind of namespace", Filter, |_| {
        Ok(setns(
            File::open("/proc/self/ns/uts")?,
            CloneFlags::CLONE_NEWUTS,
        )?)
    }),
    (
        "enter a namespace of a kind that it does not name",
        Filter,
        |_| {
            Ok(setns(
                File::open("/proc/self/ns/net")?,
                CloneFlags::empty(),
            )?)
        },
    ),
    ("trace a process", Filter, |_| {
        Ok(ptrace::seize(Pid::parent(), ptrace::Options::empty())?)
    }),
    ("read the memory of a process", Landlock(ABI::V1), |_| {
        File::open(format!("/proc/{}/mem", Pid::parent())).map(drop)
    }),
    ("signal a process", Landlock(ABI::V6), |_| {
        Ok(kill(Pid::parent(), Signal::SIGCONT)?)
    }),
    ("open a socket of IPv6", Filter, |_| {
        socket(libc::AF_INET6, libc::SOCK_DGRAM)
    }),
    ("open a socket of virtual machines", Filter, |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM)
    }),
    ("listen on TCP", Landlock(ABI::V4), |_| {
        TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    // Without confinement these two fail in other ways, which is as good a proof and sets no clock
    // and loads nothing.
    ("set a clock", Filter, |_| {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        Ok(clock_settime(ClockId::CLOCK_MONOTONIC, now)?)
    }),
    ("load a kernel module", Filter, |_| {
        Ok(finit_module(
            File::open("/dev/null")?,
            c"",
            ModuleInitFlags::empty(),
        )?)
    }),
    ("set the host's name", Filter, |_| {
        Ok(sethostname(gethostname()?)?)
    }),
    ("change its root", Filter, |folder| Ok(chroot(folder)?)),
    ("change its user", Filter, |_| {
        Ok(set_thread_uid(Uid::from_raw(65534))?)
    }),
    (
        "map memory that can be written and executed",
        Filter,
        |_| writable_and_executable(),
    ),
];

/// The attempt with no program named at all, as in manual mode.
const NO_PROGRAM: &str = "run a program where none is named";

/// A file beside the folder that the child may write to.
fn outside(folder: &Path) -> PathBuf {
    folder.with_extension("outside")
}

fn socket(family: i32, kind: i32) -> io::Result<()> {
    socket2::Socket::new(family.into(), kind.into(), None).map(drop)
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

#[allow(
    unsafe_code,
    reason = "there is no safe call to map memory for execution"
)]
fn writable_and_executable() -> io::Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    let length = 4096.try_into().unwrap();
    // SAFETY: an anonymous mapping of its own, which nothing points to.
    unsafe {
        mmap_anonymous(
            None,
            length,
            ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC,
            MapFlags::MAP_PRIVATE,
        )
    }?;
    Ok(())
}

/// The exit status for an error without a number.
const OTHER: u8 = 255;

/// The child: confines itself as the daemon does, makes the attempt, and exits with 0, or with the
/// number of its error.
fn confined(name: &str) -> ExitCode {
    let folder = PathBuf::from(env::var_os(FOLDER).unwrap());
    let mode = match env::var(MODE).unwrap().as_str() {
        "auto" => Mode::Auto,
        "strict" => Mode::Strict,
        _ => Mode::Off,
    };
    if mode == Mode::Off {
        // The attempts are going to succeed, and are not to leave anything behind.
        let private = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).and_then(|()| {
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
        });
        if let Err(errno) = private {
            eprintln!("no namespaces to try it in: {errno}");
            return ExitCode::from(Errno::EPERM as u8);
        }
    }
    let programs: &[_] = if name == NO_PROGRAM { &[] } else { &["true"] };
    sandbox::confine(
        mode,
        Allowed {
            writable: &[&folder],
            programs,
        },
    )
    .unwrap();
    let mut all = ALLOWED
        .iter()
        .map(|&(name, attempt)| (name, attempt))
        .chain(REFUSED.iter().map(|&(name, _, attempt)| (name, attempt)));
    let (_, attempt) = all.find(|(known, _)| *known == name).unwrap();
    match attempt(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.raw_os_error().map_or(OTHER, |errno| errno as u8))
        }
    }
}

/// Makes an attempt in a child; returns how it ended, and what it said.
fn attempt(name: &str, mode: &str) -> (ExitStatus, String) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    fs::create_dir(&folder).unwrap();
    fs::write(outside(&folder), "kept").unwrap();
    fs::write(folder.join("kept"), "kept").unwrap();
    fs::copy("/bin/true", folder.join("program")).unwrap();
    fs::set_permissions(folder.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(outside(&folder), folder.join("link")).unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .env(ATTEMPT, name)
        .env(FOLDER, &folder)
        .env(MODE, mode)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if mode != "off" {
        assert_eq!(fs::read(outside(&folder)).unwrap(), b"kept");
        let names: Vec<_> = fs::read_dir(parent.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
    (
        child.status,
        String::from_utf8_lossy(&child.stderr).into_owned(),
    )
}

fn is_allowed(name: &str) -> Result<(), Failed> {
    // Only root may enter the namespace, and open the sockets.
    let (status, said) = attempt(name, "strict");
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}: {said}").into())
    }
}

fn is_refused(name: &str, by: By) -> Result<Completion, Failed> {
    if let Landlock(version) = by
        && landlock() < version
    {
        return Ok(Completion::ignored_with(format!(
            "this kernel has Landlock {}, not {version}",
            landlock()
        )));
    }
    let refusals: &[Errno] = match by {
        Filter => &[Errno::ENOSYS],
        Landlock(_) => &[Errno::EACCES, Errno::EPERM, Errno::EXDEV],
    };
    let is_refusal = |status: ExitStatus| {
        status
            .code()
            .is_some_and(|code| refusals.contains(&Errno::from_raw(code)))
    };
    let (free, said) = attempt(name, "off");
    if is_refusal(free) || free.code() == Some(Errno::EPERM as i32) {
        return Ok(Completion::ignored_with(format!(
            "not possible here without confinement either: {said}"
        )));
    }
    let (status, said) = attempt(name, "auto");
    if !is_refusal(status) {
        return Err(format!("{status}: {said}").into());
    }
    let (status, said) = attempt(name, "strict");
    let killed = status.signal() == Some(libc::SIGSYS);
    if killed == (by == Filter) {
        Ok(Completion::Completed)
    } else {
        Err(format!("strict: {status}: {said}").into())
    }
}

/// The version of Landlock that this kernel and the crate have, learnt on a thread that confines
/// itself.
fn landlock() -> ABI {
    let ask = || {
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_write(ABI::V1))
            .unwrap()
            .create()
            .unwrap();
        match ruleset.restrict_self().unwrap().landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi,
            _ => ABI::Unsupported,
        }
    };
    thread::spawn(ask).join().unwrap()
}

fn main() -> ExitCode {
    if let Some(name) = env::var_os(ATTEMPT) {
        return confined(name.to_str().unwrap());
    }
    let allowed = ALLOWED
        .iter()
        .map(|&(name, _)| Trial::test(format!("allowed: {name}"), move || is_allowed(name)));
    let refused = REFUSED.iter().map(|&(name, by, _)| {
        Trial::ignorable_test(format!("refused: {name}"), move || is_refused(name, by))
    });
    libtest_mimic::run(&Arguments::from_args(), allowed.chain(refused).collect()).exit_code()
}
