//! The host's networks as earlier acquisitions found them: the time that the next acquisition gets
//! depends on it.
//!
//! They are in a small file, because the process exits between calls: the boot id, and a line for
//! each parent interface. Losing it costs a caller some seconds, so a file that cannot be read or
//! written is only logged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use crate::time::Instant;

use crate::proxy::acquire_timeout::Circumstances;
use crate::proxy::container::parent::Carrier;
use crate::proxy::store::directory::StateDirectory;

/// The most parents; beyond that, the least recently used is dropped.
const MAX_NETWORKS: usize = 64;
/// The shortest time between two writes for answers, which count for longer than that.
const ANSWER_WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// The known networks.
#[derive(Debug)]
pub(crate) struct Networks {
    directory: Rc<StateDirectory>,
    name: OsString,
    boot_id: String,
    /// By the name of the parent; `None` before the file is read.
    known: Option<BTreeMap<String, Network>>,
    warned: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Network {
    used: Duration,
    carrier: Carrier,
    /// Times since boot.
    carrier_at: Option<Duration>,
    server_at: Option<Duration>,
    unanswered_at: Option<Duration>,
}

impl Networks {
    /// Returns the networks in the file `name` of `directory`, valid in the boot `boot_id`.
    pub(crate) fn new(
        directory: &Rc<StateDirectory>,
        name: impl Into<OsString>,
        boot_id: &str,
    ) -> Self {
        let (directory, name, boot_id) = (Rc::clone(directory), name.into(), boot_id.to_owned());
        Self {
            directory,
            name,
            boot_id,
            known: None,
            warned: false,
        }
    }

    /// Returns what is known of the network of `parent`, and updates its carrier.
    pub(crate) fn circumstances(
        &mut self,
        parent: &str,
        carrier: Option<Carrier>,
        now: Instant,
    ) -> Circumstances {
        let now = now.since_boot();
        let mut network = self.network(parent);
        let before = network.clone();
        if let Some(carrier) = carrier
            && carrier != network.carrier
        {
            // The first observation says nothing of the carrier's age.
            network.carrier_at = (network.carrier != Carrier::default()).then_some(now);
            network.carrier = carrier;
        }
        let age = |at: Option<Duration>| at.map(|at| now.saturating_sub(at));
        let circumstances = Circumstances {
            since_boot: now,
            carrier: age(network.carrier_at),
            is_port_starting: false,
            server: age(network.server_at),
            unanswered: age(network.unanswered_at),
        };
        if network != before {
            self.set(parent, network, now);
        }
        circumstances
    }

    /// Records an answer of a server on the network of `parent`.
    pub(crate) fn record_answer(&mut self, parent: &str, now: Instant) {
        let now = now.since_boot();
        let network = self.network(parent);
        if network
            .server_at
            .is_none_or(|at| now.saturating_sub(at) >= ANSWER_WRITE_INTERVAL)
            || network.unanswered_at.is_some()
        {
            self.set(
                parent,
                Network {
                    server_at: Some(now),
                    unanswered_at: None,
                    ..network
                },
                now,
            );
        }
    }

    /// Records the end of an acquisition on `parent` without an answer.
    pub(crate) fn record_unanswered(&mut self, parent: &str, now: Instant) {
        let now = now.since_boot();
        let network = Network {
            unanswered_at: Some(now),
            ..self.network(parent)
        };
        self.set(parent, network, now);
    }

    fn network(&mut self, parent: &str) -> Network {
        self.known().get(parent).cloned().unwrap_or_default()
    }

    fn set(&mut self, parent: &str, network: Network, now: Duration) {
        let known = self.known();
        known.insert(
            parent.to_owned(),
            Network {
                used: now,
                ..network
            },
        );
        if known.len() > MAX_NETWORKS {
            let oldest = known
                .iter()
                .min_by_key(|(_, network)| network.used)
                .map(|(parent, _)| parent.clone());
            oldest.map(|oldest| known.remove(&oldest));
        }
        if let Err(error) = self.write()
            && !std::mem::replace(&mut self.warned, true)
        {
            let path = self.directory.path_of(&self.name);
            log::warn!(
                "cannot write {}: {error}; acquisitions may wait longer than necessary",
                path.display()
            );
        }
    }

    fn known(&mut self) -> &mut BTreeMap<String, Network> {
        if self.known.is_none() {
            let text = self
                .directory
                .read_text(&self.name)
                .unwrap_or_else(|error| {
                    let path = self.directory.path_of(&self.name);
                    log::warn!(
                        "cannot read {}: {error}; acquisitions may wait longer than necessary",
                        path.display()
                    );
                    String::new()
                });
            self.known = Some(parse(&text, &self.boot_id));
        }
        self.known.get_or_insert_default()
    }

    fn write(&self) -> io::Result<()> {
        let lines = self
            .known
            .iter()
            .flatten()
            .map(|(parent, network)| format!("{parent} {network}\n"));
        let text: String = std::iter::once(format!("{}\n", self.boot_id))
            .chain(lines)
            .collect();
        self.directory
            .open()?
            .replace(&self.name, false, |mut file| {
                file.write_all(text.as_bytes())
            })
    }
}

/// Parses the file. Times of another boot are ignored, and malformed lines are skipped.
fn parse(text: &str, boot_id: &str) -> BTreeMap<String, Network> {
    let mut lines = text.lines();
    if boot_id.is_empty() || lines.next() != Some(boot_id) {
        return BTreeMap::new();
    }
    let entry = |line: &str| {
        // An unknown parent has an empty name; no name contains a space.
        let (parent, rest) = line.split_once(' ')?;
        Some((parent.to_owned(), Network::parse(rest)?))
    };
    lines.filter_map(entry).take(MAX_NETWORKS).collect()
}

/// Milliseconds since boot, `-` for none.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.used.as_millis(),
            self.carrier.index,
            self.carrier.ups
        )?;
        [self.carrier_at, self.server_at, self.unanswered_at]
            .iter()
            .try_for_each(|at| match at {
                Some(at) => write!(f, " {}", at.as_millis()),
                None => f.write_str(" -"),
            })
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let used = Duration::from_millis(words.next()?.parse().ok()?);
        let carrier = Carrier {
            index: words.next()?.parse().ok()?,
            ups: words.next()?.parse().ok()?,
        };
        let mut moment = || match words.next()? {
            "-" => Some(None),
            millis => Some(Some(Duration::from_millis(millis.parse().ok()?))),
        };
        Some(Self {
            used,
            carrier,
            carrier_at: moment()?,
            server_at: moment()?,
            unanswered_at: moment()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const BOOT: &str = "3e9a";

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    fn open(folder: &Path) -> Networks {
        Networks::new(
            &StateDirectory::lock(&folder.join("lock"), None).unwrap(),
            "networks",
            BOOT,
        )
    }

    fn carrier(index: u32, ups: u32) -> Option<Carrier> {
        Some(Carrier { index, ups })
    }

    /// Returns the ages in seconds of eth0's carrier, of an answer, and of an unanswered
    /// acquisition.
    fn known(networks: &mut Networks, carrier: Option<Carrier>, now: u64) -> [Option<u64>; 3] {
        let known = networks.circumstances("eth0", carrier, at(now));
        [known.carrier, known.server, known.unanswered].map(|age| age.map(|age| age.as_secs()))
    }

    #[test]
    fn each_instance_knows_what_the_last_one_found() {
        let folder = tempfile::tempdir().unwrap();
        let next = || open(folder.path());
        assert_eq!(
            known(&mut next(), carrier(2, 1), 100),
            [None; 3],
            "nothing is known of the first carrier's age"
        );
        next().record_unanswered("eth0", at(110));
        assert_eq!(
            known(&mut next(), carrier(2, 1), 120),
            [None, None, Some(10)]
        );
        assert_eq!(
            known(&mut next(), carrier(2, 2), 130),
            [Some(0), None, Some(20)]
        );
        assert_eq!(
            known(&mut next(), carrier(2, 2), 135),
            [Some(5), None, Some(25)]
        );
        next().record_answer("eth0", at(140));
        assert_eq!(
            known(&mut next(), carrier(3, 2), 150),
            [Some(0), Some(10), None],
            "another interface of that name"
        );
        assert_eq!(known(&mut next(), None, 151), [Some(1), Some(11), None]);
        assert_eq!(
            next().circumstances("eth1", None, at(150)).server,
            None,
            "another network"
        );
    }

    #[test]
    fn another_boot_and_nonsense_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut networks = open(folder.path());
        networks.record_unanswered("eth0", at(10));
        networks.record_unanswered("", at(11));
        let path = folder.path().join("networks");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "3e9a\n 11000 0 0 - - 11000\neth0 10000 0 0 - - 10000\n"
        );
        assert_eq!(parse(&text, BOOT).len(), 2);
        assert_eq!(parse(&text, "77").len(), 0);
        assert_eq!(
            parse("\neth0 1 0 0 - - -\n", "").len(),
            0,
            "the boot is not known"
        );
        let nonsense = "3e9a\neth0\neth1 1 2\neth2 1 2 3 4 5 x\neth3 1 2 3 - - 6\n\n";
        assert_eq!(
            parse(nonsense, BOOT).into_keys().collect::<Vec<_>>(),
            ["eth3"]
        );
    }

    #[test]
    fn answers_are_written_now_and_then_and_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut networks = open(folder.path());
        let path = folder.path().join("networks");
        networks.record_answer("eth0", at(100));
        let text = fs::read_to_string(&path).unwrap();
        networks.record_answer("eth0", at(129));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        networks.record_answer("eth0", at(130));
        assert_ne!(fs::read_to_string(&path).unwrap(), text);
        for number in 0..200 {
            networks.record_unanswered(&format!("eth{number}"), at(200 + number));
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1 + MAX_NETWORKS);
        assert!(
            text.contains("eth199 ") && text.contains("eth136 ") && !text.contains("eth135 "),
            "{text}"
        );
    }

    #[test]
    fn without_a_file_the_process_remembers() {
        let directory = StateDirectory::lock(Path::new("/dev/null/lock"), None).unwrap();
        let mut networks = Networks::new(&directory, "networks", BOOT);
        networks.record_unanswered("eth0", at(10));
        assert_eq!(
            known(&mut networks, carrier(2, 1), 20),
            [None, None, Some(10)]
        );
    }
}
