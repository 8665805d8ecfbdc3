//! The lease that a client has to make of an ACK, read with dhcproto: what is on the wire is its
//! word, what follows from it is said here once more, in other words than in `src/dhcp`.

use super::{MAC, SERVER};
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use smol_dhcp_proxy::dhcp::{Lease, StaticRoute};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The value of one option, where the message has it.
macro_rules! option {
    ($message:expr, $code:ident) => {
        match $message.opts().get(OptionCode::$code) {
            Some(DhcpOption::$code(value)) => Some(value.clone()),
            _ => None,
        }
    };
}
pub(crate) use option;

/// What must come of `message`, asked for at `acquired_at` and heard from `server_mac`.
pub fn lease(
    message: &Message,
    server_mac: Mac,
    acquired_at: Instant,
) -> Result<Lease, &'static str> {
    // Zeros are no address of another client, and a client identifier (option 61) may be any.
    if message.opcode() != Opcode::BootReply
        || ![MAC.0, [0; 6]]
            .iter()
            .any(|known| known == message.chaddr())
    {
        return Err("not for us");
    }
    if option!(message, MessageType) != Some(MessageType::Ack) {
        return Err("no ACK");
    }
    // The address that it comes from stands for an identifier that no server can have, and an hour
    // for no time.
    let can_be = |server: &Ipv4Addr| {
        !matches!(
            server.octets(),
            [0, 0, 0, 0] | [255, 255, 255, 255] | [127 | 224..=239, ..]
        )
    };
    let server_id = option!(message, ServerIdentifier)
        .filter(can_be)
        .unwrap_or(SERVER);
    let seconds = option!(message, AddressLeaseTime)
        .filter(|time| *time > 0)
        .unwrap_or(3600);
    let address = some(message.yiaddr())
        .filter(|ip| !ip.is_broadcast())
        .ok_or("no address")?;
    if matches!(address.octets()[0], 127 | 224..=239) {
        return Err("no address for a host");
    }

    let mask = option!(message, SubnetMask).and_then(some).map(u32::from);
    let prefix_len = match (
        mask.map(|mask| (mask.leading_ones(), mask.trailing_zeros())),
        address.octets()[0],
    ) {
        (Some((ones, zeros)), _) if ones + zeros == 32 => ones as u8,
        (_, 0..128) => 8,
        (_, 128..192) => 16,
        (_, 192..224) => 24,
        _ => 32,
    };
    let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    let last = Some(Ipv4Addr::from(u32::from(address) | hosts)).filter(|_| hosts > 1);

    let classless = option!(message, ClasslessStaticRoute).filter(|routes| !routes.is_empty());
    let (routers, routes): (Vec<_>, Vec<_>) = match classless {
        Some(all) => {
            let is_default =
                |prefix_len: u8, gateway: Ipv4Addr| prefix_len == 0 && !gateway.is_unspecified();
            let default = all
                .iter()
                .filter(|(to, gateway)| is_default(to.prefix_len(), *gateway));
            let others = all
                .iter()
                .filter(|(to, gateway)| !is_default(to.prefix_len(), *gateway));
            let route = |(to, gateway): &(_, Ipv4Addr)| route(to, *gateway);
            (
                default.map(|(_, gateway)| *gateway).collect(),
                others.map(route).collect(),
            )
        }
        None => (
            addresses(option!(message, Router)),
            option!(message, StaticRoutingTable)
                .unwrap_or_default()
                .into_iter()
                .filter_map(static_route)
                .collect(),
        ),
    };

    let infinite = seconds == u32::MAX;
    let lease_time = Duration::from_secs(seconds.into());
    let (t1, t2) = match (option!(message, Renewal), option!(message, Rebinding)) {
        _ if infinite => (Duration::MAX, Duration::MAX),
        (t1, t2) => timers(lease_time, t1.unwrap_or(0), t2.unwrap_or(0)),
    };

    // What is no other host leads nowhere.
    let leads_on = |gateway: &Ipv4Addr| {
        *gateway != address
            && *gateway != Ipv4Addr::BROADCAST
            && !matches!(gateway.octets()[0], 127 | 224..=239)
    };
    let in_subnet = |told: &Ipv4Addr| {
        (u32::from(*told) ^ u32::from(address)) & !hosts == 0 && *told != address && last.is_some()
    };
    let routers = routers.into_iter().filter(leads_on).collect();
    let goes_on = |route: &StaticRoute| {
        route
            .gateway
            .is_none_or(|gateway| some(gateway).is_some() && leads_on(&gateway))
    };
    let routes = routes.into_iter().filter(goes_on).collect();
    let (mut domains, _) = domains(&option!(message, DomainName).unwrap_or_default());
    let others = domains.split_off(domains.len().min(1));
    let listed = search(&option!(message, DomainSearch).unwrap_or_default());

    Ok(Lease {
        address,
        prefix_len,
        broadcast: option!(message, BroadcastAddr)
            .and_then(some)
            .filter(in_subnet)
            .or(last),
        routers,
        routes,
        dns_servers: addresses(option!(message, DomainNameServer)),
        domain_name: domains.pop(),
        search: [others, listed].concat(),
        host_name: option!(message, Hostname).and_then(|name| host_name(&name)),
        mtu: option!(message, InterfaceMtu),
        ntp_servers: addresses(option!(message, NtpServers)),
        server_id,
        next_server: some(message.siaddr()),
        server_mac: Some(server_mac),
        lease_time: (!infinite).then_some(lease_time),
        t1,
        t2,
        acquired_at,
    })
}

fn some(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (address != Ipv4Addr::UNSPECIFIED).then_some(address)
}

fn addresses(list: Option<Vec<Ipv4Addr>>) -> Vec<Ipv4Addr> {
    list.into_iter().flatten().filter_map(some).collect()
}

/// dhcproto keeps the bits beyond the mask, and has a type of its own for the network.
fn route(to: &(impl std::fmt::Display + ?Sized), gateway: Ipv4Addr) -> StaticRoute {
    let text = to.to_string();
    let (address, prefix_len) = text.split_once('/').unwrap();
    let prefix_len: u8 = prefix_len.parse().unwrap();
    let hosts = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    let destination = (u32::from(address.parse::<Ipv4Addr>().unwrap()) & !hosts).into();
    StaticRoute {
        destination,
        prefix_len,
        gateway: some(gateway),
    }
}

fn static_route((destination, gateway): (Ipv4Addr, Ipv4Addr)) -> Option<StaticRoute> {
    let prefix_len = match destination.octets() {
        [0, 0, 0, 0] => return None,
        [0..128, 0, 0, 0] => 8,
        [128..192, _, 0, 0] => 16,
        [192..224, _, _, 0] => 24,
        _ => 32,
    };
    Some(StaticRoute {
        destination,
        prefix_len,
        gateway: Some(gateway),
    })
}

/// As the server says where 0 < T1 < T2 < lease; what breaks this order is replaced by a half and
/// seven eighths, T1 first. T1 is not before a 64th of the lease, or five seconds where that is
/// less.
fn timers(lease: Duration, t1: u32, t2: u32) -> (Duration, Duration) {
    let [half, most] = [lease / 2, lease * 7 / 8];
    let [t1, t2] = [t1, t2].map(|seconds| Duration::from_secs(seconds.into()));
    let soonest = (lease / 64).min(Duration::from_secs(5));
    let t2 = if t2.is_zero() || t2 >= lease {
        most
    } else {
        t2
    };
    match () {
        () if !t1.is_zero() && t1 < t2 && t2 <= soonest => (soonest, most),
        () if !t1.is_zero() && t1 < t2 => (t1.max(soonest), t2),
        () if half < t2 => (half, t2),
        () => (half, most),
    }
}

/// A host name as servers write it: some end it with NUL, some with a dot.
fn host_name(name: &str) -> Option<String> {
    let name = name.trim_end_matches('\0');
    Some(name.strip_suffix('.').unwrap_or(name))
        .filter(|name| is_name(name))
        .map(str::to_owned)
}

/// Returns whether a name may be written into a file.
fn is_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let good = |label: &str| !label.is_empty() && label.len() < 64 && label.chars().all(allowed);
    name.len() < 254 && name.split('.').all(good)
}

/// The most names that a list counts for.
const MOST: usize = 32;

/// Returns the domains of a text, which has blanks or commas between them; and whether it is made
/// of domains from end to end. A text with lines or columns has none.
pub fn domains(text: &str) -> (Vec<String>, bool) {
    let text = text.trim_end_matches(['\0', ' ', '\t', '\n', '\r', '\x0c']);
    if text.chars().any(char::is_control) {
        return (Vec::new(), false);
    }
    let words = text
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(|word| word.strip_suffix('.').unwrap_or(word));
    let (mut good, bad): (Vec<_>, Vec<_>) =
        words.map(str::to_owned).partition(|word| is_name(word));
    good.truncate(MOST);
    let is_whole = bad.is_empty() || good.len() == MOST;
    (good, is_whole)
}

/// Returns the text of a name that may be written into a file. The root, which has no labels, is
/// none.
pub fn name<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let labels: Vec<_> = labels
        .into_iter()
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .ok()?;
    let has_dot = labels.iter().any(|label| label.contains('.'));
    Some(labels.join(".")).filter(|name| !has_dot && is_name(name))
}

/// Returns the names of a list without those that no file may have.
fn search(names: &[dhcproto::Name]) -> Vec<String> {
    names
        .iter()
        .filter_map(|labels| name(labels.iter()))
        .take(MOST)
        .collect()
}
