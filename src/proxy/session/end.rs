//! The end of a lease: DHCPRELEASE to the server, and its removal from the link.

use super::{LeaseEvent, Session};
use crate::dhcp::Event;
use crate::proxy::container::interface::Unreachable;
use crate::proxy::error::CallError;
use crate::rt;

impl Session {
    /// Ends the lease: sends a RELEASE if `release` is set, then removes the lease from the link.
    /// At the return the RELEASE has left the interface, and only a packet socket that is being
    /// closed still holds the container's namespace. Returns the reason if the RELEASE could not be
    /// sent.
    ///
    /// # Errors
    ///
    /// The link cannot be restored.
    pub(crate) async fn end(mut self, release: bool) -> Result<Option<String>, CallError> {
        self.is_committed = false;
        let lease = self.client.lease().cloned();
        let failed = if release { self.release().await } else { None };
        let ended = self.take_off_link();
        self.is_committed = true;
        if let Some(lease) = lease.filter(|_| ended.is_ok()) {
            let event = match (release, &failed) {
                (false, _) => LeaseEvent::Replaced,
                (true, None) => LeaseEvent::Released,
                (true, Some(_)) => LeaseEvent::Unreleased,
            };
            self.emit(event, &lease);
        }
        ended.map(|()| failed)
    }

    /// Undoes a failed Setup: calls `before`, which writes the state file, then releases the lease
    /// and restores the link.
    pub(crate) async fn roll_back(mut self, before: impl FnOnce()) {
        if self.has_nothing_to_undo() {
            return;
        }
        log::info!("{self}: undoing the Setup, releasing the lease");
        before();
        self.release().await;
        if let Err(error) = self.take_off_link() {
            log::warn!("{self}: cannot restore the link: {error}");
        }
        self.is_committed = true;
    }

    /// Returns whether there is neither a lease nor anything on the link.
    fn has_nothing_to_undo(&self) -> bool {
        !self.client.is_leased() && self.applied.is_empty()
    }

    /// Releases the lease, if there is one. Returns when the RELEASE has left, or the reason why it
    /// cannot be sent.
    pub(super) async fn release(&mut self) -> Option<String> {
        if !self.client.is_leased() {
            return None;
        }
        if let Err(why) = self.prepare_release() {
            return Some(why);
        }
        self.client.release(rt::now());
        self.sent_frame = None;
        loop {
            self.send();
            match self.client.poll_event() {
                // It has expired at this very time.
                Some(Event::Lost { .. }) => return None,
                Some(Event::Released | Event::GaveUp(_)) => return self.release_failure(),
                Some(_) => {}
                None if self.can_send() => self.wait().await,
                None => return Some(self.link_state.to_string()),
            }
        }
    }

    /// Returns the reason why the RELEASE was not sent, although the client has made an end.
    fn release_failure(&self) -> Option<String> {
        let why = match &self.sent_frame {
            Some(Ok(is_arp)) if !is_arp => return None,
            Some(Err(error)) => error.clone(),
            None if !self.can_send() => self.link_state.to_string(),
            Some(Ok(_)) | None => "no station answers ARP for the way to its server".to_owned(),
        };
        log::warn!("{self}: cannot release the lease: {why}; it is left to expire");
        Some(why)
    }

    /// Opens the sockets for a RELEASE. The error is the reason why it cannot be sent.
    fn prepare_release(&mut self) -> Result<(), String> {
        self.is_releasing = true;
        match self.open_sockets() {
            Ok(()) if self.can_send() => Ok(()),
            Ok(()) => {
                let state = self.link_state;
                log::warn!("{self}: cannot release the lease: {state}; it is left to expire");
                Err(state.to_string())
            }
            Err(Unreachable::Gone(why) | Unreachable::OtherMac(why)) => {
                log::info!("{self}: {why}; the lease is left to expire");
                Err(why)
            }
            Err(Unreachable::Fault(error)) => {
                log::warn!("{self}: cannot release the lease: {error}; it is left to expire");
                Err(error.to_string())
            }
        }
    }
}

/// Logs a session that was dropped before [`Session::roll_back`] or [`Session::end`] had finished.
impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_committed && !self.has_nothing_to_undo() {
            log::warn!("{self}: interrupted; the next start goes on from the state file");
        }
    }
}
