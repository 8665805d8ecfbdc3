//! Times in words, and tables.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Returns a length of time in its two largest units: `2 h 5 min`.
pub(super) fn length(time: Duration) -> String {
    let mut text = String::new();
    push_length(&mut text, time);
    text
}

/// Appends a length of time in its two largest units.
pub(super) fn push_length(to: &mut String, time: Duration) {
    let seconds = time.as_secs();
    let (large, name, small, unit) = match seconds {
        0..MINUTE => (1, "s", 1, "s"),
        MINUTE..HOUR => (MINUTE, "min", 1, "s"),
        HOUR..DAY => (HOUR, "h", MINUTE, "min"),
        _ => (DAY, "d", HOUR, "h"),
    };
    push_number(to, seconds / large);
    to.push(' ');
    to.push_str(name);
    let rest = seconds % large / small;
    if rest > 0 {
        to.push(' ');
        push_number(to, rest);
        to.push(' ');
        to.push_str(unit);
    }
}

/// Appends a number. A table of a thousand leases has ten thousand, and `write!` takes five times as
/// long for each.
pub(super) fn push_number(to: &mut String, mut number: u64) {
    let (mut digits, mut first) = ([b'0'; 20], 20);
    loop {
        first -= 1;
        digits[first] += (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.push_str(str::from_utf8(&digits[first..]).unwrap_or_default());
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

/// Returns a text that is not trusted without characters that a terminal obeys or hides.
pub(super) fn printable(text: &str) -> String {
    text.replace(is_unprintable, "?")
}

/// Returns whether a character is a control character, turns the direction of the text, or takes no
/// room (general categories Cc, Cf, Zl and Zp of Unicode).
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns a text for a command line that a shell reads, in quotes if it needs them.
pub(super) fn quoted(text: &str) -> String {
    let text = printable(text);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The last second of the year 9999: RFC 3339 has no later dates.
const LAST: u64 = 253_402_300_799;

/// Returns a date, given as the time since 1970, in the form of RFC 3339, in UTC. A date too
/// late for that form becomes the last one.
pub(super) fn date(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs().min(LAST);
    let (days, in_day) = (seconds / DAY, seconds % DAY);
    // In years that begin in March a leap day is the last; 400 of them have the same number of days.
    let days = days + DAYS_BEFORE_1970;
    let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months have 153 days, over and over.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next;
    let mut text = *b"0000-00-00T00:00:00Z";
    for (end, mut number) in [
        (4, year),
        (7, month),
        (10, day),
        (13, in_day / HOUR),
        (16, in_day % HOUR / MINUTE),
        (19, in_day % MINUTE),
    ] {
        let mut place: usize = end;
        while number > 0 {
            place -= 1;
            text[place] = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The days of 400 years in the Gregorian calendar.
const DAYS_OF_ERA: u64 = 146_097;
/// The days from the first of March of the year 0 to the first of January 1970.
const DAYS_BEFORE_1970: u64 = 719_468;

/// Rows with aligned columns.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// All cells, one behind the other.
    text: String,
    /// The end of each cell in the text and its width in columns; [`Rows::END`] ends a row.
    cells: Vec<(u32, u32)>,
    widths: Vec<usize>,
    /// The cell that comes next: its beginning, and its column.
    next: (usize, usize),
}

impl Rows {
    const END: (u32, u32) = (u32::MAX, 0);

    /// Returns rows with room for so many, of usual cells: a text that grows is copied, to pages that
    /// were not used before.
    pub(super) fn with_room_for(rows: usize) -> Self {
        Self {
            text: String::with_capacity(rows * 80),
            cells: Vec::with_capacity(rows * 8),
            ..Self::default()
        }
    }

    /// Adds a row.
    pub(super) fn push<const N: usize>(&mut self, cells: [String; N]) {
        for cell in cells {
            self.text.push_str(&cell);
            self.end_cell();
        }
        self.end_row();
    }

    /// Returns the text to which the next cell is appended.
    pub(super) fn cell(&mut self) -> &mut String {
        &mut self.text
    }

    /// Ends the cell that was appended.
    pub(super) fn end_cell(&mut self) {
        let (start, column) = self.next;
        self.escape_from(start);
        let width = width(&self.text[start..]);
        if let Some(widest) = self.widths.get_mut(column) {
            *widest = width.max(*widest);
        } else {
            self.widths.push(width);
        }
        // A text of four gigabytes has no rows.
        let place = |number: usize| u32::try_from(number).unwrap_or(u32::MAX - 1);
        self.cells.push((place(self.text.len()), place(width)));
        self.next = (self.text.len(), column + 1);
    }

    pub(super) fn end_row(&mut self) {
        self.cells.push(Self::END);
        self.next.1 = 0;
    }

    /// Replaces control characters, which would be orders to the terminal: the name of an interface
    /// may have some.
    fn escape_from(&mut self, start: usize) {
        // Those beyond ASCII are not told by a byte.
        let is_suspect = |byte: u8| !(b' '..0x7f).contains(&byte);
        if self.text[start..].bytes().any(is_suspect) {
            let cell = self.text.split_off(start);
            self.text.push_str(&cell.replace(is_unprintable, "?"));
        }
    }

    /// Appends the rows as lines. Between two columns are two spaces; none is at the end of a line.
    pub(super) fn append_to(&self, lines: &mut String) {
        // Some five blanks fill a cell up.
        lines.reserve(self.text.len() + self.cells.len() * 5);
        let (mut start, mut column, mut padding) = (0, 0, 0);
        for cell in &self.cells {
            if *cell == Self::END {
                lines.push('\n');
                (column, padding) = (0, 0);
                continue;
            }
            let (end, width) = (cell.0 as usize, cell.1 as usize);
            if end > start {
                push_blanks(lines, padding);
                lines.push_str(&self.text[start..end]);
                padding = 0;
            }
            padding += self.widths[column] - width + 2;
            (start, column) = (end, column + 1);
        }
    }

    /// Returns the rows as lines.
    pub(super) fn lines(&self) -> String {
        let mut lines = String::new();
        self.append_to(&mut lines);
        lines
    }
}

/// Appends blanks.
fn push_blanks(to: &mut String, mut count: usize) {
    const BLANKS: &str = "                                ";
    while count > 0 {
        let blanks = &BLANKS[..count.min(BLANKS.len())];
        to.push_str(blanks);
        count -= blanks.len();
    }
}

/// Returns the columns of a text.
fn width(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
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
        // Text from right to left, and text that is hidden.
        assert_eq!(
            printable("eth\u{202e}0\u{2066}\u{200b}\u{feff}"),
            "eth?0???"
        );
        let mut rows = Rows::default();
        rows.push(["a\u{202e}b".into(), "c".into()]);
        assert_eq!(rows.lines(), "a?b  c\n");
    }

    #[test]
    fn a_shell_reads_one_word() {
        assert_eq!(quoted("/run/netns/web-1"), "/run/netns/web-1");
        assert_eq!(quoted("a b;$(c)"), "'a b;$(c)'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a\nb"), "'a?b'");
    }

    #[test]
    fn a_date_is_that_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
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
