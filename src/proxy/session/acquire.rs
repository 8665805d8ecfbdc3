//! The first lease of a container, for which a caller waits.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use super::{BeforeRollback, Next, Session, SessionContext, seed};
use crate::dhcp::{self, Client, Event, LossReason};
use crate::proxy::call::request::Request;
use crate::proxy::container::applied::Applied;
use crate::proxy::container::interface::ContainerInterface;
use crate::proxy::container::sockets::LinkState;
use crate::proxy::error::Error;
use crate::proxy::patience::{Patience, Wait};
use crate::proxy::session::log_text::Brief;
use crate::rt;

impl Session {
    /// Gets a lease, `wish` if the server will, and puts it on the link, within the time of
    /// `patience`. All or nothing. Each lease is made known to `leased` before anything is changed
    /// for it, and that it is given back to `undoing` before that is done.
    pub(crate) async fn acquire(
        commons: Rc<SessionContext>,
        mut request: Request,
        site: ContainerInterface,
        (wish, patience): (Option<Ipv4Addr>, Patience),
        (leased, undoing): (impl AsyncFn(&Self), BeforeRollback),
    ) -> Result<Self, Error> {
        // A caller without a deadline waits all the same, which is to be known.
        let time = Some(patience.time);
        let mut config = dhcp::Config {
            deadline: time,
            requested: wish,
            ..commons.config(&mut request)
        };
        let wire = site.open(&request)?;
        // A carrier may come by itself; who sets an interface up did so before he called.
        if wire.state == LinkState::Down {
            return Err(Error::LinkDown(request.container_interface));
        }
        config.fit_mtu(wire.mtu);
        let now = rt::now();
        let client = Client::new(config, seed()?, now);
        let mut session = Self::new(commons, request, site, client, Applied::default());
        session.before_undoing = Some(undoing);
        session.wire = Some(wire);
        session.mind_link();
        session.waiting = Some(Box::new(Wait::new(patience, now)));
        session.bind(leased).await?;
        session.waiting = None;
        Ok(session)
    }

    /// Asks until there is a lease that nobody disputes, and puts it on the link.
    async fn bind(&mut self, leased: impl AsyncFn(&Self)) -> Result<(), Error> {
        loop {
            let event = match self.next().await {
                Next::Event(event) => event,
                Next::Gone(why) | Next::OtherMac(why) => return Err(Error::Vanished(why)),
                Next::Rest(_) => unreachable!("only what is settled rests"),
            };
            match event {
                Event::Bound(lease) => {
                    log::info!("{self}: {}", Brief(&lease));
                    self.tell_cut_search_list(&lease);
                    leased(self).await;
                    self.put_on_link(&lease)?;
                    self.settings.place(&lease);
                    // By now there may be an answer of somebody who has the address; later ones
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

    fn no_answer(&self, why: dhcp::AcquireError) -> Error {
        let waiting = self.waiting.as_ref();
        Error::NoAnswer {
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
