//! Finds the service unit in the path of a control group.

use super::SERVICE;

/// Returns the service of a process with this /proc/self/cgroup, and whether a user's manager runs
/// the service.
///
/// systemd creates a control group for each unit, named after the unit. The service may create
/// further control groups below its own.
pub(super) fn unit_in(cgroups: &str) -> Option<(String, bool)> {
    // Control groups version 2, or the hierarchy of systemd beside version 1 (cgroups(7)).
    let paths = |marker| {
        cgroups
            .lines()
            .filter_map(move |line| line.split_once(marker))
            .map(|(_, path)| path)
    };
    paths("0::")
        .chain(paths(":name=systemd:"))
        .find_map(|path| {
            let mut above: Vec<_> = path.split('/').collect();
            let at = above
                .iter()
                .rposition(|name| name.len() > SERVICE.len() && name.ends_with(SERVICE))?;
            let name = above[at];
            above.truncate(at);
            let of_a_user = above
                .iter()
                .any(|name| name.starts_with("user@") && name.ends_with(SERVICE));
            // systemd prepends an underscore to a name that one of the kernel's files has.
            Some((name.strip_prefix('_').unwrap_or(name).to_owned(), of_a_user))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_last_service_in_the_path_of_the_control_group() {
        let unit = |cgroups: &str| unit_in(cgroups);
        let system = |name: &str| Some((name.to_owned(), false));
        let of_a_user = |name: &str| Some((name.to_owned(), true));
        assert_eq!(
            unit("0::/system.slice/echo.service"),
            system("echo.service")
        );
        assert_eq!(
            unit("0::/system.slice/echo.service/payload/x"),
            system("echo.service")
        );
        assert_eq!(
            unit("0::/system.slice/system-echo.slice/echo@a-b\\x2d.service"),
            system("echo@a-b\\x2d.service")
        );
        assert_eq!(unit("0::/../echo.service"), system("echo.service"));
        assert_eq!(unit("0::/system.slice/_cpu.service"), system("cpu.service"));
        assert_eq!(
            unit("0::/system.slice/__echo.service"),
            system("_echo.service")
        );
        let path = "/user.slice/user-7.slice/user@7.service";
        assert_eq!(
            unit(&format!("0::{path}/app.slice/echo.service")),
            of_a_user("echo.service")
        );
        assert_eq!(
            unit(&format!("0::{path}/init.scope")),
            system("user@7.service")
        );
        for none in [
            "0::/",
            "0::/.service",
            "0::/a.services/b",
            "1:cpu:/echo.service",
            "nonsense",
            "",
        ] {
            assert_eq!(unit(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_hierarchy_of_systemd_counts_without_a_unit_in_version_2() {
        let hybrid = "12:cpu,cpuacct:/a.service\n1:name=systemd:/system.slice/echo.service\n0::/\n";
        assert_eq!(unit_in(hybrid), Some(("echo.service".into(), false)));
    }
}
