//! Reads systemd's job queue.

/// Returns the type of a unit's job, from the output of `systemctl list-jobs` ("1 x.socket stop
/// running").
pub(super) fn job<'a>(jobs: &'a str, unit: &str) -> Option<&'a str> {
    let mut lines = jobs.lines().map(|line| line.split_whitespace().skip(1));
    lines.find_map(|mut words| (words.next() == Some(unit)).then(|| words.next()).flatten())
}

/// Returns whether the system or all `sockets` are stopped or being stopped, from the output of
/// `systemctl list-jobs` and of `systemctl show` for the sockets.
pub(super) fn all_stop(sockets: &[String], jobs: &str, states: &str) -> bool {
    let job = |unit: &str| job(jobs, unit);
    let is_down = |unit: &String| {
        let mut properties = states
            .split("\n\n")
            .map(|properties| properties.lines().collect::<Vec<_>>());
        let properties = properties
            .find(|lines| lines.contains(&&*format!("Id={unit}")))
            .unwrap_or_default();
        ["inactive", "failed", "deactivating"]
            .iter()
            .any(|state| properties.contains(&&*format!("ActiveState={state}")))
    };
    let stops = |socket: &String| job(socket).map_or_else(|| is_down(socket), |job| job == "stop");
    job("shutdown.target") == Some("start") || sockets.iter().all(stops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stop_with_the_sockets_or_the_system() {
        let sockets = ["a.socket".to_owned(), "b.socket".to_owned()];
        let up = "Id=a.socket\nActiveState=active\n\nId=b.socket\nActiveState=active\n";
        let one_down = "Id=a.socket\nActiveState=inactive\n\nId=b.socket\nActiveState=active\n";
        let down = "Id=b.socket\nActiveState=deactivating\n\nId=a.socket\nActiveState=failed\n";
        let all = |jobs, states| all_stop(&sockets, jobs, states);
        assert!(!all("", up));
        assert!(!all("", one_down), "one is enough to start the service");
        assert!(all("", down));
        assert!(!all("", ""), "nothing is known of them");
        assert!(!all("garbage\n\n1\n", up));
        assert!(!all("7 a.service stop running\n", up));
        assert!(!all("7 a.socket stop waiting\n", up));
        assert!(all(
            "7 a.socket stop waiting\n8 b.socket  stop waiting\n",
            up
        ));
        assert!(all("7 b.socket stop waiting\n", one_down));
        assert!(
            !all(
                "7 a.socket restart running\n8 b.socket start waiting\n",
                down
            ),
            "they will be back"
        );
        assert!(all("9 shutdown.target start waiting\n", up));
        assert!(!all("9 shutdown.target stop waiting\n", up));
    }

    #[test]
    fn the_job_of_a_unit_is_found_by_its_whole_name() {
        let jobs =
            "7 a.service restart running\n8 a.service.d stop waiting\n9 b.socket  start waiting\n";
        assert_eq!(
            ["a.service", "b.socket", "b", ".service"].map(|unit| job(jobs, unit)),
            [Some("restart"), Some("start"), None, None]
        );
        assert_eq!(job("No jobs running.\n7\n8 a.service\n", "a.service"), None);
    }
}
