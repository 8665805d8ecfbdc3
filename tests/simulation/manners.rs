//! The part of the referee that knows how one behaves in ARP (RFC 5227): ask before, announce twice, give way.

use super::referee::Input;
use super::wire::*;
use smol_dhcp_proxy::dhcp::{Client, Config, Event, Mac, Probe};
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

/// From the first announcement to the second.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Manners {
    mac: Mac,
    probe: Probe,
    /// When a new address has to be announced for the second time.
    announce_at: Option<Instant>,
    /// The xid and the address of the last REQUEST for a new address, and whether somebody else has it.
    asked: Option<(u32, Ipv4Addr, bool)>,
}

impl Manners {
    pub fn new(config: &Config) -> Self {
        Self { mac: config.mac, probe: config.probe, announce_at: None, asked: None }
    }

    pub fn judge(
        &mut self,
        (input, before, carrier): (Input, &str, bool),
        (said, events): (&[Said], &[Event]),
        client: &Client,
        now: Instant,
    ) {
        self.hear(input, before);
        for now_said in said {
            let Said::Dhcp(Heard { message_type, xid, requested, ciaddr, .. }) = now_said else { continue };
            if *message_type != REQUEST {
                self.asked = None;
            } else if let Some(address) = requested {
                self.asked = self.asked.filter(|(known, ..)| known == xid).or(Some((*xid, *address, false)));
                let probed = asks(said, *address) || self.probe != Probe::WithRequest;
                assert!(probed, "a REQUEST without a probe");
            } else if let Some(address) = ciaddr.filter(|_| before == "BOUND") {
                assert!(asks(said, address) || self.probe == Probe::Off, "a renewal without a probe");
            }
        }

        let announced = client.lease().is_some_and(|lease| announces(said, lease.address));
        if self.announce_at.is_some_and(|at| at <= now) {
            let still = client.state() == "BOUND" && carrier && events.is_empty();
            assert!(announced || !still, "the second announcement is missing");
            self.announce_at = None;
        }
        for event in events {
            self.announce_at = None;
            let fresh = match event {
                Event::Bound(lease) => lease.address,
                Event::Changed { old, new } if old.address != new.address => new.address,
                _ => continue,
            };
            let taken = self.asked.take().is_some_and(|(_, address, taken)| taken && address == fresh);
            assert!(!taken || before == "SELECTING", "{fresh} is used, although somebody else has it");
            // What is given back at once is not announced, nor what was settled just before the carrier came back.
            if carrier && !matches!(input, Input::Carrier(_)) && events.last() != Some(&Event::Released) {
                assert!(announces(said, fresh), "a new address is not announced");
                self.announce_at = Some(now + AGAIN);
            }
        }
        if client.state() != "BOUND" || !carrier {
            self.announce_at = None;
        }
        if let Some(at) = self.announce_at {
            assert!(client.poll_timeout().is_some_and(|due| due <= at), "nobody thinks of the second announcement");
            assert!(client.is_listening(), "deaf before the second announcement");
        }
    }

    /// Who is let go announces nothing any more.
    pub fn rests(&mut self) {
        self.announce_at = None;
    }

    /// Remembers that the address that was asked for is somebody else's.
    fn hear(&mut self, input: Input, before: &str) {
        let Input::Arp(arp) = input else { return };
        let claimed = if arp.from_ip.is_unspecified() && !arp.reply { arp.wanted } else { arp.from_ip };
        let asking = matches!(before, "REQUESTING" | "REBOOTING") && self.probe != Probe::Off && arp.from != self.mac;
        if let Some((_, address, taken)) = &mut self.asked
            && asking
            && *address == claimed
        {
            *taken = true;
        }
    }
}

fn asks(said: &[Said], address: Ipv4Addr) -> bool {
    said.iter().any(|said| matches!(said, Said::Arp(arp) if arp.wanted == address && arp.from_ip == NOBODY))
}

fn announces(said: &[Said], address: Ipv4Addr) -> bool {
    said.iter().any(|said| matches!(said, Said::Arp(arp) if (arp.from_ip, arp.wanted) == (address, address)))
}
