use proptest::prelude::*;

use super::*;

fn code(body: &[u8]) -> Code {
    message::<NetworkConfig>(body).unwrap_err().code
}

fn framed(flag: u8, length: u32, rest: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), rest].concat()
}

#[test]
fn a_body_is_exactly_one_message() {
    let name = [0x0a, 1, b'x'];
    let good = message::<NetworkConfig>(&framed(0, 3, &name)).unwrap();
    assert_eq!(
        good,
        NetworkConfig {
            host_iface: "x".into(),
            ..Default::default()
        }
    );

    assert_eq!(code(&[]), Code::InvalidArgument, "nothing");
    assert_eq!(code(&[0; 4]), Code::InvalidArgument, "half a prefix");
    assert_eq!(
        code(&framed(0, 4, &name)),
        Code::InvalidArgument,
        "too short"
    );
    assert_eq!(
        code(&framed(0, 2, &name)),
        Code::InvalidArgument,
        "too long"
    );
    assert_eq!(
        code(&framed(0, 3, &[&name[..], &framed(0, 0, &[])].concat())),
        Code::InvalidArgument,
        "two messages"
    );
    assert_eq!(
        code(&framed(1, 3, &name)),
        Code::Unimplemented,
        "compressed"
    );
    assert_eq!(
        code(&framed(0, u32::MAX, &name)),
        Code::ResourceExhausted,
        "4 GiB"
    );
    assert_eq!(
        code(&framed(0, MESSAGE_LIMIT as u32 + 1, &[])),
        Code::ResourceExhausted,
        "one byte too many"
    );
    assert_eq!(
        code(&framed(0, 3, &[0x0a, 1, 0xff])),
        Code::InvalidArgument,
        "no UTF-8"
    );
    assert_eq!(
        code(&framed(0, 3, &[0x0a, 9, b'x'])),
        Code::InvalidArgument,
        "a string beyond the end"
    );
}

/// Tests every field with its tag: the field number times eight, plus 2 for a string or 0 for a
/// number.
#[test]
fn requests_have_netavarks_field_numbers() {
    let config = NetworkConfig {
        host_iface: "1".into(),
        container_iface: "2".into(),
        container_mac_addr: "3".into(),
        domain_name: "4".into(),
        host_name: "5".into(),
        version: Version::V6.into(),
        ns_path: "7".into(),
        container_id: "8".into(),
    };
    let wire = [
        [0x0a, 1, b'1'].as_slice(),
        &[0x12, 1, b'2'],
        &[0x1a, 1, b'3'],
        &[0x22, 1, b'4'],
        &[0x2a, 1, b'5'],
        &[0x30, 1],
        &[0x3a, 1, b'7'],
        &[0x42, 1, b'8'],
    ]
    .concat();
    assert_eq!(config.encode_to_vec(), wire);
    assert_eq!(NetworkConfig::decode(wire.as_slice()).unwrap(), config);
}

fn every_field() -> NetavarkLease {
    NetavarkLease {
        t1: 1,
        t2: 2,
        lease_time: 3,
        mtu: 4,
        domain_name: "5".into(),
        mac_address: "6".into(),
        is_v6: true,
        siaddr: "11".into(),
        yiaddr: "12".into(),
        srv_id: "16".into(),
        subnet_mask: "17".into(),
        broadcast_addr: "18".into(),
        dns_servers: vec!["19".into(), "19".into()],
        gateways: vec!["20".into()],
        ntp_servers: vec!["21".into()],
        host_name: "22".into(),
    }
}

#[test]
fn replies_have_netavarks_field_numbers() {
    // From field 16 on a tag takes two bytes, low seven bits first.
    let wire = [
        [0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4].as_slice(),
        &[0x2a, 1, b'5'],
        &[0x32, 1, b'6'],
        &[0x50, 1],
        b"\x5a\x0211",
        b"\x62\x0212",
        b"\x82\x01\x0216",
        b"\x8a\x01\x0217",
        b"\x92\x01\x0218",
        b"\x9a\x01\x0219\x9a\x01\x0219",
        b"\xa2\x01\x0220",
        b"\xaa\x01\x0221",
        b"\xb2\x01\x0222",
    ]
    .concat();
    assert_eq!(every_field().encode_to_vec(), wire);
    assert_eq!(
        NetavarkLease::decode(wire.as_slice()).unwrap(),
        every_field()
    );
    assert_eq!(
        OperationResponse { success: true }.encode_to_vec(),
        [0x08, 1]
    );
    assert_eq!(
        &Reply::Operation(OperationResponse { success: true }).encode()[..],
        [0, 0, 0, 0, 2, 0x08, 1]
    );
}

fn identity() -> LeaseIdentity {
    LeaseIdentity {
        mac: "1".into(),
        namespace: "2".into(),
        interface: "3".into(),
    }
}

/// The numbers of the second service, which other versions know as well.
#[test]
fn operators_messages_have_the_field_numbers_of_the_documentation() {
    let lease = b"\x0a\x011\x12\x012\x1a\x013";
    let selection = LeaseSelection {
        all: true,
        leases: vec![identity()],
    };
    let wire = [&[0x08, 1, 0x12, 9][..], lease].concat();
    assert_eq!(selection.encode_to_vec(), wire);
    assert_eq!(LeaseSelection::decode(wire.as_slice()).unwrap(), selection);
    let outcomes = LeaseOutcomes {
        leases: vec![LeaseOutcome {
            lease: Some(identity()),
            address_before: "b".into(),
            address_after: "a".into(),
            result: LeaseResult::Failed.into(),
            reason: "r".into(),
        }],
    };
    let outcome = [
        &[0x0a, 9][..],
        lease,
        b"\x12\x01b\x1a\x01a\x20\x06\x2a\x01r",
    ]
    .concat();
    let wire = [&[0x0a, outcome.len() as u8][..], &outcome].concat();
    assert_eq!(outcomes.encode_to_vec(), wire);
    assert_eq!(LeaseOutcomes::decode(wire.as_slice()).unwrap(), outcomes);
    let call = Call::Release(LeaseSelection::default());
    let reply = Reply::Outcomes(outcomes);
    assert_eq!(call.decode_reply(&reply.encode()), Ok(reply));
    for (number, result) in [
        (0, LeaseResult::Unknown),
        (1, LeaseResult::Renewed),
        (2, LeaseResult::Changed),
        (3, LeaseResult::NewAddress),
        (4, LeaseResult::Released),
        (5, LeaseResult::NoLease),
        (6, LeaseResult::Failed),
        (7, LeaseResult::LeftToExpire),
    ] {
        assert_eq!(LeaseResult::try_from(number), Ok(result));
    }
}

#[test]
fn an_answer_may_be_longer_than_a_request() {
    let long = LeaseOutcomes {
        leases: vec![LeaseOutcome::default(); MESSAGE_LIMIT],
    };
    let body = Reply::Outcomes(long.clone()).encode();
    let call = Call::Renew(LeaseSelection::default());
    assert_eq!(call.decode_reply(&body), Ok(Reply::Outcomes(long)));
    let cut = &body[..body.len() - 1];
    assert_eq!(
        call.decode_reply(cut).unwrap_err().code,
        Code::InvalidArgument
    );
    let too_long = framed(0, ANSWER_LIMIT as u32 + 1, &[]);
    assert_eq!(
        call.decode_reply(&too_long).unwrap_err().code,
        Code::ResourceExhausted
    );
}

#[test]
fn a_lease_is_an_entry_of_netavarks_lease_file() {
    let json = serde_json::json!({
        "t1": 1, "t2": 2, "lease_time": 3, "mtu": 4, "domain_name": "5", "mac_address": "6", "is_v6": true,
        "siaddr": "11", "yiaddr": "12", "srv_id": "16", "subnet_mask": "17", "broadcast_addr": "18",
        "dns_servers": ["19", "19"], "gateways": ["20"], "ntp_servers": ["21"], "host_name": "22",
    });
    assert_eq!(serde_json::to_value(every_field()).unwrap(), json);
}

#[test]
fn a_path_is_a_call() {
    let config = NetworkConfig {
        ns_path: "/run/netns/x".into(),
        ..Default::default()
    };
    let some = LeaseSelection {
        all: false,
        leases: vec![identity()],
    };
    for (call, is_control) in [
        (Call::Setup(config.clone()), false),
        (Call::Teardown(config), false),
        (Call::Clean, false),
        (Call::Renew(some.clone()), true),
        (Call::Release(some), true),
    ] {
        assert_eq!(call.is_control(), is_control);
        let (path, body) = call.encode();
        let service = path.starts_with("/smol_dhcp_proxy.Control/");
        assert_eq!(service, is_control, "{path}");
        assert_eq!(Call::decode(&path, &body), Ok(call));
    }
    for path in [
        "",
        "/",
        "/netavark_proxy.NetavarkProxy/",
        "/netavark_proxy.NetavarkProxy/setup",
        "/netavark_proxy.NetavarkProxy/Renew",
        "/smol_dhcp_proxy.Control/Setup",
        "/smol_dhcp_proxy.Control/",
        "/other/Setup",
    ] {
        assert_eq!(
            Call::decode(path, &[0; 5]).unwrap_err().code,
            Code::Unimplemented,
            "{path}"
        );
    }
}

#[test]
fn timeouts_are_digits_and_a_unit() {
    assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
    assert_eq!(timeout("2M"), Some(Duration::from_secs(120)));
    assert_eq!(timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
    assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
    assert_eq!(timeout("5u"), Some(Duration::from_micros(5)));
    assert_eq!(timeout("5n"), Some(Duration::from_nanos(5)));
    for bad in [
        "",
        "S",
        "1",
        "+1S",
        "-1S",
        "1.5S",
        "123456789S",
        "1x",
        "1é",
        "é",
    ] {
        assert_eq!(timeout(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(path in ".*", body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Call::decode(&path, &body);
        let _ = timeout(&path);
        for method in [
            format!("{SERVICE}Setup"),
            format!("{SERVICE}Teardown"),
            format!("{SERVICE}Clean"),
            format!("{CONTROL}Renew"),
            format!("{CONTROL}Release"),
        ] {
            let _ = Call::decode(&method, &framed(0, body.len() as u32, &body));
        }
        let _ = Call::Renew(LeaseSelection::default()).decode_reply(&framed(0, body.len() as u32, &body));
    }
}
