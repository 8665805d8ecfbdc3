//! At most 150 messages in any hour, whatever the server does, and those of renewals that are
//! answered.

use super::double::{Says::*, *};
use dhcproto::v4::DhcpOption;
use smol_dhcp_proxy::dhcp::{Client, Config, Snapshot};
use smol_dhcp_proxy::time::Instant;

/// Lets a client talk to a server with one answer to each message for a day, and does so once more
/// with clients that rest whenever they can; when they sent what.
fn talk(config: Config, server: impl Fn(&dhcproto::v4::Message) -> Option<Answer>) -> Vec<Instant> {
    let (sent, rested) = (
        talk_on(config.clone(), false, &server),
        talk_on(config, true, &server),
    );
    let (most, rested) = (most_in_an_hour(&sent), most_in_an_hour(&rested));
    assert!(
        rested.abs_diff(most) <= 10,
        "{rested} within an hour instead of {most}, because it rests"
    );
    sent
}

fn talk_on(
    mut config: Config,
    rests: bool,
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
        let rest = client.suspend().filter(|_| rests);
        let due = rest
            .as_ref()
            .map_or(client.poll_timeout(), Snapshot::due)
            .expect("it never stops trying");
        assert!(due > now, "it does nothing when its time comes");
        now = due;
        match rest {
            Some(rest) => client = Client::resume(config.clone(), rest, 8, now),
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
fn a_server_that_refuses_what_it_offers() {
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
    // T1 is five seconds then, and each renewal gives its message back.
    assert!(
        (700..=725).contains(&most_in_an_hour(&sent)),
        "{}",
        most_in_an_hour(&sent)
    );
}

/// Half a minute, or ten seconds, for a day: each renewal is answered, and none is held back.
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

/// A server that answers, and leases for the least that gives a message back: that is the most it
/// can have.
#[test]
fn the_most_that_any_server_can_have() {
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

/// A carrier that comes and goes makes it start anew each time, and that has its limit too.
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
    // Of 58 messages one is left, for the REQUEST; the next DISCOVER waits until there is one more.
    c.at(40)
        .sends(discover())
        .hears(offer(IP))
        .sends(request(IP))
        .hears(ack(IP, hours(1)))
        .says(Bound(IP));
}

/// The last word is never held back: the address would be taken for nothing.
#[test]
fn a_release_is_always_said() {
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
