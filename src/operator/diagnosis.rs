//! Findings of an inspection, and their table.

use serde::Serialize;

use super::text::Rows;

/// The weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// Worth knowing.
    Note,
    /// A reason why containers get no address, or lose it.
    Problem,
    /// It cannot be found out.
    Unknown,
}

/// One subject of an inspection.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    pub(super) verdict: Severity,
    pub(super) subject: &'static str,
    pub(super) text: String,
    /// Advice to the operator.
    pub(super) advice: Option<String>,
}

impl Diagnosis {
    pub(super) fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self {
            verdict: Severity::Good,
            subject,
            text: text.into(),
            advice: None,
        }
    }

    pub(super) fn note(subject: &'static str, text: impl Into<String>) -> Self {
        Self {
            verdict: Severity::Note,
            ..Self::good(subject, text)
        }
    }

    pub(super) fn problem(
        subject: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Severity::Problem,
            advice: Some(advice.into()),
            ..Self::good(subject, text)
        }
    }

    pub(super) fn unknown(
        subject: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Severity::Unknown,
            ..Self::problem(subject, text, advice)
        }
    }

    pub(super) fn with_advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }

    pub(super) fn is_problem(&self) -> bool {
        self.verdict == Severity::Problem
    }
}

/// Returns the findings as a table, with a summary below.
pub(super) fn table(findings: &[Diagnosis]) -> String {
    let mut rows = Rows::default();
    for finding in findings {
        let verdict = match finding.verdict {
            Severity::Good => "ok",
            Severity::Note => "note",
            Severity::Problem => "PROBLEM",
            Severity::Unknown => "unknown",
        };
        rows.push([verdict, finding.subject, &finding.text].map(str::to_owned));
        if let Some(advice) = &finding.advice {
            rows.push([String::new(), String::new(), format!("-> {advice}")]);
        }
    }
    let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
    let mut summary = match count(Severity::Problem) {
        0 => "no problem was found".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    match count(Severity::Unknown) {
        0 => {}
        1 => summary += "; 1 subject is unknown",
        count => summary += &format!("; {count} subjects are unknown"),
    }
    format!("{}\n{summary}\n", rows.lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_advice_below_its_finding() {
        let findings = [
            Diagnosis::good("kernel", "6.1"),
            Diagnosis::problem("socket", "nothing listens", "start it"),
        ];
        assert_eq!(
            table(&findings),
            "ok       kernel  6.1\nPROBLEM  socket  nothing listens\n                 -> start it\n\n1 problem\n"
        );
    }

    #[test]
    fn subjects_that_are_unknown_are_neither_problems_nor_well() {
        let unknown = || Diagnosis::unknown("file", "no permission", "run it as root");
        assert!(!unknown().is_problem());
        let one = table(&[unknown()]);
        assert!(one.starts_with("unknown  file  no permission\n"), "{one}");
        assert!(
            one.ends_with("\nno problem was found; 1 subject is unknown\n"),
            "{one}"
        );
        let two = table(&[unknown(), unknown()]);
        assert!(two.ends_with("; 2 subjects are unknown\n"), "{two}");
    }
}
