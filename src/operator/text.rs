//! Times in words, and tables.

use std::fmt::Write as _;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Returns a length of time in its two largest units: `2 h 5 min`.
pub(super) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, name, small: u64, unit| {
        let rest = seconds % large / small;
        match rest {
            0 => format!("{} {name}", seconds / large),
            _ => format!("{} {name} {rest} {unit}", seconds / large),
        }
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => two(MINUTE, "min", 1, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

/// Returns a short length of time with two digits at least: `1.2 ms`, `340 ms`, `4.0 s`.
pub(super) fn short_length(time: Duration) -> String {
    let (seconds, milliseconds) = (time.as_secs(), time.subsec_millis());
    match (seconds, milliseconds) {
        (0, 0..10) => format!("{milliseconds}.{} ms", time.subsec_micros() % 1000 / 100),
        (0, _) => format!("{milliseconds} ms"),
        _ => format!("{seconds}.{} s", milliseconds / 100),
    }
}

/// Returns a text that is not trusted without control characters, which a terminal obeys.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// The last second of the year 9999: RFC 3339 has no later dates.
const LAST: u64 = 253_402_300_799;

/// Returns a date, given as the time since 1970, in the form of RFC 3339, in UTC. A date too
/// late for that form becomes the last one.
pub(super) fn date(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs().min(LAST);
    let (mut days, in_day) = (seconds / DAY, seconds % DAY);
    let mut year = 1970;
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (in_day / HOUR, in_day % HOUR / MINUTE, in_day % MINUTE);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z",
        day = days + 1
    )
}

/// Returns the number of days of a year in the Gregorian calendar.
fn days_of(year: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(is_leap)
}

/// Rows with aligned columns.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<Vec<String>>);

impl Rows {
    /// Adds a row.
    pub(super) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// Returns the rows as lines. Between two columns are two spaces; none is at the end of a line.
    pub(super) fn lines(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell: &String| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(length(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_short_length_has_two_digits_at_least() {
        for (microseconds, text) in [
            (0, "0.0 ms"),
            (999, "0.9 ms"),
            (1250, "1.2 ms"),
            (10_000, "10 ms"),
            (999_999, "999 ms"),
            (4_012_345, "4.0 s"),
            (61_950_000, "61.9 s"),
        ] {
            assert_eq!(short_length(Duration::from_micros(microseconds)), text);
        }
    }

    #[test]
    fn a_terminal_gets_no_commands() {
        assert_eq!(printable("dh\u{1b}[2Jclient\n\u{9b}é"), "dh?[2Jclient??é");
    }

    #[test]
    fn a_date_is_that_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_780_272_000, "2026-06-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut rows = Rows::default();
        rows.push(["A".into(), "LONG".into(), "C".into()]);
        rows.push(["ü2345".into(), "x".into(), String::new()]);
        assert_eq!(rows.lines(), "A      LONG  C\nü2345  x\n");
        assert_eq!(Rows::default().lines(), "");
    }
}
