//! Whatever the network sends and however the caller calls: no panic, no endless loop, no growth.

use super::double::{Says::*, *};
use proptest::prelude::*;
use smol_dhcp_proxy::dhcp::{Client, Config, Event};
use smol_dhcp_proxy::time::Instant;

/// Drains a client, and checks that there is an end to it.
fn drain(client: &mut Client, now: Instant) -> Vec<Event> {
    let mut out = Vec::new();
    let frames = std::iter::from_fn(|| client.poll_transmit(&mut out)).take(10).count();
    assert!(frames <= 3, "{frames} frames at once");
    let events: Vec<_> = std::iter::from_fn(|| client.poll_event()).take(10).collect();
    assert!(events.len() <= 3, "{events:?}");
    assert!(client.poll_timeout().is_none_or(|due| due > now), "a deadline in the past");
    events
}

/// Clients in every state, with the xid that they listen to.
fn everywhere() -> Vec<Conversation> {
    let lease = Conversation::bound(hours(1)).lease().clone();
    let no_mac = smol_dhcp_proxy::dhcp::Lease { server_mac: None, ..lease };
    let mut all = vec![
        Conversation::start(),
        Conversation::start(),
        Conversation::reboot(IP),
        Conversation::bound(hours(1)),
        Conversation::bound(hours(1)),
        Conversation::bound(hours(1)),
        Conversation::resume(no_mac),
    ];
    all[0].at(0).sends(discover());
    all[1].at(0).sends(discover()).hears(offer(IP)).sends(request(IP));
    all[2].at(0).sends(may_i_keep(IP));
    all[4].at(1800).sends(renew(IP));
    all[5].wakes_at(3150).sends(rebind(IP));
    all[6].at(1).releases().sends(who_has(SERVER));
    let states: Vec<_> = all.iter_mut().map(|c| c.client().state()).collect();
    assert_eq!(states, ["SELECTING", "REQUESTING", "REBOOTING", "BOUND", "RENEWING", "REBINDING", "RELEASING"]);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(frame in prop::collection::vec(any::<u8>(), 0..700), xid in any::<u32>()) {
        let mut as_payload = frame.clone();
        as_payload.resize(frame.len().max(240), 0);
        let head = offer(IP).payload_for(xid);
        as_payload[..44].copy_from_slice(&head[..44]);
        as_payload[236..240].copy_from_slice(&head[236..240]);
        let mut client = Client::new(config(), 1, start_of_time());
        for frame in [&frame, &server_frame(&frame, SERVER, IP), &server_frame(&as_payload, SERVER, IP)] {
            drop(client.handle_packet(frame, start_of_time()));
            drain(&mut client, start_of_time());
        }
    }

    /// Bytes of a good reply are changed, inside of good headers and outside, in every state; then time passes.
    #[test]
    fn damaged_replies(
        kind in 0..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        inside in any::<bool>(),
        delay in 0_u64..5_000,
    ) {
        for mut c in everywhere() {
            let xid = if c.client().state() == "RELEASING" { 0 } else { c.last().xid() };
            let reply = [offer(IP), ack(IP, hours(1)), nak()][kind as usize].payload_for(xid);
            let mut bytes = if inside { reply } else { server_frame(&reply, SERVER, IP) };
            for (index, byte) in &edits {
                let at = index.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let frame = if inside { server_frame(&bytes, SERVER, IP) } else { bytes };
            let mut now = start_of_time() + seconds(3150 + delay);
            let client = c.client();
            drop(client.handle_packet(&frame, now));
            drain(client, now);
            for _ in 0..20 {
                let Some(due) = client.poll_timeout() else { break };
                prop_assert!(due > now);
                now = due;
                client.handle_timeout(now);
                drain(client, now);
                drop(client.handle_packet(&frame, now));
                drain(client, now);
            }
        }
    }

    /// Any calls in any order, with a clock that may stand still or leap.
    #[test]
    fn any_calls(calls in prop::collection::vec((0..6_u8, 0_u64..10_000), 0..60), seed in any::<u64>()) {
        let mut now = start_of_time();
        let mut out = Vec::new();
        let mut client = Client::new(Config { deadline: None, ..config() }, seed, now);
        let mut xid = 0;
        for (call, seconds_later) in calls {
            while let Some(transmit) = client.poll_transmit(&mut out) {
                let start = if transmit == smol_dhcp_proxy::dhcp::Transmit::Frame { 42 } else { 0 };
                xid = out.get(start + 4..start + 8).map_or(0, |xid| u32::from_be_bytes(xid.try_into().unwrap()));
            }
            while client.poll_event().is_some() {}
            let answer = match call {
                0 => offer(IP),
                1 => ack(IP, seconds(600)),
                2 => ack(OTHER_IP, seconds(7)),
                3 => nak(),
                4 => {
                    now = now + seconds(seconds_later);
                    client.handle_timeout(now);
                    drain(&mut client, now);
                    continue;
                }
                _ if seconds_later == 0 => {
                    client.release(now);
                    drain(&mut client, now);
                    continue;
                }
                _ => {
                    now = client.poll_timeout().unwrap_or(now).max(now);
                    client.handle_timeout(now);
                    continue;
                }
            };
            drop(client.handle_packet(&server_frame(&answer.payload_for(xid), SERVER, IP), now));
            if let Some(lease) = client.lease() {
                prop_assert!(lease.expires_at().is_none_or(|expiry| expiry > now), "an address beyond its lease");
            }
        }
    }
}

/// What a test double lets through must be the same every time: chance comes from the seed alone.
#[test]
fn the_same_seed_says_the_same() {
    let frames = |seed| {
        let mut client = Client::new(config(), seed, start_of_time());
        let mut frames = Vec::new();
        let mut out = Vec::new();
        while let Some(due) = client.poll_timeout() {
            client.handle_timeout(due);
            while client.poll_transmit(&mut out).is_some() {
                frames.push((due, out.clone()));
            }
        }
        frames
    };
    assert_eq!(frames(1), frames(1));
    assert_ne!(frames(1), frames(2));
    let mut c = Conversation::bound(hours(1));
    c.releases().sends(goodbye(IP)).says(Released);
}
