//! The names of the sub-commands, their failures, and the directory that they read.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::proxy::config::{RUN_DIR, RUN_DIR_ENV};

/// The sub-commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subcommand {
    Check,
    Doctor,
    Release,
    Renew,
    Setup,
    Status,
    Teardown,
}

impl Subcommand {
    const ALL: [(&str, Self); 7] = [
        ("check", Self::Check),
        ("doctor", Self::Doctor),
        ("release", Self::Release),
        ("renew", Self::Renew),
        ("setup", Self::Setup),
        ("status", Self::Status),
        ("teardown", Self::Teardown),
    ];

    /// Returns the sub-command of that name.
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(word, _)| name == *word)
            .map(|(_, command)| command)
    }
}

/// The reason why a sub-command did not do what it was asked for. Each has an exit status of its
/// own.
#[derive(Debug)]
pub(super) enum Failure {
    /// It failed, or what it inspects is not healthy.
    Failed(String),
    /// The command line is wrong.
    Usage(String),
    /// It cannot be found out.
    Unknown(String),
}

impl Failure {
    /// Writes the text to standard error, and returns the exit status.
    pub(super) fn report(self) -> ExitCode {
        let (status, text) = match self {
            Self::Failed(text) => (1, text),
            Self::Usage(text) => (2, format!("{text}\nTry --help.")),
            Self::Unknown(text) => (3, text),
        };
        // Without a reader the exit status has to do.
        let _ = writeln!(io::stderr(), "smol-dhcp-proxy: {text}");
        ExitCode::from(status)
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Returns the directory of the daemon's files: that of the environment wins over that of `--dir`,
/// as it does for the daemon.
pub(super) fn directory(option: Option<OsString>) -> PathBuf {
    std::env::var_os(RUN_DIR_ENV)
        .filter(|value| !value.is_empty())
        .or(option)
        .map_or_else(|| RUN_DIR.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::Subcommand;
    use crate::proxy::config::HELP;

    #[test]
    fn the_help_of_the_program_lists_each_sub_command() {
        let (_, list) = HELP.split_once("\nCommands:\n").unwrap();
        let (list, _) = list.split_once("\n\n").unwrap();
        let names: Vec<_> = list
            .lines()
            .filter_map(|line| line.trim().split_once("  "))
            .flat_map(|(names, _)| names.split(", "))
            .collect();
        assert_eq!(names.len(), Subcommand::ALL.len());
        for (name, _) in Subcommand::ALL {
            assert!(names.contains(&name), "{name}");
        }
    }
}
