//! Conversations between the DHCP client and simulated servers, with a simulated clock: one test
//! for each rule.
#![cfg(feature = "proxy")]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "nothing of a test is public, and it may fail"
)]

mod double;

mod acquire;
mod carrier;
mod conflict;
mod duties;
mod name;
mod odd;
mod options;
mod proxy_arp;
mod rapid;
mod rate;
mod reboot;
mod release;
mod renew;
mod suspend;
