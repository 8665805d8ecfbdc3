//! The end of a lease: given back to its server, and taken off the link.

use super::Session;
use crate::dhcp::Event;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::error::Error;
use crate::proxy::session::BeforeRollback;
use crate::rt;

impl Session {
    /// Ends it: `release`s the lease to the server and then takes it off the link. When this
    /// returns, the RELEASE has left the interface, and nothing of ours holds the container's
    /// namespace but a packet socket that is being closed.
    ///
    /// # Errors
    ///
    /// It could not be taken off the link.
    pub(crate) async fn end(mut self, release: bool) -> Result<(), Error> {
        // Should this be dropped on the way, dropping does the rest.
        self.settled = false;
        if release {
            self.release().await;
        }
        let ended = self.take_off_link();
        self.settled = true;
        ended
    }

    /// Gives the lease back to its server, if there is one and a way to it. Returns when the
    /// RELEASE has left.
    pub(super) async fn release(&mut self) {
        if !self.can_release() {
            return;
        }
        self.client.release(rt::now());
        loop {
            self.send();
            match self.client.poll_event() {
                Some(Event::Released) => return,
                Some(_) => {}
                None if self.is_ready() => self.wait().await,
                None => return,
            }
        }
    }

    /// Whether there is a lease to be released, and a way to the server.
    fn can_release(&mut self) -> bool {
        if !self.client.is_leased() {
            return false;
        }
        self.releasing = true;
        match self.reach() {
            Ok(()) if self.is_ready() => return true,
            Ok(()) => log::warn!("{self}: cannot release its lease: nothing can be sent there"),
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{self}: {why}; its lease is left to run out");
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{self}: cannot release its lease: {error}")
            }
        }
        false
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.settled || (!self.client.is_leased() && self.settings.is_empty()) {
            return;
        }
        log::info!("{self}: giving the lease back");
        if let Some(BeforeRollback(before)) = self.before_undoing.take() {
            before();
        }
        if self.can_release() {
            // One that would have to wait for ARP is not waited for in here; the ACK has told us
            // where to send it.
            self.client.release(rt::now());
            self.send();
        }
        if let Err(error) = self.take_off_link() {
            log::warn!("{self}: cannot take the lease off the link: {error}");
        }
    }
}
