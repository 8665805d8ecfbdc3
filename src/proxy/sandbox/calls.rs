//! The system calls that the sandbox allows.

use std::io;

use nix::libc;
use seccompiler::BpfProgram;

use super::Mode;
use super::filter::{ArgumentTest, Filter, Refusal, Verdict};

/// Restricts the calling thread to the daemon's system calls.
pub(super) fn confine(mode: Mode, runs_programs: bool) -> io::Result<()> {
    apply(&daemon(refusal(mode), runs_programs)?)
}

fn daemon(refusal: Refusal, runs_programs: bool) -> io::Result<BpfProgram> {
    let mut filter = Filter::default();
    filter.insert(ALLOWED.iter().map(|&call| (call, Verdict::Allow)));
    if runs_programs {
        filter.insert(EXECUTE.iter().map(|&call| (call, Verdict::Allow)));
    }
    filter.insert(by_argument());
    filter.compile(refusal)
}

/// Returns the filter of the thread that opens namespaces: its descriptors can be neither read nor
/// written.
pub(super) fn opener_filter(mode: Mode) -> io::Result<BpfProgram> {
    let mut filter = Filter::default();
    let waiting = [
        libc::SYS_futex,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_madvise,
    ];
    filter.insert(waiting.map(|call| (call, Verdict::Allow)));
    filter.insert([(libc::SYS_openat, when(ArgumentTest::has(2, libc::O_PATH)))]);
    filter.compile(refusal(mode))
}

/// Applies a filter to the calling thread.
pub(super) fn apply(filter: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(filter).map_err(io::Error::other)
}

fn refusal(mode: Mode) -> Refusal {
    if mode == Mode::Strict {
        Refusal::Kill
    } else {
        Refusal::Enosys
    }
}

fn when(test: ArgumentTest) -> Verdict {
    Verdict::When(vec![vec![test]])
}

/// Returns the calls that are allowed depending on their arguments.
fn by_argument() -> Vec<(i64, Verdict)> {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    // No set-user-ID or set-group-ID files.
    const SET_ID: i32 = (libc::S_ISUID | libc::S_ISGID) as i32;
    // For callers and systemd, the link, and DHCP without and with an address.
    let families = [
        libc::AF_UNIX,
        libc::AF_NETLINK,
        libc::AF_PACKET,
        libc::AF_INET,
    ];
    // Writable memory is not executable, and does not become so.
    let write_xor_execute = [
        ArgumentTest::lacks(2, libc::PROT_WRITE),
        ArgumentTest::lacks(2, libc::PROT_EXEC),
    ];
    // Input into the controlling terminal.
    let [tiocsti, tioclinux] =
        [libc::TIOCSTI, libc::TIOCLINUX].map(|request| ArgumentTest::is_not(1, request as i32));
    vec![
        (libc::SYS_openat, when(ArgumentTest::lacks(3, SET_ID))),
        (libc::SYS_fchmod, when(ArgumentTest::lacks(1, SET_ID))),
        (libc::SYS_fchmodat, when(ArgumentTest::lacks(2, SET_ID))),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, when(ArgumentTest::lacks(2, SET_ID))),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, when(ArgumentTest::lacks(1, SET_ID))),
        (
            libc::SYS_socket,
            Verdict::When(
                families
                    .map(|family| vec![ArgumentTest::is(0, family)])
                    .into(),
            ),
        ),
        // Network namespaces only; the type is required.
        (
            libc::SYS_setns,
            when(ArgumentTest::is(1, libc::CLONE_NEWNET)),
        ),
        (libc::SYS_clone, when(ArgumentTest::lacks(0, NAMESPACES))),
        // Its flags are in memory, out of reach of a filter. glibc falls back to clone(2).
        (libc::SYS_clone3, Verdict::Enosys),
        (
            libc::SYS_mmap,
            Verdict::When(write_xor_execute.map(|test| vec![test]).into()),
        ),
        (
            libc::SYS_mprotect,
            when(ArgumentTest::lacks(2, libc::PROT_EXEC)),
        ),
        (
            libc::SYS_ioctl,
            Verdict::When(vec![vec![tiocsti, tioclinux]]),
        ),
    ]
}

/// Calls that are allowed with any arguments: those of the daemon, of C libraries, and of systemctl
/// and systemd-run.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // Files.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write, libc::SYS_writev,
    libc::SYS_pwrite64, libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_fstat,
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_fcntl,
    libc::SYS_flock, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_ftruncate, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat, libc::SYS_linkat,
    libc::SYS_mkdirat, libc::SYS_umask,
    // Memory.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    // Processes and threads.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_kill,
    libc::SYS_tgkill, libc::SYS_tkill, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_getpid,
    libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups,
    libc::SYS_capget, libc::SYS_prctl, libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_set_tid_address, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_futex, libc::SYS_membarrier, libc::SYS_uname,
    libc::SYS_sysinfo, libc::SYS_getrandom, libc::SYS_restart_syscall,
    // Signals.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    // Waiting.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_signalfd4,
    // Existing sockets.
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_recvmsg,
    // Older equivalents on x86-64.
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_lstat, #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink, #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink, #[cfg(target_arch = "x86_64")] libc::SYS_link,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir, #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")] libc::SYS_pipe, #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    #[cfg(target_arch = "x86_64")] libc::SYS_select, #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_create, #[cfg(target_arch = "x86_64")] libc::SYS_getpgrp,
    #[cfg(target_arch = "x86_64")] libc::SYS_getrlimit, #[cfg(target_arch = "x86_64")] libc::SYS_time,
    #[cfg(target_arch = "x86_64")] libc::SYS_arch_prctl,
];

/// Calls to execute a program.
const EXECUTE: &[i64] = &[
    libc::SYS_execve,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];
