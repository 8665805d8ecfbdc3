//! README.md and the pages beside it: length, links, commands, messages, options and figures.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The most words of README.md, without the bars of tables: it is to be read within minutes.
const WORDS: usize = 1200;
/// The languages of blocks that a reader pastes into a shell.
const SHELLS: [&str; 4] = ["sh", "bash", "shell", "console"];
/// The trial that runs the blocks of README.md which name it.
const TRIAL: &str = "tests/peers/readme.sh";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the files below `folder` with this extension, relative to the package.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let path = path.strip_prefix(root()).expect("it is below the package");
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The pages whose links are followed.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    let others = [
        "CHANGELOG.md",
        "benches/README.md",
        "benches/twin/README.md",
        "tests/README.md",
    ];
    pages.extend(
        others
            .iter()
            .filter(|page| root().join(page).exists())
            .map(|&page| page.to_owned()),
    );
    pages.extend(files(".github", "md"));
    pages
}

/// Returns the lines of Markdown that are not in a block of code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push((number, line));
        }
    }
    lines
}

/// Returns a line without its spans of code.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Returns the spans of code of a line.
fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Returns the text between `open` and `close`, each time that they come.
fn between<'a>(line: &'a str, open: &str, close: char) -> Vec<&'a str> {
    line.split(open)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(close)?.0))
        .collect()
}

/// Returns the anchor that forges make of a heading: lower case, hyphens for spaces, no
/// punctuation.
fn anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    lower
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Returns the anchors of a page, and the text below each up to the next heading.
fn sections(text: &str) -> HashMap<String, String> {
    let mut sections: HashMap<String, String> = HashMap::new();
    let mut current = String::new();
    for (_, line) in prose(text) {
        if line.starts_with('#') {
            let name = anchor(line.trim_start_matches('#'));
            current.clone_from(&name);
            for again in 1.. {
                if !sections.contains_key(&current) {
                    break;
                }
                current = format!("{name}-{again}");
            }
            sections.insert(current.clone(), String::new());
        } else if let Some(section) = sections.get_mut(&current) {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// Returns the rows of the tables below a heading of README.md, without the first two.
fn rows(heading: &str) -> Vec<String> {
    let readme = read("README.md");
    let sections = sections(&readme);
    let section = sections
        .get(heading)
        .unwrap_or_else(|| panic!("README.md has no heading #{heading}"));
    let rows: Vec<String> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(str::to_owned)
        .collect();
    assert!(!rows.is_empty(), "#{heading} of README.md has no table");
    rows
}

fn first_column(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default()
}

#[test]
fn the_readme_is_short() {
    let is_read = |line: &&str| !line.starts_with("<!--");
    // The bars of a table are no words.
    let is_word = |word: &&str| word.contains(char::is_alphanumeric);
    let words = read("README.md");
    let words = words
        .lines()
        .filter(is_read)
        .flat_map(str::split_whitespace);
    let words = words.filter(is_word).count();
    assert!(words <= WORDS, "README.md has {words} words");
}

#[test]
fn each_link_leads_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = read(&page);
        for (number, line) in prose(&text) {
            for target in between(&without_code(line), "](", ')') {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if let Err(why) = follow(&page, target) {
                    dead.push(format!("{page}:{number}: {target}: {why}"));
                }
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

fn follow(page: &str, target: &str) -> Result<(), String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let mut path = root().join(page);
    if !file.is_empty() {
        path.pop();
        path.push(file);
    }
    if !path.exists() {
        return Err("no such file".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    if sections(&text).contains_key(anchor) {
        Ok(())
    } else {
        Err("no such heading".to_owned())
    }
}

/// A block that a reader pastes into a shell.
struct ShellBlock {
    /// The line of its fence.
    number: usize,
    /// The last line before it that is not blank.
    mark: String,
    lines: Vec<String>,
}

fn shell_blocks(text: &str) -> Vec<ShellBlock> {
    let mut blocks: Vec<ShellBlock> = Vec::new();
    let (mut mark, mut in_code, mut is_shell) = ("", false, false);
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(language) = line.strip_prefix("```") {
            in_code = !in_code;
            is_shell = in_code && SHELLS.contains(&language);
            if is_shell {
                blocks.push(ShellBlock {
                    number,
                    mark: mark.to_owned(),
                    lines: Vec::new(),
                });
            }
            mark = "";
        } else if is_shell && let Some(block) = blocks.last_mut() {
            block.lines.push(line.to_owned());
        } else if !in_code && !line.is_empty() {
            mark = line;
        }
    }
    blocks
}

/// Each has a comment before it: `run by: FILE`, which has its command, `run by: tests/peers/readme.sh
/// (NAME)`, or `not run: REASON`.
#[test]
fn each_shell_block_is_run_or_says_why_not() {
    let trial = read(TRIAL);
    let blocks = shell_blocks(&read("README.md"));
    assert!(!blocks.is_empty());
    for block in blocks {
        let place = format!("README.md:{}", block.number);
        let mark = block
            .mark
            .strip_prefix("<!-- ")
            .and_then(|mark| mark.strip_suffix(" -->"))
            .unwrap_or_else(|| panic!("{place}: a shell block without a mark"));
        if mark.starts_with("not run: ") {
            continue;
        }
        let by = mark
            .strip_prefix("run by: ")
            .unwrap_or_else(|| panic!("{place}: {mark:?}"));
        if let Some((file, name)) = by.split_once(' ') {
            assert_eq!(file, TRIAL, "{place}");
            let call = format!("run {}", name.trim_matches(['(', ')']));
            assert!(
                trial.lines().any(|line| line.trim() == call),
                "{place}: {TRIAL} has no `{call}`"
            );
        } else {
            let script = read(by);
            for line in block.lines {
                let command = line.split('#').next().unwrap_or_default().trim();
                let is_run = script.lines().any(|line| line.contains(command));
                assert!(
                    is_run && !command.is_empty(),
                    "{place}: {by} has no {command}"
                );
            }
        }
    }
}

/// The texts of the table are those of the program, or of netavark's client, which the trial asks.
#[test]
fn each_message_is_one_of_the_program() {
    let mut texts: Vec<String> = files("src", "rs").iter().map(|file| read(file)).collect();
    texts.push(read(TRIAL));
    for row in rows("troubleshooting") {
        let messages = spans(first_column(&row));
        assert!(!messages.is_empty(), "{row}");
        for message in messages {
            assert!(
                texts.iter().any(|text| text.contains(message)),
                "README.md: no file of the source has {message:?}"
            );
        }
    }
}

#[cfg(feature = "proxy")]
#[test]
fn each_option_is_one_of_the_program() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_smol-dhcp-proxy"))
        .arg("--help")
        .output()
        .expect("the program starts");
    let help = String::from_utf8(output.stdout).expect("the help is text");
    let known: Vec<&str> = help
        .split(|c: char| c.is_whitespace() || [',', '='].contains(&c))
        .collect();
    for row in rows("options-that-matter") {
        let options = spans(first_column(&row));
        assert!(!options.is_empty(), "{row}");
        for option in options {
            let name = option.split(' ').next().unwrap_or_default();
            assert!(known.contains(&name), "README.md: --help has no {name}");
        }
    }
}

/// Each figure beside a link to benches/README.md is in the section that it leads to.
#[test]
fn each_figure_is_in_the_benches() {
    const PAGE: &str = "benches/README.md";
    let benches = read(PAGE);
    let sections = sections(&benches);
    let readme = read("README.md");
    let mut figures = 0;
    for (number, line) in prose(&readme) {
        for target in between(line, &format!("]({PAGE}#"), ')') {
            let section = &sections[target];
            // The text of the link, and the columns beside it.
            let text = line.replace(&format!("({PAGE}#{target})"), "");
            for figure in text
                .split(|c: char| !c.is_ascii_digit() && ![',', '.'].contains(&c))
                .map(|figure| figure.trim_matches([',', '.']))
                .filter(|figure| !figure.is_empty())
            {
                figures += 1;
                assert!(
                    section.contains(figure),
                    "README.md:{number}: {PAGE}#{target} has no {figure}"
                );
            }
        }
    }
    assert!(figures > 0);
}

#[test]
fn the_pages_are_found() {
    let pages: Vec<PathBuf> = pages().iter().map(PathBuf::from).collect();
    assert!(pages.len() > 3, "{pages:?}");
    assert_eq!(anchor("What `a-b` does, again?"), "what-a-b-does-again");
    assert!(follow("README.md", "benches/README.md#no-such-heading").is_err());
    assert!(follow("README.md", "no-such-file").is_err());
}
