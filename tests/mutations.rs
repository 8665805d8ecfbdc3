//! Checks that tests/mutations.txt, which tests/mutate applies, matches the source.

use std::collections::HashSet;
use std::path::Path;

/// One rule, and how to break it.
#[derive(Debug, Default)]
struct Mutation {
    rule: String,
    file: String,
    old: Vec<String>,
    new: Vec<String>,
}

fn mutations() -> Vec<Mutation> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for line in include_str!("mutations.txt").lines() {
        if let Some(rule) = line.strip_prefix("== ") {
            mutations.push(Mutation {
                rule: rule.to_owned(),
                ..Mutation::default()
            });
        }
        let Some(mutation) = mutations.last_mut() else {
            continue;
        };
        match line.split_at_checked(1) {
            Some(("-", old)) => mutation.old.push(old.to_owned()),
            Some(("+", new)) => mutation.new.push(new.to_owned()),
            Some(("=" | "#", _)) | None => {}
            Some(_) => mutation.file = line.to_owned(),
        }
    }
    mutations
}

#[test]
fn every_mutation_finds_its_place_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mutations = mutations();
    assert!(mutations.len() >= 40, "{} mutations", mutations.len());
    for Mutation {
        rule,
        file,
        old,
        new,
    } in &mutations
    {
        let source = std::fs::read_to_string(root.join(file))
            .unwrap_or_else(|why| panic!("{rule}: {file}: {why}"));
        assert!(
            file.starts_with("src/dhcp/") || source.contains("#[cfg(test)]"),
            "{rule}: {file} has no tests that would notice"
        );
        assert_eq!(
            source.matches(&old.join("\n")).count(),
            1,
            "{rule}: how often {file} has {old:?}"
        );
        assert!(old != new && !new.is_empty(), "{rule}: nothing changes");
    }
    let rules: HashSet<_> = mutations.iter().map(|mutation| &mutation.rule).collect();
    assert_eq!(
        rules.len(),
        mutations.len(),
        "two mutations have the same name"
    );
}
