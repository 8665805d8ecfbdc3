//! Where dhcproto 0.15 and the RFCs part, and how a message has to be told again so that dhcproto understands it.

use dhcproto::v4::DhcpOption;
use dhcproto::{Decodable, Decoder};
use std::collections::BTreeSet;

/// Each has its demonstration in [`DEMONSTRATIONS`](super::DEMONSTRATIONS): the day it fails is the day to strike it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `file` and `sname` stay unread whatever option 52 says (RFC 2131 4.1).
    Overload,
    /// Pieces of an option that other options or padding part are not joined: the last one stands for all (RFC 3396 7).
    ScatteredPieces,
    /// A last piece that overruns the message takes those before it with it.
    CutPiece,
    /// An option whose value cannot be decoded ends the reading: all behind it are lost, also where nobody wanted it.
    OneBadOption,
    /// A number that is longer than its type is read by its first bytes.
    LongNumber,
    /// Of a damaged list of names (RFC 3397), those before the damage count.
    PartOfNames,
    /// Of a list of routes with a mask beyond 32 bits (RFC 3442), those before it count.
    PartOfRoutes,
    /// Option 249, which is 121 under the number that it had before there was an RFC, is unknown.
    MicrosoftRoutes,
    /// Lengths that are asserted and not checked: a message makes the reader panic.
    Panic,
    /// The magic cookie may be anything.
    Magic,
}

/// A message as dhcproto can read it, and the faults that had to be kept out of its way. Where there are none, these are the
/// bytes that came.
pub fn heal(payload: &[u8]) -> (Vec<u8>, BTreeSet<Fault>) {
    let mut faults = BTreeSet::new();
    if payload[236..240] != MAGIC {
        faults.insert(Fault::Magic);
    }
    let mut options = collect(payload, &mut faults);
    let has_routes =
        |options: &[(u8, Vec<u8>)], code| options.iter().any(|(c, v)| *c == code && routes(v) == Whole::Yes);
    if has_routes(&options, 249) && !has_routes(&options, 121) {
        faults.insert(Fault::MicrosoftRoutes);
        options.retain(|(code, _)| *code != 121);
        options.iter_mut().filter(|(code, _)| *code == 249).for_each(|(code, _)| *code = 121);
    }
    options.retain(|(code, value)| {
        let fault = fault_in(*code, value);
        faults.extend(fault);
        fault.is_none()
    });
    if faults.is_empty() {
        return (payload.to_vec(), faults);
    }
    let mut healed = payload[..240].to_vec();
    for (code, value) in options {
        let pieces: Vec<_> = if value.is_empty() { vec![&[][..]] } else { value.chunks(255).collect() };
        pieces.into_iter().for_each(|piece| healed.extend([&[code, piece.len() as u8], piece].concat()));
    }
    healed.push(255);
    (healed, faults)
}

const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// The options of a message in the order of their first pieces.
fn collect(payload: &[u8], faults: &mut BTreeSet<Fault>) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    walk(&payload[240..], &mut options, faults);
    let overload = options.iter().find(|(code, _)| *code == 52).and_then(|(_, value)| match value[..] {
        [fields @ 1..=3] => Some(fields),
        _ => None,
    });
    if let Some(fields) = overload {
        faults.insert(Fault::Overload);
        // No piece of an option goes on from one field to the next in dhcproto's eyes.
        let places = [(1, &payload[108..236]), (2, &payload[44..108])];
        places
            .into_iter()
            .filter(|(bit, _)| fields & bit != 0)
            .for_each(|(_, field)| walk(field, &mut options, faults));
    }
    options
}

fn walk(field: &[u8], options: &mut Vec<(u8, Vec<u8>)>, faults: &mut BTreeSet<Fault>) {
    let (mut at, mut last) = (0, None);
    while let Some(&code) = field.get(at).filter(|code| **code != 255) {
        if code == 0 {
            (at, last) = (at + 1, None);
            continue;
        }
        let value = field.get(at + 1).and_then(|length| field.get(at + 2..at + 2 + usize::from(*length)));
        let Some(value) = value else {
            if last == Some(code) {
                faults.insert(Fault::CutPiece);
            }
            return;
        };
        match options.iter_mut().find(|(known, _)| *known == code) {
            Some((_, pieces)) => {
                if last != Some(code) {
                    faults.insert(Fault::ScatteredPieces);
                }
                pieces.extend(value);
            }
            None => options.push((code, value.to_vec())),
        }
        (at, last) = (at + 2 + value.len(), Some(code));
    }
}

/// What dhcproto would make of an option that is not as it should be; such a one counts as missing.
fn fault_in(code: u8, value: &[u8]) -> Option<Fault> {
    let number = match code {
        26 | 57 => Some(2),
        52 | 53 => Some(1),
        51 | 58 | 59 => Some(4),
        _ => None,
    };
    match code {
        80 if !value.is_empty() => Some(Fault::Panic),
        81 if value.len() < 3 => Some(Fault::Panic),
        94 if value.len() != 3 => Some(Fault::Panic),
        152..=155 if value.len() != 4 => Some(Fault::Panic),
        _ if number.is_some_and(|length| value.len() > length) => Some(Fault::LongNumber),
        121 if routes(value) == Whole::MaskTooLong => Some(Fault::PartOfRoutes),
        119 if count_names(value) != names_read(value) => Some(Fault::PartOfNames),
        _ => decode(code, value).is_none().then_some(Fault::OneBadOption),
    }
}

/// One option as dhcproto reads it, however long.
fn decode(code: u8, value: &[u8]) -> Option<DhcpOption> {
    // An option of no length at all, or of more than one piece, is decoded as it would be in a message.
    let pieces = if value.is_empty() { vec![&[][..]] } else { value.chunks(255).collect() };
    let bytes: Vec<u8> = pieces.into_iter().flat_map(|piece| [&[code, piece.len() as u8], piece].concat()).collect();
    DhcpOption::decode(&mut Decoder::new(&bytes)).ok()
}

#[derive(PartialEq)]
enum Whole {
    Yes,
    MaskTooLong,
    No,
}

/// Whether a list of classless routes is one from end to end; an empty one is none.
fn routes(mut value: &[u8]) -> Whole {
    if value.is_empty() {
        return Whole::No;
    }
    while let [mask, rest @ ..] = value {
        if *mask > 32 {
            return Whole::MaskTooLong;
        }
        let Some(rest) = rest.get(usize::from(mask.div_ceil(8)) + 4..) else { return Whole::No };
        value = rest;
    }
    Whole::Yes
}

/// How many names end in a list, by their zeros and pointers; wherever those lead. `None` if the last one does not end.
fn count_names(value: &[u8]) -> Option<usize> {
    let (mut at, mut names) = (0, 0);
    while let Some(&length) = value.get(at) {
        at += match length {
            0 => 1,
            0xc0.. => 2,
            length => 1 + usize::from(length),
        };
        names += usize::from(matches!(length, 0 | 0xc0..));
        let ended = matches!(length, 0 | 0xc0..);
        if at > value.len() || (at == value.len() && !ended) || (0x40..0xc0).contains(&length) {
            return None;
        }
    }
    Some(names)
}

fn names_read(value: &[u8]) -> Option<usize> {
    match decode(119, value)? {
        DhcpOption::DomainSearch(names) => Some(names.len()),
        _ => None,
    }
}
