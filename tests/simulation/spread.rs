//! Hosts that start together do not go on together (RFC 2131 §4.1): their waits differ, each by up
//! to a second.

use super::scenario::secs;
use smol_dhcp_proxy::dhcp::{Client, Config};
use smol_dhcp_proxy::mac::Mac;
use smol_dhcp_proxy::time::Instant;
use std::time::Duration;

/// The first waits of a client of this seed, whom nobody answers and for whom nobody waits.
fn waits(seed: u64) -> [Duration; 5] {
    let mut now = Instant::from_boot(secs(1000));
    let mut client = Client::new(Config::new(Mac([2, 0, 0, 0, 0, 5]), Vec::new()), seed, now);
    let mut bytes = Vec::new();
    while client.poll_transmit(&mut bytes).is_some() {}
    [(); 5].map(|()| {
        // What comes in between is only that nobody listens for an answer any more.
        let asked_at = loop {
            let due = client.poll_timeout().expect("it goes on asking");
            client.handle_timeout(due);
            if client.poll_transmit(&mut bytes).is_some() {
                break due;
            }
        };
        asked_at - std::mem::replace(&mut now, asked_at)
    })
}

#[test]
fn a_thousand_hosts_ask_at_a_thousand_times() {
    let all: Vec<_> = (0..1000).map(waits).collect();
    for (index, middle) in [4, 8, 16, 32, 64].into_iter().enumerate() {
        let waits = || all.iter().map(|waits| waits[index]);
        let (least, most) = (
            waits().min().expect("a thousand"),
            waits().max().expect("a thousand"),
        );
        assert!(
            least >= secs(middle - 1) && most <= secs(middle + 1),
            "{least:?} to {most:?}"
        );
        assert!(
            most - least > Duration::from_millis(1900),
            "all wait about the same: {least:?} to {most:?}"
        );
        let mean = waits().sum::<Duration>() / 1000;
        assert!(
            (mean.as_secs_f64() - middle as f64).abs() < 0.1,
            "the mean is {mean:?}"
        );
    }
}
