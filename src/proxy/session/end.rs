//! The end of a lease: given back to its server, and taken off the link.

use super::Session;
use crate::dhcp::Event;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::error::CallError;
use crate::rt;

impl Session {
    /// Ends it: `release`s the lease to the server and then takes it off the link. When this
    /// returns, the RELEASE has left the interface, and nothing of ours holds the container's
    /// namespace but a packet socket that is being closed.
    ///
    /// # Errors
    ///
    /// It could not be taken off the link.
    pub(crate) async fn end(mut self, release: bool) -> Result<(), CallError> {
        self.settled = false;
        if release {
            self.release().await;
        }
        let ended = self.take_off_link();
        self.settled = true;
        ended
    }

    /// Undoes a Setup that came to nothing: gives the lease back, after `before` has noted that, and
    /// takes everything off the link.
    pub(crate) async fn roll_back(mut self, before: impl FnOnce()) {
        if self.is_undone() {
            return;
        }
        log::info!("{self}: giving the lease back");
        before();
        self.release().await;
        if let Err(error) = self.take_off_link() {
            log::warn!("{self}: cannot take the lease off the link: {error}");
        }
        self.settled = true;
    }

    /// Returns whether there is neither a lease nor anything of one on the link.
    fn is_undone(&self) -> bool {
        !self.client.is_leased() && self.applied.is_empty()
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
                Some(Event::Released | Event::GaveUp(_)) => return,
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

/// The last net: what was to be undone is undone by [`Session::roll_back`] or [`Session::end`].
impl Drop for Session {
    fn drop(&mut self) {
        if !self.settled && !self.is_undone() {
            log::warn!("{self}: the work on its lease was cut off; its record says how to go on");
        }
    }
}
