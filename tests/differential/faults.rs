//! Where dhcproto 0.15 and the RFCs part, and how a message has to be told again so that dhcproto
//! understands it.

use super::expected::{domains, name};
use dhcproto::v4::DhcpOption;
use dhcproto::{Decodable, Decoder};
use std::collections::BTreeSet;

/// Each has its demonstration in [`DEMONSTRATIONS`](super::DEMONSTRATIONS): the day it fails is the
/// day to strike it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `file` and `sname` stay unread whatever option 52 says (RFC 2131 §4.1).
    Overload,
    /// Pieces of an option that other options or padding part are not joined: the last one stands
    /// for all (RFC 3396 §7).
    ScatteredPieces,
    /// An option that comes twice is joined, as RFC 3396 §7 has it, or the last instance counts.
    /// Servers that repeat an option do not mean one that is twice as long: the client takes the
    /// first instance of the right length where the option has a length and all instances together
    /// do not have it, and one of several equal texts or lists.
    Repeated,
    /// A last piece that overruns the message takes those before it with it.
    CutPiece,
    /// An option whose value cannot be decoded ends the reading: all behind it are lost, also where
    /// nobody wanted it.
    OneBadOption,
    /// A number that is longer than its type is read by its first bytes.
    LongNumber,
    /// Of a list of names (RFC 3397) those behind a name whose pointer leads astray are lost.
    PartOfNames,
    /// A list of names that is written in plain text is read as labels.
    PlainText,
    /// Of a list of routes with a mask beyond 32 bits (RFC 3442), those before it count.
    PartOfRoutes,
    /// Option 249, which is 121 under the number that it had before there was an RFC, is unknown.
    MicrosoftRoutes,
    /// Lengths that are asserted and not checked: a message makes the reader panic.
    Panic,
    /// The magic cookie may be anything.
    Magic,
}

/// A message as dhcproto can read it, and the faults that had to be kept out of its way. Where
/// there are none, these are the bytes that came.
pub fn heal(payload: &[u8]) -> (Vec<u8>, BTreeSet<Fault>) {
    let mut faults = BTreeSet::new();
    if payload[236..240] != MAGIC {
        faults.insert(Fault::Magic);
    }
    let mut options = collect(payload, &mut faults);
    let has_routes = |options: &[(u8, Vec<u8>)], code| {
        options
            .iter()
            .any(|(c, v)| *c == code && routes(v) == Whole::Yes)
    };
    if has_routes(&options, 249) && !has_routes(&options, 121) {
        faults.insert(Fault::MicrosoftRoutes);
        options.retain(|(code, _)| *code != 121);
        options
            .iter_mut()
            .filter(|(code, _)| *code == 249)
            .for_each(|(code, _)| *code = 121);
    }
    options.retain_mut(|(code, value)| {
        let Some(fault) = fault_in(*code, value) else {
            return true;
        };
        faults.insert(fault);
        let told = tell_again(*code, value);
        *value = told.clone().unwrap_or_default();
        told.is_some()
    });
    if faults.is_empty() {
        return (payload.to_vec(), faults);
    }
    let mut healed = payload[..240].to_vec();
    for (code, value) in options {
        let pieces: Vec<_> = if value.is_empty() {
            vec![&[][..]]
        } else {
            value.chunks(255).collect()
        };
        pieces
            .into_iter()
            .for_each(|piece| healed.extend([&[code, piece.len() as u8], piece].concat()));
    }
    healed.push(255);
    (healed, faults)
}

const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// An option, as often as it is there.
struct Told {
    code: u8,
    pieces: Vec<Vec<u8>>,
    is_scattered: bool,
}

impl Told {
    fn joined(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    fn value(&self) -> Vec<u8> {
        let joined = self.joined();
        match (fixed_length(self.code), &self.pieces[..]) {
            (Some(length), pieces) if joined.len() != length => pieces
                .iter()
                .find(|piece| piece.len() == length)
                .cloned()
                .unwrap_or(joined),
            // A piece of 255 bytes goes on in the next one (RFC 3396 §5).
            (None, [first, others @ ..])
                if first.len() < 255 && others.iter().all(|other| other == first) =>
            {
                first.clone()
            }
            _ => joined,
        }
    }

    fn fault(&self) -> Option<Fault> {
        match self.value() != self.joined() {
            true => Some(Fault::Repeated),
            false => self.is_scattered.then_some(Fault::ScatteredPieces),
        }
    }
}

/// The length of the options that have one.
fn fixed_length(code: u8) -> Option<usize> {
    match code {
        52 | 53 => Some(1),
        26 | 57 => Some(2),
        1 | 28 | 51 | 54 | 58 | 59 => Some(4),
        _ => None,
    }
}

/// The options of a message in the order of their first pieces.
fn collect(payload: &[u8], faults: &mut BTreeSet<Fault>) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    walk(&payload[240..], &mut options, faults);
    let overload = options.iter().find(|told| told.code == 52).map(Told::value);
    if let Some([fields @ 1..=3]) = overload.as_deref() {
        faults.insert(Fault::Overload);
        // No piece of an option goes on from one field to the next in dhcproto's eyes.
        let places = [(1, &payload[108..236]), (2, &payload[44..108])];
        places
            .into_iter()
            .filter(|(bit, _)| fields & bit != 0)
            .for_each(|(_, field)| walk(field, &mut options, faults));
    }
    faults.extend(options.iter().filter_map(Told::fault));
    options
        .into_iter()
        .map(|told| (told.code, told.value()))
        .collect()
}

fn walk(field: &[u8], options: &mut Vec<Told>, faults: &mut BTreeSet<Fault>) {
    let (mut at, mut last) = (0, None);
    while let Some(&code) = field.get(at).filter(|code| **code != 255) {
        if code == 0 {
            (at, last) = (at + 1, None);
            continue;
        }
        let value = field
            .get(at + 1)
            .and_then(|length| field.get(at + 2..at + 2 + usize::from(*length)));
        let Some(value) = value else {
            if last == Some(code) {
                faults.insert(Fault::CutPiece);
            }
            return;
        };
        match options.iter_mut().find(|known| known.code == code) {
            Some(known) => {
                known.is_scattered |= last != Some(code);
                known.pieces.push(value.to_vec());
            }
            None => options.push(Told {
                code,
                pieces: vec![value.to_vec()],
                is_scattered: false,
            }),
        }
        (at, last) = (at + 2 + value.len(), Some(code));
    }
}

/// Returns how dhcproto errs about an option that is not as it should be.
fn fault_in(code: u8, value: &[u8]) -> Option<Fault> {
    let number = fixed_length(code).filter(|_| !matches!(code, 1 | 28 | 54));
    match code {
        80 if !value.is_empty() => Some(Fault::Panic),
        81 if value.len() < 3 => Some(Fault::Panic),
        94 if value.len() != 3 => Some(Fault::Panic),
        152..=155 if value.len() != 4 => Some(Fault::Panic),
        _ if number.is_some_and(|length| value.len() > length) => Some(Fault::LongNumber),
        121 if routes(value) == Whole::MaskTooLong => Some(Fault::PartOfRoutes),
        119 if plain_names(value).is_some() => Some(Fault::PlainText),
        119 if Some(begins(value).len()) != names_read(value) => Some(Fault::PartOfNames),
        _ => decode(code, value).is_none().then_some(Fault::OneBadOption),
    }
}

/// Returns the good part of an option that is not as it should be, for dhcproto to read. Most
/// options have none.
fn tell_again(code: u8, value: &[u8]) -> Option<Vec<u8>> {
    match code {
        // One bad byte spoils the word that it is in.
        15 => Some(value.utf8_chunks().flat_map(readable).collect()),
        119 => Some(plain_names(value).unwrap_or_else(|| {
            let names = begins(value)
                .into_iter()
                .filter_map(|begin| labels(value, begin));
            names
                .filter(|labels| name(labels.iter().copied()).is_some())
                .flat_map(|labels| uncompressed(&labels))
                .collect()
        })),
        _ => None,
    }
}

fn readable(chunk: std::str::Utf8Chunk<'_>) -> Vec<u8> {
    let bad = if chunk.invalid().is_empty() { "" } else { "?" };
    [chunk.valid(), bad].concat().into_bytes()
}

/// One option as dhcproto reads it, however long.
fn decode(code: u8, value: &[u8]) -> Option<DhcpOption> {
    // An option of no length at all, or of more than one piece, is decoded as it would be in a
    // message.
    let pieces = if value.is_empty() {
        vec![&[][..]]
    } else {
        value.chunks(255).collect()
    };
    let bytes: Vec<u8> = pieces
        .into_iter()
        .flat_map(|piece| [&[code, piece.len() as u8], piece].concat())
        .collect();
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
        let Some(rest) = rest.get(usize::from(mask.div_ceil(8)) + 4..) else {
            return Whole::No;
        };
        value = rest;
    }
    Whole::Yes
}

/// Returns a list of names in plain text as RFC 3397 has it; `None` for any other value.
fn plain_names(value: &[u8]) -> Option<Vec<u8>> {
    let has_name = begins(value)
        .into_iter()
        .filter_map(|begin| labels(value, begin))
        .any(|labels| name(labels).is_some());
    let (names, is_whole) = domains(&String::from_utf8_lossy(value));
    let split =
        |name: &String| uncompressed(&name.split('.').map(str::as_bytes).collect::<Vec<_>>());
    (!has_name && is_whole && !names.is_empty()).then(|| names.iter().flat_map(split).collect())
}

fn uncompressed(labels: &[&[u8]]) -> Vec<u8> {
    let mut name: Vec<u8> = labels
        .iter()
        .flat_map(|label| [&[label.len() as u8], *label].concat())
        .collect();
    name.push(0);
    name
}

/// Returns where names begin in a list, as far as it is one. A name ends with a zero or a pointer,
/// wherever that leads.
fn begins(value: &[u8]) -> Vec<usize> {
    let (mut begins, mut begin, mut at) = (Vec::new(), 0, 0);
    while let Some(&length) = value.get(at) {
        at += match length {
            0 => 1,
            1..0x40 => 1 + usize::from(length),
            0x40..0xc0 => break,
            0xc0.. => 2,
        };
        if at <= value.len() && matches!(length, 0 | 0xc0..) {
            begins.push(begin);
            begin = at;
        }
    }
    begins
}

/// Returns the labels of a name. A pointer leads to what is before the part of the name that it
/// ends, or astray.
fn labels(value: &[u8], begin: usize) -> Option<Vec<&[u8]>> {
    let (mut labels, mut part, mut at) = (Vec::new(), begin, begin);
    loop {
        let length = usize::from(*value.get(at)?);
        at += 1;
        match length {
            0 => return Some(labels),
            1..0x40 => {
                labels.push(value.get(at..at + length)?);
                at += length;
            }
            0x40..0xc0 => return None,
            _ => {
                at = (length - 0xc0) * 256 + usize::from(*value.get(at)?);
                part = Some(at).filter(|at| *at < part)?;
            }
        }
    }
}

fn names_read(value: &[u8]) -> Option<usize> {
    match decode(119, value)? {
        DhcpOption::DomainSearch(names) => Some(names.len()),
        _ => None,
    }
}
