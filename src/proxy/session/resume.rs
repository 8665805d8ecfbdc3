//! From a record to a session, and back.

use std::rc::Rc;

use super::{RETRY, SELDOM, Session, SessionContext, seed};
use crate::dhcp::{Client, Phase};
use crate::net::link::Address;
use crate::proxy::container::interface::{Unreachable, looking_for};
use crate::proxy::container::sockets::LinkState;
use crate::proxy::store::record::{Look, Record, RecordState};
use crate::rt;

impl Session {
    /// Goes on with a record. `early` renews a lease before its T1. `None` where a Setup has come to
    /// nothing.
    pub(crate) fn revive(
        context: &Rc<SessionContext>,
        record: Record,
        early: bool,
    ) -> Result<Option<Self>, Unreachable> {
        let Record {
            mut request,
            interface: site,
            mut applied,
            message_size,
            state,
            look,
            ..
        } = record;
        let unsaid = look.is_some_and(|look| look.unsaid);
        let (mut config, seed, now) = (context.config(&mut request), seed()?, rt::now());
        // The first message is written before the sockets are open that tell the MTU.
        config.max_message_size = message_size.unwrap_or(config.max_message_size);
        // Its MAC does not matter yet: what is on the link comes off again, whatever becomes of the
        // lease.
        let on_link = || {
            let addresses = site.netlink(&request)?.addresses(site.index);
            Ok::<_, Unreachable>(addresses.map_err(looking_for(&request.container_interface))?)
        };
        let client = match state {
            RecordState::Held {
                snapshot: mut rest, ..
            }
            | RecordState::Ending {
                snapshot: mut rest, ..
            } => {
                if unsaid {
                    rest.retransmit_now(now);
                }
                if early {
                    rest.renew_now(now);
                }
                let client = Client::resume(config, rest, seed, now);
                // A lease is written down before it is put on the link. It may be there by now.
                if let (Some(_), Some(lease)) = (look, client.lease()) {
                    let is_ours =
                        |there: &Address| there.valid.is_some() || lease.lease_time.is_none();
                    let there = on_link()?
                        .into_iter()
                        .find(|there| there.address == lease.address && is_ours(there));
                    there
                        .into_iter()
                        .for_each(|there| applied.adopt(there.address, there.prefix));
                }
                client
            }
            RecordState::Intent => {
                // Whatever the Setup came to, and was not written down: what has a lifetime was
                // leased.
                let Some(leased) = on_link()?.into_iter().find(|there| there.valid.is_some())
                else {
                    return Ok(None);
                };
                applied.adopt(leased.address, leased.prefix);
                Client::reboot(config, leased.address, seed, now)
            }
        };
        let mut session = Self::new(Rc::clone(context), request, site, client, applied);
        session.settled = true;
        session.stale = look.is_some();
        session.looks = look.map_or(0, |look| look.count);
        if unsaid {
            // As far as has been told.
            session.link = LinkState::NoCarrier;
        }
        // If it was taken then, that was told.
        session.told_of_taken_port = true;
        Ok(Some(session))
    }

    /// How to go on with it later; none while that cannot be said.
    pub(crate) fn record(&self) -> Option<Record> {
        let rest = self.client.suspend()?;
        let now = rt::now();
        // A client that has nothing to send before T1 needs no carrier until then.
        let has_time =
            matches!(rest.phase, Phase::Bound { .. }) && rest.due().is_none_or(|due| due > now);
        let unsaid = self.link != LinkState::Ready && !has_time;
        let look = (self.stale || unsaid).then(|| {
            let pause = RETRY.saturating_mul(1 << self.looks.min(16)).min(SELDOM);
            Look {
                at: now + pause,
                count: self.looks.saturating_add(1),
                unsaid,
            }
        });
        Some(Record::resting(
            (&self.request, &self.site),
            self.client.config(),
            rest,
            &self.applied,
            look,
        ))
    }
}
