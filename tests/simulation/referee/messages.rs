//! The rules for what a client says to servers.

use super::{Exchange, FUZZ, HOUR, MOST, Referee, Used};
use crate::datagrams::*;
use smol_dhcp_proxy::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

impl Referee {
    /// RFC 2131 table 5, and who may be asked what and when.
    pub(super) fn judge_message(&mut self, heard: &Heard, held: Option<Used>, now: Instant) {
        while self.sent.front().is_some_and(|sent| now - *sent >= HOUR) {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
        self.busiest = self.busiest.max(self.sent.len());
        assert!(
            self.sent.len() <= MOST,
            "{} messages within an hour",
            self.sent.len()
        );

        assert_eq!(heard.chaddr, self.mac, "chaddr");
        // A server may like none at all.
        let client_id = Some(heard.client_id).filter(|id| *id != 0);
        self.client_id = self.client_id.or(client_id);
        assert!(
            client_id.is_none() || client_id == self.client_id,
            "the client identifier changes"
        );
        assert!(!heard.words || heard.message_type == DECLINE, "option 56");
        assert!(heard.names <= 1, "options 12 and 81 together");
        let asks = matches!(heard.message_type, DISCOVER | REQUEST);
        assert_eq!(heard.wishes, asks, "option 55");
        assert_eq!(
            heard.broadcast_flag,
            self.broadcast && heard.ciaddr.is_none() && asks,
            "the flag"
        );
        assert_eq!(heard.secs > 0, asks, "secs {}", heard.secs);
        let renewing_since = self
            .in_use
            .and_then(|used| used.renew_at)
            .unwrap_or(self.born);
        let secs = (now + FUZZ - self.born.min(renewing_since))
            .as_secs()
            .max(1);
        assert!(u64::from(heard.secs) <= secs, "secs {}", heard.secs);
        match heard.message_type {
            DISCOVER => {
                assert_eq!((heard.ciaddr, heard.server), (None, None), "in a DISCOVER");
                assert!(self.in_use.is_none(), "DISCOVER with a lease in use");
                self.judge_broadcast(heard);
                self.enter_exchange(heard, now);
            }
            REQUEST => {
                self.enter_exchange(heard, now);
                match (heard.ciaddr, heard.requested, heard.server) {
                    (None, Some(address), server) => {
                        assert!(
                            self.in_use.is_none(),
                            "REQUEST of another address with a lease in use"
                        );
                        self.judge_broadcast(heard);
                        // An OFFER in no name is its sender's, who is not known here.
                        let offered = |server| {
                            [server, NOBODY]
                                .iter()
                                .any(|by| self.offers.contains(&(heard.xid, *by, address)))
                        };
                        assert!(
                            server.is_none_or(offered),
                            "REQUEST of {address}, which was not offered"
                        );
                        assert!(!heard.rapid, "rapid commit is for a DISCOVER");
                    }
                    (Some(address), None, None) => self.judge_renewal(heard, address, now),
                    (None, None, _) => panic!("a REQUEST for nothing"),
                    (Some(_), ..) => panic!("options 50 or 54 in a renewal"),
                }
                self.offer_since = None;
            }
            DECLINE => {
                let (Some(address), Some(_), None) = (heard.requested, heard.server, heard.ciaddr)
                else {
                    panic!("a DECLINE needs options 50 and 54 and no ciaddr")
                };
                assert!(
                    self.claims.iter().any(|(claimed, _)| *claimed == address),
                    "DECLINE of what nobody claims"
                );
                self.judge_broadcast(heard);
                self.stale = self.exchange.map(|exchange| exchange.xid);
            }
            RELEASE => {
                // An ACK in no name is its sender's, who is not known here.
                let acknowledged = self
                    .ack
                    .map(|ack| (ack.yiaddr, ack.server.or(heard.server)));
                let held = held
                    .map(|held| (Some(held.address), Some(held.server)))
                    .or(acknowledged);
                assert_eq!(held, Some((heard.ciaddr, heard.server)), "in a RELEASE");
                assert_eq!(
                    (heard.requested, heard.from_ip),
                    (None, heard.ciaddr),
                    "in a RELEASE"
                );
                assert!(self.over, "RELEASE, and the address is still in use");
            }
            other => panic!("a client does not send type {other}"),
        }
    }

    fn judge_broadcast(&self, heard: &Heard) {
        assert_eq!(
            (heard.to_mac, heard.to_ip),
            (BROADCAST, Some(Ipv4Addr::BROADCAST)),
            "not a broadcast"
        );
        assert_eq!(
            (heard.from_ip, heard.datagram),
            (heard.ciaddr, false),
            "from somewhere else"
        );
    }

    /// RENEWING speaks to its server, REBINDING to all, and neither of them out of turn.
    fn judge_renewal(&mut self, heard: &Heard, address: Ipv4Addr, now: Instant) {
        let held = self.in_use.expect("renewing without a lease");
        assert_eq!(held.address, address, "renewing another address");
        assert_eq!(
            heard.from_ip, heard.ciaddr,
            "from another address than the leased one"
        );
        let never = Instant::from_boot(Duration::MAX);
        let (renew, rebind) = (
            held.renew_at.unwrap_or(never),
            held.rebind_at.unwrap_or(never),
        );
        assert!(
            now + FUZZ >= renew || self.may_have_moved,
            "a renewal before T1"
        );
        match heard.datagram {
            true => {
                assert!(now < rebind, "unicast after T2");
                assert_eq!(heard.to_ip, Some(held.server), "unicast to another server");
            }
            false => {
                assert!(now + FUZZ >= rebind, "broadcast before T2");
                self.judge_broadcast(heard);
            }
        }
        self.asked_at = now;
    }

    fn enter_exchange(&mut self, heard: &Heard, now: Instant) {
        assert_ne!(
            self.stale,
            Some(heard.xid),
            "the xid of an exchange that is over"
        );
        let new = Exchange {
            xid: heard.xid,
            discover: None,
            request: None,
            server: None,
            requested: None,
        };
        let mut exchange = self
            .exchange
            .filter(|exchange| exchange.xid == heard.xid)
            .unwrap_or_else(|| {
                self.offer_since = None; // It was made to another DISCOVER.
                new
            });
        match heard.message_type {
            DISCOVER => exchange.discover.get_or_insert(now),
            _ => exchange.request.get_or_insert(now),
        };
        (exchange.server, exchange.requested) = (heard.server, heard.requested);
        self.exchange = Some(exchange);
    }
}
