//! Runs a process to one of its system calls, and kills it there or makes the call fail: by
//! ptrace(2), so the real binary is tried.

use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use smol_dhcp_proxy::rt;

use super::{Result, Skip};

/// For so long a process that is through with its work makes no system call.
const QUIET: Duration = Duration::from_millis(30);

/// The system calls that count as steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Calls whose effect outlives the process: on files, the network, links and connected peers. A
    /// kill anywhere between two of these makes no difference outside the process.
    Lasting,
    /// All of them.
    Every,
}

/// The end of a process that was resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It was killed before the kernel did what this call asks for.
    Killed(String),
    /// Its work was over after so many steps, and it runs on by itself.
    Through(usize),
}

/// A process whose first thread stops at each system call. Dropped, it is killed.
///
/// The kernel takes requests only from the thread that seized it, so this is not `Send`. No other
/// thread may wait for the process meanwhile.
#[derive(Debug)]
pub struct Tracer {
    process: Pid,
    let_go: bool,
    here: PhantomData<*const ()>,
}

impl Tracer {
    /// Seizes a child that waits for something to do.
    pub fn seize(process: u32) -> Result<Self> {
        let process = Pid::from_raw(i32::try_from(process)?);
        ptrace::seize(process, Options::PTRACE_O_TRACESYSGOOD).map_err(|error| match error {
            Errno::EPERM => Skip::Impossible(
                "this machine does not let this user trace its children".to_owned(),
            )
            .into(),
            error => Box::<dyn std::error::Error + Send + Sync>::from(error),
        })?;
        let tracer = Self {
            process,
            let_go: false,
            here: PhantomData,
        };
        ptrace::interrupt(process)?;
        match waitpid(process, None)? {
            WaitStatus::PtraceEvent(..) => ptrace::syscall(process, None)?,
            other => return Err(format!("seized, the process is {other:?}").into()),
        }
        Ok(tracer)
    }

    /// Kills it when it is about to take step number `step`, the first one being 0; or lets go of
    /// it as soon as `is_over` and it has come to rest. It has to do one or the other `within` that
    /// time.
    pub fn kill_at(
        mut self,
        step: usize,
        steps: Steps,
        within: Duration,
        is_over: impl Fn() -> Result<bool>,
    ) -> Result<Ran> {
        let mut taken = 0;
        let arrives = |call: &Call| {
            let Some(name) = call.step(steps)? else {
                return Ok(None);
            };
            taken += 1;
            Ok((taken > step).then_some(name))
        };
        Ok(match self.run(within, arrives, is_over)? {
            Some(call) => Ran::Killed(call),
            None => Ran::Through(taken),
        })
    }

    /// Kills it at its first call for which `is_it`, which has to come `within` that time.
    pub fn kill_when(mut self, within: Duration, is_it: impl Fn(&Call) -> Result<bool>) -> Result {
        self.run_to(within, is_it)
    }

    /// Makes the first call for which `is_it` fail with `EBADF`, and lets the process run on. The
    /// call has to come `within` that time, and its first argument has to be a descriptor.
    pub fn fail_when(mut self, within: Duration, is_it: impl Fn(&Call) -> Result<bool>) -> Result {
        self.run_to(within, is_it)?;
        Call::take_descriptor(self.process)?;
        ptrace::detach(self.process, None)?;
        self.let_go = true;
        Ok(())
    }

    fn run_to(&mut self, within: Duration, is_it: impl Fn(&Call) -> Result<bool>) -> Result {
        self.run(
            within,
            |call| Ok(is_it(call)?.then(String::new)),
            || Ok(false),
        )
        .map(drop)
    }

    /// Stops at the first call to which `arrives` gives a name, and returns that.
    fn run(
        &mut self,
        within: Duration,
        mut arrives: impl FnMut(&Call) -> Result<Option<String>>,
        is_over: impl Fn() -> Result<bool>,
    ) -> Result<Option<String>> {
        let deadline = rt::now() + within;
        let mut is_entry = true;
        let mut quiet_since = rt::now();
        loop {
            match waitpid(self.process, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::PtraceSyscall(_) => {
                    quiet_since = rt::now();
                    if is_entry && let Some(call) = arrives(&Call::arriving(self.process)?)? {
                        // Dead before it is let in: the kernel looks for this signal once more.
                        return Ok(Some(call));
                    }
                    is_entry = !is_entry;
                    ptrace::syscall(self.process, None)?;
                }
                WaitStatus::Stopped(_, signal) => ptrace::syscall(self.process, signal)?,
                WaitStatus::PtraceEvent(..) => ptrace::syscall(self.process, None)?,
                WaitStatus::StillAlive => {
                    let now = rt::now();
                    if now - quiet_since >= QUIET && is_over()? {
                        self.let_go()?;
                        return Ok(None);
                    }
                    if now >= deadline {
                        return Err(format!("not through within {within:?}").into());
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
                gone => {
                    self.let_go = true;
                    return Err(format!("the process ended by itself: {gone:?}").into());
                }
            }
        }
    }

    /// Lets it run untraced.
    fn let_go(&mut self) -> Result {
        ptrace::interrupt(self.process)?;
        // Any first stop will do: it replaces the requested one.
        let signal = match waitpid(self.process, None)? {
            WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            gone => return Err(format!("the process ended by itself: {gone:?}").into()),
        };
        ptrace::detach(self.process, signal)?;
        self.let_go = true;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if !self.let_go {
            let _ = kill(self.process, Signal::SIGKILL);
        }
    }
}

/// A system call that has arrived at the kernel, and its first three arguments.
#[derive(Debug)]
pub struct Call {
    process: Pid,
    number: i64,
    arguments: [u64; 3],
}

impl Call {
    #[cfg(target_arch = "x86_64")]
    fn arriving(process: Pid) -> Result<Self> {
        let registers = ptrace::getregs(process)?;
        Ok(Self {
            process,
            number: registers.orig_rax.cast_signed(),
            arguments: [registers.rdi, registers.rsi, registers.rdx],
        })
    }

    #[cfg(target_arch = "aarch64")]
    fn arriving(process: Pid) -> Result<Self> {
        let [a, b, c, _, _, _, _, _, number, ..] = ptrace::getregs(process)?.regs;
        Ok(Self {
            process,
            number: number.cast_signed(),
            arguments: [a, b, c],
        })
    }

    /// Replaces the first argument by -1. The number of the call stays, for a system call filter
    /// looks at it after this.
    #[cfg(target_arch = "x86_64")]
    fn take_descriptor(process: Pid) -> Result {
        let registers = ptrace::getregs(process)?;
        Ok(ptrace::setregs(
            process,
            libc::user_regs_struct {
                rdi: u64::MAX,
                ..registers
            },
        )?)
    }

    #[cfg(target_arch = "aarch64")]
    fn take_descriptor(process: Pid) -> Result {
        let mut registers = ptrace::getregs(process)?;
        registers.regs[0] = u64::MAX;
        Ok(ptrace::setregs(process, registers)?)
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn take_descriptor(process: Pid) -> Result {
        Self::arriving(process).map(drop)
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn arriving(_: Pid) -> Result<Self> {
        Err(Skip::Impossible(
            "nobody has said where this machine keeps the number of a system call".to_owned(),
        )
        .into())
    }

    /// Returns whether it enters a namespace.
    pub fn is_setns(&self) -> bool {
        self.number == libc::SYS_setns
    }

    /// Returns the type of the netlink message that it sends; `None` for any other call.
    pub fn netlink_message(&self) -> Result<Option<u16>> {
        let [_, buffer, length] = self.arguments;
        if self.number != libc::SYS_sendto || length < 16 {
            return Ok(None);
        }
        let mut header = [0; 6];
        fs::File::open(format!("/proc/{}/mem", self.process))?
            .read_exact_at(&mut header, buffer)?;
        let [a, b, c, d, kind @ ..] = header;
        let is_whole = u64::from(u32::from_ne_bytes([a, b, c, d])) == length;
        Ok(is_whole.then_some(u16::from_ne_bytes(kind)))
    }

    /// Its name, where it counts as a step.
    fn step(&self, steps: Steps) -> Result<Option<String>> {
        let lasting = LASTING
            .iter()
            .find(|(number, _)| *number == self.number)
            .map(|(_, name)| *name);
        if steps == Steps::Every {
            return Ok(Some(lasting.map_or_else(
                || format!("system call {}", self.number),
                str::to_owned,
            )));
        }
        let [first, _, third] = self.arguments;
        let is_step = match self.number {
            libc::SYS_openat => third & MAKING != 0,
            // The log, and what wakes other threads of its own.
            libc::SYS_write | libc::SYS_writev => {
                first > 2 && !self.descriptor(first)?.starts_with("anon_inode:")
            }
            _ => true,
        };
        Ok(lasting.filter(|_| is_step).map(str::to_owned))
    }

    /// Returns a description of a descriptor.
    fn descriptor(&self, number: u64) -> Result<String> {
        let target =
            fs::read_link(format!("/proc/{}/fd/{number}", self.process)).unwrap_or_default();
        Ok(target.display().to_string())
    }
}

/// The flags that make of openat(2) more than a look.
const MAKING: u64 = (libc::O_CREAT | libc::O_TRUNC) as u64;

/// The calls whose effects outlive the process. Its sockets and its namespace end with it, and the
/// name that fsync(2) makes durable survives without that as long as the power stays on.
const LASTING: &[(i64, &str)] = &[
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_clone3, "clone3"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_sendmmsg, "sendmmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_shutdown, "shutdown"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink"),
];
