//! Requests for a previous address (RFC 2131 §3.2), and leases from a file.

use super::double::{Lost::*, Says::*, *};
use smol_dhcp_proxy::dhcp::{Ignored, Lease};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;

#[test]
fn a_server_confirms_the_previous_address() {
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0)
        .sends(reboot_request(IP))
        .hears(ack(IP, hours(1)).from(OTHER_SERVER))
        .says(Bound(IP));
}

/// Two attempts within 5 s, then any address, and this one first.
#[test]
fn without_an_answer_a_discover_follows() {
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0).sends(reboot_request(IP));
    c.at(2).sends(reboot_request(IP));
    c.at(5).sends(discover().wanting(IP));
    c.hears(offer(OTHER_IP))
        .at(5.1)
        .sends(request(OTHER_IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP));
}

/// RFC 2131 §3.2 (4): a client that moved to another network gets a NAK, and forgets the address.
#[test]
fn any_server_may_refuse_the_previous_address() {
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0)
        .sends(reboot_request(IP))
        .hears(nak().from(OTHER_SERVER))
        .sends(discover());
}

#[test]
fn the_deadline_ends_a_reboot() {
    let mut c = Conversation::reboot(IP)
        .without_fuzz()
        .configured(|config| config.deadline = Some(seconds(3)));
    c.at(0).sends(reboot_request(IP));
    c.at(2).sends(reboot_request(IP));
    c.at(3)
        .says(gave_up("no DHCPOFFER within 3 s (0 DISCOVERs sent)"));
}

/// A lease of ten minutes, `age` seconds old when the conversation starts.
fn kept(age: u64, server_mac: Option<Mac>) -> Lease {
    let acquired_at = Instant::from_boot(start_of_time().since_boot() - seconds(age));
    let lease = Conversation::bound(seconds(600)).lease().clone();
    Lease {
        acquired_at,
        server_mac,
        ..lease
    }
}

#[test]
fn a_stored_lease_continues_at_its_time() {
    let mut c = Conversation::resume(bound_with(kept(0, None))).without_fuzz();
    c.at(300)
        .sends(renew(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));

    Conversation::resume(bound_with(kept(400, None)))
        .without_fuzz()
        .at(0)
        .sends(renew(IP));
    Conversation::resume(bound_with(kept(550, None)))
        .without_fuzz()
        .at(0)
        .sends(rebind(IP));
    let mut c = Conversation::resume(bound_with(kept(600, None))).without_fuzz();
    c.at(0).says(Lost(IP, Expired)).sends(reboot_request(IP));
}

/// A lease comes from the caller, and may be invalid.
#[test]
fn an_invalid_stored_lease_does_not_panic() {
    let odd = Lease {
        t1: seconds(500),
        t2: seconds(400),
        ..kept(0, None)
    };
    let mut c = Conversation::resume(bound_with(odd.clone())).without_fuzz();
    c.at(500).sends(rebind(IP));
    let mut c = Conversation::resume(bound_with(odd)).without_fuzz();
    c.at(10).carrier(false).carrier(true).sends(renew(IP));
}

#[test]
fn a_stored_lease_can_be_released() {
    let mut c = Conversation::resume(bound_with(kept(0, Some(SERVER_MAC))));
    c.at(1).releases().sends(goodbye(IP)).says(Released);
}

#[test]
fn a_release_resolves_the_servers_mac() {
    let mut c = Conversation::resume(bound_with(kept(0, None)));
    c.at(1).releases().sends(who_has(SERVER));
    let stranger = arp_reply(OTHER_SERVER, SERVER_MAC);
    c.ignores_frame(&stranger, Ignored::NotDhcp);
    c.at(1.1)
        .hears_frame(&arp_reply(SERVER, SERVER_MAC))
        .sends(goodbye(IP))
        .says(Released);
}

#[test]
fn a_release_waits_200_ms_for_the_mac_and_no_longer() {
    let mut c = Conversation::resume(bound_with(kept(0, None)));
    c.at(1).releases().sends(who_has(SERVER)).releases();
    c.at(1.2).says(Released);
}

#[test]
fn a_release_to_another_subnet_goes_to_the_router() {
    let far = [192, 0, 2, 1].into();
    let mut c = Conversation::resume(bound_with(Lease {
        server_id: far,
        ..kept(0, None)
    }));
    c.at(1)
        .releases()
        .sends(who_has(SERVER))
        .hears_frame(&arp_reply(SERVER, SERVER_MAC));
    c.sends(goodbye(IP).to(far)).says(Released);

    let mut c = Conversation::resume(bound_with(Lease {
        server_id: far,
        routers: vec![],
        ..kept(0, None)
    }));
    c.at(1).releases().says(Released);
}
