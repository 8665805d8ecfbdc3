//! Containers' names, from Podman's own files.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, OFlags};

use crate::proxy::store::file;
use crate::proxy::store::podman::STORES;
use crate::proxy::store::scan::{Fault, Scanner, text};

/// The longest list of containers that is read, in bytes: that of some ten thousand.
const LONGEST: u64 = 16 << 20;

/// Names by containers' ids.
pub(super) type Names = HashMap<String, String>;

/// Returns the first name of each container of root's, by its id, as far as Podman's files say.
pub(super) fn names() -> Names {
    let mut names = Names::new();
    for store in STORES {
        for driver in ["overlay", "vfs", "btrfs", "zfs"] {
            let list = Path::new(store).join(format!("{driver}-containers/containers.json"));
            read(&list, &mut names);
        }
    }
    names
}

/// Reads one list. A list that is not there, or makes no sense, has no names.
fn read(list: &Path, names: &mut Names) -> Option<()> {
    let file = file::open(CWD, list, OFlags::RDONLY).ok()?;
    let mut list = String::new();
    file.take(LONGEST).read_to_string(&mut list).ok()?;
    parse(&list, names).ok()
}

fn parse(list: &str, names: &mut Names) -> Result<(), Fault> {
    Scanner::new(list).array(&mut |scanner| {
        let (mut id, mut name) = (None, None);
        scanner.object(&mut |scanner, field| {
            match field {
                "id" => id = text(scanner.value()?),
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
        if let (Some(id), Some(name)) = (id, name) {
            names.insert(id.into_owned(), name.into_owned());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_each_container_is_found() {
        let list = r#"[
            {"id": "0a", "names": ["web", "other"], "metadata": "{\"names\":[\"x\"]}", "flags": {"a": [1]}},
            {"names": null, "id": "0b"}, {"id": "0c", "names": []}, {"id": 7, "names": ["seven"]},
            {"names": ["d\"b"], "id": "0d"}
        ]"#;
        let mut names = Names::new();
        assert_eq!(parse(list, &mut names), Ok(()));
        let mut found: Vec<_> = names.iter().map(|(id, name)| (&**id, &**name)).collect();
        found.sort_unstable();
        assert_eq!(found, [("0a", "web"), ("0d", "d\"b")]);
        for other in ["", "{}", "[7]", "null"] {
            assert!(parse(other, &mut names).is_err(), "{other}");
        }
    }
}
