//! Has systemd start a program as a unit of its own, outside of this process's sandbox and control
//! group.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::Wakeup;
use super::program::output;

/// A program for [`Wakeup::start_program`].
#[derive(Clone, Copy, Debug)]
pub struct TransientProgram<'a> {
    /// The end of the unit's name, which begins as that of this process's unit: `echo-NAME.service`
    /// for `echo.service`.
    pub name: &'a str,
    /// The unit's description.
    pub description: &'a str,
    /// The absolute path. The program gets no arguments.
    pub program: &'a Path,
    /// Its environment, beside systemd's own. The values are passed as they are, without a shell,
    /// and must have no control characters.
    pub environment: &'a [(&'static str, String)],
    /// Properties of the unit, such as `RuntimeMaxSec=300`.
    pub properties: &'a [&'a str],
}

impl Wakeup {
    /// Has systemd start a program, as a service that is gone as soon as it has ended. Returns once
    /// systemd has queued the start.
    ///
    /// # Errors
    ///
    /// systemd refuses, with its message; [`AlreadyExists`](io::ErrorKind::AlreadyExists) for a name
    /// that another unit has. That a program cannot be executed is in its unit's log.
    pub async fn start_program(&self, start: &TransientProgram<'_>) -> io::Result<()> {
        let mut command = self.program("systemd-run");
        command.args(start.arguments(self.stem()));
        let started = output(command).await?.expect_success();
        started.map(drop).map_err(with_kind)
    }
}

/// Returns systemd's refusal with its kind, which only the text tells: the program runs with
/// `LANG=C`.
fn with_kind(refusal: io::Error) -> io::Error {
    let is_taken = refusal
        .to_string()
        .contains("was already loaded or has a fragment");
    if is_taken {
        io::Error::new(io::ErrorKind::AlreadyExists, refusal)
    } else {
        refusal
    }
}

impl TransientProgram<'_> {
    /// Returns the arguments of systemd-run(1).
    fn arguments(&self, stem: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["--quiet", "--no-ask-password", "--no-block", "--collect"]
                .map(OsString::from)
                .into();
        arguments.push(format!("--unit={stem}-{}", self.name).into());
        arguments.push(format!("--description={}", self.description).into());
        let properties = self.properties.iter();
        arguments.extend(properties.map(|property| format!("--property={property}").into()));
        let environment = self.environment.iter();
        arguments
            .extend(environment.map(|(name, value)| format!("--setenv={name}={value}").into()));
        arguments.push("--".into());
        arguments.push(self.program.into());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_told_from_other_refusals() {
        let start = "systemd-run: Failed to start transient service unit: ";
        for (why, kind) in [
            (
                "Unit echo-change-7.service was already loaded or has a fragment file.",
                io::ErrorKind::AlreadyExists,
            ),
            ("Access denied", io::ErrorKind::Other),
        ] {
            let text = format!("{start}{why}");
            let error = with_kind(io::Error::other(text.clone()));
            assert_eq!((error.kind(), error.to_string()), (kind, text));
        }
    }

    #[test]
    fn each_value_is_an_argument_of_its_own_and_the_program_comes_last() {
        let start = TransientProgram {
            name: "change-7",
            description: "echo: bound $HOME %n",
            program: Path::new("/usr/local/bin/-notify me"),
            environment: &[
                ("EVENT", "bound".to_owned()),
                ("DOMAIN", "$(reboot); %h \"x\" --uid=0".to_owned()),
                ("EMPTY", String::new()),
            ],
            properties: &["RuntimeMaxSec=300"],
        };
        assert_eq!(
            start.arguments("echo"),
            [
                "--quiet",
                "--no-ask-password",
                "--no-block",
                "--collect",
                "--unit=echo-change-7",
                "--description=echo: bound $HOME %n",
                "--property=RuntimeMaxSec=300",
                "--setenv=EVENT=bound",
                "--setenv=DOMAIN=$(reboot); %h \"x\" --uid=0",
                "--setenv=EMPTY=",
                "--",
                "/usr/local/bin/-notify me",
            ]
        );
    }
}
