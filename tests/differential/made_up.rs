//! Messages that no server sends in this variety: good, odd and broken options, in pieces,
//! overloaded, padded and cut.

use super::{CLIENT_ID, MAC};
use proptest::collection::vec;
use proptest::prelude::*;

/// A piece of an option, and where it goes.
type Piece = (u8, Vec<u8>);

/// An end that begins the last option once more, and overruns.
const AGAIN: &[u8] = &[254];

pub fn messages() -> impl Strategy<Value = Vec<u8>> {
    let frame_of_it = (
        prop::sample::select(vec![0_u8, 0, 0, 0, 1, 2, 3, 4]),
        any::<[u8; 192]>(),
        any::<[u8; 4]>(),
    );
    let address = prop_oneof![
        20 => any::<[u8; 4]>(),
        1 => prop::sample::select(vec![[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]]),
    ];
    let end = prop::sample::select(vec![
        &[255][..],
        &[255, 6, 4, 1, 2, 3, 4],
        &[],
        &[0, 0],
        &[6, 9, 1],
        AGAIN,
    ]);
    let chaddr = prop_oneof![20 => Just(MAC.0), 2 => Just([0; 6]), 1 => any::<[u8; 6]>()];
    (options(), frame_of_it, (address, chaddr), end).prop_map(
        |(pieces, (overload, fields, next), (ip, chaddr), end)| {
            let mut message = write(pieces, overload, &fields, next, ip, end);
            message[28..34].copy_from_slice(&chaddr);
            message
        },
    )
}

/// The options of a message, each in one piece or in several, in order or scattered.
fn options() -> impl Strategy<Value = Vec<Piece>> {
    let needed = vec![
        one(53, Just(vec![5]).boxed()),
        one(54, vec(1..=255_u8, 4).boxed()),
        one(
            51,
            prop_oneof![
                vec(any::<u8>(), 4),
                Just(vec![255; 4]),
                Just(vec![0, 0, 0, 7])
            ]
            .boxed(),
        ),
    ];
    let known: Vec<_> = KNOWN.iter().map(|code| one(*code, good(*code))).collect();
    let needed = (
        needed,
        prop::option::weighted(0.05, any::<prop::sample::Index>()),
    );
    let known = prop::sample::subsequence(known, 0..=KNOWN.len()).prop_flat_map(|some| some);
    let odd_code = prop_oneof![3 => prop::sample::select(KNOWN.to_vec()), 1 => 1..=254_u8];
    let odd = vec((odd_code, vec(any::<u8>(), 0..14)), 0..2).prop_map(|all| all);
    let odd = prop_oneof![2 => Just(Vec::new()), 1 => odd];
    let cuts = prop_oneof![2 => Just(Vec::new()), 1 => vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6)];
    let again = (
        any::<prop::sample::Index>(),
        prop_oneof![3 => Just(None), 2 => vec(any::<u8>(), 0..6).prop_map(Some)],
    );
    let again = prop_oneof![3 => Just(Vec::new()), 1 => vec((again, any::<bool>()), 1..4)];
    let scatter = prop_oneof![2 => Just(Vec::new()), 1 => vec(any::<u8>(), 40)];
    (needed, known, odd, again, cuts, scatter).prop_map(
        |((mut pieces, lost), known, odd, again, cuts, scatter)| {
            if let Some(lost) = lost {
                pieces.remove(lost.index(pieces.len()));
            }
            pieces.extend(known);
            pieces.extend(odd);
            // More than an option holds goes into the next piece (RFC 3396 §5).
            pieces = pieces
                .into_iter()
                .flat_map(|(code, value)| split(code, &value))
                .collect();
            for ((which, other), at_once) in again {
                let which = which.index(pieces.len());
                let (code, value) = pieces[which].clone();
                pieces.insert(
                    if at_once { which + 1 } else { pieces.len() },
                    (code, other.unwrap_or(value)),
                );
            }
            for (which, at) in cuts {
                let which = which.index(pieces.len());
                let (code, value) = &mut pieces[which];
                let piece = (*code, value.split_off(at.index(value.len() + 1)));
                pieces.insert(which + 1, piece);
            }
            if !scatter.is_empty() {
                scatter_pieces(&mut pieces, &scatter);
            }
            pieces
        },
    )
}

/// Puts pieces in another order; those of one option stay in theirs.
fn scatter_pieces(pieces: &mut Vec<Piece>, keys: &[u8]) {
    let mut codes: Vec<_> = pieces
        .iter()
        .enumerate()
        .map(|(at, (code, _))| (keys.get(at), *code))
        .collect();
    codes.sort_by_key(|(key, _)| *key);
    *pieces = codes
        .into_iter()
        .map(|(_, code)| {
            pieces.remove(pieces.iter().position(|(other, _)| *other == code).unwrap())
        })
        .collect();
}

/// What a lease is made of, and what servers send besides.
const KNOWN: [u8; 18] = [
    1, 3, 6, 12, 15, 26, 28, 33, 42, 58, 59, 61, 119, 121, 249, 43, 46, 252,
];

fn one(code: u8, value: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Piece> {
    value.prop_map(move |value| (code, value)).boxed()
}

/// Values that an option may have.
fn good(code: u8) -> BoxedStrategy<Vec<u8>> {
    let bytes = |length: usize| vec(any::<u8>(), length);
    let many = |length: usize, most: usize| {
        vec(vec(any::<u8>(), length), 1..most).prop_map(|all| all.concat())
    };
    let name = "[a-zA-Z0-9_-]{1,12}(\\.[a-z0-9]{1,9}){0,3}\\.?\0{0,2}";
    match code {
        1 => prop_oneof![
            6 => (0..=32_u32).prop_map(|ones| u32::MAX.checked_shl(32 - ones).unwrap_or(0).to_be_bytes().to_vec()),
            1 => bytes(4),
        ]
        .boxed(),
        3 | 6 | 42 => prop_oneof![many(4, 6), many(4, 90)].boxed(),
        15 => prop_oneof![4 => name.prop_map(String::into_bytes), 2 => domains(), 1 => vec(any::<u8>(), 0..9)].boxed(),
        12 => prop_oneof![4 => name, 1 => "\\PC{0,20}"].prop_map(String::into_bytes).boxed(),
        26 => prop_oneof![9 => bytes(2), 1 => vec(any::<u8>(), 3..9)].boxed(),
        28 | 58 | 59 => {
            prop_oneof![bytes(4), Just(vec![0; 4]), bytes(1).prop_map(|byte| [&[0; 3][..], &byte].concat())].boxed()
        }
        33 => prop_oneof![many(8, 5), many(4, 3).prop_map(|all| [&[192, 168, 7, 0][..], &all[..4]].concat())].boxed(),
        46 => Just(vec![8]).boxed(),
        61 => prop_oneof![9 => Just(CLIENT_ID.to_vec()), 1 => bytes(3)].boxed(),
        119 => prop_oneof![4 => search(), 1 => domains()].boxed(),
        121 | 249 => vec(route(), 1..60).prop_map(|routes| routes.concat()).boxed(),
        _ => vec(any::<u8>(), 0..60).boxed(),
    }
}

/// Domains as an operator writes them, or something that is none among them, or more of them than
/// count.
fn domains() -> impl Strategy<Value = Vec<u8>> {
    let some = "[ ,]?[a-z]{1,9}(\\.[a-z]{1,9}){0,2}([ ,]{1,2}[a-zA-Z0-9_-]{1,9}(\\.[a-z]{1,9}){0,2}\\.?){0,4}[\0\n ]{0,2}";
    let odd = "[a-z]{1,9} ([a-z.!\t]{1,9},){1,3}\\PC{0,3}[a-z]{1,9}";
    let many = "([a-z]{1,3}[ ,]){28,36}[a-z!]{1,3}";
    prop_oneof![6 => some, 2 => odd, 1 => many].prop_map(String::into_bytes)
}

fn route() -> impl Strategy<Value = Vec<u8>> {
    let gateway = prop_oneof![3 => any::<[u8; 4]>(), 1 => Just([0; 4])];
    (
        prop_oneof![400 => 0..=32_u8, 1 => any::<u8>()],
        any::<[u8; 4]>(),
        gateway,
    )
        .prop_map(|(mask, to, gateway)| {
            [
                &[mask][..],
                &to[..usize::from(mask.div_ceil(8)).min(4)],
                &gateway,
            ]
            .concat()
        })
}

/// Names, some of which end with a part of an earlier one, or rarely with anything at all.
fn search() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![15 => "[a-zA-Z0-9-]{1,12}", 1 => "[a-z.! \0]{1,5}"];
    let labels = vec(label, 0..4);
    let end = prop::sample::select(vec![
        "zero", "zero", "zero", "zero", "earlier", "earlier", "earlier", "any",
    ]);
    vec(
        (labels, end, any::<prop::sample::Index>(), any::<u8>()),
        1..6,
    )
    .prop_map(|names| {
        let (mut field, mut begins) = (Vec::new(), Vec::new());
        for (labels, end, which, byte) in names {
            let earlier = begins.len();
            for label in labels {
                begins.push(field.len() as u8);
                field.extend([&[label.len() as u8], label.as_bytes()].concat());
            }
            match end {
                "earlier" if earlier > 0 => field.extend([0xc0, begins[which.index(earlier)]]),
                "any" => field.extend([byte, byte / 2]),
                _ => field.push(0),
            }
        }
        field
    })
}

fn split(code: u8, value: &[u8]) -> Vec<Piece> {
    let pieces = value.chunks(255).map(|piece| (code, piece.to_vec()));
    if value.is_empty() {
        vec![(code, Vec::new())]
    } else {
        pieces.collect()
    }
}

fn write(
    pieces: Vec<Piece>,
    overload: u8,
    fields: &[u8; 192],
    next: [u8; 4],
    ip: [u8; 4],
    end: &[u8],
) -> Vec<u8> {
    let mut payload = vec![0; 240];
    payload[..4].copy_from_slice(&[2, 1, 6, 0]);
    payload[16..20].copy_from_slice(&ip);
    payload[20..24].copy_from_slice(&next);
    payload[44..236].copy_from_slice(fields);
    payload[236..].copy_from_slice(&[99, 130, 83, 99]);
    if overload > 0 {
        payload.extend([52, 1, overload]);
    }
    // Every third piece goes where the overload makes room, while there is some; the first ones
    // stay.
    let (mut file, mut sname) = (Vec::new(), Vec::new());
    let end = if end == AGAIN {
        &[pieces.last().map_or(6, |(code, _)| *code), 9, 1]
    } else {
        end
    };
    for (index, (code, value)) in pieces.into_iter().enumerate() {
        let piece = [&[code, value.len() as u8][..], &value].concat();
        match index % 3 {
            1 if matches!(overload, 1 | 3) && file.len() + piece.len() < 128 => file.extend(piece),
            2 if matches!(overload, 2 | 3) && sname.len() + piece.len() < 64 => sname.extend(piece),
            _ => payload.extend(piece),
        }
    }
    payload.extend(end);
    if !file.is_empty() {
        file.push(255);
        payload[108..108 + file.len()].copy_from_slice(&file);
    }
    if !sname.is_empty() {
        sname.resize(64, 0);
        payload[44..108].copy_from_slice(&sname);
    }
    payload
}
