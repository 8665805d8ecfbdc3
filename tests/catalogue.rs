//! Checks the catalogue of the duties that RFCs give a DHCPv4 client against the code that obeys
//! them and the tests that prove it.
//!
//! `tests/catalogue/` has one file for each RFC. An entry has this form. `code` and `test` may be
//! repeated. A duty that is `declined` or `not applicable` has the reason instead, and `deviation`
//! may name a place in the code that mentions it:
//!
//! ```text
//! RFC 2131 §4.4.5, §3.7  MUST  stops-at-the-end
//!   The duty, in our own words.
//!   code  src/dhcp/client/transitions.rs::lose
//!   test  renew::silence_until_the_end
//! ```
//!
//! The level is the RFC's keyword, or `states` where the RFC describes a client without one. A
//! place is an item of a source file. A comment at or in that item must cite the first section of
//! the entry, as in `RFC 2131 §4.4.5`, `RFC 2131 §3.1 (5)`, `RFC 2131 §4.1 and table 5` or
//! `RFC 3442 page 5`. A proof is a test of `tests/conversations`, or the path of another file and
//! a test or trial in it.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const LEVELS: [&str; 6] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "states"];

#[derive(Debug)]
struct Entry {
    /// RFC, section and name, such as `2131-4.4.5-t1-before-t2`.
    id: String,
    /// The section that the code must cite, then others that say the same.
    cited: Vec<Citation>,
    level: String,
    duty: String,
    /// Items in `src` that obey the duty, or mention the deviation.
    places: Vec<String>,
    tests: Vec<String>,
    /// The reason, if the client does not obey.
    declined: Option<String>,
    /// The reason, if the duty does not apply to this client.
    not_applicable: Option<String>,
}

/// An RFC number, and a section, table, figure or page of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Citation {
    rfc: String,
    section: String,
}

#[test]
fn each_duty_has_code_and_tests_or_a_reason() {
    let (entries, mut faults) = catalogue();
    let mut ids = BTreeSet::new();
    for entry in &entries {
        let mut fault = |what: String| faults.push(format!("{}: {what}", entry.id));
        if !ids.insert(&entry.id) {
            fault("this id is taken".to_owned());
        }
        if !LEVELS.contains(&entry.level.as_str()) {
            fault(format!("{} is no level", entry.level));
        }
        if entry.duty.is_empty() {
            fault("no duty".to_owned());
        }
        match (
            entry.places.is_empty(),
            entry.tests.is_empty(),
            &entry.declined,
            &entry.not_applicable,
        ) {
            (false, false, None, None) | (true, true, None, Some(_)) | (_, true, Some(_), None) => {
            }
            _ => fault("needs code and tests, or a reason".to_owned()),
        }
        entry
            .places
            .iter()
            .filter_map(|place| check_place(place, &entry.cited[0]).err())
            .for_each(&mut fault);
        entry
            .tests
            .iter()
            .filter_map(|test| check_test(test).err())
            .for_each(&mut fault);
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );

    let count = |which: fn(&Entry) -> bool| entries.iter().filter(|entry| which(entry)).count();
    let declined = count(|entry| entry.declined.is_some());
    let not_applicable = count(|entry| entry.not_applicable.is_some());
    let obeyed = entries.len() - declined - not_applicable;
    // Not by println!, which cargo keeps to itself while the test passes.
    let counts =
        format!("{obeyed} obeyed and tested, {declined} declined, {not_applicable} not applicable");
    writeln!(std::io::stdout(), "{} duties: {counts}", entries.len()).unwrap();
}

/// The reverse: each citation in the client has an entry.
#[test]
fn each_cited_section_is_in_the_catalogue() {
    let (entries, _) = catalogue();
    let catalogued: BTreeSet<Citation> =
        entries.into_iter().flat_map(|entry| entry.cited).collect();
    let mut missing = BTreeMap::new();
    for file in files(Path::new("src/dhcp"), "rs") {
        let comments = comments(&fs::read_to_string(&file).unwrap());
        let bare = comments.split("RFC ").skip(1).find(|rest| {
            let (_, section) = rest.split_once(' ').unwrap_or_default();
            section.starts_with(|char: char| char.is_ascii_digit())
        });
        assert_eq!(bare, None, "{}: a section without §", file.display());
        for cited in citations(&comments) {
            if !cited.section.is_empty() && !catalogued.contains(&cited) {
                missing.insert(cited, file.clone());
            }
        }
    }
    assert!(
        missing.is_empty(),
        "cited, and not in the catalogue: {missing:#?}"
    );
}

#[test]
fn citations_have_one_form() {
    let read = |text: &str| {
        let pair = |cited: Citation| format!("{}-{}", cited.rfc, cited.section);
        citations(text)
            .into_iter()
            .map(pair)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        read("as RFC 2131 §4.4.5 has it, and RFC 2131 §3.1 (5)."),
        "2131-4.4.5 2131-3.1 (5)"
    );
    assert_eq!(
        read("(RFC 2131 §4.1, §4.4.1 and table 5)"),
        "2131-4.1 2131-4.4.1 2131-table 5"
    );
    assert_eq!(
        read("RFC 3396 §5 and §7; RFC 3442 page 5: so"),
        "3396-5 3396-7 3442-page 5"
    );
    assert_eq!(
        read("RFC 2131 section 4.1, RFC 3442, page 5"),
        "2131- 3442-"
    );
}

/// Returns all entries, and the faults in their form.
fn catalogue() -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for file in files(Path::new("tests/catalogue"), "txt") {
        for block in fs::read_to_string(&file)
            .unwrap()
            .split("\n\n")
            .filter(|block| block.starts_with("RFC "))
        {
            match read_entry(block) {
                Ok(entry) => entries.push(entry),
                Err(why) => faults.push(format!("{}: {why}: {block}", file.display())),
            }
        }
    }
    assert!(!entries.is_empty());
    (entries, faults)
}

fn read_entry(block: &str) -> Result<Entry, &'static str> {
    let mut lines = block.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split("  ").collect();
    let [cited, level, name] = head[..] else {
        return Err("not three parts in the first line");
    };
    let cited = citations(cited);
    let Some(Citation { rfc, section }) = cited.first() else {
        return Err("no RFC");
    };
    let mut entry = Entry {
        id: format!("{rfc}-{}-{name}", section.replace(' ', "")),
        cited,
        level: level.to_owned(),
        duty: String::new(),
        places: Vec::new(),
        tests: Vec::new(),
        declined: None,
        not_applicable: None,
    };
    // A duty or a reason may continue on the next lines.
    let mut last = &mut entry.duty;
    for line in lines {
        let line = line
            .strip_prefix("  ")
            .ok_or("a line without indent")?
            .trim();
        match line.split_once("  ") {
            Some(("code" | "deviation", place)) => entry.places.push(place.trim().to_owned()),
            Some(("test", test)) => entry.tests.push(test.trim().to_owned()),
            Some(("declined", why)) => last = entry.declined.insert(why.trim().to_owned()),
            Some(("not applicable", why)) => {
                last = entry.not_applicable.insert(why.trim().to_owned())
            }
            Some(_) => return Err("an unknown word"),
            None => *last = format!("{last} {line}"),
        }
    }
    Ok(entry)
}

/// Checks that a comment at or in the item `place` cites the duty.
fn check_place(place: &str, cited: &Citation) -> Result<(), String> {
    let (file, item) = place
        .split_once("::")
        .ok_or_else(|| format!("{place} names no item"))?;
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let items = items(&text, item);
    if items.is_empty() {
        return Err(format!("no {item} in {file}"));
    }
    let cites = items
        .iter()
        .any(|text| citations(&comments(text)).contains(cited));
    cites
        .then_some(())
        .ok_or_else(|| format!("{place} does not cite RFC {} {}", cited.rfc, cited.section))
}

/// Checks that the test exists. `renew::name` is a conversation; other tests are named with their
/// file.
fn check_test(test: &str) -> Result<(), String> {
    let (file, name) = test
        .rsplit_once("::")
        .ok_or_else(|| format!("{test} names no test"))?;
    let file = if file.contains('/') {
        file.to_owned()
    } else {
        format!("tests/conversations/{file}.rs")
    };
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let is_test = items(&text, name)
        .iter()
        .any(|item| item.lines().any(|line| line.trim() == "#[test]"));
    let is_trial = text
        .split_once("trials![")
        .and_then(|(_, list)| list.split_once(']'))
        .is_some_and(|(list, _)| list.split(',').any(|trial| trial.trim() == name));
    (is_test || is_trial)
        .then_some(())
        .ok_or_else(|| format!("no test {name} in {file}"))
}

/// Returns the source of each function, type or constant of that name, from the comment before it
/// to its end.
fn items(text: &str, name: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        let words: Vec<&str> = line
            .split(|char: char| !(char.is_alphanumeric() || char == '_'))
            .collect();
        let kind = words
            .iter()
            .position(|word| ["fn", "struct", "enum", "const", "mod"].contains(word));
        !line.trim_start().starts_with("//")
            && kind.is_some_and(|kind| words.get(kind + 1) == Some(&name))
    };
    let whole = |at: usize| {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let before = lines[..at]
            .iter()
            .rev()
            .take_while(|line| ["//", "#["].contains(&line.trim().get(..2).unwrap_or("")));
        let closes = |line: &&&str| {
            line.get(..=indent)
                .is_some_and(|start| ["}", "]"].contains(&start.trim_start()))
        };
        let after = match lines[at].ends_with(['{', '(', '[']) {
            true => {
                1 + lines[at + 1..]
                    .iter()
                    .take_while(|line| !closes(line))
                    .count()
            }
            false => 0,
        };
        lines[at - before.count()..=(at + after).min(lines.len() - 1)].join("\n")
    };
    (0..lines.len())
        .filter(|at| begins(lines[*at]))
        .map(whole)
        .collect()
}

/// Returns the text of all comments as one line.
fn comments(text: &str) -> String {
    let comment = |line: &str| {
        let (code, comment) = line.split_once("//")?;
        // Not the `//` of an address.
        (code.is_empty() || code.ends_with(' '))
            .then(|| comment.trim_start_matches(['/', '!']).trim().to_owned())
    };
    text.lines()
        .filter_map(comment)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the citations in a text. The section is empty where only the RFC is named.
fn citations(text: &str) -> Vec<Citation> {
    let mut all = Vec::new();
    for rest in text.split("RFC ").skip(1) {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(rest.len());
        let (rfc, mut rest) = rest.split_at(digits);
        let cite = |section: &str| Citation {
            rfc: rfc.to_owned(),
            section: section.trim_start_matches('§').to_owned(),
        };
        let before = all.len();
        let mut separators = &[" "][..];
        while let Some((section, after)) = separators
            .iter()
            .find_map(|next| section(rest.strip_prefix(next)?))
        {
            all.push(cite(section));
            (rest, separators) = (after, &[", ", " and "]);
        }
        if all.len() == before && !rfc.is_empty() {
            all.push(cite(""));
        }
    }
    all
}

/// Splits the section at the beginning of a text from the rest.
fn section(text: &str) -> Option<(&str, &str)> {
    // Only src/dhcp must write the sign, which is checked above.
    let kind = ["§", "table ", "figure ", "page "]
        .into_iter()
        .find(|kind| text.starts_with(kind))
        .unwrap_or_default();
    let number = text[kind.len()..].find(|char: char| !(char.is_ascii_digit() || char == '.'));
    let number = &text[kind.len()..number.map_or(text.len(), |end| kind.len() + end)];
    let mut length = kind.len() + number.trim_end_matches('.').len();
    if number.is_empty() || !number.starts_with(|char: char| char.is_ascii_digit()) {
        return None;
    }
    // The step of an enumeration, as in §3.1 (5).
    if let Some((step, _)) = text[length..]
        .strip_prefix(" (")
        .and_then(|step| step.split_once(')'))
        && step.parse::<u8>().is_ok()
    {
        length += " ()".len() + step.len();
    }
    Some(text.split_at(length))
}

/// Returns all files with that extension in a folder and below it.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (folders, mut files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.extend(
        folders
            .iter()
            .flat_map(|folder| self::files(folder, extension)),
    );
    files
}
