//! A switch port that hears nothing for its first 30 s, as the spanning tree protocol has it, and a
//! caller who waits 45 s.

use super::datagrams::*;
use super::honest_server::{Server, Terms};
use super::scenario::{micros, secs};
use smol_dhcp_proxy::dhcp::{Client, Config, Event};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::time::Duration;

const DEAF: Duration = secs(30);
const PATIENCE: Duration = secs(45);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);

#[test]
fn a_port_deaf_for_30_s_is_passed_by_every_seed() {
    let times: Vec<_> = (0..1000)
        .map(|seed| bound_after(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}")))
        .collect();
    let [first, last] =
        [times.iter().min(), times.iter().max()].map(|time| time.expect("a thousand of them"));
    println!("behind a port deaf for 30 s, 1000 seeds are bound after {first:.1?} to {last:.1?}");
    assert!(*first >= DEAF, "the port is deaf");
}

/// When the client of this seed says Bound.
fn bound_after(seed: u64) -> Result<Duration, String> {
    let start = Instant::from_boot(secs(1000));
    let mut server = Server::new(
        0,
        16,
        Terms {
            lease: 3600,
            t1: None,
            t2: None,
            mtu: None,
        },
    );
    let config = Config {
        deadline: Some(PATIENCE),
        ..Config::new(MAC, b"\0container".to_vec())
    };
    let mut client = Client::new(config, seed, start);
    let (mut now, mut buffer) = (start, Vec::new());
    loop {
        let mut answers = Vec::new();
        while let Some(transmit) = client.poll_transmit(&mut buffer) {
            if let Said::Dhcp(heard) = read(transmit, &buffer)
                && now - start >= DEAF
            {
                answers.extend(server.hear(&heard, now));
            }
        }
        match client.poll_event() {
            Some(Event::Bound(_)) => return Ok(now - start),
            Some(other) => return Err(format!("{other:?}")),
            None => {}
        }
        if let Some(reply) = answers.first() {
            now = now + micros(3000 + seed % 5000);
            let frame = reply.write(
                (server.mac, server.address),
                (MAC, reply.yiaddr.ok_or("refused")?),
            );
            client
                .handle_packet(&frame, now)
                .map_err(|why| format!("{why:?}"))?;
        } else {
            now = client.poll_timeout().ok_or("nothing to wait for")?;
            client.handle_timeout(now);
        }
    }
}
