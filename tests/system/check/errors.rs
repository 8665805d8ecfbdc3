//! `check` with a wrong command line, without permission, and on a terminal.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

trials![
    names_that_do_not_exist,
    without_permission,
    a_wrong_command_line,
    progress_is_for_terminals,
];

fn names_that_do_not_exist() -> Result {
    let topology = Topology::new(1)?;
    let unknown = run_in(&topology.host, &mut command(&["eth7"]))?;
    unknown.says(
        3,
        &[
            "there is no interface eth7 in this network namespace",
            "eth0",
            "--netns",
        ],
    );
    assert_eq!(unknown.text, "");
    // A name that no interface can have, with an escape sequence that does not reach the terminal.
    let odd = run_in(&topology.host, &mut command(&["eth\x1b[31m7/"]))?;
    odd.says(3, &["there is no interface eth?[31m7/"]);

    let container = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let unknown = run_in(
        &topology.host,
        &mut command(&["eth7", "--netns", &container]),
    )?;
    unknown.says(3, &["there is no interface eth7 in /", "lo, eth0"]);
    let folder = sandbox::folder("names")?;
    let file = folder.join("file");
    fs::write(&file, "")?;
    for (path, words) in [
        (folder.join("nothing"), "No such file or directory"),
        (folder.clone(), "is a directory, not a network namespace"),
        (file, "is a regular file, not a network namespace"),
        ("/proc/self/ns/mnt".into(), "is another kind of namespace"),
    ] {
        let path = path.display().to_string();
        let checked = run_in(&topology.host, &mut command(&[LINK, "--netns", &path]))?;
        checked.says(3, &[words, &path]);
    }
    let (fifo, link) = (folder.join("fifo"), folder.join("link"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0)?;
    let path = fifo.display().to_string();
    let checked = run_in(&topology.host, &mut command(&[LINK, "--netns", &path]))?;
    checked.says(3, &["is a FIFO, not a network namespace"]);
    std::os::unix::fs::symlink(&container, &link)?;
    let path = link.display().to_string();
    let options = [LINK, "--timeout", "0.2", "--netns", &path];
    run_in(&topology.host, &mut command(&options))?.says(1, &["eth0 in ", "/link: macvlan"]);
    // A process that has ended.
    let mut ended = topology.host.spawn(&mut Command::new("true"))?;
    let path = format!("/proc/{}/ns/net", ended.id());
    ended.wait()?;
    let checked = run_in(&topology.host, &mut command(&[LINK, "--netns", &path]))?;
    checked.says(3, &["No such file or directory", &path]);
    // The path of the own namespace is no other one.
    let own = run_in(
        &topology.host,
        &mut command(&[LINK, "--netns", "/proc/self/ns/net", "--timeout", "0.2"]),
    )?;
    own.says(1, &["is of this host"]);
    Ok(())
}

/// As root without any capability, which may do no more here than another user.
fn without_permission() -> Result {
    let setpriv = need("setpriv", "util-linux")?;
    let topology = Topology::new(1)?;
    let powerless = |arguments: &[&str]| {
        let mut command = Command::new(&setpriv);
        command
            .args(["--bounding-set=-all", "--inh-caps=-all", "--"])
            .arg(program())
            .arg("check")
            .args(arguments);
        run_in(&topology.host, &mut command)
    };
    let checked = powerless(&[LINK])?;
    checked.says(
        3,
        &[
            "cannot listen on eth0",
            "Operation not permitted",
            "run it as root",
        ],
    );
    let container = topology.containers[0]
        .namespace
        .path()
        .display()
        .to_string();
    let checked = powerless(&[LINK, "--netns", &container])?;
    checked.says(3, &["cannot enter the network namespace", "run it as root"]);
    Ok(())
}

fn a_wrong_command_line() -> Result {
    let host = Namespace::new("host")?;
    for (arguments, words) in [
        (&[][..], "check needs the name of an interface"),
        (&["eth0", "eth1"], "eth1"),
        (&["eth0", "--colour"], "--colour"),
        (&["eth0", "--timeout", "0"], "more than 0 and at most 300"),
    ] {
        let checked = run_in(&host, &mut command(arguments))?;
        checked.says(2, &[words, "--help"]);
        assert_eq!(checked.text, "");
    }
    let help = run_in(&host, &mut command(&["--help"]))?;
    help.says(0, &["--netns", "--timeout", "--json", "Exit status"]);
    Ok(())
}

/// On a terminal, which script(1) provides, the line is there after a second and gone at the end.
fn progress_is_for_terminals() -> Result {
    let script = need("script", "bsdutils")?;
    let topology = Topology::new(1)?;
    let line = format!("{} check {LINK} --timeout 2.2", program().display());
    let mut command = Command::new(script);
    command.args(["-qec", &line, "/dev/null"]);
    let checked = run_in(&topology.host, &mut command)?;
    checked.says(
        1,
        &[
            "\reth0: ",
            " s of at most 2 s, DISCOVERs: ",
            ", servers: 0\x1b[K",
            "\r\x1b[K",
        ],
    );
    let quick = format!("{} check {LINK} --timeout 0.5", program().display());
    let mut command = Command::new(need("script", "bsdutils")?);
    command.args(["-qec", &quick, "/dev/null"]);
    run_in(&topology.host, &mut command)?
        .says(1, &[])
        .says_nothing_of(&["\x1b[K"]);
    let plain = check(&topology, &["--timeout", "1.2"])?;
    assert_eq!(plain.errors, "", "no terminal");
    Ok(())
}
