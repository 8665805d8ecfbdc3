//! Conversations between the DHCP client and made-up servers, on a made-up clock: one test for each
//! rule.
#![cfg(feature = "proxy")]
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "nothing of a test is public, and it may fail"
)]

#[path = "conversations/double.rs"]
mod double;

#[path = "conversations/acquire.rs"]
mod acquire;
#[path = "conversations/carrier.rs"]
mod carrier;
#[path = "conversations/conflict.rs"]
mod conflict;
#[path = "conversations/duties.rs"]
mod duties;
#[path = "conversations/name.rs"]
mod name;
#[path = "conversations/odd.rs"]
mod odd;
#[path = "conversations/options.rs"]
mod options;
#[path = "conversations/pace.rs"]
mod pace;
#[path = "conversations/proxy_arp.rs"]
mod proxy_arp;
#[path = "conversations/rapid.rs"]
mod rapid;
#[path = "conversations/reboot.rs"]
mod reboot;
#[path = "conversations/release.rs"]
mod release;
#[path = "conversations/renew.rs"]
mod renew;
#[path = "conversations/rest.rs"]
mod rest;
