use super::*;
use crate::proxy::store::record::LeaseView;
use crate::proxy::store::record::tests::{phases, record, with_mac};

/// Leases in these namespaces.
fn leases(namespaces: &[&str]) -> Vec<LeaseReport> {
    let [phase, ..] = phases();
    let records = namespaces.iter().zip(1..).map(|(namespace, number)| {
        let mut record = with_mac(record(phase.clone()), [2, 0, 0, 0, 0, number]);
        record.request.key.netns = Path::new(namespace).into();
        record.request.container_interface = "eth0".to_owned();
        LeaseView::of(&record)
    });
    let peeked = Peeked {
        leases: records.collect(),
        ..Peeked::default()
    };
    let place = (Path::new("/run/podman"), None);
    Report::new(&peeked, place, &podman::Names::default(), Clocks::read()).leases
}

fn outcome(lease: &LeaseReport, before: &str, after: &str, result: LeaseResult) -> LeaseOutcome {
    LeaseOutcome {
        lease: Some(identity(lease)),
        address_before: before.to_owned(),
        address_after: after.to_owned(),
        result: result.into(),
        reason: String::new(),
    }
}

fn shown(outcomes: &[LeaseOutcome], known: &[LeaseReport], json: bool) -> String {
    let mut output = Vec::new();
    show(outcomes, known, json, &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn the_screen_of_the_manual_is_that_of_the_program() {
    let known = leases(&["/run/netns/web", "/run/netns/db", "/run/netns/mail"]);
    let [web, db, mail] = &*known else {
        panic!("three leases")
    };
    let outcomes = [
        outcome(web, "10.88.1.1", "10.88.1.1", LeaseResult::Renewed),
        outcome(db, "10.88.1.2", "10.88.7.1", LeaseResult::NewAddress),
        LeaseOutcome {
            reason: "its DHCP server did not answer a renewal".to_owned(),
            ..outcome(mail, "10.88.1.3", "10.88.1.3", LeaseResult::Failed)
        },
    ];
    let screen = shown(&outcomes, &known, false);
    let manual = include_str!("../../../units/smol-dhcp-proxy.8");
    let expected = format!("# smol-dhcp-proxy renew --all\n{screen}.Ed\n");
    assert!(manual.contains(&expected), "{screen}");
    let is_done = |demand: Demand| outcomes.each_ref().map(|outcome| demand.is_done(outcome));
    assert_eq!(is_done(Demand::Renew), [true, true, false]);
}

#[test]
fn each_result_has_its_word_and_says_whether_it_is_done() {
    let known = leases(&["/run/netns/web"]);
    for (number, word, text, renewed, released) in [
        (LeaseResult::Renewed, "renewed", "renewed", true, true),
        (
            LeaseResult::Changed,
            "changed",
            "renewed, with other settings",
            true,
            true,
        ),
        (
            LeaseResult::NewAddress,
            "new address",
            "a new address",
            true,
            true,
        ),
        (LeaseResult::Released, "released", "given back", false, true),
        (LeaseResult::NoLease, "no lease", "no lease", false, true),
        (LeaseResult::Failed, "failed", "failed", false, false),
        (
            LeaseResult::LeftToExpire,
            "left to expire",
            "taken off, and left to expire",
            false,
            false,
        ),
        (LeaseResult::Unknown, "unknown", "unknown", false, false),
    ] {
        let outcome = outcome(&known[0], "10.88.1.1", "", number);
        assert!(
            shown(std::slice::from_ref(&outcome), &known, false).ends_with(&format!("{text}\n"))
        );
        let json = shown(std::slice::from_ref(&outcome), &known, true);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["leases"][0]["result"], word);
        assert_eq!(Demand::Renew.is_done(&outcome), renewed, "{word}");
        assert_eq!(Demand::Release.is_done(&outcome), released, "{word}");
    }
    // Of a newer daemon.
    let newer = LeaseOutcome {
        result: 99,
        ..outcome(&known[0], "", "", LeaseResult::Renewed)
    };
    assert!(shown(&[newer], &[], false).ends_with("/run/netns/web  eth0       -        unknown\n"));
    assert_eq!(shown(&[], &known, false), "there are no leases\n");
}

#[test]
fn outcomes_of_earlier_calls_are_kept_when_a_later_one_fails() {
    let known = leases(&["/run/netns/web"]);
    let done = || Ok(vec![outcome(&known[0], "", "", LeaseResult::Renewed)]);
    let calls = [done(), Err(Failure::Failed("late".to_owned())), done()];
    let (outcomes, failure) = in_calls(calls.into_iter());
    assert_eq!(outcomes.len(), 1);
    assert!(matches!(failure, Some(Failure::Failed(why)) if why == "late"));
    let (outcomes, failure) = in_calls([done(), done()].into_iter());
    assert!(outcomes.len() == 2 && failure.is_none());
}

#[test]
fn the_question_lists_the_leases_without_control_characters_and_not_all_of_many() {
    let [odd, web] = ["/run/netns/o\u{1b}[2Jdd", "/run/netns/web"];
    let few = listed(&leases(&[odd, web]));
    let lines: Vec<_> = few.lines().collect();
    assert_eq!(lines.len(), 2, "{few}");
    assert!(
        lines[1].contains("web") && lines[1].contains("eth0"),
        "{few}"
    );
    assert!(lines[1].contains("10."), "{few}");
    assert!(!few.contains('\u{1b}'), "{few}");
    let many = listed(&leases(&[web; MAX_LISTED + 3]));
    assert_eq!(many.lines().count(), MAX_LISTED + 1);
    assert!(many.ends_with("and 3 more\n"), "{many}");
    assert_eq!(listed(&[]), "");
}

#[test]
fn many_leases_are_divided_into_calls_that_the_daemon_takes() {
    let paths: Vec<_> = (0..40)
        .map(|number| format!("/{number}{}", "x".repeat(1000)))
        .collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let all = leases(&paths);
    let calls = selections(&all, false);
    assert!(calls.len() > 3, "{}", calls.len());
    let divided: Vec<_> = calls.iter().flat_map(|call| call.leases.clone()).collect();
    let whole: Vec<_> = all.iter().map(identity).collect();
    assert_eq!(divided, whole);
    for selection in calls {
        let (path, body) = Call::Renew(selection.clone()).encode();
        assert!(!selection.all && !selection.leases.is_empty());
        assert_eq!(Call::decode(&path, &body), Ok(Call::Renew(selection)));
        assert!(body.len() <= crate::rpc::wire::MESSAGE_LIMIT);
    }
    let [all_leases] = &*selections(&all, true) else {
        panic!("one call")
    };
    assert!(all_leases.all && all_leases.leases.is_empty());
    assert_eq!(selections(&[], false), []);
}

#[test]
fn a_word_that_means_no_lease_is_no_reason_to_guess() {
    let words = |is_complete| {
        let known = leases(&["/run/netns/web"]);
        match meant(known, "db", is_complete) {
            Err(Failure::Failed(text)) => format!("failed: {text}"),
            Err(Failure::Unknown(text)) => format!("unknown: {text}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(words(true), "failed: no lease is of \"db\"");
    assert!(words(false).starts_with("unknown: ") && words(false).contains("--all"));
    let found = meant(leases(&["/run/netns/web", "/b"]), "/b", false).unwrap();
    assert_eq!(found.len(), 1);
}
