//! The time of the first call to a sleeping daemon: `cargo bench --bench first_call` (`-- --quick`).
//!
//! A real systemd, the shipped units, and network namespaces below /run/netns, which a mount
//! namespace would have to copy. The call is the Teardown of an unknown lease. The subjects take
//! turns.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod subjects;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use smol_dhcp_proxy::rpc::{Call, NetworkConfig};

use subjects::lab::{Result, eventually, grpc};
use subjects::{Extent, Subject, SubjectKind, Targets, answered, median, peers, timed};

/// The variable for the client process, which runs inside of the booted systemd.
const ROUNDS: &str = "FIRST_CALL_ROUNDS";

/// The pause between the end of a daemon and the next call, in which systemd finishes its work on
/// the end.
const PAUSE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let Ok(rounds) = env::var(ROUNDS) else {
        return subjects::outside(&[SubjectKind::Ours, SubjectKind::Netavark], run);
    };
    match call_in_turns(rounds.parse().unwrap_or(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The targets with systemd 252 and 257, as multiples of netavark's time.
const AT_MOST: [f64; 2] = [1.0, 1.1];

fn run(subjects: &[Subject], extent: Extent) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("benches/peers/first-call.bash");
    let mut targets = Targets::new();
    measure(
        Command::new(&script),
        subjects,
        extent,
        AT_MOST[0],
        &mut targets,
    )?;
    // The tree of tests/trixie, if it exists.
    if extent == Extent::Full && trixie().is_some_and(|tree| tree.exists()) {
        println!("\nDebian 13, systemd 257");
        let mut command = Command::new(root.join("tests/trixie"));
        command.arg(&script);
        measure(command, subjects, extent, AT_MOST[1], &mut targets)?;
    }
    Ok(targets.met)
}

fn trixie() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("smol-dhcp-proxy/trixie"))
}

fn measure(
    mut command: Command,
    subjects: &[Subject],
    extent: Extent,
    at_most: f64,
    targets: &mut Targets,
) -> Result {
    let rounds = if extent == Extent::Full { 25 } else { 2 };
    command
        .env("CLIENT", env::current_exe()?)
        .env("ROUNDS", rounds.to_string());
    let output = peers(command, subjects)?;
    println!("namespaces     ours ms  netavark ms  ours / netavark");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for namespaces in ["0", "10", "100"] {
        let times = |subject: &str| median(&figures(&output, namespaces, subject));
        let (mine, other) = (times("ours"), times("netavark"));
        println!(
            "{namespaces:>10} {mine:11.1} {other:12.1} {:16.2}",
            mine / other
        );
        targets.at_most(
            &format!("of netavark's time, the first call with {namespaces} namespaces"),
            mine / other,
            at_most,
        );
        ours.push(mine);
        theirs.push(other);
    }
    println!(
        "       of its time without namespaces, netavark's first call with 100: {:.3}",
        theirs[2] / theirs[0]
    );
    // 1 and the noise.
    targets.at_most(
        "of its time without namespaces, the first call with 100",
        ours[2] / ours[0],
        1.15,
    );
    Ok(())
}

fn figures(output: &str, namespaces: &str, subject: &str) -> Vec<Duration> {
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix("FIGURE ")?.split_once(' '));
    let mine = lines
        .filter(|(number, _)| *number == namespaces)
        .filter_map(|(_, rest)| rest.split_once(' '));
    let times = mine
        .filter(|(name, _)| *name == subject)
        .filter_map(|(_, time)| time.parse().ok());
    times.map(Duration::from_secs_f64).collect()
}

/// Runs the client. The arguments are name, socket and service of each subject.
fn call_in_turns(rounds: usize) -> Result {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // The first round fills the page cache and the caches of systemd.
    for round in 0..=rounds {
        for subject in arguments.chunks_exact(3) {
            let (name, socket, service) = (&subject[0], PathBuf::from(&subject[1]), &subject[2]);
            eventually("the service is asleep", Duration::from_secs(60), || {
                let state = Command::new("systemctl")
                    .args(["is-active", service])
                    .output()?
                    .stdout;
                Ok((state == b"inactive\n").then_some(()))
            })?;
            thread::sleep(PAUSE);
            let unknown = NetworkConfig {
                container_mac_addr: "02:00:00:00:00:01".to_owned(),
                ..NetworkConfig::default()
            };
            let time = timed(|| answered(grpc::call(&socket, &Call::Teardown(unknown))).map(drop))?;
            if round > 0 {
                println!("{name} {}", time.as_secs_f64());
            }
        }
    }
    Ok(())
}
