//! At most 150 messages in any hour, not counting answered renewals, whatever the server does.

use super::double::{Says::*, *};
use dhcproto::v4::DhcpOption;
use smol_dhcp_proxy::dhcp::{Client, Config, Snapshot};
use smol_dhcp_proxy::time::Instant;

/// Runs a client with a server for a day, and once more with clients that suspend as often as
/// possible. Returns the times of all messages.
fn talk(config: Config, server: impl Fn(&dhcproto::v4::Message) -> Option<Answer>) -> Vec<Instant> {
    let (sent, suspended) = (
        talk_on(config.clone(), false, &server),
        talk_on(config, true, &server),
    );
    let (most, suspended) = (most_in_an_hour(&sent), most_in_an_hour(&suspended));
    assert!(
        suspended.abs_diff(most) <= 10,
        "{suspended} within an hour instead of {most}, because it suspends"
    );
    sent
}

fn talk_on(
    mut config: Config,
    suspends: bool,
    server: impl Fn(&dhcproto::v4::Message) -> Option<Answer>,
) -> Vec<Instant> {
    config.deadline = None;
    let mut now = start_of_time();
    let mut client = Client::new(config.clone(), 7, now);
    let mut sent = Vec::new();
    let mut bytes = Vec::new();
    while now < start_of_time() + hours(24) {
        while let Some(transmit) = client.poll_transmit(&mut bytes) {
            let (_, message) = Said::read(transmit, &bytes);
            let Some(message) = message else { continue };
            sent.push(now);
            if let Some(answer) = server(&message) {
                drop(client.handle_packet(&answer.write(message.xid()), now));
            }
        }
        while client.poll_event().is_some() {}
        let snapshot = client.suspend().filter(|_| suspends);
        let due = snapshot
            .as_ref()
            .map_or(client.poll_timeout(), Snapshot::due)
            .expect("it never stops trying");
        assert!(due > now, "it does nothing when its time comes");
        now = due;
        match snapshot {
            Some(snapshot) => client = Client::resume(config.clone(), snapshot, 8, now),
            None => client.handle_timeout(now),
        }
    }
    sent
}

fn most_in_an_hour(sent: &[Instant]) -> usize {
    let mut first = 0;
    let until = |(last, at): (usize, &Instant)| {
        while *at - sent[first] > hours(1) {
            first += 1;
        }
        last + 1 - first
    };
    sent.iter().enumerate().map(until).max().unwrap_or(0)
}

fn is_discover(message: &dhcproto::v4::Message) -> bool {
    message.opts().msg_type() == Some(dhcproto::v4::MessageType::Discover)
}

#[test]
fn a_server_that_refuses_its_own_offers() {
    let sent = talk(config(), |message| {
        Some(if is_discover(message) {
            offer(IP)
        } else {
            nak()
        })
    });
    assert!(
        (50..=150).contains(&most_in_an_hour(&sent)),
        "{}",
        most_in_an_hour(&sent)
    );
}

#[test]
fn a_lease_of_a_second() {
    for rapid in [false, true] {
        let sent = talk(config(), |message| {
            Some(match is_discover(message) {
                true if rapid => ack(IP, seconds(1)).with(DhcpOption::RapidCommit),
                true => offer(IP),
                false => ack(IP, seconds(1)),
            })
        });
        assert!(
            (140..=150).contains(&most_in_an_hour(&sent)),
            "{}",
            most_in_an_hour(&sent)
        );
        assert!(sent.len() > 24 * 80, "it goes on trying: {}", sent.len());
    }
}

#[test]
fn a_lease_that_is_renewed_every_second() {
    let short = || {
        ack(IP, hours(1))
            .with(DhcpOption::Renewal(1))
            .with(DhcpOption::Rebinding(2))
    };
    let sent = talk(config(), |message| {
        Some(if is_discover(message) {
            offer(IP)
        } else {
            short()
        })
    });
    // T1 is five seconds then, and no renewal counts.
    assert!(
        (700..=725).contains(&most_in_an_hour(&sent)),
        "{}",
        most_in_an_hour(&sent)
    );
}

/// Leases of half a minute and of ten seconds, for a day: each renewal is answered, and none is
/// delayed.
#[test]
fn a_short_lease_is_kept_for_as_long_as_it_is_renewed() {
    for lease in [10, 30] {
        let mut c = Conversation::bound(seconds(lease));
        let mut at = 0;
        while at < 24 * 3600 {
            at += lease / 2;
            c.at(at as f64)
                .sends(renew(IP))
                .hears(ack(IP, seconds(lease)))
                .says(Renewed(IP));
        }
    }
}

/// A server that answers, with the shortest lease whose renewals do not count.
#[test]
fn the_highest_rate_that_a_server_can_cause() {
    for lease in [1, 9, 10, 11] {
        let sent = talk(config(), |message| {
            Some(if is_discover(message) {
                offer(IP)
            } else {
                ack(IP, seconds(lease)).with(DhcpOption::Renewal(1))
            })
        });
        assert!(
            most_in_an_hour(&sent) <= 150 + 720,
            "{} with leases of {lease} s",
            most_in_an_hour(&sent)
        );
    }
}

/// A flapping carrier starts the search again each time, within the same limit.
#[test]
fn a_link_that_flaps() {
    let mut c = Conversation::start().without_fuzz().patient();
    c.at(0).sends(discover());
    for n in 1..57 {
        c.at(f64::from(n) / 10.0)
            .carrier(false)
            .carrier(true)
            .sends(discover());
    }
    c.at(6).carrier(false).carrier(true);
    // One of 58 messages is left, for the REQUEST; the next DISCOVER waits for another one.
    c.at(40)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

/// A delayed RELEASE would keep the address in use for nothing.
#[test]
fn a_release_is_never_delayed() {
    let short = || {
        ack(IP, seconds(50))
            .with(DhcpOption::Renewal(1))
            .with(DhcpOption::Rebinding(2))
    };
    let mut c = Conversation::bound_by(short());
    for n in 1..=57 {
        c.at(n).sends(renew(IP)).hears(short()).says(Renewed(IP));
    }
    c.at(60).releases().sends(goodbye(IP)).says(Released);
}
