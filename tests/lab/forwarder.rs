//! A path with a length: frames between two links of a namespace, each delayed, some lost.
//!
//! It stands in for netem, which few test machines have.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::time::Instant;

use super::Result;
use super::namespace::Namespace;
use super::packets::{Tap, fill_udp_checksum};

/// The treatment of frames on the path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// The delay of each frame.
    pub delay: Duration,
    /// Lost frames of a thousand.
    pub loss: u32,
    /// Selects the lost frames, always the same for a seed.
    pub seed: u64,
}

/// A running forwarder; dropped, the path is cut.
#[derive(Debug)]
pub struct Forwarder {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Joins the links `one` and `other` of `namespace` by `path`.
    pub fn start(namespace: &Namespace, one: &str, other: &str, path: Path) -> Result<Self> {
        let taps = namespace.run(|| Ok([Tap::open(one)?, Tap::open(other)?]))?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::spawn(move || {
            // An error here cuts the path, and the wait for a frame reports it.
            let _ = forward(&taps, &stopped, path);
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(taps: &[Tap; 2], stopped: &UnixStream, path: Path) -> Result {
    let mut chance = path.seed;
    // The delay is the same for all, so the order is kept.
    let mut under_way: VecDeque<(Instant, usize, Vec<u8>)> = VecDeque::new();
    loop {
        let wait = under_way.front().map(|(due, ..)| {
            let wait = *due - rt::now();
            Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            }
        });
        let mut ready = [
            PollFd::new(&taps[0], PollFlags::IN),
            PollFd::new(&taps[1], PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut ready, wait.as_ref())?;
        if !ready[2].revents().is_empty() {
            return Ok(());
        }
        for (side, tap) in taps.iter().enumerate() {
            while let Some(mut frame) = tap.receive()? {
                if next(&mut chance) % 1000 < u64::from(path.loss) {
                    continue;
                }
                fill_udp_checksum(&mut frame);
                under_way.push_back((rt::now() + path.delay, 1 - side, frame));
            }
        }
        while under_way.front().is_some_and(|(due, ..)| *due <= rt::now()) {
            if let Some((_, side, frame)) = under_way.pop_front() {
                taps[side].send(&frame)?;
            }
        }
    }
}

/// SplitMix64: chance that can be had again.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
