//! The first lease of a container: acquired while the caller of Setup waits.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use super::{LeaseEvent, NextStep, Session, SessionContext, seed};
use crate::dhcp::{self, Client, Event, LossReason};
use crate::proxy::acquire_timeout::{AcquireDeadline, AcquireTimeout};
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::container::sockets::LinkState;
use crate::proxy::error::CallError;
use crate::proxy::session::log_text::LeaseTerms;
use crate::proxy::store::counters::Counter;
use crate::rt;

impl Session {
    /// Starts the acquisition of a lease, with `wanted` as the requested address (option 50).
    ///
    /// # Errors
    ///
    /// The interface is down or unreachable, or no socket can be opened.
    pub(crate) fn open(
        context: &Rc<SessionContext>,
        mut request: Request,
        interface: ContainerInterface,
        (wanted, timeout): (Option<Ipv4Addr>, AcquireTimeout),
    ) -> Result<Self, CallError> {
        // With `-t 0` as well: only an acquisition with a deadline knows that a caller waits.
        let time = Some(timeout.duration);
        let mut config = dhcp::Config {
            deadline: time,
            requested: wanted,
            ..context.config(&mut request)
        };
        let sockets = interface.open(&request)?;
        // A missing carrier may come by itself. An interface that is down stays down: it is set up
        // before the call.
        if sockets.state == LinkState::Down {
            return Err(CallError::LinkDown(request.container_interface));
        }
        config.fit_mtu(sockets.mtu);
        let now = rt::now();
        let client = Client::new(config, seed()?, now);
        let context = Rc::clone(context);
        let mut session = Self::new(context, request, interface, client, Applied::default());
        session.sockets = Some(sockets);
        session.update_carrier();
        session.deadline = Some(Box::new(AcquireDeadline::new(timeout, now)));
        Ok(session)
    }

    /// Acquires a lease without an address conflict, applies it to the link and
    /// [commits](Session::commit) the session. Reports each lease to `leased` before it is applied.
    ///
    /// # Errors
    ///
    /// There is no lease. The caller must [roll back](Session::roll_back).
    pub(crate) async fn acquire(&mut self, leased: impl AsyncFn(&Self)) -> Result<(), CallError> {
        self.bind(leased).await?;
        self.deadline = None;
        self.commit();
        self.context.count(Counter::Acquisition);
        if let Some(lease) = self.client.lease() {
            self.emit(LeaseEvent::Bound, lease);
        }
        Ok(())
    }

    async fn bind(&mut self, leased: impl AsyncFn(&Self)) -> Result<(), CallError> {
        loop {
            let event = match self.next_step().await {
                NextStep::Event(event) => event,
                NextStep::Gone(why) | NextStep::OtherMac(why) => {
                    return Err(CallError::Vanished(why));
                }
                NextStep::Dormant(_) => unreachable!("only a committed session becomes dormant"),
            };
            match event {
                Event::Bound(lease) => {
                    log::info!("{self}: leased {}", LeaseTerms(&lease));
                    self.log_left_out_domains(&lease);
                    leased(self).await;
                    self.put_on_link(&lease)?;
                    self.applied.set_address_and_gateway(&lease);
                    // The queue may hold the ARP reply of a station that has the address.
                    // [`Session::run`] handles those that come later.
                    self.handle_queued();
                    if self.client.lease().is_some() {
                        // A switch port that drops the first DISCOVERs looks like a server that
                        // ignores them.
                        if self
                            .deadline
                            .as_ref()
                            .is_some_and(|deadline| !deadline.timeout().reason.is_of_port())
                        {
                            self.remember_plainness();
                        }
                        return Ok(());
                    }
                }
                // The client searches on until its deadline.
                Event::Lost {
                    old,
                    why: why @ LossReason::Conflict { .. },
                } => self.apply_loss(&old, &why),
                Event::GaveUp(why) => return Err(self.no_answer(why)),
                event if self.log_notice(&event) => {}
                // The other events need a committed lease.
                event => log::debug!("{self}: ignoring {event:?} during Setup"),
            }
        }
    }

    fn no_answer(&self, why: dhcp::AcquireError) -> CallError {
        let deadline = self.deadline.as_ref();
        CallError::NoAnswer {
            interface: self.request.container_interface.clone(),
            why,
            timeout: deadline.map_or(AcquireTimeout::exactly(Duration::MAX), |deadline| {
                deadline.timeout()
            }),
            is_unanswered: deadline.is_some_and(|deadline| !deadline.is_answered()),
        }
    }

    /// Records that a server has answered, which may extend the deadline of a Setup.
    pub(super) fn record_answer(&mut self) {
        self.extend_deadline(|deadline| deadline.record_answer());
    }

    /// Records that the carrier has come up, which may extend the deadline of a Setup.
    pub(super) fn record_carrier(&mut self) {
        self.extend_deadline(|deadline| deadline.record_carrier(rt::now()));
    }

    fn extend_deadline(&mut self, note: impl FnOnce(&mut AcquireDeadline)) {
        if let Some(deadline) = &mut self.deadline {
            note(deadline);
            self.client.extend_deadline(deadline.at());
        }
    }
}
