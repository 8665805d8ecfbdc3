//! Waiting: for frames, link changes, and the next deadline.

use std::future::pending;
use std::time::Duration;

use futures_lite::future::{or, yield_now};

use super::{MIN_RECHECK, Session};
use crate::dhcp::Ignored;
use crate::net::raw;
use crate::proxy::container::sockets::{ExchangeSockets, Received};
use crate::rt;

/// The time after which open sockets are closed and the container is looked up again. Sockets do
/// not notice that their interface is gone, and they keep its namespace alive.
const MAX_SOCKET_AGE: Duration = Duration::from_secs(10);

/// The most queued frames that are handled before a Setup is answered: a flood must not delay it
/// without end.
const MAX_QUEUED: usize = 100;

/// Returns whether a frame is a server's answer to this client, even if it is unusable.
fn is_answer(frame: &[u8], read: &Result<(), Ignored>) -> bool {
    match read {
        Ok(()) => raw::arp_sender(frame).is_none(),
        Err(Ignored::Unexpected { .. }) => true,
        // An unusable offer, or one of an excluded server, is no reason for a longer timeout.
        Err(_) => false,
    }
}

impl Session {
    /// Waits for a frame, a link change or the next deadline, and passes it to the client.
    pub(crate) async fn wait(&mut self) {
        let in_trouble = self.client.is_listening() && self.sockets.is_none();
        // From the opening, not from the last frame: in a namespace that only these sockets keep
        // alive, traffic may go on.
        let look = match &self.sockets {
            Some(sockets) => Some(sockets.opened + MAX_SOCKET_AGE),
            None => in_trouble.then(|| {
                self.reopen_delay
                    .until(rt::now())
                    .unwrap_or_else(|| rt::now() + MIN_RECHECK)
            }),
        };
        let Self {
            context,
            client,
            sockets,
            receive_rate,
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
            let pause = receive_rate.pause(rt::now());
            if !pause.is_zero() {
                rt::sleep(pause).await;
            }
            // Boxed to save memory: the sockets are closed nearly all of the time.
            Some(Box::pin(sockets.receive()).await)
        };
        let heard = or(heard, time).await;
        if heard.is_some() {
            receive_rate.count(rt::now());
        }
        match heard {
            Some(Ok(Received::Frame(frame))) => self.handle_frame(&frame),
            Some(Ok(Received::Link(state))) => {
                if let Some(sockets) = sockets {
                    sockets.state = state;
                }
                self.update_carrier();
            }
            Some(Ok(Received::LinkInDoubt)) => self.suspect_link(),
            Some(Err(error)) => {
                log::debug!("{self}: cannot receive: {error}");
                self.suspect_link();
            }
            None => {
                let now = rt::now();
                client.handle_timeout(now);
                // Opening them again shows whether the container still exists.
                if sockets
                    .as_ref()
                    .is_some_and(|sockets| sockets.opened + MAX_SOCKET_AGE <= now)
                {
                    *sockets = None;
                }
            }
        }
        // A flood on this interface must not delay the other leases.
        yield_now().await;
    }

    /// Passes the queued frames to the client, without waiting for more.
    pub(crate) fn handle_queued(&mut self) {
        for _ in 0..MAX_QUEUED {
            let Some(frame) = self.sockets.as_ref().and_then(ExchangeSockets::try_receive) else {
                return;
            };
            self.handle_frame(&frame);
        }
    }

    /// Passes a frame to the client.
    fn handle_frame(&mut self, frame: &[u8]) {
        let at_stake = self.client.own_address();
        if let Some(sockets) = &mut self.sockets
            && self.interface.is_claimed_by_container(
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
            self.record_answer();
        }
        if let Err(ignored) = read {
            log::trace!("ignored a frame: {ignored:?}");
        }
    }

    /// Closes the sockets after a sign that the interface is down or gone. The next check finds out
    /// which, and restores the routes: the kernel removes those of an interface that goes down.
    pub(crate) fn suspect_link(&mut self) {
        self.sockets = None;
        self.reopen_delay.close(rt::now());
        self.is_link_stale = true;
    }
}
