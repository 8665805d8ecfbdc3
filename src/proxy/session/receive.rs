//! A session that waits: for frames, for news of its link, or for its next deadline.

use std::future::pending;
use std::time::Duration;

use futures_lite::future::{or, yield_now};

use super::{RETRY, Session};
use crate::dhcp::Ignored;
use crate::net::raw;
use crate::proxy::container::sockets::{ExchangeSockets, Received};
use crate::rt;

/// How long sockets stay open before the container is looked for again. They hear nothing of an
/// interface that has gone, and a caller who waits would hold on to its namespace.
const LISTEN: Duration = Duration::from_secs(10);

/// Frames of the queue that are read before a Setup is answered: a flood of the interface must not
/// hold it up for good.
const ARRIVED: usize = 100;

/// Returns whether a frame is a server's answer to this client, be it one that cannot be used.
fn is_answer(frame: &[u8], read: &Result<(), Ignored>) -> bool {
    match read {
        Ok(()) => raw::arp_sender(frame).is_none(),
        Err(Ignored::Unexpected { .. }) => true,
        // Offers that are of no use, or of a server that the configuration excludes, are no reason
        // to wait for longer.
        Err(_) => false,
    }
}

impl Session {
    /// Waits for a frame, for news of the link or for the next deadline, and tells the client.
    pub(crate) async fn wait(&mut self) {
        let in_trouble = self.client.is_listening() && self.sockets.is_none();
        // Counted from their opening: in a namespace that only they keep alive, others may well go
        // on talking.
        let look = match &self.sockets {
            Some(sockets) => Some(sockets.opened + LISTEN),
            None => in_trouble.then(|| {
                self.reopening
                    .until(rt::now())
                    .unwrap_or_else(|| rt::now() + RETRY)
            }),
        };
        let Self {
            context,
            client,
            sockets,
            hearing,
            ..
        } = self;
        let due = [client.poll_timeout(), look].into_iter().flatten().min();
        let time = async {
            let Some(due) = due else {
                return pending().await;
            };
            context.sleep_until(due).await;
            None
        };
        let heard = async {
            let Some(sockets) = sockets else {
                return pending().await;
            };
            let pause = hearing.pause(rt::now());
            if !pause.is_zero() {
                rt::sleep(pause).await;
            }
            // Boxed, for while no sockets are open, which is nearly always, it takes no room then.
            Some(Box::pin(sockets.hear()).await)
        };
        let heard = or(heard, time).await;
        if heard.is_some() {
            hearing.count(rt::now());
        }
        match heard {
            Some(Ok(Received::Frame(frame))) => self.hear(&frame),
            Some(Ok(Received::Link(state))) => {
                if let Some(sockets) = sockets {
                    sockets.state = state;
                }
                self.mind_link();
            }
            Some(Ok(Received::LinkInDoubt)) => self.doubt_link(),
            Some(Err(error)) => {
                log::debug!("{self}: {error}");
                self.doubt_link();
            }
            None => {
                let now = rt::now();
                client.handle_timeout(now);
                // Opened anew, the sockets show whether the container is still there; held open,
                // they would be what keeps its namespace alive.
                if sockets
                    .as_ref()
                    .is_some_and(|sockets| sockets.opened + LISTEN <= now)
                {
                    *sockets = None;
                }
            }
        }
        // A flood of this interface that is in the queue already must not hold up the other leases.
        yield_now().await;
    }

    /// Lets the client hear what is in the queue, and waits for no more.
    pub(crate) fn hear_what_arrived(&mut self) {
        for _ in 0..ARRIVED {
            let Some(frame) = self.sockets.as_ref().and_then(ExchangeSockets::arrived) else {
                return;
            };
            self.hear(&frame);
        }
    }

    /// Lets the client hear a frame.
    fn hear(&mut self, frame: &[u8]) {
        let at_stake = self.client.own_address();
        if let Some(sockets) = &mut self.sockets
            && self.site.is_claimed_by_container(
                &self.request,
                &mut sockets.claimants,
                at_stake,
                frame,
            )
        {
            return;
        }
        let read = self.client.handle_packet(frame, rt::now());
        if is_answer(frame, &read) {
            self.note_answer();
        }
        if let Err(ignored) = read {
            log::trace!("ignored a frame: {ignored:?}");
        }
    }

    /// The interface went down, or away: the next look shows which, and what has to be put back.
    /// The kernel takes the routes off one that goes down.
    pub(crate) fn doubt_link(&mut self) {
        self.sockets = None;
        self.reopening.close(rt::now());
        self.stale = true;
    }
}
