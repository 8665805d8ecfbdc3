//! The first lease of a container, for which a caller waits.

use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use super::{Commons, Next, Session, Undoing, seed};
use crate::dhcp::{self, Client, Event, Lost};
use crate::proxy::error::Error;
use crate::proxy::request::Request;
use crate::proxy::settings::{Place, Settings};
use crate::proxy::site::{LinkState, Site};
use crate::proxy::words::Brief;
use crate::rt;

impl Session {
    /// Gets a lease, `wish` if the server will, and puts it on the link. All or nothing. Each lease is made known to
    /// `leased` before anything is changed for it, and that it is given back to `undoing` before that is done.
    pub(in crate::proxy) async fn acquire(
        commons: Rc<Commons>,
        mut request: Request,
        site: Site,
        wish: Option<Ipv4Addr>,
        (leased, undoing): (impl AsyncFn(&Self), Undoing),
    ) -> Result<Self, Error> {
        let patience = commons.habits.acquisition.unwrap_or(Duration::MAX);
        // A caller without a deadline waits all the same, which is to be known.
        let mut config = dhcp::Config { deadline: Some(patience), requested: wish, ..commons.config(&mut request) };
        let wire = site.open(&request)?;
        // A carrier may come by itself; who sets an interface up did so before he called.
        if wire.state == LinkState::Down {
            return Err(Error::LinkDown(request.container_interface));
        }
        config.fit_mtu(wire.mtu);
        let now = rt::now();
        let client = Client::new(config, seed()?, now);
        let mut session = Self::new(commons, request, site, client, Settings::default());
        session.before_undoing = Some(undoing);
        session.wire = Some(wire);
        session.mind_link();
        session.bind(leased).await?;
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
                    self.last = Some(Place::of(&lease));
                    // By now there may be an answer of somebody who has the address; later ones `keep` hears.
                    self.hear_what_arrived();
                    if self.client.lease().is_some() {
                        self.learn_plainness();
                        return Ok(());
                    }
                }
                // The client goes on until its deadline.
                Event::Lost { old, why: why @ Lost::Conflict { .. } } => self.lose(&old, &why),
                Event::GaveUp(why) => {
                    return Err(Error::NoAnswer { interface: self.request.container_interface.clone(), why });
                }
                event if self.remark(&event) => {}
                // All others need a lease that is kept.
                event => log::debug!("{self}: {event:?} in a Setup"),
            }
        }
    }
}
