//! The client's configuration: the daemon's settings, and what earlier sessions found out about the
//! network.

use super::{Session, SessionContext};
use crate::dhcp::{self, Event, Plainness};
use crate::proxy::call::request::Request;
use crate::proxy::session::log_text;

impl SessionContext {
    /// Returns the client's configuration for a container. Moves the client identifier and the host
    /// name out of `request`.
    pub(super) fn config(&self, request: &mut Request) -> dhcp::Config {
        let (settings, mut history) = (&self.settings, self.history.borrow_mut());
        let proxy_arp = history.proxy_arp(&request.host_interface);
        dhcp::Config {
            fqdn: settings.fqdn.then(|| request.fqdn()).flatten(),
            host_name: request.host_name.take(),
            broadcast: settings.broadcast,
            probe: settings.probe,
            rapid_commit: settings.rapid_commit,
            servers: settings.servers.clone(),
            denied_servers: settings.denied_servers.clone(),
            plainness: history.plainness(&request.host_interface, request.key.mac),
            proxy_arp,
            ..dhcp::Config::new(request.key.mac, std::mem::take(&mut request.client_id))
        }
    }
}

impl Session {
    /// Logs an event that does not change the link. Returns whether `event` is one.
    pub(super) fn log_notice(&mut self, event: &Event) -> bool {
        let Some(notice) = log_text::notice(event) else {
            return false;
        };
        let network = &self.request.host_interface;
        match event {
            // Once for each station and network, as long as the history has it.
            Event::ProxyArp { by, .. }
                if !self
                    .context
                    .history
                    .borrow_mut()
                    .record_proxy_arp(network, *by) =>
            {
                log::debug!("{self}: {notice}");
            }
            _ => log::warn!("{self}: {notice}"),
        }
        if matches!(event, Event::Declined { .. } | Event::Contested { .. }) {
            self.set_trouble(&notice);
        }
        true
    }

    /// Saves which options the server's network does not tolerate in a DISCOVER.
    pub(super) fn remember_plainness(&self) {
        let (plainness, network) = (self.client.plainness(), &self.request.host_interface);
        let is_news = || {
            self.context.history.borrow_mut().record_plainness(
                network,
                plainness,
                self.request.key.mac,
            )
        };
        if plainness == Plainness::Full || !is_news() {
            return;
        }
        let left_out = match plainness {
            Plainness::Full | Plainness::NoShortcuts => "rapid commit and a requested address",
            Plainness::LikeNetavark => "options that netavark's proxy does not send",
            Plainness::Bare => "a client identifier; it identifies clients by MAC",
        };
        log::warn!(
            "{self}: the DHCP server on {network} answers only a DISCOVER without {left_out}"
        );
    }
}
