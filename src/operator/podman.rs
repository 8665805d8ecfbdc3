//! Containers' names, from Podman's own files.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, OFlags};

use crate::proxy::store::file;
use crate::proxy::store::podman::STORES;
use crate::proxy::store::record::{ContainerId, LeaseView};
use crate::proxy::store::scan::{Fault, Scanner, text};

/// The longest list of containers that is read, in bytes: that of some ten thousand.
const LONGEST: u64 = 16 << 20;

/// The part of a list that is read at once. A page of memory that is used for the first time costs
/// more than the parsing of its content.
const WINDOW: usize = 64 << 10;
/// The longest entry that is read. Podman's have a kilobyte.
const LONGEST_ENTRY: usize = 1 << 20;

/// The storage drivers, which have lists of their own.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// The lists of a driver: of containers that stay, and of those of `podman run --rm`, which newer
/// versions of containers/storage keep apart.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// Names of containers by their ids, empty where there is none.
pub(super) type Names = HashMap<ContainerId, String, BuildHasherDefault<IdHasher>>;

/// A hash of ids, which Podman chooses at random: their first digits, mixed.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &word in bytes.as_chunks::<8>().0.iter().take(2) {
            let mixed = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
            self.0 = mixed ^ (mixed >> 32);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An odd number whose bits are spread: 2^64 by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the first name of each container that has a lease, as far as root's Podman has it.
pub(super) fn names(leases: &[LeaseView<'_>]) -> Names {
    names_in(
        &STORES.map(Path::new),
        leases.iter().filter_map(LeaseView::container_id),
    )
}

fn names_in(stores: &[&Path], ids: impl Iterator<Item = ContainerId>) -> Names {
    let mut names: Names = ids.map(|id| (id, String::new())).collect();
    if names.is_empty() {
        return names;
    }
    for store in stores {
        for driver in DRIVERS {
            for list in LISTS {
                let list = store.join(format!("{driver}-containers/{list}"));
                read(&list, &mut names);
            }
        }
    }
    names
}

/// Reads one list, as far as it is there and makes sense.
fn read(list: &Path, names: &mut Names) -> Option<()> {
    let mut list = file::open(CWD, list, OFlags::RDONLY).ok()?.take(LONGEST);
    let mut window = Vec::with_capacity(2 * WINDOW);
    loop {
        let mut next = list.by_ref().take(WINDOW as u64);
        let length = next.read_to_end(&mut window).ok()?;
        let readable = match str::from_utf8(&window) {
            Ok(text) => text,
            Err(error) => str::from_utf8(&window[..error.valid_up_to()]).ok()?,
        };
        let parsed = parse(readable, names);
        window.drain(..parsed);
        if length == 0 || window.len() > LONGEST_ENTRY {
            return Some(());
        }
    }
}

/// Parses a part of a list that begins before an entry. Returns the length of all whole entries.
fn parse(part: &str, names: &mut Names) -> usize {
    let mut parsed = 0;
    loop {
        let is_between = |byte: &&u8| b"[, \t\r\n".contains(byte);
        parsed += part.as_bytes()[parsed..]
            .iter()
            .take_while(is_between)
            .count();
        let mut scanner = Scanner::new(&part[parsed..]);
        if entry(&mut scanner, names).is_err() {
            return parsed;
        }
        parsed += scanner.place();
    }
}

fn entry(scanner: &mut Scanner<'_>, names: &mut Names) -> Result<(), Fault> {
    let (mut id, mut name) = (None, None);
    scanner.object(&mut |scanner, field| {
        match field {
            "id" => id = text(scanner.value()?).and_then(|id| ContainerId::parse(&id)),
            "names" => {
                let all = scanner.value()?;
                let _ = Scanner::new(all).array(&mut |scanner| {
                    let next = text(scanner.value()?);
                    name = name.take().or(next);
                    Ok(())
                });
            }
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    if let (Some(known), Some(name)) = (id.and_then(|id| names.get_mut(&id)), name) {
        *known = name.into_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ContainerId {
        ContainerId::parse(&format!("{number:064x}")).unwrap()
    }

    /// The names of the containers 0 to 9, read from lists in a store.
    fn found(lists: &[(&str, &str)]) -> Vec<(u32, String)> {
        let store = tempfile::tempdir().unwrap();
        for (path, list) in lists {
            let path = store.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, list).unwrap();
        }
        let missing = store.path().join("missing");
        let names = names_in(&[&missing, store.path()], (0..10).map(id));
        let name = |number| Some((number, names.get(&id(number))?.clone()));
        (0..10)
            .filter_map(name)
            .filter(|(_, name)| !name.is_empty())
            .collect()
    }

    fn with_id(list: &str) -> String {
        (0..10).fold(list.to_owned(), |list, number| {
            list.replace(&format!("#{number}"), &id(number))
        })
    }

    #[test]
    fn the_first_name_of_each_container_is_found() {
        let list = with_id(
            r##"[
            {"id": "#1", "names": ["web", "other"], "metadata": "{\"names\":[\"x\"]}", "flags": {"a": [1]}},
            {"names": null, "id": "#2"}, {"id": "#3", "names": []}, {"id": 7, "names": ["seven"]},
            {"names": ["d\"b"], "id": "#4"}, {"id": "beef", "names": ["short"]}
        ]"##,
        );
        let expected = [(1, "web".to_owned()), (4, "d\"b".to_owned())];
        assert_eq!(
            found(&[("vfs-containers/containers.json", &list)]),
            expected
        );
        for other in ["", "{}", "[7]", "null", "[[[", "\u{1}"] {
            assert_eq!(found(&[("vfs-containers/containers.json", other)]), []);
        }
    }

    #[test]
    fn containers_that_are_removed_when_they_end_have_names_too() {
        let list =
            |number, name| with_id(&format!(r##"[{{"id":"#{number}","names":["{name}"]}}]"##));
        let lists = [
            ("overlay-containers/containers.json", list(1, "web")),
            (
                "overlay-containers/volatile-containers.json",
                list(2, "job"),
            ),
            ("vfs-containers/volatile-containers.json", list(3, "other")),
        ];
        let lists = lists.each_ref().map(|(path, list)| (*path, &**list));
        let expected = [(1, "web"), (2, "job"), (3, "other")];
        assert_eq!(
            found(&lists),
            expected.map(|(number, name)| (number, name.to_owned()))
        );
    }

    #[test]
    fn a_list_is_read_piece_by_piece() {
        // Each end of a window is within an entry, some of them within a character.
        let mut list = "[".to_owned();
        for number in 0..3000 {
            let filler = "é".repeat(number % 97);
            list += &with_id(&format!(
                r##"{{"image":"{filler}","id":"#{}","names":["n{number}"]}},"##,
                number % 10
            ));
        }
        let all = found(&[("zfs-containers/containers.json", &list)]);
        let expected: Vec<_> = (0..10)
            .map(|number| (number, format!("n{}", 2990 + number)))
            .collect();
        assert_eq!(all, expected);
        // An entry without an end is given up.
        let endless = with_id(r##"[{"id":"#1","names":["web"]},{"id":""##) + &"x".repeat(3 << 20);
        assert_eq!(
            found(&[("zfs-containers/containers.json", &endless)]),
            [(1, "web".to_owned())]
        );
    }
}
