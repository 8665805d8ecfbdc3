use super::nearest::distance;
use super::*;

fn parsed(arguments: &[&str], run_dir: Option<&str>) -> Result<Command, String> {
    let variable = |name: &str| run_dir.filter(|_| name == RUN_DIR_ENV).map(OsString::from);
    parse(arguments.iter().map(OsString::from), variable).map_err(|error| error.to_string())
}

fn config(arguments: &[&str], run_dir: Option<&str>) -> DaemonConfig {
    match parsed(arguments, run_dir) {
        Ok(Command::Serve(config)) => config,
        other => panic!("{arguments:?} gave {other:?}"),
    }
}

#[test]
fn defaults_are_netavarks_but_for_the_timeout() {
    assert_eq!(
        config(&[], None),
        DaemonConfig {
            socket: "/run/podman/nv-proxy.sock".into(),
            lease_file: "/run/podman/nv-proxy.lease".into(),
            activity: Some(Duration::from_secs(300)),
            sleep: Sleep::Auto,
            on_stop: OnStop::Keep,
            on_change: None,
            sandbox: sandbox::Mode::Auto,
            dhcp: DhcpSettings {
                acquisition: Timeout::Auto,
                probe: Probe::WithRequest,
                broadcast: false,
                client_id: ClientId::Container,
                fqdn: false,
                mtu: MtuRule::Lower,
                rapid_commit: true,
                servers: Vec::new(),
                denied_servers: Vec::new(),
            },
        }
    );
}

#[test]
fn dhcp_settings_are_chosen_one_by_one() {
    let probe = |count| config(&["--arp-probe", count], None).dhcp.probe;
    assert_eq!(
        (probe("0"), probe("1"), probe("10")),
        (Probe::Off, Probe::Before(1), Probe::Before(10))
    );
    assert_eq!(
        config(&["--arp-probe=3"], None).dhcp.probe,
        Probe::Before(3)
    );
    let client_id = |what| config(&["--client-id", what], None).dhcp.client_id;
    assert_eq!(
        ["container", "mac", "duid"].map(client_id),
        [ClientId::Container, ClientId::Mac, ClientId::Duid]
    );
    assert_eq!(client_id("none"), ClientId::None);
    let rapid_commit = |whether| config(&["--rapid-commit", whether], None).dhcp.rapid_commit;
    assert_eq!(["yes", "no"].map(rapid_commit), [true, false]);
    let servers = config(
        &[
            "--server",
            "10.0.0.1",
            "--deny-server=10.0.0.2",
            "--server",
            "10.0.0.3",
        ],
        None,
    )
    .dhcp;
    let [one, two, three] = [1, 2, 3].map(|last| Ipv4Addr::new(10, 0, 0, last));
    assert_eq!(
        (servers.servers, servers.denied_servers),
        (vec![one, three], vec![two])
    );
    let usual = config(&[], None).dhcp;
    assert_eq!(
        config(&["--broadcast"], None).dhcp,
        DhcpSettings {
            broadcast: true,
            ..usual.clone()
        }
    );
    assert_eq!(
        config(&["--fqdn"], None).dhcp,
        DhcpSettings {
            fqdn: true,
            ..usual
        }
    );
    let mtu = |what| config(&["--mtu", what], None).dhcp.mtu;
    assert_eq!(
        ["lower", "server", "ignore"].map(mtu),
        [MtuRule::Lower, MtuRule::Server, MtuRule::Ignore]
    );
}

#[test]
fn sleep_and_stop_are_chosen() {
    let config = config(&["--sleep", "never", "--on-stop=release"], None);
    assert_eq!(
        (config.sleep, config.on_stop),
        (Sleep::Never, OnStop::Release)
    );
}

#[test]
fn the_sandbox_is_chosen_by_the_command_line_else_by_the_environment() {
    let sandbox = |arguments: &[&str], value: &str| {
        let variable = |name: &str| (name == SANDBOX_ENV).then(|| value.into());
        match parse(arguments.iter().map(OsString::from), variable) {
            Ok(Command::Serve(config)) => Ok(config.sandbox),
            other => Err(other.unwrap_err().to_string()),
        }
    };
    assert_eq!(sandbox(&[], "off"), Ok(sandbox::Mode::Off));
    assert_eq!(
        sandbox(&["--sandbox", "strict"], "off"),
        Ok(sandbox::Mode::Strict)
    );
    assert_eq!(sandbox(&["--sandbox=auto"], ""), Ok(sandbox::Mode::Auto));
    let error = "SMOL_DHCP_PROXY_SANDBOX takes auto, strict or off, not \"on\"";
    assert_eq!(sandbox(&["--sandbox", "off"], "on"), Err(error.to_owned()));
}

#[test]
fn the_environment_wins_over_dir_and_uds_names_the_socket_alone() {
    assert_eq!(
        config(&["--dir", "/a"], Some("")).lease_file,
        Path::new("/a/nv-proxy.lease")
    );
    let config = config(&["--dir", "/a", "-u", "/c/my.sock"], Some("/b"));
    assert_eq!(config.lease_file, Path::new("/b/nv-proxy.lease"));
    assert_eq!(config.socket_path(), Path::new("/c/my.sock"));
}

#[test]
fn a_directory_as_uds_means_the_usual_name_in_it() {
    assert_eq!(
        config(&["--uds", "/"], None).socket_path(),
        Path::new("/nv-proxy.sock")
    );
    assert_eq!(
        config(&["--uds=/not/there/"], None).socket_path(),
        Path::new("/not/there/nv-proxy.sock")
    );
}

#[test]
fn seconds_may_have_a_fraction_and_zero_means_no_limit() {
    let config = config(&["-t", "2.5", "-a0"], None);
    assert_eq!(
        config.dhcp.acquisition,
        Timeout::Exactly(Duration::from_millis(2500))
    );
    assert_eq!(config.activity, None);
    for (text, nanoseconds) in [
        ("0.000000001", 1),
        ("0.0000000019", 1),
        (".5", 500_000_000),
        ("007.", 7_000_000_000),
        ("0.", 0),
    ] {
        assert_eq!(
            decimal_seconds(text),
            Some(Duration::from_nanos(nanoseconds)),
            "{text}"
        );
    }
}

#[test]
fn the_time_for_an_acquisition_is_automatic_exact_or_without_limit() {
    let timeout = |value: &str| config(&["--timeout", value], None).dhcp.acquisition;
    assert_eq!(timeout("auto"), Timeout::Auto);
    assert_eq!(timeout("45"), Timeout::Exactly(Duration::from_secs(45)));
    assert_eq!(timeout("0"), Timeout::Unlimited);
}

#[test]
fn a_number_that_is_none_is_answered_with_the_form_of_one() {
    for (arguments, text) in [
        (
            &["-a", "soon"][..],
            "--activity-timeout takes seconds, such as 30 or 2.5, not \"soon\"",
        ),
        (
            &["-t", "-1"],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \"-1\"",
        ),
        (
            &["-t", "nan"],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \"nan\"",
        ),
        (
            &["-t", "1e30"],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \"1e30\"",
        ),
        (
            &["-t", "."],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \".\"",
        ),
        (
            &["-t", "1.2.3"],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \"1.2.3\"",
        ),
        (
            &["-t", "18446744073709551616"],
            "--timeout takes auto or seconds, such as 30 or 2.5, not \"18446744073709551616\"",
        ),
        (
            &["--arp-probe", "11"],
            "--arp-probe takes a number from 0 to 10, not \"11\"",
        ),
        (
            &["--arp-probe", "-1"],
            "--arp-probe takes a number from 0 to 10, not \"-1\"",
        ),
        (
            &["--arp-probe", "300"],
            "--arp-probe takes a number from 0 to 10, not \"300\"",
        ),
        (
            &["--arp-probe", ""],
            "--arp-probe takes a number from 0 to 10, not \"\"",
        ),
        (
            &["--arp-probe"],
            "missing argument for option '--arp-probe'",
        ),
    ] {
        assert_eq!(parsed(arguments, None), Err(text.to_owned()));
    }
}

#[test]
fn a_word_that_is_no_choice_is_answered_with_the_choices() {
    for (arguments, text) in [
        (
            &["--client-id", "MAC"][..],
            "--client-id takes container, mac, duid or none, not \"MAC\"; did you mean \"mac\"?",
        ),
        (
            &["--sleep", "nevr"],
            "--sleep takes auto or never, not \"nevr\"; did you mean \"never\"?",
        ),
        (
            &["--rapid-commit", ""],
            "--rapid-commit takes yes or no, not \"\"",
        ),
        (
            &["--server", "gateway"],
            "--server takes an IPv4 address, not \"gateway\"",
        ),
        (
            &["--deny-server", "10.0.0"],
            "--deny-server takes an IPv4 address, not \"10.0.0\"",
        ),
        (
            &["--sleep", "always"],
            "--sleep takes auto or never, not \"always\"",
        ),
        (
            &["--on-stop", ""],
            "--on-stop takes keep or release, not \"\"",
        ),
        (
            &["--mtu", "1400"],
            "--mtu takes lower, server or ignore, not \"1400\"",
        ),
        (
            &["--fqdn=yes"],
            "unexpected argument for option '--fqdn': \"yes\"",
        ),
        (&["--dir", ""], "--dir needs a path, not an empty string"),
        (&["--colour"], "invalid option '--colour'"),
        (&["-x"], "invalid option '-x'"),
        (&["extra"], "unexpected argument \"extra\""),
    ] {
        assert_eq!(parsed(arguments, None), Err(text.to_owned()));
    }
}

#[test]
fn an_unknown_option_is_answered_with_the_nearest() {
    for (typed, meant) in [
        ("--timeot=5", "timeout"),
        ("--Sand-box", "sandbox"),
        ("--activity", "activity-timeout"),
        ("--deny", "deny-server"),
        ("--servers", "server"),
        ("--halp", "help"),
    ] {
        let name = typed.split('=').next().unwrap();
        let text = format!("invalid option '{name}'; did you mean '--{meant}'?");
        assert_eq!(parsed(&[typed], None), Err(text));
    }
    for far in ["--", "--a", "--verbose", "--config", "--interface"] {
        let names = option_names().map(|(_, long)| long);
        assert_eq!(nearest(far.trim_start_matches('-'), names), None, "{far}");
    }
    assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
}
