//! Stations that answer ARP for every address (proxy ARP), and stations that only seem to.

use super::double::{Lost::*, Says::*, *};
use dhcproto::v4::DhcpOption;
use smol_dhcp_proxy::dhcp::{Ignored, Probe};
use smol_dhcp_proxy::mac::Mac;
use std::net::Ipv4Addr;

/// A station that is not the DHCP server's.
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// A station that has its address.
const OWNER: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// The router, where it is not the DHCP server.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

fn asking() -> Conversation {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c
}

fn ack_with_router(ip: Ipv4Addr) -> Answer {
    ack(ip, hours(1)).with(DhcpOption::Router(vec![ROUTER]))
}

/// The DHCP server's own station has no claim to a leased address: it is reported once, and the
/// address is used.
#[test]
fn the_servers_station_is_no_conflict() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, SERVER_MAC)).says(ProxyArp(IP));
    c.ignores_frame(&arp_reply(IP, SERVER_MAC), Ignored::NotDhcp);
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.at(1)
        .ignores_frame(&arp_reply(IP, SERVER_MAC), Ignored::NotDhcp);
    c.at(2).sends(announcement(IP));
    c.at(1800)
        .sends(renew(IP))
        .sends(probe(IP))
        .ignores_frame(&arp_reply(IP, SERVER_MAC), Ignored::NotDhcp);
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
}

/// Its answer may be late, when the address is in use.
#[test]
fn a_late_answer_of_the_servers_station_is_no_conflict() {
    for is_in_use in [false, true] {
        let mut c = asking();
        c.hears(ack(IP, hours(1)))
            .says(Bound(IP))
            .sends(announcement(IP));
        if is_in_use {
            c.client().mark_in_use();
        }
        c.at(0.03)
            .hears_frame(&arp_reply(IP, SERVER_MAC))
            .says(ProxyArp(IP));
        c.at(2).sends(announcement(IP));
    }
}

#[test]
fn the_servers_station_is_known_after_probes_and_reboot() {
    let mut c = Conversation::start()
        .without_fuzz()
        .with_arp()
        .configured(|config| config.probe = Probe::Before(1));
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    c.at(1)
        .sends(probe(IP))
        .hears_frame(&arp_reply(IP, SERVER_MAC))
        .says(ProxyArp(IP));
    c.at(3).says(Bound(IP)).sends(announcement(IP));
    c.at(5).sends(announcement(IP));

    // Only the ACK shows that it is the server's station.
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0)
        .sends(reboot_request(IP))
        .hears_frame(&arp_reply(IP, SERVER_MAC));
    c.hears(ack(IP, hours(1)))
        .says(ProxyArp(IP))
        .says(Bound(IP));
}

/// A server that leases its own address, or the router's, is wrong, and the claim counts.
#[test]
fn the_servers_own_address_is_declined() {
    let mut c = Conversation::start().without_fuzz();
    c.at(0)
        .sends(discover())
        .hears(offer(SERVER))
        .sends(request(SERVER))
        .hears_frame(&arp_reply(SERVER, SERVER_MAC));
    c.hears(ack(SERVER, hours(1)))
        .forget_events()
        .sends(decline(SERVER))
        .sends(discover());
}

/// The first claim of another station counts.
#[test]
fn a_claim_to_a_second_address_is_proxy_arp() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, GATEWAY))
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP));
    c.sends(discover())
        .hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears_frame(&arp_reply(OTHER_IP, GATEWAY))
        .says(ProxyArp(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(1)
        .ignores_frame(&arp_reply(OTHER_IP, GATEWAY), Ignored::NotDhcp);
    c.at(2).sends(announcement(OTHER_IP));
}

/// The same for answers after the ACK.
#[test]
fn a_late_claim_to_a_second_address_is_proxy_arp() {
    let mut c = asking();
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.at(0.03)
        .hears_frame(&arp_reply(IP, GATEWAY))
        .says(Lost(IP, Conflict))
        .sends(decline(IP))
        .sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.client().mark_in_use();
    c.at(0.06)
        .hears_frame(&arp_reply(OTHER_IP, GATEWAY))
        .says(ProxyArp(OTHER_IP));
    c.at(2.03).sends(announcement(OTHER_IP));
}

/// It does not cost a lease in use either, and a forger gets one announcement.
#[test]
fn a_claim_to_an_address_in_use_is_remembered() {
    let mut c = asking();
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.client().mark_in_use();
    c.at(0.5)
        .hears_frame(&arp_reply(IP, GATEWAY))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(0.6)
        .hears_frame(&arp_reply(IP, GATEWAY))
        .says(Lost(IP, Conflict))
        .sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears_frame(&arp_reply(OTHER_IP, GATEWAY))
        .says(ProxyArp(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(2.6).sends(announcement(OTHER_IP));
}

/// Two gateways that both answer cost one address, not one each.
#[test]
fn two_stations_with_proxy_arp() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, SERVER_MAC))
        .says(ProxyArp(IP))
        .hears_frame(&arp_reply(IP, GATEWAY));
    c.hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears_frame(&arp_reply(OTHER_IP, GATEWAY))
        .says(ProxyArp(OTHER_IP));
    c.ignores_frame(&arp_reply(OTHER_IP, SERVER_MAC), Ignored::NotDhcp);
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(2).sends(announcement(OTHER_IP));
}

/// An address with an owner is declined, whatever other station answers for it, before or after the
/// owner.
#[test]
fn an_owner_is_found_beside_proxy_arp() {
    for first in [SERVER_MAC, OWNER] {
        let mut c = asking();
        let second = if first == OWNER { SERVER_MAC } else { OWNER };
        for station in [first, second] {
            c.hears_frame(&arp_reply(IP, station));
            if station == SERVER_MAC {
                c.says(ProxyArp(IP));
            }
        }
        c.hears(ack(IP, hours(1)))
            .sends(decline(IP))
            .says(Declined(IP))
            .sends(discover());
    }
    // The owner is also found if only the ACK shows which of them is the server.
    for [first, second] in [[SERVER_MAC, OWNER], [OWNER, SERVER_MAC]] {
        let mut c = Conversation::reboot(IP).without_fuzz();
        c.at(0)
            .sends(reboot_request(IP))
            .hears_frame(&arp_reply(IP, first))
            .hears_frame(&arp_reply(IP, second));
        c.hears(ack(IP, hours(1)))
            .says(ProxyArp(IP))
            .sends(decline(IP))
            .says(Declined(IP))
            .sends(discover());
    }
}

/// Stations that the owner of the client has stored for this network.
#[test]
fn a_known_station_is_no_conflict() {
    let mut c = Conversation::start()
        .without_fuzz()
        .configured(|config| config.proxy_arp = vec![GATEWAY]);
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP));
    c.ignores_frame(&arp_reply(IP, GATEWAY), Ignored::NotDhcp);
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .ignores_frame(&arp_reply(IP, GATEWAY), Ignored::NotDhcp);
}

/// If the router is another station than the server, it is asked: a station that answers for both
/// does proxy ARP.
#[test]
fn the_routers_station_is_no_conflict() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, GATEWAY))
        .hears(ack_with_router(IP))
        .sends(probe(ROUTER));
    assert_eq!(c.client().arp_address(), Some(ROUTER));
    c.ignores_frame(&arp_reply_to_another(ROUTER, GATEWAY), Ignored::NotDhcp);
    c.at(0.01)
        .hears_frame(&arp_reply(ROUTER, GATEWAY))
        .says(ProxyArp(IP));
    c.sends(probe(IP)).says(Bound(IP)).sends(announcement(IP));
    c.at(2.01).sends(announcement(IP));
}

/// The claim of the owner came first, and that of the router's station is being checked: the owner
/// is asked again.
#[test]
fn an_owner_is_found_before_the_routers_station() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, OWNER))
        .hears_frame(&arp_reply(IP, GATEWAY));
    c.hears(ack_with_router(IP)).sends(probe(ROUTER));
    c.at(0.01)
        .hears_frame(&arp_reply(ROUTER, GATEWAY))
        .says(ProxyArp(IP));
    c.sends(probe(IP)).says(Bound(IP)).sends(announcement(IP));
    c.at(0.02)
        .hears_frame(&arp_reply(IP, OWNER))
        .says(Lost(IP, Conflict))
        .sends(decline(IP))
        .sends(discover());
}

#[test]
fn an_owner_does_not_answer_for_the_router() {
    let mut c = asking();
    c.hears_frame(&arp_reply(IP, OWNER))
        .hears(ack_with_router(IP))
        .sends(probe(ROUTER));
    c.at(0.01)
        .ignores_frame(&arp_reply(ROUTER, GATEWAY), Ignored::NotDhcp);
    c.at(0.2)
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

#[test]
fn the_router_is_asked_during_probes() {
    let mut c = Conversation::start()
        .without_fuzz()
        .with_arp()
        .configured(|config| config.probe = Probe::Before(1));
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack_with_router(IP));
    c.at(1)
        .sends(probe(IP))
        .hears_frame(&arp_reply(IP, GATEWAY))
        .sends(probe(ROUTER));
    c.hears_frame(&arp_reply(ROUTER, GATEWAY))
        .says(ProxyArp(IP));
    c.at(2).sends(probe(IP));
    c.at(4).says(Bound(IP)).sends(announcement(IP));
    c.at(6).sends(announcement(IP));
}

/// An address in use is not lost to the router's station, however quick it is.
#[test]
fn the_routers_station_is_no_conflict_for_an_address_in_use() {
    let mut c = asking();
    c.hears(ack_with_router(IP))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.client().mark_in_use();
    c.at(0.4)
        .hears_frame(&arp_reply(IP, GATEWAY))
        .says(Contested(IP))
        .sends(who_has(ROUTER))
        .sends(announcement(IP));
    c.at(0.41)
        .ignores_frame(&arp_reply(IP, GATEWAY), Ignored::NotDhcp);
    c.at(0.42)
        .hears_frame(&arp_reply(ROUTER, GATEWAY))
        .says(ProxyArp(IP));
    c.at(1)
        .ignores_frame(&arp_reply(IP, GATEWAY), Ignored::NotDhcp);
    c.at(2).sends(announcement(IP));
    assert!(!c.client().is_listening());

    // An owner does not answer for the router, and keeps the address.
    let mut c = asking();
    c.hears(ack_with_router(IP))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.client().mark_in_use();
    c.at(0.4)
        .hears_frame(&arp_reply(IP, OWNER))
        .says(Contested(IP))
        .sends(who_has(ROUTER))
        .sends(announcement(IP));
    c.at(0.7)
        .hears_frame(&arp_reply(IP, OWNER))
        .says(Lost(IP, Conflict))
        .sends(discover());
}

/// Switches that track devices send unicast probes to each port.
#[test]
fn a_unicast_probe_is_no_conflict() {
    let mut c = asking();
    c.ignores_frame(&arp_probe_by_unicast(IP, OWNER), Ignored::NotDhcp);
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.ignores_frame(&arp_probe_by_unicast(IP, OWNER), Ignored::NotDhcp);
    c.at(2).sends(announcement(IP));
}

/// A caller waits until the address is in use: conflicts after the ACK do not delay it, and its
/// deadline applies.
#[test]
fn late_conflicts_do_not_delay_a_caller() {
    let mut c = Conversation::start().without_fuzz();
    let conflict = |c: &mut Conversation| {
        c.sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)))
            .says(Bound(IP));
        c.hears_frame(&arp_reply(IP, OWNER))
            .says(Lost(IP, Conflict))
            .sends(decline(IP));
    };
    for second in [0, 0, 0, 2, 6, 14, 22, 30, 38] {
        conflict(c.at(second));
    }
    c.at(45).says(gave_up(
        "offer of 10.0.0.5 from 10.0.0.1, but 02:00:00:00:00:09 uses that address",
    ));
}
