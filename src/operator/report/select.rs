//! The leases that an operator means by a word.

use crate::mac::Mac;
use crate::operator::arguments::Failure;

use super::lease::LeaseReport;

/// The shortest beginning of a container's id.
const SHORTEST_ID: usize = 4;

/// The most containers that are named where a word means several.
const MAX_NAMED: usize = 10;

/// Keeps the leases that an operator means by `word`, or none. A container's name or whole id comes
/// before a MAC address, an IPv4 address or a namespace, and these before the beginning of an id:
/// the first kind that a lease is of decides.
///
/// # Errors
///
/// The word is the beginning of several containers' ids.
pub(in crate::operator) fn select(
    mut leases: Vec<LeaseReport>,
    word: &str,
) -> Result<Vec<LeaseReport>, Failure> {
    let mac = Mac::parse(word).ok().map(|mac| mac.to_string());
    let is_container = |lease: &LeaseReport| {
        lease.container_name.as_deref() == Some(word) || lease.container_id.as_deref() == Some(word)
    };
    let is_place = |lease: &LeaseReport| {
        mac.as_deref() == Some(&*lease.mac)
            || lease.address.map(|address| address.to_string()).as_deref() == Some(word)
            || lease.namespace == word
    };
    let begins = |lease: &LeaseReport| {
        let id = lease.container_id.as_deref();
        word.len() >= SHORTEST_ID && id.is_some_and(|id| id.starts_with(word))
    };
    let kinds: [&dyn Fn(&LeaseReport) -> bool; 3] = [&is_container, &is_place, &begins];
    let is_known = |kind: &&&dyn Fn(&LeaseReport) -> bool| leases.iter().any(kind);
    let Some(kind) = kinds.iter().find(is_known) else {
        return Ok(Vec::new());
    };
    leases.retain(kind);
    // Two containers of one name or one address are as the operator says; two ids are a mistake.
    let mut ids: Vec<_> = leases.iter().map(|lease| lease.container_id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > 1 && leases.iter().all(begins) && !leases.iter().any(is_place) {
        return Err(ambiguous(&leases, word));
    }
    Ok(leases)
}

/// Returns the failure of a word that several containers' ids begin with.
fn ambiguous(leases: &[LeaseReport], word: &str) -> Failure {
    let mut all: Vec<_> = leases
        .iter()
        .filter_map(|lease| {
            let id = lease.container_id.as_deref()?;
            let id = id.get(..id.len().min(word.len() + 12)).unwrap_or(id);
            let name = lease.container_name.as_deref();
            Some(name.map_or_else(|| id.to_owned(), |name| format!("{id} ({name})")))
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    let rest = all.len().saturating_sub(MAX_NAMED);
    all.truncate(MAX_NAMED);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    Failure::Usage(format!(
        "{word:?} is the beginning of several ids: {}{more}",
        all.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Given, leases};
    use super::*;

    fn id(beginning: &str) -> String {
        format!("{beginning:0<64}")
    }

    /// Returns the numbers of the leases that are selected, or the text of the failure.
    fn selected(given: &[Given<'_>], word: &str) -> Result<Vec<usize>, String> {
        let all = leases(given);
        let macs: Vec<_> = all.iter().map(|lease| lease.mac.clone()).collect();
        let place = |lease: &LeaseReport| macs.iter().position(|mac| *mac == lease.mac).unwrap();
        match select(all, word) {
            Ok(selected) => Ok(selected.iter().map(place).collect()),
            Err(Failure::Usage(text)) => Err(text),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_comes_before_the_beginning_of_an_id() {
        let (cafe, face, of_web) = (id("cafe"), id("face"), id("cafe01"));
        let given = [
            Given::container(&face, "cafe"),
            Given::container(&cafe, "db"),
            Given::container(&of_web, "10.0.0.5"),
        ];
        assert_eq!(selected(&given, "cafe"), Ok(vec![0]));
        assert_eq!(selected(&given, &cafe), Ok(vec![1]));
        assert_eq!(selected(&given, "10.0.0.5"), Ok(vec![2]), "a name as well");
        assert_eq!(selected(&given, "cafe01"), Ok(vec![2]));
        assert_eq!(selected(&given, "face"), Ok(vec![0]));
        for other in ["caf", "", "web", "cafe02", "02:00:00:00:00:77"] {
            assert_eq!(selected(&given, other), Ok(vec![]), "{other}");
        }
        // Of all there.
        assert_eq!(selected(&given, "/run/netns/0"), Ok(vec![0]));
        assert_eq!(selected(&given, "02-00-00-00-00-01"), Ok(vec![1]));
        assert_eq!(selected(&given[..2], "10.0.0.5"), Ok(vec![0, 1]));
    }

    #[test]
    fn a_beginning_of_several_ids_names_them() {
        let (one, two, other) = (id("cafe1"), id("cafe2"), id("beef"));
        let given = [
            Given::container(&one, "web"),
            Given::container(&two, ""),
            Given::container(&one, "web"),
            Given::container(&other, "cafeteria"),
        ];
        let text = selected(&given, "cafe").unwrap_err();
        assert_eq!(
            text,
            "\"cafe\" is the beginning of several ids: cafe100000000000 (web), cafe200000000000"
        );
        assert_eq!(selected(&given, "cafe1"), Ok(vec![0, 2]), "one container");
        let many: Vec<_> = (0..30)
            .map(|number| id(&format!("cafe{number:02}")))
            .collect();
        let given: Vec<_> = many.iter().map(|id| Given::container(id, "")).collect();
        assert!(
            selected(&given, "cafe")
                .unwrap_err()
                .ends_with(" and 20 more")
        );
    }
}
