//! Log lines on standard error, with the journal's priorities where the journal reads them.

use std::io::Write;

use log::{Level, LevelFilter};

/// Starts logging as `RUST_LOG` says, from info on where it says nothing.
pub(super) fn start() {
    let journal = stderr_is_the_journal();
    env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_default_env()
        .format(move |out, record| {
            if journal {
                // One prefix a line: the journal makes an entry of each (sd-daemon(3)).
                let priority = priority(record.level());
                record.args().to_string().lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
            } else {
                writeln!(out, "[{:5} {}] {}", record.level(), record.target(), record.args())
            }
        })
        .init();
}

/// `JOURNAL_STREAM` holds the device and inode of the journal's stream, and may be inherited by
/// programs whose standard error goes elsewhere (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// syslog(3)'s priorities.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
