//! The directory, the state file, and the leases that netavark's proxy left.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;

use super::{Diagnosis, failed, quoted};
use crate::operator::report::holder;
use crate::operator::text::printable;
use crate::proxy::config::LEASE_FILE_NAME;
use crate::proxy::store::directory::Directory;
use crate::proxy::store::lease_file::Peeked;
use crate::proxy::store::scan::{Fault, Scanner, text};

const DIRECTORY: &str = "directory";
const STATE: &str = "state file";
const THEIRS: &str = "netavark's leases";

/// The addresses that are shown.
const SHOWN: usize = 5;
/// The most bytes that are read of netavark's leases: those of some ten thousand.
const LONGEST: u64 = 4 << 20;

/// Inspects the directory and its files. `restart` is the command that starts the daemon, anew where
/// one runs.
pub(super) fn findings(directory: &Path, restart: &str) -> Vec<Diagnosis> {
    let (folder, opened) = folder(directory);
    let Some(opened) = opened else {
        // No file in it is believed.
        return vec![folder];
    };
    let lease_file = directory.join(LEASE_FILE_NAME);
    let pid = holder(&lease_file.with_extension("lock"));
    vec![
        folder,
        state(Peeked::read(&lease_file), pid, restart),
        of_netavark(&opened, restart),
    ]
}

/// Inspects the directory. Returns it open where its files are believed.
fn folder(directory: &Path) -> (Diagnosis, Option<Directory>) {
    let (shown, word) = (directory.display(), quoted(directory));
    let opened = match Directory::at(directory) {
        Ok(opened) => opened,
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound => format!("install -d -m 755 {word}"),
                _ => "remove what is there, or name another directory by --dir".to_owned(),
            };
            return (failed(DIRECTORY, shown.to_string(), &error, advice), None);
        }
    };
    if let Some(why) = opened.distrust() {
        let text =
            format!("{shown} {why}: no file in it is believed, and leases end with the process");
        let advice = format!("chown root {word} && chmod go-w {word}");
        (Diagnosis::problem(DIRECTORY, text, advice), None)
    } else {
        (Diagnosis::good(DIRECTORY, shown.to_string()), Some(opened))
    }
}

/// Judges the state file, beside which a daemon with this process id runs, if one does.
fn state(peeked: io::Result<Option<Peeked>>, pid: Option<u32>, restart: &str) -> Diagnosis {
    let peeked = match peeked {
        Ok(Some(peeked)) => peeked,
        Ok(None) => {
            return match pid {
                None => Diagnosis::note(STATE, "there is none: no daemon has run here yet"),
                Some(pid) => Diagnosis::problem(
                    STATE,
                    format!("there is none, though the daemon runs as process {pid}"),
                    restart,
                ),
            };
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            return Diagnosis::unknown(
                STATE,
                error.to_string(),
                "use the doctor of the newer version",
            );
        }
        Err(error) => return failed(STATE, "it cannot be read", &error, restart),
    };
    let fault = match (peeked.trouble, peeked.unusable) {
        (Some(why), _) => Some(format!("it cannot be read to its end: {why}")),
        (None, 0) => None,
        (None, 1) => Some("an entry makes no sense".to_owned()),
        (None, count) => Some(format!("{count} entries make no sense")),
    };
    if let Some(fault) = fault {
        let then = match pid {
            // The daemon knows its leases, and does not read the file again.
            Some(pid) => format!("process {pid} writes it anew when it ends"),
            None => {
                "a start keeps it as nv-proxy.state.unused, and goes on with the rest".to_owned()
            }
        };
        return Diagnosis::problem(STATE, format!("{fault}; {then}"), restart);
    }
    let over = match peeked.over {
        0 => String::new(),
        count => format!(", and {count} of an earlier boot"),
    };
    Diagnosis::good(STATE, format!("{}{over}", leases(peeked.leases.len())))
}

fn leases(count: usize) -> String {
    match count {
        1 => "1 lease".to_owned(),
        count => format!("{count} leases"),
    }
}

/// Looks for leases that netavark's proxy has written, and that the daemon adopts at its start.
fn of_netavark(directory: &Directory, restart: &str) -> Diagnosis {
    let file = match directory.read(OsStr::new(LEASE_FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Diagnosis::good(THEIRS, "there are none");
        }
        opened => opened,
    };
    let mut bytes = Vec::new();
    let read = file.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    if let Err(error) = read {
        return failed(THEIRS, "nv-proxy.lease", &error, restart);
    }
    // Netavark's proxy truncates its file and writes on at its old offset.
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let text = String::from_utf8_lossy(&bytes[zeros..]);
    let mut found = Vec::new();
    let read = addresses(&text, &mut found);
    if !found.is_empty() {
        let mut shown = found[..found.len().min(SHOWN)].join(", ");
        if found.len() > SHOWN {
            shown += ", ...";
        }
        let text = format!(
            "{} of its proxy to take over at the next start: {shown}",
            leases(found.len())
        );
        Diagnosis::note(THEIRS, text).with_advice(restart)
    } else if read.is_err() && !text.is_empty() {
        let text = "nv-proxy.lease cannot be read to its end; its leases are in the state file";
        Diagnosis::note(THEIRS, text)
    } else {
        Diagnosis::good(THEIRS, "there are none")
    }
}

/// Appends the addresses of the leases in a file that netavark's proxy wrote. The daemon's own copy
/// has a namespace in each.
fn addresses(file: &str, found: &mut Vec<String>) -> Result<(), Fault> {
    Scanner::new(file).object(&mut |scanner, _| {
        scanner.array(&mut |scanner| {
            let (mut address, mut is_own) = (None, false);
            scanner.object(&mut |scanner, field| {
                let value = scanner.value()?;
                match field {
                    "yiaddr" => address = text(value),
                    "ns_path" | "state" => is_own = true,
                    _ => {}
                }
                Ok(())
            })?;
            let address = address.filter(|address| !address.is_empty() && !is_own);
            found.extend(address.map(|address| printable(&address)));
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::operator::diagnosis::Severity;

    fn verdicts(findings: &[Diagnosis]) -> Vec<Severity> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_directory_that_others_may_write_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let set_mode = |mode| {
            fs::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).unwrap();
        };
        let found = || findings(folder.path(), "restart");
        set_mode(0o700);
        let expected = [Severity::Good, Severity::Note, Severity::Good];
        assert_eq!(verdicts(&found()), expected);
        set_mode(0o777);
        assert_eq!(verdicts(&found()), [Severity::Problem]);
        let path = folder.path().display();
        let advice = format!("chown root {path} && chmod go-w {path}");
        assert_eq!(found()[0].advice, Some(advice));
        let missing = findings(Path::new("/nonexistent/a b"), "restart");
        assert_eq!(verdicts(&missing), [Severity::Problem]);
        let advice = "install -d -m 755 '/nonexistent/a b'";
        assert_eq!(missing[0].advice.as_deref(), Some(advice));
    }

    #[test]
    fn a_state_file_is_judged_as_status_does() {
        let judge = |peeked, pid| state(peeked, pid, "restart");
        let whole = || Ok(Some(Peeked::default()));
        assert_eq!(judge(Ok(None), None).verdict, Severity::Note);
        assert_eq!(judge(Ok(None), Some(7)).verdict, Severity::Problem);
        assert_eq!(judge(whole(), None).text, "0 leases");
        let older = Peeked {
            over: 2,
            ..Peeked::default()
        };
        let older = judge(Ok(Some(older)), None);
        assert_eq!(older.text, "0 leases, and 2 of an earlier boot");
        let odd = || Peeked {
            unusable: 1,
            ..Peeked::default()
        };
        let found = judge(Ok(Some(odd())), None);
        assert_eq!(found.verdict, Severity::Problem, "{found:?}");
        assert!(found.text.contains("a start keeps it"), "{found:?}");
        let found = judge(Ok(Some(odd())), Some(7));
        assert!(found.text.contains("process 7 writes it anew"), "{found:?}");
        assert_eq!(found.advice.as_deref(), Some("restart"));
    }

    #[test]
    fn errors_have_their_own_advice() {
        let judge = |kind: io::ErrorKind| {
            let found = state(Err(kind.into()), None, "restart");
            (found.verdict, found.advice.unwrap_or_default())
        };
        let newer = "use the doctor of the newer version".to_owned();
        assert_eq!(
            judge(io::ErrorKind::Unsupported),
            (Severity::Unknown, newer)
        );
        assert_eq!(
            judge(io::ErrorKind::Other),
            (Severity::Problem, "restart".to_owned())
        );
        let (verdict, advice) = judge(io::ErrorKind::PermissionDenied);
        assert_eq!(verdict, Severity::Unknown);
        assert!(advice.starts_with("run doctor "), "{advice}");
    }

    #[test]
    fn leases_of_netavark_are_those_without_a_namespace() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let directory = Directory::at(folder.path()).unwrap();
        let with = |content: &[u8]| {
            let file = folder.path().join(LEASE_FILE_NAME);
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            of_netavark(&directory, "restart")
        };
        let theirs = with(
            br#"{"02:00:00:00:00:01": [{"yiaddr": "10.0.0.1", "t1": 1}, {"yiaddr": "10.0.0.2", "ns_path": "/run/netns/a"}],
                 "02:00:00:00:00:02": [{"yiaddr": "10.0.0.3"}, {"yiaddr": ""}]}"#,
        );
        assert_eq!(theirs.verdict, Severity::Note);
        assert_eq!(
            theirs.text,
            "2 leases of its proxy to take over at the next start: 10.0.0.1, 10.0.0.3"
        );
        let entry = |mac: u8| format!(r#""{mac}": [{{"yiaddr": "10.0.0.{mac}"}}]"#);
        let many: Vec<_> = (1..9).map(entry).collect();
        let shifted = format!("\0\0{{{}}}", many.join(","));
        let many = with(shifted.as_bytes());
        assert!(many.text.ends_with("10.0.0.4, 10.0.0.5, ..."), "{many:?}");
        for content in ["{}", "", r#"{"a": [{"yiaddr": "1", "ns_path": "/"}]}"#] {
            assert_eq!(with(content.as_bytes()).verdict, Severity::Good);
        }
        assert_eq!(with(b"{\xff").verdict, Severity::Note);
    }
}
