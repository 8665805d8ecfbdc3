//! Attacks by a neighbour on the same network: frames to a station, as many as the machine makes.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::IoSlice;

use super::super::Result;
use super::super::packets::{Mac, Tap, arp_claim, arp_question};
use super::Span;

/// Sends `frames` one after the other on a link of the namespace, over and over again.
pub fn flood(span: &Span, link: &str, frames: &[Vec<u8>]) -> Result<u64> {
    const AT_ONCE: usize = 64;
    let tap = Tap::open(link)?;
    let slices: Vec<[IoSlice<'_>; 1]> = frames
        .iter()
        .cycle()
        .take(AT_ONCE)
        .map(|frame| [IoSlice::new(frame)])
        .collect();
    let mut headers = MultiHeaders::<LinkAddr>::preallocate(AT_ONCE, None);
    let mut sent = 0;
    span.repeat(|_| {
        let addresses = [None; AT_ONCE];
        match sendmmsg(
            tap.as_fd().as_raw_fd(),
            &mut headers,
            &slices,
            addresses,
            [],
            MsgFlags::empty(),
        ) {
            Ok(results) => sent += results.count() as u64,
            // The link has no room for more, or is down for a moment.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    })?;
    Ok(sent)
}

/// Waits for the first ARP question of `victim` about `address`, its own, and claims that address
/// in a single frame.
pub fn claim_once(span: &Span, link: &str, by: Mac, victim: Mac, address: Ipv4Addr) -> Result<u64> {
    let tap = Tap::open(link)?;
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    while span.goes_on() {
        poll(&mut [PollFd::new(&tap, PollFlags::IN)], Some(&moment))?;
        while let Some(frame) = tap.receive()? {
            if arp_question(&frame) == Some((victim, address)) {
                tap.send(&arp_claim(by, address, victim))?;
                span.wait();
                return Ok(1);
            }
        }
    }
    Ok(0)
}
