use netlink_packet_core::NetlinkHeader;

use super::*;

const SEQUENCE: u32 = 7;

/// Encodes a message with its correct length.
fn message(kind: i32, flags: i32, body: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.length = (HEADER + body.len()) as u32;
    header.message_type = kind as u16;
    header.flags = flags as u16;
    header.sequence_number = SEQUENCE;
    let mut message = vec![0; HEADER];
    header.emit(&mut message);
    message.extend(body);
    message
}

/// Reads datagrams until a result ends the exchange. Returns the bodies of the entries and that
/// result.
fn read(datagrams: &[Vec<u8>]) -> (Vec<Vec<u8>>, Option<Result<DumpState>>) {
    let (mut reader, mut bodies) = (Reader::new(SEQUENCE), Vec::new());
    for datagram in datagrams {
        let read = reader.read(datagram, &mut |body| {
            bodies.push(body.to_vec());
            Ok(())
        });
        match read {
            Ok(Progress::Unfinished) => {}
            Ok(Progress::Done(table)) => return (bodies, Some(Ok(table))),
            Err(error) => return (bodies, Some(Err(error))),
        }
    }
    (bodies, None)
}

#[test]
fn a_datagram_is_split_into_messages_and_a_truncated_one_ends_it() {
    let two = [message(16, 0, &[1, 2, 3]), vec![0], message(16, 0, &[4])].concat();
    let bodies: Vec<_> = Messages(&two)
        .map(|message| message.map(|message| message.body.to_vec()))
        .collect();
    assert!(matches!(&bodies[..], [Ok(one), Ok(two)] if one[..] == [1, 2, 3] && two[..] == [4]));
    for length in (1..two.len() - 1).filter(|length| ![19, 20].contains(length)) {
        assert!(
            Messages(&two[..length])
                .last()
                .is_some_and(|last| last.is_err()),
            "{length}"
        );
    }
    // Lengths that make no progress or exceed the datagram.
    for length in [0_u32, 15, u32::MAX] {
        let mut broken = message(16, 0, &[]);
        broken[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(
            Messages(&broken).filter(|message| message.is_err()).count(),
            1,
            "{length}"
        );
    }
}

#[test]
fn an_acknowledgement_has_its_errno_and_text_with_and_without_the_request() {
    let errno = (-libc::EINVAL).to_ne_bytes();
    let text = [&[10, 0, 1, 0][..], b"no\0w?\0\0\0"].concat();
    let request = message(16, 0, &[9; 6]);
    let capped = [&errno[..], &request[..HEADER], &text].concat();
    let whole = [&errno[..], &request, &[0, 0], &text].concat();
    for (flags, body) in [
        (NLM_F_ACK_TLVS | NLM_F_CAPPED, &capped),
        (NLM_F_ACK_TLVS, &whole),
    ] {
        let datagram = message(libc::NLMSG_ERROR, flags, body);
        for message in Messages(&datagram).flatten() {
            let error = acknowledged(&message).expect_err("an errno");
            assert_eq!(
                (error.errno(), error.explanation()),
                (Some(libc::EINVAL), Some("no\0w?"))
            );
        }
        // At every truncation it is still an error.
        for length in 0..body.len() {
            let datagram = message(libc::NLMSG_ERROR, flags, &body[..length]);
            assert!(
                Messages(&datagram)
                    .flatten()
                    .all(|message| acknowledged(&message).is_err()),
                "{length}"
            );
        }
    }
    let datagram = message(libc::NLMSG_ERROR, 0, &0_i32.to_ne_bytes());
    assert!(
        Messages(&datagram)
            .flatten()
            .all(|message| acknowledged(&message).is_ok())
    );
}

#[test]
fn an_exchange_collects_its_own_answers_up_to_the_acknowledgement() {
    let mut stale = message(16, 0, &[9]);
    stale[8] = 6;
    let done = message(libc::NLMSG_DONE, 0, &0_i32.to_ne_bytes());
    let datagrams = [
        stale,
        message(16, 0, &[1]),
        [message(16, 0, &[2; 4]), done.clone()].concat(),
    ];
    let (bodies, end) = read(&datagrams);
    assert_eq!(bodies, [vec![1], vec![2; 4]]);
    assert!(matches!(end, Some(Ok(DumpState::Consistent))));
    assert!(read(&datagrams[..2]).1.is_none());

    let (_, end) = read(&[message(16, libc::NLM_F_DUMP_INTR, &[1]), done]);
    assert!(matches!(end, Some(Ok(DumpState::Changed))));
}

#[test]
fn an_exchange_without_an_end_is_given_up() {
    let too_many =
        |end: &Option<Result<DumpState>>| matches!(end, Some(Err(NetlinkError::TooMany { .. })));
    let (bodies, end) = read(&vec![message(16, 0, &[0; 4]); MAX_ENTRIES + 1]);
    assert_eq!(bodies.len(), MAX_ENTRIES);
    assert!(too_many(&end), "{end:?}");
    let (bodies, end) = read(&vec![message(16, 0, &[0; (1 << 16) - HEADER]); 100]);
    assert_eq!(bodies.len(), MAX_BYTES >> 16);
    assert!(too_many(&end), "{end:?}");

    let mut stale = message(16, 0, &[9]);
    stale[8] = 6;
    let (_, end) = read(&vec![stale; MAX_SKIPPED]);
    assert!(end.is_none());
    for useless in [message(libc::NLMSG_NOOP, 0, &[]), Vec::new()] {
        let (_, end) = read(&vec![useless; MAX_SKIPPED + 1]);
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }
    let mut reader = Reader::new(SEQUENCE);
    assert_eq!(
        (0..1000).take_while(|_| reader.skip().is_ok()).count(),
        MAX_SKIPPED
    );
}
