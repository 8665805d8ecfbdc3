//! Another station has the address (RFC 5227, RFC 2131 §3.1 (5), §4.4.1).

use super::double::{Lost::*, Says::*, *};
use smol_dhcp_proxy::dhcp::{self, Event, Ignored, Probe};
use smol_dhcp_proxy::mac::Mac;

/// The station that has the address already.
const OWNER: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// The owner's answer to a probe.
fn mine(ip: std::net::Ipv4Addr) -> Vec<u8> {
    arp_reply(ip, OWNER)
}

fn with_probes(probes: u8) -> Conversation {
    Conversation::start()
        .without_fuzz()
        .with_arp()
        .configured(|config| config.probe = Probe::Before(probes))
}

fn bound() -> Conversation {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c.hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c
}

/// The probe is sent with the REQUEST, the announcement after the ACK; then the client listens for
/// 2 s.
#[test]
fn the_probe_takes_no_time() {
    let mut c = bound();
    assert!(c.client().is_listening());
    assert_eq!(c.client().own_address(), Some(IP));
    c.at(2).sends(announcement(IP));
    assert!(!c.client().is_listening());
    c.at(1799);
}

/// RFC 2131 §3.1 (5): an address in use is declined, and the first time the next DISCOVER follows
/// at once.
#[test]
fn an_owner_that_answers_before_the_ack() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    assert_eq!(c.client().own_address(), Some(IP));
    c.at(0.005).hears_frame(&mine(IP));
    c.at(0.01)
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(2.01).sends(announcement(OTHER_IP));
}

/// A DHCPDECLINE that no carrier takes is not counted as sent.
#[test]
fn a_decline_without_a_carrier_is_not_counted() {
    for (carrier, declines) in [(true, 1), (false, 0)] {
        let mut c = with_probes(3);
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)));
        c.at(1).sends(probe(IP));
        if !carrier {
            c.carrier(false);
        }
        c.hears_frame(&arp_probe(IP, OWNER));
        if carrier {
            c.sends(decline(IP)).says(Declined(IP)).sends(discover());
        } else {
            c.says(Declined(IP));
        }
        assert_eq!(c.client().take_tally().declines, declines);
    }
}

/// The owner answers after the ACK: the address is given up.
#[test]
fn an_owner_that_answers_after_the_ack() {
    let mut c = bound();
    c.at(0.005)
        .hears_frame(&mine(IP))
        .sends(decline(IP))
        .sends(discover());
    assert!(
        matches!(c.event(), Event::Lost { why: dhcp::LossReason::Conflict { by: OWNER }, old } if old.address == IP)
    );
}

/// RFC 5227 §2.1.1: a station that probes for the address at the same time will use it.
#[test]
fn a_probe_for_the_same_address_is_a_conflict() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c.hears_frame(&arp_probe(IP, OWNER))
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());

    let mut c = with_probes(3);
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    c.at(1)
        .sends(probe(IP))
        .hears_frame(&arp_probe(IP, OWNER))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

/// A probe for an address in use is a question, and the kernel answers it.
#[test]
fn a_probe_for_an_address_in_use_is_no_conflict() {
    let mut c = bound();
    c.ignores_frame(&arp_probe(IP, OWNER), Ignored::NotDhcp);
    c.at(2).sends(announcement(IP));
}

/// RFC 5227 §2.1.1: reflected packets of the client and claims to other addresses are no conflict.
#[test]
fn own_packets_and_other_addresses_are_no_conflicts() {
    let mut c = bound();
    c.ignores_frame(&arp_reply(IP, MAC), Ignored::NotDhcp);
    c.ignores_frame(&mine(OTHER_IP), Ignored::NotDhcp);
    c.at(2)
        .sends(announcement(IP))
        .ignores_frame(&mine(IP), Ignored::NotDhcp); // it does not listen any more
}

/// RFC 5227 §1.1, §2.1.1: up to 1 s, then probes 1-2 s apart, then 2 s; only then the address is
/// used.
#[test]
fn probes_with_all_their_waits() {
    let mut c = with_probes(3);
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    for second in [1, 3, 5] {
        c.at(second).sends(probe(IP));
    }
    assert!(c.client().lease().is_none() && c.client().is_listening());
    c.at(7).says(Bound(IP)).sends(announcement(IP));
    c.at(9).sends(announcement(IP));
    c.at(1800).sends(renew(IP)).sends(probe(IP)); // counted from the REQUEST, not from the end of the probes
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
}

#[test]
fn an_answer_to_any_of_the_probes() {
    for second in [0.5, 1.0, 4.0, 6.5] {
        let mut c = with_probes(3);
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears(ack(IP, hours(1)));
        for probed in [1.0, 3.0, 5.0]
            .into_iter()
            .filter(|probed| *probed <= second)
        {
            c.at(probed).sends(probe(IP));
        }
        c.at(second)
            .hears_frame(&mine(IP))
            .sends(decline(IP))
            .says(Declined(IP))
            .sends(discover());
    }
}

/// An address without an answer at the caller's deadline counts as free.
#[test]
fn probing_does_not_outlast_the_deadline() {
    let mut c = with_probes(3).configured(|config| config.deadline = Some(seconds(4)));
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    c.at(1).sends(probe(IP));
    c.at(3).sends(probe(IP));
    c.at(4).says(Bound(IP)).sends(announcement(IP));
    c.at(6).sends(announcement(IP));
}

/// A lease that is not in use yet is released, too.
#[test]
fn a_release_while_probing() {
    let mut c = with_probes(1);
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    assert!(c.client().is_leased() && c.client().lease().is_none());
    c.at(0.5).releases().sends(goodbye(IP)).says(Released);
    assert!(!c.client().is_leased());
}

#[test]
fn without_probes_conflicts_are_ignored() {
    for probes in [Probe::Off, Probe::Before(0)] {
        let mut c = Conversation::start()
            .without_fuzz()
            .with_arp()
            .configured(|config| config.probe = probes);
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .ignores_frame(&mine(IP), Ignored::NotDhcp);
        c.hears(ack(IP, hours(1)))
            .says(Bound(IP))
            .sends(announcement(IP));
        c.ignores_frame(&mine(IP), Ignored::NotDhcp);
        c.at(2).sends(announcement(IP));
        c.at(1800)
            .sends(renew(IP))
            .hears(ack(IP, hours(1)))
            .says(Renewed(IP));
        assert!(!c.client().is_listening());
    }
}

/// RFC 5227 §2.4, as far as a host without a socket between renewals can obey it.
#[test]
fn the_address_is_probed_in_each_renewal() {
    let mut c = bound();
    c.at(2).sends(announcement(IP));
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    c.at(2475).sends(renew(IP)); // one probe per renewal
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
    assert!(c.client().is_listening());
    c.at(2475.03)
        .hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(2477.03).sends(probe(IP));
    c.at(2485.03);
    assert!(!c.client().is_listening());
}

/// A client in RENEWING, after T1.
fn renewing() -> Conversation {
    let mut c = bound();
    c.at(2).sends(announcement(IP));
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    c
}

/// RFC 5227 §2.4 (b): one frame, which any station can forge, does not take the address.
#[test]
fn a_single_claim_costs_one_announcement() {
    let mut c = renewing();
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(1800.1).hears(ack(IP, hours(1))).says(Renewed(IP));
    c.at(1802).sends(probe(IP)); // an owner would answer this
    c.at(1809.9);
    assert!(c.client().is_listening());
    c.at(1810);
    assert!(!c.client().is_listening());
    c.ignores_frame(&mine(IP), Ignored::NotDhcp);
    // The next renewal does not remember it.
    c.at(3600).sends(renew(IP)).sends(probe(IP));
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP))
        .hears(ack(IP, hours(1)))
        .says(Renewed(IP));
    c.at(3602).sends(probe(IP));
    c.at(3610);
    assert_eq!(c.lease().address, IP);
}

/// RFC 5227 §2.4 (b): a station that repeats its claim has the address, or does not give way; in
/// every state with a lease.
#[test]
fn a_station_that_repeats_its_claim_gets_the_address() {
    for second in [1800.1, 1802.1, 1809.9] {
        let mut c = renewing();
        c.hears_frame(&mine(IP))
            .says(Contested(IP))
            .sends(announcement(IP));
        if second > 1802.0 {
            c.at(1802).sends(probe(IP));
        }
        c.at(second)
            .hears_frame(&mine(IP))
            .says(Lost(IP, Conflict))
            .sends(discover());
    }

    let mut c = renewing();
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
    c.at(1800.03)
        .hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(1802.03)
        .sends(probe(IP))
        .hears_frame(&mine(IP))
        .says(Lost(IP, Conflict))
        .sends(discover());

    // The first claim in RENEWING, the second in REBINDING.
    let mut c = bound();
    c.at(2).sends(announcement(IP));
    c.wakes_at(3149).sends(renew(IP)).sends(probe(IP));
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(3150)
        .sends(rebind(IP))
        .sends(probe(IP))
        .hears_frame(&mine(IP))
        .says(Lost(IP, Conflict))
        .sends(discover());
}

/// An address in use is not declined when it is given up. If the server offers it again, it is
/// probed and declined like any other.
#[test]
fn a_lost_address_is_declined_when_it_is_offered_again() {
    let mut c = renewing();
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(1802)
        .sends(probe(IP))
        .hears_frame(&mine(IP))
        .says(Lost(IP, Conflict))
        .sends(discover());
    c.hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP))
        .hears_frame(&mine(IP));
    c.hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
    c.hears(offer(OTHER_IP))
        .sends(request(OTHER_IP))
        .sends(probe(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(1804).sends(announcement(OTHER_IP));
}

/// Connections may depend on the address as soon as it is marked as in use: one frame does not take
/// it, and giving it up to a station that repeats its claim causes no wait.
#[test]
fn a_new_address_is_defended_once_it_is_in_use() {
    let mut c = bound();
    c.client().mark_in_use();
    c.at(0.5)
        .hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(2).sends(announcement(IP));
    c.at(2.5)
        .sends(probe(IP))
        .hears_frame(&mine(IP))
        .says(Lost(IP, Conflict))
        .sends(discover());
    c.hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP))
        .hears_frame(&mine(IP));
    c.hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());

    // Before that its owner may answer late, and the address is declined.
    let mut c = bound();
    c.at(0.5)
        .hears_frame(&mine(IP))
        .sends(decline(IP))
        .says(Lost(IP, Conflict))
        .sends(discover());
}

/// However many stations claim the address, there is one announcement in ten seconds, one probe,
/// and an end of listening.
#[test]
fn a_flood_of_claims_is_answered_once() {
    let from = |station: u16| {
        let [high, low] = station.to_be_bytes();
        arp_reply(IP, Mac([2, 0, 0, 9, high, low]))
    };
    for is_answered in [true, false] {
        let mut c = renewing();
        if is_answered {
            c.hears(ack(IP, hours(1))).says(Renewed(IP));
        }
        c.hears_frame(&from(0))
            .says(Contested(IP))
            .sends(announcement(IP));
        for station in 1..1200 {
            c.at(1800.0 + f64::from(station) / 100.0);
            if station == 200 {
                c.sends(probe(IP));
            }
            assert_eq!(c.client().is_listening(), station < 1000, "{station}");
            c.ignores_frame(&from(station), Ignored::NotDhcp);
        }
    }

    // A defence that begins at the end of listening prolongs it by ten seconds, once.
    let mut c = renewing();
    c.at(1809.5)
        .hears_frame(&from(0))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(1811.5).sends(probe(IP));
    c.at(1819.4).ignores_frame(&from(1), Ignored::NotDhcp);
    assert!(c.client().is_listening());
    c.at(1819.5).ignores_frame(&from(2), Ignored::NotDhcp);
    assert!(!c.client().is_listening());
}

/// Without a carrier no probe is sent, and the defence ends all the same.
#[test]
fn a_defence_without_a_carrier() {
    let mut c = renewing();
    c.hears(ack(IP, hours(1))).says(Renewed(IP));
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.at(1801).carrier(false);
    c.at(1809);
    assert!(c.client().is_listening());
    c.at(1812);
    assert!(!c.client().is_listening());
}

/// A claim to the old address does not count against its replacement.
#[test]
fn a_defence_ends_with_its_address() {
    let mut c = renewing();
    c.hears_frame(&mine(IP))
        .says(Contested(IP))
        .sends(announcement(IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Changed(IP, OTHER_IP))
        .sends(probe(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(1802).sends(announcement(OTHER_IP));
    assert!(!c.client().is_listening());
    c.at(3600).sends(renew(OTHER_IP)).sends(probe(OTHER_IP));
    c.hears(ack(OTHER_IP, hours(1))).says(Renewed(OTHER_IP));
}

/// A probe goes with each REQUEST, and an owner answers it: a claim of long before the ACK does not
/// count.
#[test]
fn an_old_claim_is_forgotten() {
    let requesting = || {
        let mut c = Conversation::start().without_fuzz().with_arp().patient();
        c.at(0)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .sends(probe(IP));
        c.at(0.005).hears_frame(&mine(IP));
        c.at(4).sends(request(IP)).sends(probe(IP));
        c
    };
    let mut c = requesting();
    c.at(9.9)
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());

    let mut c = requesting();
    c.at(12).sends(request(IP)).sends(probe(IP));
    c.at(12.1)
        .hears(ack(IP, hours(1)))
        .says(Bound(IP))
        .sends(announcement(IP));
    c.at(14.1).sends(announcement(IP));

    // An owner answers each probe.
    let mut c = requesting();
    c.at(4.005).hears_frame(&mine(IP));
    c.at(12).sends(request(IP)).sends(probe(IP));
    c.at(12.1)
        .hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

/// A previous address may belong to another station by now.
#[test]
fn a_previous_address_is_probed() {
    let mut c = Conversation::reboot(IP).without_fuzz().with_arp();
    c.at(0)
        .sends(reboot_request(IP))
        .sends(probe(IP))
        .hears_frame(&mine(IP));
    c.hears(ack(IP, hours(1)))
        .sends(decline(IP))
        .says(Declined(IP))
        .sends(discover());
}

#[test]
fn a_previous_address_with_an_owner_is_not_requested_again() {
    let mut c = Conversation::reboot(IP).without_fuzz();
    c.at(0).sends(reboot_request(IP)).hears_frame(&mine(IP));
    c.at(2).sends(reboot_request(IP));
    c.at(5).sends(discover());
}

/// A new address in a renewal is probed like that of a new lease.
#[test]
fn another_address_in_a_renewal_is_probed() {
    let mut c = bound();
    c.at(2).sends(announcement(IP));
    c.at(1800).sends(renew(IP)).sends(probe(IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Changed(IP, OTHER_IP))
        .sends(probe(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.hears_frame(&mine(OTHER_IP))
        .says(Lost(OTHER_IP, Conflict))
        .sends(decline(OTHER_IP))
        .sends(discover());
}

/// A server that leases the same address to all clients is asked ever less often.
#[test]
fn conflicts_in_a_row_double_the_delay() {
    let conflict = |c: &mut Conversation| {
        c.sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears_frame(&mine(IP));
        c.hears(ack(IP, hours(1)))
            .sends(decline(IP))
            .says(Declined(IP));
    };
    let mut c = Conversation::start().without_fuzz();
    for second in [0, 0, 0, 2, 6, 14, 22, 30, 38] {
        conflict(c.at(second));
    }
    c.at(45).says(gave_up(
        "offer of 10.0.0.5 from 10.0.0.1, but 02:00:00:00:00:09 uses that address",
    ));

    // Without a caller, at least the ten seconds of RFC 2131 §3.1 (5).
    let mut c = Conversation::start().without_fuzz().patient();
    for second in [0, 0, 10, 20, 30, 46, 78] {
        conflict(c.at(second));
    }
}

/// RFC 5227 §2.3: the second announcement waits for the carrier.
#[test]
fn the_second_announcement_waits_for_the_carrier() {
    let mut c = bound();
    c.at(1).carrier(false);
    c.at(10);
    assert!(c.client().is_listening());
    c.carrier(true)
        .sends(announcement(IP))
        .sends(renew(IP))
        .sends(probe(IP));
}

/// RFC 5227 §2.1.1: after ten conflicts, at most one attempt a minute.
#[test]
fn after_ten_conflicts_one_address_a_minute_is_tried() {
    let mut c = Conversation::start().without_fuzz().patient();
    for second in [0, 0, 10, 20, 30, 46, 78, 142, 270, 398, 526, 654] {
        c.at(second)
            .sends(discover())
            .hears(offer(IP))
            .sends(request(IP))
            .hears_frame(&mine(IP));
        c.hears(ack(IP, hours(1)))
            .sends(decline(IP))
            .says(Declined(IP));
    }
}

/// RFC 2131 §4.4.4, table 5: all fields of a DECLINE.
#[test]
fn the_fields_of_a_decline() {
    let mut c = bound();
    c.hears_frame(&mine(IP))
        .says(Lost(IP, Conflict))
        .sends(decline(IP));
    let mut codes: Vec<u8> = c
        .declined()
        .opts()
        .iter()
        .map(|(code, _)| u8::from(*code))
        .collect();
    codes.retain(|code| *code != 255);
    assert_eq!(codes, [50, 53, 54, 56, 61]);
    assert!(!c.declined().flags().broadcast());
    c.sends(discover());
}

/// The ACK, or that of a renewal, gives another address than the requested one: it is probed as
/// well.
#[test]
fn an_address_that_was_not_requested_is_probed() {
    let mut c = Conversation::start().without_fuzz().with_arp();
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .sends(probe(IP));
    c.hears(ack(OTHER_IP, hours(1)))
        .says(Bound(OTHER_IP))
        .sends(probe(OTHER_IP))
        .sends(announcement(OTHER_IP));
    c.at(0.005)
        .hears_frame(&mine(OTHER_IP))
        .says(Lost(OTHER_IP, Conflict))
        .sends(decline(OTHER_IP))
        .sends(discover());

    let mut c = with_probes(1);
    c.at(0)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)));
    c.at(1).sends(probe(IP));
    c.at(3).says(Bound(IP)).sends(announcement(IP));
    c.at(5).sends(announcement(IP));
    c.at(1800)
        .sends(renew(IP))
        .sends(probe(IP))
        .hears(ack(OTHER_IP, hours(1)))
        .says(Changed(IP, OTHER_IP));
    c.sends(probe(OTHER_IP)).sends(announcement(OTHER_IP));
    c.at(1802).sends(announcement(OTHER_IP));
}
