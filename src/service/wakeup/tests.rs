use super::*;

const PID: u32 = 4711;
const OURS: (&str, &str) = ("SYSTEMD_EXEC_PID", "4711");
const INVOCATION: (&str, &str) = ("INVOCATION_ID", "0123456789abcdef0123456789abcdef");

/// Parses for process 4711. Returns the unit, whether it is a user's, and the known socket
/// units.
fn found(
    variables: &[(&str, &str)],
    cgroups: &str,
    names: &[&str],
) -> Result<(String, bool, Option<Vec<String>>), NoWakeup> {
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.into())
    };
    Wakeup::parse(PID, variable, cgroups, names)
        .map(|found| (found.unit, found.user, found.sockets.into_inner()))
}

#[test]
fn the_main_process_of_a_unit_with_a_socket_can_be_woken() {
    let cgroups = "0::/system.slice/echo.service\n";
    let named = found(
        &[OURS, INVOCATION],
        cgroups,
        &["echo.socket", "more.socket"],
    )
    .unwrap();
    assert_eq!(
        named,
        (
            "echo.service".into(),
            false,
            Some(vec!["echo.socket".into(), "more.socket".into()])
        )
    );
    let renamed = found(&[OURS, INVOCATION], cgroups, &["echo.socket", "control"]).unwrap();
    assert_eq!(
        renamed,
        ("echo.service".into(), false, None),
        "systemd has to be asked"
    );
    let of_a_user = found(
        &[OURS, INVOCATION, ("MANAGERPID", "700")],
        cgroups,
        &["echo.socket"],
    )
    .unwrap();
    assert!(of_a_user.1);
}

#[test]
fn without_a_wakeup_the_reason_is_returned() {
    let (cgroups, names) = (
        "0::/system.slice/echo.service\n",
        ["echo.socket"].as_slice(),
    );
    let why = |variables: &[_], cgroups, names| found(variables, cgroups, names).unwrap_err();
    assert_eq!(why(&[], cgroups, names), NoWakeup::NoManager);
    assert_eq!(why(&[INVOCATION], cgroups, names), NoWakeup::NoManager);
    assert_eq!(why(&[OURS], cgroups, names), NoWakeup::NoManager);
    for other in ["4712", "04711", "", "me"] {
        assert_eq!(
            why(&[("SYSTEMD_EXEC_PID", other), INVOCATION], cgroups, names),
            NoWakeup::NotMain
        );
    }
    assert_eq!(
        why(
            &[OURS, INVOCATION],
            "0::/user.slice/session-1.scope\n",
            names
        ),
        NoWakeup::NoUnit
    );
    assert_eq!(why(&[OURS, INVOCATION], "", names), NoWakeup::NoUnit);
    assert_eq!(why(&[OURS, INVOCATION], cgroups, &[]), NoWakeup::NoSocket);
    assert_eq!(
        why(&[OURS, INVOCATION], cgroups, &[NAMELESS]),
        NoWakeup::NoSocket
    );
}

#[test]
fn times_are_rounded_up() {
    let second = Duration::from_secs(1);
    assert_eq!(
        [Duration::ZERO, Duration::from_nanos(1), second].map(|time| rounded_up(time, second)),
        [0, 1, 1]
    );
    assert_eq!(
        rounded_up(Duration::from_micros(1500), Duration::from_millis(1)),
        2
    );
    assert_eq!(rounded_up(Duration::MAX, second), u128::from(u64::MAX) + 1);
}
