//! The manual in `units` against `--help`, the parser and the source: options, defaults, files,
//! variables and messages.
#![cfg(feature = "proxy")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::{env, fs, io};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use smol_dhcp_proxy::proxy::config::{self, Command, HELP};

const PAGES: [&str; 2] = ["units/smol-dhcp-proxy.8", "units/smol-dhcp-proxy.lease.5"];

/// The longest line of the help, in columns.
const COLUMNS: usize = 100;

/// An option as one of the texts has it. Argument and default are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct OptionText {
    short: Option<char>,
    argument: Option<String>,
    default: Option<String>,
}

#[test]
fn the_manual_the_help_and_the_parser_have_the_same_options_and_defaults() {
    let (help, manual) = (options_of_help(), options_of_manual());
    let parsed: BTreeMap<_, _> = config::option_names()
        .map(|(short, long)| (long.to_owned(), short))
        .collect();
    assert!(help.keys().eq(parsed.keys()) && manual.keys().eq(parsed.keys()));
    let usual = config::parse([], |_| None).unwrap();
    for (long, option) in &help {
        assert_eq!(
            option, &manual[long],
            "--{long} of the help and of the manual"
        );
        assert_eq!(option.short, parsed[long], "--{long}");
        let alone = parse(&format!("--{long}"));
        assert_eq!(
            alone.is_err(),
            option.argument.is_some(),
            "--{long}: {alone:?}"
        );
        // A default that is a sentence is no value.
        if let Some(default) = option.default.as_ref().filter(|text| !text.contains(' ')) {
            let value = default.replace("dir/", "/run/podman/");
            assert_eq!(
                parse(&format!("--{long}={value}")).unwrap(),
                usual,
                "--{long}"
            );
        }
    }
}

#[test]
fn the_help_fits_a_terminal() {
    let is_long = |line: &&str| line.chars().count() > COLUMNS;
    assert_eq!(HELP.lines().filter(is_long).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn files_variables_and_fields_of_the_manual_are_in_the_source() {
    let source = source();
    let mut checked = 0;
    for page in PAGES {
        let text = read(page);
        for (name, word) in ["Pa", "Ev", "Va"].into_iter().flat_map(|name| {
            arguments(&text, name)
                .into_iter()
                .map(move |word| (name, word))
        }) {
            let last = word.rsplit('/').next().unwrap().trim_start_matches('*');
            // The files of the state are named by their extensions.
            let extension = last
                .strip_prefix("nv-proxy.")
                .map(|last| format!("\"{last}\""));
            let is_there = source.contains(last)
                || extension.is_some_and(|extension| source.contains(&extension));
            assert!(is_there, "{page}: .{name} {word} is not in the source");
            checked += 1;
        }
    }
    assert!(checked > 80, "{checked} names");
    let variables = HELP.lines().map(str::trim_start);
    for variable in variables.filter_map(|line| line.split_once("  ").map(|(name, _)| name)) {
        if variable.contains('_') {
            assert!(
                read(PAGES[0]).contains(&format!(".It Ev {variable}")),
                "{variable}"
            );
        }
    }
}

/// An entry of MESSAGES: its words, in pieces between three dots, and the priorities that it names.
#[derive(Debug)]
struct Message {
    pieces: Vec<String>,
    priorities: Vec<&'static str>,
}

impl Message {
    fn is_in(&self, text: &str) -> bool {
        let mut rest = Some(text);
        for piece in &self.pieces {
            rest = rest.and_then(|rest| rest.split_once(piece.as_str()).map(|(_, rest)| rest));
        }
        rest.is_some()
    }
}

#[test]
fn messages_of_the_manual_are_those_of_the_source() {
    let (messages, strings) = (messages(), strings());
    assert!(messages.len() > 100 && strings.len() > 500);
    let mut faults = Vec::new();
    for message in &messages {
        let found: Vec<_> = strings
            .iter()
            .filter(|(_, text)| message.is_in(text))
            .collect();
        let logged: Vec<_> = found
            .iter()
            .filter_map(|(level, _)| level.as_deref())
            .collect();
        if found.is_empty() {
            faults.push(format!("{:?} is in no string of src", message.pieces));
        } else if !logged.is_empty() && !message.priorities.iter().any(|one| logged.contains(one)) {
            faults.push(format!("{:?} is logged as {logged:?}", message.pieces));
        }
    }
    for (level, text) in &strings {
        let is_known = || messages.iter().any(|message| message.is_in(text));
        let is_serious = matches!(level.as_deref(), Some("warn" | "error"));
        if is_serious && has_words(text) && !is_known() {
            faults.push(format!("{text:?} is not in MESSAGES"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Each literal block in EXAMPLES and COMPATIBILITY has a comment before it: `run by:
/// tests/peers/manual.sh (NAME)`, or `not run: REASON`.
#[test]
fn each_block_of_commands_is_run_or_says_why_not() {
    const TRIAL: &str = "tests/peers/manual.sh";
    let (pages, trial) = (PAGES.map(read), read(TRIAL));
    let [page, page_of_files] = &pages;
    let mut blocks = 0;
    for (page, name) in [
        (page, "EXAMPLES"),
        (page, "COMPATIBILITY"),
        (page_of_files, "EXAMPLES"),
    ] {
        let lines: Vec<_> = section(page, name).lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].starts_with(".Bd ")) {
            blocks += 1;
            let mark = pair[0].strip_prefix(".\\\" ").unwrap_or_default();
            if mark.starts_with("not run: ") {
                continue;
            }
            let block = mark
                .strip_prefix(&format!("run by: {TRIAL} ("))
                .and_then(|block| block.strip_suffix(')'))
                .unwrap_or_else(|| panic!("{name}: a block after {:?}", pair[0]));
            let has_call = ["run", "edit", "install_quadlets"].iter().any(|verb| {
                let call = format!("{verb} {block}");
                trial.lines().any(|line| line.trim() == call)
            });
            assert!(has_call, "{name}: {TRIAL} has no `run {block}`");
        }
    }
    assert!(blocks > 0);
}

#[test]
fn mandoc_finds_no_fault() {
    for page in PAGES {
        let output = match Program::new("mandoc")
            .arg("-Tlint")
            .arg(root(page))
            .output()
        {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_required = env::var_os("SMOL_DHCP_PROXY_REQUIRE").is_some();
                assert!(!is_required, "mandoc is not here");
                // Not by eprintln!, which a test that passes does not show.
                return writeln!(io::stderr(), "skipped: mandoc is not here").unwrap();
            }
            output => String::from_utf8(output.unwrap().stdout).unwrap(),
        };
        // Other packages' pages need not be installed.
        let faults = output
            .lines()
            .filter(|line| !line.contains("referenced manual not found"));
        assert_eq!(faults.collect::<Vec<_>>(), [""; 0]);
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

fn parse(argument: &str) -> Result<Command, String> {
    config::parse([OsString::from(argument)], |_| None).map_err(|error| error.to_string())
}

fn options_of_help() -> BTreeMap<String, OptionText> {
    let lines = HELP
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    lines
        .map(|line| {
            let (names, text) = line.split_once("  ").unwrap();
            let default = text
                .split_once("[default: ")
                .map(|(_, rest)| rest.trim_end_matches(']'));
            let words: Vec<_> = names
                .split([' ', ','])
                .filter(|word| !word.is_empty())
                .collect();
            let named = |begins: fn(&str) -> bool| words.iter().find(|word| begins(word));
            let long = named(|word| word.starts_with("--")).unwrap();
            let short = named(|word| word.len() == 2).and_then(|word| word.chars().last());
            let argument = named(|word| !word.starts_with('-')).map(|word| word.to_lowercase());
            let default = default.map(str::to_lowercase);
            let option = OptionText {
                short,
                argument,
                default,
            };
            (long.trim_start_matches('-').to_owned(), option)
        })
        .collect()
}

fn options_of_manual() -> BTreeMap<String, OptionText> {
    let page = read(PAGES[0]);
    let mut lines = section(&page, "OPTIONS").lines();
    let (mut options, mut latest) = (BTreeMap::new(), String::new());
    while let Some(line) = lines.next() {
        if line.starts_with(".It Fl ") {
            let words: Vec<_> = line.split_whitespace().collect();
            let mut option = OptionText::default();
            for pair in words.windows(2) {
                match pair {
                    ["Fl", name] if name.starts_with('-') => latest = name[1..].to_owned(),
                    ["Fl", name] => option.short = name.chars().next(),
                    ["Ar", name] => option.argument = Some(name.to_lowercase()),
                    _ => {}
                }
            }
            options.insert(latest.clone(), option);
        } else if line == "The default is" {
            let default = plain(lines.next().unwrap()).to_lowercase();
            options.get_mut(&latest).unwrap().default = Some(default);
        }
    }
    options
}

/// Returns the text of a line of mdoc(7) macros, without the full stop at its end.
fn plain(line: &str) -> String {
    let (mut text, mut is_glued) = (String::new(), true);
    for word in line
        .trim_start_matches('.')
        .trim_end_matches(" .")
        .split_whitespace()
    {
        match word {
            "Pa" | "Ar" | "Cm" | "Em" => {}
            "Ns" => is_glued = true,
            word => {
                text += if is_glued { "" } else { " " };
                text += word;
                is_glued = false;
            }
        }
    }
    text
}

fn section<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n.Sh {name}\n")).unwrap();
    rest.split_once("\n.Sh ").unwrap().0
}

/// Returns the arguments of each call of a macro.
fn arguments(page: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in page.lines().filter(|line| line.starts_with('.')) {
        let mut is_within = false;
        for word in line.trim_start_matches('.').split_whitespace() {
            let is_macro = word.len() == 2 && word.starts_with(|first: char| first.is_uppercase());
            if is_macro {
                is_within = word == name;
            } else if is_within && word.len() > 1 {
                found.push(word.to_owned());
            }
        }
    }
    found
}

fn messages() -> Vec<Message> {
    let page = read(PAGES[0]);
    let mut lines = section(&page, "MESSAGES").lines().peekable();
    let mut messages = Vec::new();
    while let Some(line) = lines.next() {
        let Some(words) = line.strip_prefix(".It Sy \"") else {
            continue;
        };
        let pieces = words
            .trim_end_matches('"')
            .split("...")
            .map(|piece| piece.trim().to_owned());
        let kinds = lines
            .peek()
            .unwrap()
            .split_once('.')
            .unwrap()
            .0
            .to_lowercase();
        let priorities = kinds.split(" or ").filter_map(|kind| match kind {
            "error" => Some("error"),
            "warning" => Some("warn"),
            "information" => Some("info"),
            "reply" => None,
            other => panic!("{line}: {other}"),
        });
        messages.push(Message {
            pieces: pieces.filter(|piece| !piece.is_empty()).collect(),
            priorities: priorities.collect(),
        });
    }
    messages
}

/// Returns whether a text is more than what is put into it.
fn has_words(text: &str) -> bool {
    let outside = text.split('{').map(|part| part.rsplit('}').next().unwrap());
    outside
        .flat_map(|part| part.split(|c: char| !c.is_alphabetic()))
        .any(|word| word.len() > 3)
}

/// Returns the source and the units as one text, with the names of the units.
fn source() -> String {
    let is_page = |path: &Path| PAGES.iter().any(|page| path.ends_with(page));
    let files = files("src").into_iter().chain(files("units"));
    files
        .filter(|path| !is_page(path))
        .map(|path| fs::read_to_string(&path).unwrap() + path.to_str().unwrap())
        .collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(path.to_str().unwrap()));
        } else {
            found.push(path);
        }
    }
    found
}

/// Returns the string literals of `src` outside of its tests, with the priority of those that are
/// logged as they are.
fn strings() -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for path in files("src") {
        let is_test = path.ends_with("tests.rs") || path.parent().unwrap().ends_with("tests");
        if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            let tokens: TokenStream = fs::read_to_string(&path).unwrap().parse().unwrap();
            collect(tokens, None, &mut found);
        }
    }
    found
}

fn collect(tokens: TokenStream, level: Option<&str>, found: &mut Vec<(Option<String>, String)>) {
    let (mut level, mut is_test, mut before) = (level.map(str::to_owned), false, Vec::new());
    for token in tokens {
        let text = token.to_string();
        match token {
            TokenTree::Group(group) => {
                let inner = group.stream();
                let is_attribute = matches!(before.last().map(String::as_str), Some("#" | "!"))
                    && group.delimiter() == Delimiter::Bracket;
                if is_attribute && text.starts_with("[doc") {
                    // A comment.
                } else if is_attribute && text.starts_with("[cfg") && text.contains("test") {
                    is_test = true;
                } else if !is_test {
                    let logged = match &before[..] {
                        [.., log, _, _, level, mark] if log == "log" && mark == "!" => Some(level),
                        _ => None,
                    };
                    collect(inner, logged.map(String::as_str), found);
                } else if group.delimiter() == Delimiter::Brace {
                    is_test = false;
                }
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => is_test = false,
            TokenTree::Literal(literal) if !is_test => {
                if let syn::Lit::Str(string) = syn::Lit::new(literal) {
                    found.push((level.take(), string.value()));
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        before.push(text);
    }
}
