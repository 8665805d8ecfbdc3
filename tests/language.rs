//! The language of the project, held by a test: the prose of comments, units and pages, the names
//! of types, and the form of citations.
//!
//! `.github/CONTRIBUTING.md` has the rules in full. Counted here are those that a program can
//! count: doc comments that begin with a question word, persons in place of programs, citations in
//! another form than `RFC 2131 §4.4.5`, type names that stand twice, and names that were given up.
//! Code, code spans and code blocks are no prose, so a page may name a forbidden word in backticks.
#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The most lines, over all files, with a question word or a person. It only goes down.
const LIMIT: usize = 2;

/// The most citations in another form. It stays 0.
const CITATION_LIMIT: usize = 0;

/// The most uses of a name in [`OLD_NAMES`]. It stays 0.
const OLD_NAME_LIMIT: usize = 0;

/// Words that a doc comment does not begin with.
const QUESTIONS: [&str; 4] = ["What", "Who", "Whether", "Where"];

/// Words for persons.
const PERSONS: [&str; 10] = [
    "somebody",
    "nobody",
    "anybody",
    "everybody",
    "someone",
    "anyone",
    "everyone",
    "whoever",
    "who",
    "whom",
];

/// Pairs of words that stand for a person or a program.
const PAIRS: [[&str; 2]; 4] = [
    ["one", "that"],
    ["ones", "that"],
    ["one", "who"],
    ["those", "who"],
];

/// Identifiers that were given up for a standard term, and the term. Names that are ordinary words
/// elsewhere (`Lost`, `note`, `words`, an `AGAIN` of errno) are not listed.
const OLD_NAMES: &[(&str, &str)] = &[
    ("Allowance", "RateLimit"),
    ("Commons", "SessionContext"),
    ("Door", "ListeningSocket"),
    ("Ears", "Receiver"),
    ("ForAWhile", "Until"),
    ("Gate", "Latch"),
    ("HURRY", "START_RETRY"),
    ("Habits", "DhcpSettings"),
    ("Heard", "Received"),
    ("Hurry", "SecondSignal"),
    ("Kept", "Outcome"),
    ("Memory", "AddressHistory"),
    ("NEAR", "MIN_TIMER_LEAD"),
    ("NO_SOONER", "MIN_DORMANCY"),
    ("PATIENCE", "a name that ends in _TIMEOUT"),
    ("PEACE", "HOLD_OFF"),
    ("Pace", "RateLimit"),
    ("Packed", "EncodedRecord"),
    ("Place", "SlotState or AddressAndGateway"),
    ("Prepare", "BeforeExit"),
    ("QUIET", "a name that ends in _TIMEOUT"),
    ("REST", "ACCEPT_RETRY_DELAY"),
    ("Rest", "Snapshot, or Dormant of an Outcome"),
    ("Resting", "Dormant"),
    ("SELDOM", "MAX_RECHECK"),
    ("SOON", "SAVE_DELAY"),
    ("SUSPICION", "SUSPECT_AFTER"),
    ("Silence", "UnresponsiveServers"),
    ("Undoing", "BeforeRollback"),
    ("VERDICT", "CONFIRMED_AFTER"),
    ("Vigil", "ConflictWatch"),
    ("Way", "StoredRoute or DisplayRoute"),
    ("Who", "ContainerNames"),
    ("Why", "AcquireError"),
    ("Wire", "ExchangeSockets"),
    ("deaf_at", "stop_listening_at"),
    ("everything", "units_to_stop"),
    ("hear_arp_of", "set_arp_filter"),
    ("hold_back", "defer"),
    ("is_silent", "mark_unresponsive"),
    ("lay_down", "mark_dormant"),
    ("mind_staying", "update_keep_alive"),
    ("resound", "on_carrier_up"),
    ("see_to", "run_due"),
    ("spoke", "mark_responsive"),
];

/// Files of `src` that were given up for a standard term, and the term.
const OLD_FILES: &[(&str, &str)] = &[
    ("allowance.rs", "rate.rs"),
    ("arrows.rs", "transitions.rs"),
    ("hear.rs", "receive.rs"),
    ("identity.rs", "client_id.rs"),
    ("memory.rs", "address_history.rs"),
    ("pace.rs", "renewal_rate.rs"),
    ("rest.rs", "snapshot.rs"),
    ("saving.rs", "save.rs"),
    ("settings.rs", "applied.rs"),
    ("silence.rs", "unresponsive.rs"),
    ("site.rs", "interface.rs or sockets.rs"),
    ("words.rs", "log_text.rs"),
];

/// A place of a file, and what stands there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// A line of prose, and its number.
type Line = (usize, String);

#[test]
fn prose_is_about_programs() {
    let mut found = BTreeSet::new();
    for (file, text) in sources(&["src", "benches", "examples"], &["rs"]) {
        let comments = comments(&text);
        add(&mut found, &file, questions(&comments));
        add(&mut found, &file, persons(&prose_of_comments(&comments)));
    }
    for (file, text) in pages() {
        add(&mut found, &file, persons(&prose_of_page(&text)));
    }
    for (file, text) in sources(&["units"], &[]) {
        add(&mut found, &file, persons(&lines(&text)));
    }
    let places: BTreeSet<_> = found.iter().map(|one| (&one.file, one.line)).collect();
    judge(
        "lines with a question word or a person",
        &found,
        places.len(),
        LIMIT,
    );
}

#[test]
fn citations_have_one_form() {
    let mut found = BTreeSet::new();
    for (file, text) in sources(&["src"], &["rs", "md"]) {
        let prose = match file.ends_with(".rs") {
            true => prose_of_comments(&comments(&text)),
            false => prose_of_page(&text),
        };
        add(&mut found, &file, citations(&prose));
    }
    judge(
        "citations not of the form RFC 2131 §4.4.5",
        &found,
        found.len(),
        CITATION_LIMIT,
    );
}

#[test]
fn a_type_name_stands_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources(&["src"], &["rs"]) {
        for (line, name) in type_names(&text) {
            places
                .entry(name)
                .or_default()
                .push(format!("{file}:{line}"));
        }
    }
    assert!(places.len() > 100, "{} types", places.len());
    places.retain(|_, places| places.len() > 1);
    assert!(
        places.is_empty(),
        "type names that stand twice: {places:#?}"
    );
}

#[test]
fn old_names_do_not_return() {
    let mut found = BTreeSet::new();
    for (file, text) in sources(&["src"], &["rs"]) {
        add(&mut found, &file, old_names(&text));
        let name = file.rsplit('/').next().unwrap();
        if let Some((_, new)) = OLD_FILES.iter().find(|(old, _)| *old == name) {
            add(
                &mut found,
                &file,
                vec![(1, format!("{name} is called {new}"))],
            );
        }
    }
    judge(
        "names that were given up",
        &found,
        found.len(),
        OLD_NAME_LIMIT,
    );
}

/// The links of the pages that only a forge shows, and of the changelog.
#[test]
fn links_lead_to_files() {
    let mut broken = Vec::new();
    for (file, text) in pages() {
        if !file.starts_with(".github/") && file != "CHANGELOG.md" {
            continue;
        }
        let folder = root().join(&file).parent().unwrap().to_owned();
        for link in links(&text) {
            if !link.starts_with("https://") && !folder.join(link).exists() {
                broken.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "broken links: {broken:#?}");
}

/// Prints what was found, and fails above the limit.
#[expect(clippy::print_stdout, reason = "the harness shows it after a failure")]
fn judge(what: &str, found: &BTreeSet<Finding>, count: usize, limit: usize) {
    let list: Vec<String> = found.iter().map(Finding::to_string).collect();
    println!("{count} {what}, of {limit} at most:\n{}", list.join("\n"));
    assert!(
        count <= limit,
        "{count} {what}; the limit is {limit}, see above"
    );
}

fn add(found: &mut BTreeSet<Finding>, file: &str, places: Vec<Line>) {
    let file = file.to_owned();
    found.extend(places.into_iter().map(|(line, text)| Finding {
        file: file.clone(),
        line,
        text,
    }));
}

// Files.

/// Returns the pages of the project.
fn pages() -> Vec<(String, String)> {
    let mut pages = sources(&["src", "benches", "tests", ".github"], &["md", "yml"]);
    for page in ["README.md", "CHANGELOG.md"] {
        pages.push((
            page.to_owned(),
            fs::read_to_string(root().join(page)).unwrap(),
        ));
    }
    pages
}

/// Returns the files with one of the extensions, or all, in these folders and in those below.
fn sources(folders: &[&str], extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut next: Vec<String> = folders.iter().map(ToString::to_string).collect();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                next.push(name);
            } else if extensions.is_empty() || extension.is_some_and(|it| extensions.contains(&it))
            {
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no files in {folders:?}");
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// Prose.

fn lines(text: &str) -> Vec<Line> {
    (1..).zip(text.lines().map(str::to_owned)).collect()
}

/// Returns the comments of a Rust source, each with its slashes, from there to the end of its line.
fn comments(text: &str) -> Vec<Line> {
    let mut literals = Vec::new();
    find_literals(text.parse().unwrap(), &mut literals);
    // A doc comment is a literal, too.
    literals.retain(|range: &Range<usize>| !text[range.clone()].starts_with('/'));
    let mut code = text.to_owned().into_bytes();
    for byte in literals.into_iter().flatten() {
        if code[byte] != b'\n' {
            code[byte] = b' ';
        }
    }
    let comment = |code: String| Some(code[code.find("//")?..].to_owned());
    lines(str::from_utf8(&code).unwrap())
        .into_iter()
        .filter_map(|(line, code)| Some((line, comment(code)?)))
        .collect()
}

fn find_literals(tokens: TokenStream, found: &mut Vec<Range<usize>>) {
    for token in tokens {
        match token {
            TokenTree::Literal(literal) => found.push(literal.span().byte_range()),
            TokenTree::Group(group) => find_literals(group.stream(), found),
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Returns the text of comments without slashes, code spans and code blocks.
fn prose_of_comments(comments: &[Line]) -> Vec<Line> {
    let text = |comment: &str| comment.trim_start_matches(['/', '!']).to_owned();
    prose(
        comments
            .iter()
            .map(|(line, comment)| (*line, text(comment))),
    )
}

/// Returns the text of a Markdown page without code spans and code blocks.
fn prose_of_page(page: &str) -> Vec<Line> {
    prose(lines(page).into_iter())
}

fn prose(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut is_code = false;
    let mut prose = Vec::new();
    for (line, text) in lines {
        if text.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            // What stands between two backticks is code; in its place comes what is no word.
            let parts: Vec<&str> = text.split('`').step_by(2).collect();
            prose.push((line, parts.join("#")));
        }
    }
    prose
}

/// Returns the words of prose, each with its line and with what stands between it and the next.
fn words(prose: &[Line]) -> Vec<(usize, &str, &str)> {
    let mut words = Vec::new();
    for (line, text) in prose {
        let is_word = |char: char| char.is_alphanumeric() || char == '§' || char == '.';
        let mut rest = text.trim_start_matches(|char| !is_word(char));
        while !rest.is_empty() {
            let (word, after) =
                rest.split_at(rest.find(|char| !is_word(char)).unwrap_or(rest.len()));
            let (between, next) = after.split_at(after.find(is_word).unwrap_or(after.len()));
            words.push((*line, word, between));
            rest = next;
        }
    }
    words
}

/// Returns the targets of the links of a Markdown page.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1);
    targets.filter_map(|rest| Some(rest.split_once(')')?.0))
}

// Rules.

/// Finds doc comments that begin with a question word.
fn questions(comments: &[Line]) -> Vec<Line> {
    let kind = |comment: &str| {
        comment
            .chars()
            .take_while(|char| "/!".contains(*char))
            .collect::<String>()
    };
    let mut found = Vec::new();
    let mut before = (0, String::new());
    for (line, comment) in comments {
        let kind = kind(comment);
        let is_first = before != (line - 1, kind.clone());
        let mut words = comment[kind.len()..].split_whitespace();
        let first = words
            .next()
            .unwrap_or_default()
            .trim_end_matches(|char: char| !char.is_alphabetic());
        if is_first && ["///", "//!"].contains(&&*kind) && QUESTIONS.contains(&first) {
            found.push((*line, format!("begins with {first}")));
        }
        before = (*line, kind);
    }
    found
}

/// Finds words for persons.
fn persons(prose: &[Line]) -> Vec<Line> {
    let words = words(prose);
    let mut found = Vec::new();
    for (at, (line, word, between)) in words.iter().enumerate() {
        let word = word.trim_matches('.').to_lowercase();
        if PERSONS.contains(&&*word) {
            found.push((*line, word));
        } else if between.trim().is_empty()
            && let Some((_, next, _)) = words.get(at + 1)
            && PAIRS.contains(&[&word, &next.trim_matches('.').to_lowercase()])
            && !words[at].1.ends_with('.')
        {
            found.push((*line, format!("{word} {}", next.to_lowercase())));
        }
    }
    found
}

/// Finds citations with `section` or nothing in place of `§`.
fn citations(prose: &[Line]) -> Vec<Line> {
    let words = words(prose);
    let is_number = |word: &str| word.starts_with(|char: char| char.is_ascii_digit());
    let cited = words
        .windows(3)
        .filter(|words| words[0].1 == "RFC" && is_number(words[1].1));
    cited
        .filter(|words| words[1].2.trim().is_empty() && !words[1].1.ends_with('.'))
        .filter(|words| is_number(words[2].1) || words[2].1.eq_ignore_ascii_case("section"))
        .map(|words| (words[0].0, format!("RFC {} {}", words[1].1, words[2].1)))
        .collect()
}

/// Finds the types that a source defines. An associated type is none of them: it implements a name.
fn type_names(text: &str) -> Vec<Line> {
    #[derive(Default)]
    struct Types(Vec<Line>);

    impl<'ast> Visit<'ast> for Types {
        fn visit_item(&mut self, item: &'ast syn::Item) {
            let name = match item {
                syn::Item::Enum(item) => Some(&item.ident),
                syn::Item::Struct(item) => Some(&item.ident),
                syn::Item::Trait(item) => Some(&item.ident),
                syn::Item::Type(item) => Some(&item.ident),
                syn::Item::Union(item) => Some(&item.ident),
                _ => None,
            };
            self.0
                .extend(name.map(|name| (name.span().start().line, name.to_string())));
            visit::visit_item(self, item);
        }
    }

    let mut types = Types::default();
    types.visit_file(&syn::parse_file(text).unwrap());
    types.0
}

/// Finds identifiers that were given up.
fn old_names(text: &str) -> Vec<Line> {
    fn find(tokens: TokenStream, found: &mut Vec<Line>) {
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    let old = OLD_NAMES.iter().find(|(old, _)| name == old);
                    let place =
                        |(old, new)| (name.span().start().line, format!("{old} is called {new}"));
                    found.extend(old.copied().map(place));
                }
                TokenTree::Group(group) => find(group.stream(), found),
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
        }
    }

    let mut found = Vec::new();
    find(text.parse().unwrap(), &mut found);
    found
}

// Planted violations.

fn places(found: &[Line]) -> Vec<(usize, &str)> {
    found
        .iter()
        .map(|(line, text)| (*line, text.as_str()))
        .collect()
}

#[test]
fn a_doc_comment_that_asks_is_found() {
    let source = "\
//! What a file is.
//! Who cares.

/// Returns it.
/// What follows is a second line.
fn f() {} // What stands at the end of a line is no doc comment.

/// Whether it does; without a space:
#[inline]
///Where it is.
fn g() {}
// Who?
const A: &str = \"/// What\"; /// Whatever
const B: &str = r#\"
/// What
\"#;
";
    assert_eq!(
        places(&questions(&comments(source))),
        [
            (1, "begins with What"),
            (8, "begins with Whether"),
            (10, "begins with Where")
        ]
    );
}

#[test]
fn a_person_is_found() {
    let found = |text: &str| {
        let found = persons(&prose_of_page(text));
        found
            .iter()
            .map(|(line, text)| format!("{line} {text}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(
        found("Nobody asks, and\nwhoever\nanswers."),
        "1 nobody, 2 whoever"
    );
    assert_eq!(
        found("somebody anybody everybody"),
        "1 somebody, 1 anybody, 1 everybody"
    );
    assert_eq!(
        found("Someone's, anyone; everyone."),
        "1 someone, 1 anyone, 1 everyone"
    );
    assert_eq!(found("a server who answers, whom it asks"), "1 who, 1 whom");
    assert_eq!(
        found("The one\nthat waits, ones that do"),
        "1 one that, 2 ones that"
    );
    assert_eq!(found("Those who wait."), "1 those who, 1 who");
    assert_eq!(
        found("One, that is; one. That too. Whole, whose, another."),
        ""
    );
    assert_eq!(
        found("`who`, or\n```sh\nwho | wc\n```\nor `a` who"),
        "5 who"
    );
    assert_eq!(found("| one | that |"), "");
}

#[test]
fn a_person_in_a_comment_is_found_and_in_code_not() {
    let source = "\
/// Says who.
fn who(a: &str) { // nobody
    who(\"http://somebody\"); let anyone = '\"'; // who
    let raw = r#\"// everybody
// someone\"#;
}
";
    let found = persons(&prose_of_comments(&comments(source)));
    assert_eq!(places(&found), [(1, "who"), (2, "nobody"), (3, "who")]);
}

#[test]
fn a_citation_in_another_form_is_found() {
    let found = citations(&prose_of_page(
        "RFC 2131 section 4.4.5, RFC 2131 4.1 and RFC\n3396 5; but RFC 2131 §4.4.5, RFC 3442 page 5,\n\
         RFC 2131 table 5, RFC 4039, 4 of RFC 2131. 5 more.",
    ));
    assert_eq!(
        places(&found),
        [
            (1, "RFC 2131 section"),
            (1, "RFC 2131 4.1"),
            (1, "RFC 3396 5")
        ]
    );
}

#[test]
fn links_are_found() {
    let page = "a [b](../c.rs), [d](https://e/) [Unreleased]\n(f) [g] (h)";
    assert_eq!(links(page).collect::<Vec<_>>(), ["../c.rs", "https://e/"]);
}

#[test]
fn types_are_found_at_any_visibility() {
    let source = "\
pub struct A;
mod tests { enum B {} trait C { type Item; } }
pub(crate) type D = u8;
union E { a: u8 }
impl Iterator for A { type Item = u8; fn next() { struct A; } }
";
    let found = type_names(source);
    assert_eq!(
        places(&found),
        [(1, "A"), (2, "B"), (2, "C"), (3, "D"), (4, "E"), (5, "A")]
    );
}

#[test]
fn an_old_name_is_found_and_its_word_not() {
    let source = "\
/// Silence.
fn f(silence: Silence) { log!(\"Silence {}\", PATIENCE) }
";
    assert_eq!(
        places(&old_names(source)),
        [
            (2, "Silence is called UnresponsiveServers"),
            (2, "PATIENCE is called a name that ends in _TIMEOUT"),
        ]
    );
}
