//! Conversion of a record into a session and back.

use std::rc::Rc;

use super::{MAX_RECHECK, MIN_RECHECK, Session, SessionContext, seed};
use crate::dhcp::{Client, Phase};
use crate::net::link::Address;
use crate::proxy::container::interface::{Unreachable, looking_for};
use crate::proxy::container::sockets::LinkState;
use crate::proxy::store::record::{LinkCheck, Record, RecordState};
use crate::rt;

impl Session {
    /// Resumes the lease of a record; `early` renews it before T1. Returns `None` for an
    /// interrupted Setup that left nothing on the link.
    pub(crate) fn resume(
        context: &Rc<SessionContext>,
        record: Record,
        early: bool,
    ) -> Result<Option<Self>, Unreachable> {
        let Record {
            mut request,
            interface,
            mut applied,
            message_size,
            state,
            link_check,
            last_trouble,
            ..
        } = record;
        let is_send_pending = link_check.is_some_and(|link_check| link_check.is_send_pending);
        let (mut config, seed, now) = (context.config(&mut request), seed()?, rt::now());
        // The first message is built before the sockets are open, which know the MTU.
        config.max_message_size = message_size.unwrap_or(config.max_message_size);
        // Without a check of the MAC: even an address on an interface with another MAC has to be
        // removed.
        let on_link = || {
            let addresses = interface.netlink(&request)?.addresses(interface.index);
            Ok::<_, Unreachable>(addresses.map_err(looking_for(&request.container_interface))?)
        };
        let client = match state {
            RecordState::Held {
                snapshot: mut rest, ..
            }
            | RecordState::Ending {
                snapshot: mut rest, ..
            } => {
                if is_send_pending {
                    rest.retransmit_now(now);
                }
                if early {
                    rest.renew_now(now);
                }
                let client = Client::resume(config, rest, seed, now);
                // A lease is written to the file before it is applied to the link, so it may be
                // there already.
                if let (Some(_), Some(lease)) = (link_check, client.lease()) {
                    let is_ours =
                        |there: &Address| there.valid.is_some() || lease.lease_time.is_none();
                    let there = on_link()?
                        .into_iter()
                        .find(|there| there.address == lease.address && is_ours(there));
                    there
                        .into_iter()
                        .for_each(|there| applied.assume_address(there.address, there.prefix));
                }
                client
            }
            RecordState::Intent => {
                // The Setup may have got a lease that was not yet written to the file. Only a
                // leased address has a lifetime.
                let Some(leased) = on_link()?.into_iter().find(|there| there.valid.is_some())
                else {
                    return Ok(None);
                };
                applied.assume_address(leased.address, leased.prefix);
                Client::reboot(config, leased.address, seed, now)
            }
        };
        let mut session = Self::new(Rc::clone(context), request, interface, client, applied);
        session.is_committed = true;
        session.last_trouble = last_trouble;
        session.is_link_stale = link_check.is_some();
        session.rechecks = link_check.map_or(0, |link_check| link_check.count);
        if is_send_pending {
            // The last state that was logged.
            session.link_state = LinkState::NoCarrier;
        }
        // An earlier session has logged it.
        session.is_taken_port_logged = true;
        Ok(Some(session))
    }

    /// Returns the record from which the lease can be resumed; `None` during an exchange.
    pub(crate) fn record(&self) -> Option<Record> {
        let rest = self.client.suspend()?;
        let now = rt::now();
        // A client with nothing to send before T1 needs no carrier until then.
        let has_time =
            matches!(rest.phase, Phase::Bound { .. }) && rest.due().is_none_or(|due| due > now);
        let is_send_pending = self.link_state != LinkState::Ready && !has_time;
        let link_check = (self.is_link_stale || is_send_pending).then(|| {
            let pause = MIN_RECHECK
                .saturating_mul(1 << self.rechecks.min(16))
                .min(MAX_RECHECK);
            LinkCheck {
                at: now + pause,
                count: self.rechecks.saturating_add(1),
                is_send_pending,
            }
        });
        let mut record = Record::dormant(
            (&self.request, &self.interface),
            self.client.config(),
            rest,
            &self.applied,
            link_check,
        );
        record.last_trouble.clone_from(&self.last_trouble);
        Some(record)
    }
}
