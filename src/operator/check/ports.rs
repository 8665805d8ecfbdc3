//! The UDP ports of DHCP that are in use in a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};

use serde::Serialize;

use crate::operator::processes::SocketHolders;

use super::namespace::InspectedNamespace;

/// The tables of UDP sockets (proc(5)). A socket of IPv6 may take IPv4, too.
const TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
/// The longest table that is read, in bytes: some 8,000 sockets.
const LONGEST_TABLE: u64 = 1 << 20;
/// The sockets of one port whose processes are named.
const MOST_SOCKETS: usize = 10;
/// The ports of DHCP servers and clients (RFC 2131 §4.1).
const PORTS: [u16; 2] = [67, 68];

/// A UDP port of DHCP that is in use in the namespace.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct BusyPort {
    pub(super) port: u16,
    /// Names and ids; empty if the processes cannot be seen.
    pub(super) processes: Vec<String>,
}

/// The inodes of sockets by their port.
type Sockets = BTreeMap<u16, BTreeSet<u64>>;

/// Returns the ports that are in use; adds to `unread` what was not read, or not to its end.
pub(super) fn busy_ports(
    namespace: &InspectedNamespace,
    unread: &mut Vec<&'static str>,
) -> Vec<BusyPort> {
    let mut sockets = Sockets::new();
    let mut is_cut = false;
    for path in TABLES {
        match namespace.run(|| table(File::open(path)?)) {
            Ok((table, is_whole)) => {
                add_sockets(&table, &mut sockets);
                is_cut |= !is_whole;
            }
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != TABLES[0] => {}
            Err(_) => is_cut = true,
        }
    }
    if is_cut {
        unread.push("the UDP sockets of the namespace");
    }
    let holders = SocketHolders::find(sockets.values().flatten().copied());
    if holders.is_cut {
        unread.push("the descriptors of all processes");
    }
    let busy = sockets.into_iter().map(|(port, inodes)| BusyPort {
        port,
        processes: holders.of(inodes),
    });
    busy.collect()
}

/// Returns the beginning of a table, and whether that is all.
fn table(source: impl Read) -> io::Result<(String, bool)> {
    let mut bytes = Vec::new();
    source.take(LONGEST_TABLE + 1).read_to_end(&mut bytes)?;
    let is_whole = (bytes.len() as u64) <= LONGEST_TABLE;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), is_whole))
}

/// Adds the sockets of DHCP in a table.
fn add_sockets(table: &str, sockets: &mut Sockets) {
    let listed = table.lines().skip(1).filter_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
        let mut words = line.split_whitespace().skip(1);
        let (_, port) = words.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let inode = words.nth(7)?.parse().ok()?;
        PORTS.contains(&port).then_some((port, inode))
    });
    for (port, inode) in listed {
        let of_port = sockets.entry(port).or_default();
        if of_port.len() < MOST_SOCKETS {
            of_port.insert(inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets_of(tables: &[&str]) -> Vec<(u16, Vec<u64>)> {
        let mut sockets = Sockets::new();
        for table in tables {
            add_sockets(table, &mut sockets);
        }
        let list = |(port, inodes): (u16, BTreeSet<u64>)| (port, inodes.into_iter().collect());
        sockets.into_iter().map(list).collect()
    }

    #[test]
    fn ports_of_dhcp_are_found_by_number_in_both_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 68: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0\n\
            \x20 69: 0100580A:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0\n\
            \x20 70: 00000000:0045 00000000:0044 07 00000000:00000000 00:00000000 00000000     0        0 4713 2 0000000000000000 0\n\
            nonsense\n";
        let table6 = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 69: 00000000000000000000000000000000:0043 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4714 2 0000000000000000 0\n";
        assert_eq!(
            sockets_of(&[table, table6]),
            [(67, vec![4712, 4714]), (68, vec![4711])]
        );
        assert_eq!(sockets_of(&[""]), []);
    }

    #[test]
    fn sockets_of_one_port_do_not_hide_the_other() {
        let line = |port: u16, inode: usize| {
            format!("0: 00000000:{port:04X} 00000000:0000 07 0:0 00:0 0 0 0 {inode}\n")
        };
        let many: String = (1..1000).map(|inode| line(68, inode)).collect();
        let table = "heading\n".to_owned() + &many + &line(67, 2000);
        let found = sockets_of(&[&table]);
        assert_eq!(found[0], (67, vec![2000]));
        assert_eq!(found[1].1.len(), MOST_SOCKETS);
    }

    #[test]
    fn a_table_that_is_cut_is_told() {
        let whole = table(&b"a table"[..]).unwrap();
        assert_eq!(whole, ("a table".to_owned(), true));
        let (text, is_whole) = table(io::repeat(b'x')).unwrap();
        assert_eq!((text.len() as u64, is_whole), (LONGEST_TABLE + 1, false));
    }
}
