//! Conversations between the DHCP client and made-up servers, on a made-up clock: one test for each
//! rule.
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
mod pace;
mod proxy_arp;
mod rapid;
mod reboot;
mod release;
mod renew;
mod rest;
