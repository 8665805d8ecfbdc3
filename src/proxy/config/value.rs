//! The values of options.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nearest::nearest;
use super::{PROBES_MAX, Timeout};
use crate::dhcp::Probe;

/// The value of an option, not read yet.
pub(super) struct OptionValue<'a> {
    pub(super) parser: &'a mut lexopt::Parser,
    /// The long name.
    pub(super) option: &'static str,
}

impl OptionValue<'_> {
    pub(super) fn path(&mut self) -> Result<PathBuf, lexopt::Error> {
        let value = self.parser.value()?;
        if value.is_empty() {
            Err(format!("--{} needs a path, not an empty string", self.option).into())
        } else {
            Ok(value.into())
        }
    }

    /// Reads the path of a program, which systemd starts: in another directory, without a search.
    pub(super) fn program(&mut self) -> Result<PathBuf, lexopt::Error> {
        let is_usable = |path: &Path| path.is_absolute() && path.to_str().is_some();
        let path = self.path()?;
        if is_usable(&path) {
            Ok(path)
        } else {
            let option = self.option;
            Err(format!("--{option} takes the absolute path of a program, not {path:?}").into())
        }
    }

    pub(super) fn address(&mut self) -> Result<Ipv4Addr, lexopt::Error> {
        self.parsed("an IPv4 address", |text| text.parse().ok())
    }

    pub(super) fn parsed<T>(
        &mut self,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, lexopt::Error> {
        let value = self.parser.value()?;
        let parsed = value.to_str().and_then(parse);
        parsed.ok_or_else(|| format!("--{} takes {expected}, not {value:?}", self.option).into())
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, lexopt::Error> {
        let value = self.parser.value()?;
        choose(&value, &format!("--{}", self.option), choices)
    }
}

pub(super) fn timeout(text: &str) -> Option<Timeout> {
    match (text, decimal_seconds(text)) {
        ("auto", _) => Some(Timeout::Auto),
        (_, Some(Duration::ZERO)) => Some(Timeout::Unlimited),
        (_, time) => time.map(Timeout::Exactly),
    }
}

pub(super) fn probe(text: &str) -> Option<Probe> {
    match text.parse() {
        Ok(0) => Some(Probe::Off),
        Ok(count @ 1..=PROBES_MAX) => Some(Probe::Before(count)),
        _ => None,
    }
}

/// Returns the choice that `value` names; `option` is for the text of the error.
pub(super) fn choose<T: Copy>(
    value: &OsStr,
    option: &str,
    choices: &[(&str, T)],
) -> Result<T, lexopt::Error> {
    if let Some((_, choice)) = choices.iter().find(|(word, _)| value == *word) {
        return Ok(*choice);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
    let listed = words.join(", ");
    let listed = match listed.rsplit_once(", ") {
        Some((others, last)) => format!("{others} or {last}"),
        None => listed,
    };
    let nearest = match nearest(&value.to_string_lossy(), words) {
        Some(word) => format!("; did you mean {word:?}?"),
        None => String::new(),
    };
    Err(format!("{option} takes {listed}, not {value:?}{nearest}").into())
}

/// Reads seconds such as 30, 2.5 or .5. By hand: the parser of floating-point numbers in the
/// standard library takes 30 kB.
pub(crate) fn decimal_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    // Nine digits are nanoseconds; the rest is dropped.
    let nanoseconds: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some(Duration::new(
        format!("0{whole}").parse().ok()?,
        nanoseconds.parse().ok()?,
    ))
}
