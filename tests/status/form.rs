//! The machine-readable forms of `status`: judges of both, for the suites `status` and `system`.

use std::collections::{BTreeMap, BTreeSet};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

const SCHEMA: &str = include_str!("../../src/operator/status.schema.json");

/// The JSON Schema of `status --json`.
pub(crate) struct Judge {
    schemas: Schemas,
    schema: SchemaIndex,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
        let place = "status.schema.json";
        compiler.add_resource(place, schema).expect("a schema");
        let schema = compiler.compile(place, &mut schemas);
        let schema = schema.unwrap_or_else(|error| panic!("{error:#}"));
        Self { schemas, schema }
    }

    /// Returns the report, which has to fit the schema.
    pub(crate) fn json(&self, text: &str) -> Value {
        let report = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        self.check(&report)
            .unwrap_or_else(|why| panic!("{why}: {text}"));
        report
    }

    pub(crate) fn check(&self, report: &Value) -> Result<(), String> {
        let judged = self.schemas.validate(report, self.schema);
        judged.map_err(|error| format!("{error:#}"))
    }
}

/// A metric family of OpenMetrics.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    unit: Option<String>,
    help: Option<String>,
    /// The values by suffix and labels.
    pub(crate) samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

/// Parses OpenMetrics text 1.0, strictly, as far as counters and gauges go.
pub(crate) fn openmetrics(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut has_ended) = (None::<String>, false);
    if !text.ends_with("# EOF\n") {
        return Err("it does not end with # EOF".to_owned());
    }
    for line in text.lines() {
        let fault = |why: &str| Err(format!("{why}: {line}"));
        if has_ended || line.is_empty() || line.trim() != line {
            return fault("a blank line or a blank, or text after the end");
        }
        if line == "# EOF" {
            has_ended = true;
            continue;
        }
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (Some(word), Some(name), Some(value)) = (words.next(), words.next(), words.next())
            else {
                return fault("three words are needed");
            };
            if current.as_deref() != Some(name) {
                if families.contains_key(name) {
                    return fault("the family is in two places");
                }
                current = Some(name.to_owned());
            }
            let family = families.entry(name.to_owned()).or_default();
            let is_new = match word {
                // Those that the older text form has, too.
                "TYPE" if ["counter", "gauge"].contains(&value) => {
                    std::mem::replace(&mut family.kind, value.to_owned()).is_empty()
                }
                "UNIT" if name.ends_with(&format!("_{value}")) => {
                    family.unit.replace(value.to_owned()).is_none()
                }
                "HELP" => family.help.replace(value.to_owned()).is_none(),
                _ => return fault("unknown"),
            };
            if !is_new || !family.samples.is_empty() || !is_name(name) {
                return fault("a second time, behind a sample, or a bad name");
            }
            continue;
        }
        let Some(name) = &current else {
            return fault("no family yet");
        };
        let family = families.get_mut(name).expect("it is the current one");
        let Some(rest) = line.strip_prefix(name.as_str()) else {
            return fault("another family");
        };
        let place = rest
            .find(['{', ' '])
            .ok_or_else(|| format!("no value: {line}"))?;
        let (suffix, rest) = rest.split_at(place);
        let allowed: &[&str] = if family.kind == "counter" {
            &["_total", "_created"]
        } else {
            &[""]
        };
        if !allowed.contains(&suffix) {
            return fault("a suffix that its type has not");
        }
        let (labels, value) = labels(rest).ok_or_else(|| format!("labels: {line}"))?;
        let value: f64 = value.parse().map_err(|error| format!("{error}: {line}"))?;
        if !value.is_finite() || (family.kind == "counter" && value < 0.0) {
            return fault("a value that it cannot have");
        }
        if family
            .samples
            .insert((suffix.to_owned(), labels), value)
            .is_some()
        {
            return fault("a sample comes twice");
        }
    }
    check_whole(&families)?;
    Ok(families)
}

/// Checks what only the whole text shows.
fn check_whole(families: &BTreeMap<String, Family>) -> Result<(), String> {
    let mut samples = BTreeSet::new();
    for (name, family) in families {
        if family.kind.is_empty() || family.help.is_none() || family.samples.is_empty() {
            return Err(format!("{name} has no type, no help or no sample"));
        }
        let suffixes: &[&str] = if family.kind == "counter" {
            &["", "_total", "_created"]
        } else {
            &[""]
        };
        for suffix in suffixes {
            if !samples.insert(format!("{name}{suffix}")) {
                return Err(format!("{name}{suffix} may be of two families"));
            }
        }
        let of = |suffix: &str| {
            let samples = family.samples.keys();
            samples.filter(|(has, _)| has == suffix).count()
        };
        if family.kind == "counter" && of("_total") != of("_created") {
            return Err(format!("{name} has not as many dates as values"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.bytes().all(letter) && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// Returns the labels of a sample, and what comes behind them and a blank.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (name, value) = rest.split_once("=\"")?;
            let mut text = String::new();
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next()? {
                    (place, '"') => break place,
                    (_, '\\') => text.push(match chars.next()?.1 {
                        'n' => '\n',
                        escaped @ ('\\' | '"') => escaped,
                        _ => return None,
                    }),
                    (_, char) => text.push(char),
                }
            };
            let is_new = labels.insert(name.to_owned(), text).is_none();
            rest = &value[end + 1..];
            if !is_new || !is_name(name) {
                return None;
            }
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((labels, rest.strip_prefix(' ')?))
}
