//! The first lease of a container, for which a caller waits.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use super::{NextStep, Session, SessionContext, seed};
use crate::dhcp::{self, Client, Event, LossReason};
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::container::sockets::LinkState;
use crate::proxy::error::CallError;
use crate::proxy::patience::{Patience, Wait};
use crate::proxy::session::log_text::Brief;
use crate::rt;

impl Session {
    /// Opens the sockets to get a lease, `wanted` if the server will, within the time of `patience`.
    ///
    /// # Errors
    ///
    /// The interface is down, or cannot be reached.
    pub(crate) fn open(
        context: &Rc<SessionContext>,
        mut request: Request,
        site: ContainerInterface,
        (wanted, patience): (Option<Ipv4Addr>, Patience),
    ) -> Result<Self, CallError> {
        // A caller without a deadline waits all the same, which is to be known.
        let time = Some(patience.time);
        let mut config = dhcp::Config {
            deadline: time,
            requested: wanted,
            ..context.config(&mut request)
        };
        let sockets = site.open(&request)?;
        // A carrier may come by itself; an interface is set up before the call.
        if sockets.state == LinkState::Down {
            return Err(CallError::LinkDown(request.container_interface));
        }
        config.fit_mtu(sockets.mtu);
        let now = rt::now();
        let client = Client::new(config, seed()?, now);
        let context = Rc::clone(context);
        let mut session = Self::new(context, request, site, client, Applied::default());
        session.sockets = Some(sockets);
        session.mind_link();
        session.waiting = Some(Box::new(Wait::new(patience, now)));
        Ok(session)
    }

    /// Gets a lease that no other station disputes, and puts it on the link; the session is
    /// [settled](Session::settle) then. Each lease is made known to `leased` before anything is
    /// changed for it.
    ///
    /// # Errors
    ///
    /// There is no lease. What was done has to be [rolled back](Session::roll_back).
    pub(crate) async fn acquire(&mut self, leased: impl AsyncFn(&Self)) -> Result<(), CallError> {
        self.bind(leased).await?;
        self.waiting = None;
        self.settle();
        Ok(())
    }

    /// Asks until there is a lease, and puts it on the link.
    async fn bind(&mut self, leased: impl AsyncFn(&Self)) -> Result<(), CallError> {
        loop {
            let event = match self.next().await {
                NextStep::Event(event) => event,
                NextStep::Gone(why) | NextStep::OtherMac(why) => {
                    return Err(CallError::Vanished(why));
                }
                NextStep::Rest(_) => unreachable!("only what is settled rests"),
            };
            match event {
                Event::Bound(lease) => {
                    log::info!("{self}: {}", Brief(&lease));
                    self.tell_cut_search_list(&lease);
                    leased(self).await;
                    self.put_on_link(&lease)?;
                    self.applied.note_address_and_gateway(&lease);
                    // By now there may be an answer of a station that has the address; later ones
                    // `keep` hears.
                    self.hear_what_arrived();
                    if self.client.lease().is_some() {
                        // A port that was deaf to the first DISCOVERs looks like a server that does
                        // not answer them.
                        if self
                            .waiting
                            .as_ref()
                            .is_some_and(|waiting| !waiting.patience().reason.is_of_port())
                        {
                            self.learn_plainness();
                        }
                        return Ok(());
                    }
                }
                // The client goes on until its deadline.
                Event::Lost {
                    old,
                    why: why @ LossReason::Conflict { .. },
                } => self.lose(&old, &why),
                Event::GaveUp(why) => return Err(self.no_answer(why)),
                event if self.remark(&event) => {}
                // All others need a lease that is kept.
                event => log::debug!("{self}: {event:?} in a Setup"),
            }
        }
    }

    fn no_answer(&self, why: dhcp::AcquireError) -> CallError {
        let waiting = self.waiting.as_ref();
        CallError::NoAnswer {
            interface: self.request.container_interface.clone(),
            why,
            patience: waiting.map_or(Patience::told(Duration::MAX), |waiting| waiting.patience()),
            is_unanswered: waiting.is_some_and(|waiting| !waiting.is_answered()),
        }
    }

    /// Notes that a server has answered, for the caller of Setup if one waits.
    pub(super) fn note_answer(&mut self) {
        self.wait_longer(|waiting| waiting.note_answer());
    }

    /// Notes that the carrier has come.
    pub(super) fn note_carrier(&mut self) {
        self.wait_longer(|waiting| waiting.note_carrier(rt::now()));
    }

    fn wait_longer(&mut self, note: impl FnOnce(&mut Wait)) {
        if let Some(waiting) = &mut self.waiting {
            note(waiting);
            self.client.extend_deadline(waiting.deadline());
        }
    }
}
