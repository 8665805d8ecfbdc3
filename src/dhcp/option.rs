//! DHCP options (RFC 2132): collected from all fields of a message, and read by type.
//!
//! A reader returns `None` for a missing or invalid option: the rest of the message is still used.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::name::{MAX_NAMES, checked_name, dns_name, dns_name_end};
use super::subnet::{StaticRoute, class_prefix, network};

pub(super) const PAD: u8 = 0; // RFC 2132 §3.1
pub(super) const SUBNET_MASK: u8 = 1; // RFC 2132 §3.3
pub(super) const ROUTERS: u8 = 3; // RFC 2132 §3.5
pub(super) const DNS_SERVERS: u8 = 6; // RFC 2132 §3.8
pub(super) const HOST_NAME: u8 = 12; // RFC 2132 §3.14
pub(super) const DOMAIN_NAME: u8 = 15; // RFC 2132 §3.17
pub(super) const MTU: u8 = 26; // RFC 2132 §5.1
pub(super) const BROADCAST_ADDRESS: u8 = 28; // RFC 2132 §5.3
pub(super) const STATIC_ROUTES: u8 = 33; // RFC 2132 §5.8
pub(super) const NTP_SERVERS: u8 = 42; // RFC 2132 §8.3
pub(super) const REQUESTED_ADDRESS: u8 = 50; // RFC 2132 §9.1
pub(super) const LEASE_TIME: u8 = 51; // RFC 2132 §9.2
pub(super) const OVERLOAD: u8 = 52; // RFC 2132 §9.3
pub(super) const MESSAGE_TYPE: u8 = 53; // RFC 2132 §9.6
pub(super) const SERVER_ID: u8 = 54; // RFC 2132 §9.7
pub(super) const PARAMETER_REQUEST_LIST: u8 = 55; // RFC 2132 §9.8
pub(super) const MESSAGE: u8 = 56; // RFC 2132 §9.9
pub(super) const MAX_MESSAGE_SIZE: u8 = 57; // RFC 2132 §9.10
pub(super) const RENEWAL_TIME: u8 = 58; // RFC 2132 §9.11
pub(super) const REBINDING_TIME: u8 = 59; // RFC 2132 §9.12
pub(super) const CLIENT_ID: u8 = 61; // RFC 2132 §9.14
pub(super) const RAPID_COMMIT: u8 = 80; // RFC 4039 §4; without a value
pub(super) const CLIENT_FQDN: u8 = 81; // RFC 4702 §2.1
pub(super) const DOMAIN_SEARCH: u8 = 119; // RFC 3397 §2
pub(super) const CLASSLESS_ROUTES: u8 = 121; // RFC 3442 page 3
pub(super) const CLASSLESS_ROUTES_MICROSOFT: u8 = 249;
pub(super) const END: u8 = 255; // RFC 2132 §3.2

/// The parameter request list (RFC 2131 §4.4.1). Classless routes are before the options that they
/// replace (RFC 3442 page 5).
///
/// It is without 108: only a host that can do without IPv4 may request that (RFC 8925 §3.2), and
/// Podman waits for an IPv4 address.
pub(super) const PARAMETERS: [u8; 14] = [
    SUBNET_MASK,
    CLASSLESS_ROUTES,
    CLASSLESS_ROUTES_MICROSOFT,
    STATIC_ROUTES,
    ROUTERS,
    DNS_SERVERS,
    HOST_NAME,
    DOMAIN_NAME,
    MTU,
    BROADCAST_ADDRESS,
    NTP_SERVERS,
    RENEWAL_TIME,
    REBINDING_TIME,
    DOMAIN_SEARCH,
];

/// The most bytes in one instance of an option (RFC 2132 §2).
const INSTANCE_MAX: usize = u8::MAX as usize;

/// The parameter request list of netavark's proxy.
pub(super) const NETAVARK_PARAMETERS: [u8; 9] = [
    SUBNET_MASK,
    CLASSLESS_ROUTES,
    CLASSLESS_ROUTES_MICROSOFT,
    ROUTERS,
    DNS_SERVERS,
    HOST_NAME,
    DOMAIN_NAME,
    MTU,
    NTP_SERVERS,
];

/// The options without which a lease is useless.
pub(super) const MINIMAL_PARAMETERS: [u8; 3] = [SUBNET_MASK, ROUTERS, DNS_SERVERS];

/// The options of one message: for each code its instances, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options(BTreeMap<u8, Vec<Vec<u8>>>);

impl Options {
    /// Reads the options field and, if option 52 says so, the `file` and `sname` fields.
    ///
    /// The parts of an option follow each other in this order, adjacent or not (RFC 2131 §4.1,
    /// RFC 3396 §5).
    pub(super) fn collect(options: &[u8], file: &[u8], sname: &[u8]) -> Self {
        let mut all = Self::default();
        all.add(options);
        let overload = all.byte(OVERLOAD).unwrap_or(0);
        if matches!(overload, 1 | 3) {
            all.add(file);
        }
        if matches!(overload, 2 | 3) {
            all.add(sname);
        }
        all
    }

    /// Reads a field up to END, its last byte, or a length that exceeds it (RFC 2132 §2).
    fn add(&mut self, mut field: &[u8]) {
        loop {
            match field {
                [PAD, rest @ ..] => field = rest,
                [] | [END, ..] | [_] => return,
                [code, length, rest @ ..] => {
                    let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else {
                        return;
                    };
                    self.0.entry(*code).or_default().push(value.to_vec());
                    field = rest;
                }
            }
        }
    }

    /// Returns the value of an option, its parts joined (RFC 2131 §4.1 and RFC 3396 §7, required by
    /// RFC 3442 page 6).
    ///
    /// Equal instances are one value, unless they are full and so may continue in the next one.
    pub(super) fn bytes(&self, code: u8) -> Option<Cow<'_, [u8]>> {
        let instances = self.0.get(&code)?;
        let first = instances.first()?;
        let is_repeated =
            first.len() < INSTANCE_MAX && instances.iter().all(|instance| instance == first);
        Some(if is_repeated {
            Cow::Borrowed(first)
        } else {
            Cow::Owned(instances.concat())
        })
    }

    pub(super) fn contains(&self, code: u8) -> bool {
        self.0.contains_key(&code)
    }

    /// Returns a value of fixed length: the joined parts or, if their length differs, the first
    /// instance of this length.
    ///
    /// Deviation: RFC 3396 §7 takes each instance for a part, but servers repeat options that are
    /// not split.
    fn array<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        let instances = self.0.get(&code)?;
        let joined = instances.concat();
        let whole = std::iter::once(&joined).chain(instances);
        whole
            .into_iter()
            .find_map(|value| value.as_slice().try_into().ok())
    }

    pub(super) fn byte(&self, code: u8) -> Option<u8> {
        self.array(code).map(|[byte]| byte)
    }

    pub(super) fn short(&self, code: u8) -> Option<u16> {
        self.array(code).map(u16::from_be_bytes)
    }

    pub(super) fn long(&self, code: u8) -> Option<u32> {
        self.array(code).map(u32::from_be_bytes)
    }

    /// Returns one address; `None` for 0.0.0.0.
    pub(super) fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.array::<4>(code)
            .map(Ipv4Addr::from)
            .filter(|address| !address.is_unspecified())
    }

    /// Returns a list of addresses; empty if the length is no multiple of four.
    pub(super) fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.bytes(code).unwrap_or_default();
        let (addresses, rest) = value.as_chunks::<4>();
        if !rest.is_empty() {
            return Vec::new();
        }
        addresses
            .iter()
            .map(|octets| Ipv4Addr::from(*octets))
            .filter(|address| !address.is_unspecified())
            .collect()
    }

    /// Returns a text for logs. It is not trusted, so control characters are replaced.
    pub(super) fn text(&self, code: u8) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes(code)?).replace(char::is_control, " ");
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Returns a host or domain name that is safe in a configuration file. Some servers end it with
    /// NUL (RFC 2132 §2), some with a dot.
    pub(super) fn name(&self, code: u8) -> Option<String> {
        let value = self.bytes(code)?;
        let name = std::str::from_utf8(&value).ok()?.trim_end_matches('\0');
        checked_name(name.strip_suffix('.').unwrap_or(name))
    }

    /// Returns the domain names in a text, separated by blanks or commas, because operators put a
    /// search list into option 15; and whether there is anything else in it.
    pub(super) fn domains(&self, code: u8) -> (Vec<String>, bool) {
        let value = self.bytes(code).unwrap_or_default();
        let text = String::from_utf8_lossy(&value);
        let text = text.trim_end_matches(|last: char| last == '\0' || last.is_ascii_whitespace());
        if text.contains(char::is_control) {
            return (Vec::new(), true);
        }
        let parts = || text.split([' ', ',']).filter(|part| !part.is_empty());
        let name = |part: &str| checked_name(part.strip_suffix('.').unwrap_or(part));
        let names: Vec<_> = parts().filter_map(name).take(MAX_NAMES).collect();
        let is_odd = names.len() < parts().count().min(MAX_NAMES);
        (names, is_odd)
    }

    /// Returns a list of names in the DNS wire format, compressed within the whole option
    /// (RFC 3397 §2); and whether there is anything else in it, apart from padding. A list in plain
    /// text is accepted, too.
    pub(super) fn names(&self, code: u8) -> (Vec<String>, bool) {
        let field = self.bytes(code).unwrap_or_default();
        let (mut names, mut is_odd, mut at) = (Vec::new(), false, 0);
        while at < field.len() && names.len() < MAX_NAMES {
            let Some(next) = dns_name_end(&field, at) else {
                is_odd = true;
                break;
            };
            // The root is no search domain.
            if field[at] != 0 {
                let name = dns_name(&field, at);
                is_odd |= name.is_none();
                names.extend(name);
            }
            at = next;
        }
        match self.domains(code) {
            (domains, false) if names.is_empty() => (domains, false),
            _ => (names, is_odd),
        }
    }

    /// Returns option 121, else 249 (RFC 3442); `None` also if it is malformed.
    pub(super) fn classless_routes(&self) -> Option<Vec<StaticRoute>> {
        [CLASSLESS_ROUTES, CLASSLESS_ROUTES_MICROSOFT]
            .into_iter()
            .find_map(|code| classless_routes(&self.bytes(code)?))
    }

    /// Returns option 33 (RFC 2132 §5.8): pairs of destination and router, without masks.
    pub(super) fn static_routes(&self) -> Vec<StaticRoute> {
        let value = self.bytes(STATIC_ROUTES).unwrap_or_default();
        let (pairs, rest) = value.as_chunks::<8>();
        if !rest.is_empty() {
            return Vec::new();
        }
        let route = |[a, b, c, d, gateway @ ..]: &[u8; 8]| {
            let destination = Ipv4Addr::new(*a, *b, *c, *d);
            // The class of the address determines the mask. An address within the network of its
            // class means a single host.
            let classful = class_prefix(destination);
            let prefix_len = if network(destination, classful) == destination {
                classful
            } else {
                32
            };
            StaticRoute {
                destination,
                prefix_len,
                gateway: Some(Ipv4Addr::from(*gateway)),
            }
        };
        // RFC 2132 §5.8: a default route is illegal here.
        pairs
            .iter()
            .map(route)
            .filter(|route| !route.destination.is_unspecified())
            .collect()
    }
}

/// Appends an option to a message. Truncates its value to 255 bytes (RFC 2132 §2).
pub(super) fn put(message: &mut Vec<u8>, code: u8, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u8::MAX))];
    message.extend([code, value.len() as u8]);
    message.extend(value);
}

/// Reads routes: each a prefix length, the significant bytes of the destination, and a router
/// (RFC 3442 page 4).
fn classless_routes(mut field: &[u8]) -> Option<Vec<StaticRoute>> {
    let mut routes = Vec::new();
    while let [prefix_len @ 0..=32, rest @ ..] = field {
        let (significant, rest) = rest.split_at_checked(usize::from(prefix_len.div_ceil(8)))?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets[..significant.len()].copy_from_slice(significant);
        routes.push(StaticRoute {
            // RFC 3442 page 5: the client clears bits beyond the mask.
            destination: network(Ipv4Addr::from(octets), *prefix_len),
            prefix_len: *prefix_len,
            // RFC 3442 page 4: router 0.0.0.0 means that the destination is on the link itself.
            gateway: Some(Ipv4Addr::from(*gateway)).filter(|gateway| !gateway.is_unspecified()),
        });
        field = rest;
    }
    (field.is_empty() && !routes.is_empty()).then_some(routes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A written option is read again, up to the length that one instance can hold.
        #[test]
        fn a_written_option_is_read(
            options in btree_map(1..END, vec(any::<u8>(), 0..300), 0..20),
            padding in 0..4_usize,
        ) {
            let mut field = Vec::new();
            for (code, value) in &options {
                put(&mut field, *code, value);
                field.resize(field.len() + padding, PAD);
            }
            let cut = |value: Vec<u8>| vec![value[..value.len().min(255)].to_vec()];
            let cut = options.into_iter().map(|(code, value)| (code, cut(value))).collect();
            prop_assert_eq!(Options::collect(&field, &[], &[]), Options(cut));
        }

        /// RFC 3396 §7: a split value is joined, whatever lies between its parts.
        #[test]
        fn parts_are_joined(
            value in vec(any::<u8>(), 0..1000),
            cuts in vec(any::<prop::sample::Index>(), 0..6),
            fields in vec(0..3_usize, 12),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(value.len() + 1)).collect();
            cuts.sort_unstable();
            let mut in_field = [vec![OVERLOAD, 1, 3], Vec::new(), Vec::new()];
            let mut at = 0;
            // A later part is never in an earlier field.
            let mut fields = fields;
            fields.sort_unstable();
            for (piece, field) in cuts.into_iter().chain([value.len()]).zip(fields) {
                for chunk in value[at..piece].chunks(255) {
                    put(&mut in_field[field], MESSAGE, chunk);
                    put(&mut in_field[field], HOST_NAME, b"x");
                }
                at = piece;
            }
            let [options, file, sname] = &in_field;
            let all = Options::collect(options, file, sname);
            // Equal parts count as a repeated value.
            let pieces = all.0.get(&MESSAGE).cloned().unwrap_or_default();
            prop_assume!(pieces.len() < 2 || pieces.iter().any(|piece| *piece != pieces[0]));
            prop_assert_eq!(&*all.bytes(MESSAGE).unwrap_or_default(), &value);
        }

        /// A value that is repeated, in any field, counts once.
        #[test]
        fn a_repeated_value_counts_once(value in vec(any::<u8>(), 0..255), times in 1..5_usize) {
            let mut field = Vec::new();
            for _ in 0..times {
                put(&mut field, MESSAGE, &value);
                put(&mut field, HOST_NAME, b"x");
            }
            let all = Options::collect(&field, &[], &[]);
            prop_assert_eq!(&*all.bytes(MESSAGE).unwrap_or_default(), &value);
            prop_assert_eq!(all.text(HOST_NAME), Some("x".to_owned()));
        }

        /// RFC 3396 §6: a full instance continues in the next one, even an equal one.
        #[test]
        fn a_full_instance_continues(byte in any::<u8>()) {
            let mut field = Vec::new();
            (0..2).for_each(|_| put(&mut field, MESSAGE, &[byte; 255]));
            let all = Options::collect(&field, &[], &[]);
            prop_assert_eq!(&*all.bytes(MESSAGE).unwrap_or_default(), [byte; 510]);
        }

        /// A value of fixed length is the first instance of that length.
        #[test]
        fn the_first_value_of_the_right_length_counts(
            value in any::<u32>(),
            others in vec(vec(any::<u8>(), 0..9), 0..4),
            at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(others.len() + 1);
            prop_assume!(others[..at].iter().all(|other| other.len() != 4));
            let mut field = Vec::new();
            let mine = value.to_be_bytes().to_vec();
            for instance in others[..at].iter().chain([&mine]).chain(&others[at..]) {
                put(&mut field, LEASE_TIME, instance);
            }
            prop_assert_eq!(Options::collect(&field, &[], &[]).long(LEASE_TIME), Some(value));
        }

        /// The readers accept all bytes, and return valid values only.
        #[test]
        fn readers_accept_all_bytes(value in vec(any::<u8>(), 0..70), code in 1..END) {
            let mut field = Vec::new();
            put(&mut field, code, &value);
            let options = Options::collect(&field, &field, &field);
            prop_assert_eq!(options.byte(code).is_some(), value.len() == 1);
            prop_assert_eq!(options.short(code).is_some(), value.len() == 2);
            prop_assert_eq!(options.long(code).is_some(), value.len() == 4);
            prop_assert!(options.addresses(code).len() <= value.len() / 4);
            prop_assert!(options.text(code).is_none_or(|text| !text.contains(char::is_control)));
            prop_assert!(options.name(code).is_none_or(|name| checked_name(&name) == Some(name)));
            let (names, domains) = (options.names(code).0, options.domains(code).0);
            prop_assert!(names.into_iter().chain(domains).all(|name| checked_name(&name) == Some(name)));
            let routes = classless_routes(&value).unwrap_or_default();
            prop_assert!(routes.iter().all(|route| network(route.destination, route.prefix_len) == route.destination));
        }
    }
}
