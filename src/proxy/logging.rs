//! Log lines on standard error, with priorities if the journal reads it.
//!
//! Every message is one line, and writing it does not block.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write};
use std::io::{self, Stderr};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::rt;

use limit::Limiter;
use output::{MAX_LINE, Output};

mod limit;
mod output;

/// The end of a truncated line.
const TRUNCATED: &str = " [cut]";

/// The target of the logger's own messages.
const OWN_TARGET: &str = module_path!();

/// The process's logger.
struct Logger {
    filter: env_logger::Logger,
    style: Style,
    state: Mutex<LoggerState>,
}

struct LoggerState {
    output: Output<Stderr>,
    limiter: Limiter,
}

/// The beginning of a line.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// With a priority (sd-daemon(3)).
    Journal,
    Plain,
}

/// Starts logging as configured by `RUST_LOG`, by default from info up. Panics are logged as well.
pub(super) fn start() {
    let filter = env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_default_env()
        .build();
    let (level, style) = (filter.filter(), Style::of_stderr());
    let state = Mutex::new(LoggerState {
        output: Output::new(io::stderr()),
        limiter: Limiter::default(),
    });
    let logger: &'static Logger = Box::leak(Box::new(Logger {
        filter,
        style,
        state,
    }));
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    std::panic::set_hook(Box::new(|panic| {
        print_fatal(&panic.to_string());
        // Captured only if RUST_BACKTRACE is set.
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            print_fatal(&backtrace.to_string());
        }
    }));
}

/// Writes a fatal message without the logger, and does not block.
pub(super) fn print_fatal(text: &str) {
    let (style, mut output) = (Style::of_stderr(), Output::new(io::stderr()));
    for line in text.lines() {
        let line = match style {
            Style::Journal => style.line(Level::Error, "", format_args!("{line}")),
            Style::Plain => finished(String::new(), format_args!("smol-dhcp-proxy: {line}")),
        };
        output.line(&line, |count, why| style.loss_notice(count, why));
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        // Before the lock: the arguments' `Display` may log as well.
        let line = self
            .style
            .line(record.level(), record.target(), *record.args());
        let site = (
            record.file_static().unwrap_or_default(),
            record.line().unwrap_or_default(),
        );
        let now = rt::now();
        let loss_notice = |count: u64, why: &str| self.style.loss_notice(count, why);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let LoggerState { output, limiter } = &mut *state;
        while let Some(((file, number), count)) = limiter.take_suppressed(now) {
            let text = format_args!("{count} similar lines suppressed ({file}:{number})");
            output.line(&self.style.line(Level::Warn, OWN_TARGET, text), loss_notice);
        }
        if limiter.pass(site, now) {
            output.line(&line, loss_notice);
        }
    }

    fn flush(&self) {}
}

impl Style {
    /// `JOURNAL_STREAM` has the device and inode of the journal's stream. A program with another
    /// standard error may inherit it (systemd.exec(5)).
    fn of_stderr() -> Self {
        let is_journal = || {
            let (stream, stat) = (
                std::env::var("JOURNAL_STREAM").ok()?,
                rustix::fs::fstat(io::stderr()).ok()?,
            );
            Some(stream == format!("{}:{}", stat.st_dev, stat.st_ino))
        };
        if is_journal() == Some(true) {
            Self::Journal
        } else {
            Self::Plain
        }
    }

    fn loss_notice(self, count: u64, why: &str) -> Vec<u8> {
        self.line(
            Level::Warn,
            OWN_TARGET,
            format_args!("{count} log lines lost: {why}"),
        )
    }

    fn line(self, level: Level, target: &str, text: fmt::Arguments<'_>) -> Vec<u8> {
        let start = match self {
            Self::Journal => format!("<{}>", priority(level)),
            Self::Plain => format!("[{level:5} {target}] "),
        };
        finished(start, text)
    }
}

/// Appends a text and a line feed. A text that is too long is truncated.
fn finished(start: String, text: fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = Escaped(start);
    if line.write_fmt(text).is_err() {
        line.0.push_str(TRUNCATED);
    }
    line.0.push('\n');
    line.0.into_bytes()
}

/// Takes text up to the longest line. Control characters, which an interface name or a caller may
/// contain, are escaped: they would start a new line or control a terminal.
struct Escaped(String);

impl Write for Escaped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| {
            let before = self.0.len();
            if is_printable(character) {
                self.0.push(character);
            } else {
                self.0.extend(character.escape_default());
            }
            if self.0.len() + TRUNCATED.len() < MAX_LINE {
                return Ok(());
            }
            self.0.truncate(before);
            Err(fmt::Error)
        })
    }
}

fn is_printable(character: char) -> bool {
    // Beside control characters: line separators, and characters that change the writing direction.
    !(character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// Returns the priority of syslog(3).
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn line(text: &str) -> String {
        String::from_utf8(Style::Journal.line(Level::Warn, "", format_args!("{text}"))).unwrap()
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        assert_eq!(
            line("eth0\n<0>forged\r\t\x1b[31m\0"),
            "<4>eth0\\n<0>forged\\r\\t\\u{1b}[31m\\u{0}\n"
        );
        assert_eq!(
            line("\u{85}\u{2028}\u{202e}"),
            "<4>\\u{85}\\u{2028}\\u{202e}\n"
        );
        assert_eq!(line("Zürich \u{1f600} \\"), "<4>Zürich \u{1f600} \\\n");
    }

    #[test]
    fn a_long_line_is_cut_to_what_a_pipe_takes_as_a_whole() {
        for text in [
            "x".repeat(10_000),
            "\u{1f600}".repeat(5000),
            "\n".repeat(10_000),
            "\u{202e}".repeat(1025),
        ] {
            let line = line(&text);
            assert!(
                (MAX_LINE - 20..=MAX_LINE).contains(&line.len()),
                "{}",
                line.len()
            );
            assert!(line.ends_with(" [cut]\n") && line.matches('\n').count() == 1);
        }
        let longest = "x".repeat(MAX_LINE - 3 - 1 - 6 - 1);
        assert_eq!(line(&longest).len(), MAX_LINE - 7);
    }

    /// The child process of the test below.
    #[test]
    fn panics_where_it_is_told_to() {
        if std::env::var_os("PANIC_WITH_A_FULL_PIPE").is_some() {
            start();
            panic!("the message");
        }
    }

    #[test]
    fn a_panic_whose_message_is_not_read_holds_nothing_up() {
        let (reader, writer) = io::pipe().unwrap();
        let mut filler = Output::new(&writer);
        while filler.lost() == 0 {
            filler.line(b"x\n", |_, _| Vec::new());
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "--nocapture",
            "proxy::logging::tests::panics_where_it_is_told_to",
        ]);
        command
            .env("PANIC_WITH_A_FULL_PIPE", "1")
            .stdout(Stdio::null())
            .stderr(writer.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let patience = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)).unwrap();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        drop(reader);
        assert_eq!(
            (ended, status.code()),
            (1, Some(101)),
            "it waits for a reader of its last words"
        );
    }
}
