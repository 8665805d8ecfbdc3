//! `rpc::serve_counted` on a thread, one connection each, and a handler that answers by what it is asked.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that each use a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use event_listener::Event;
use smol_dhcp_proxy::rpc::{
    self, Answer, Call, Code, NetavarkLease, NetworkConfig, OperationResponse, Reply, Status,
};
use smol_dhcp_proxy::rt;

/// Longer than any test takes.
pub const NEVER: Duration = Duration::from_secs(600);

/// Longer than anything takes that works.
pub const SOON: Duration = Duration::from_secs(10);

/// A server with one connection.
pub struct Server {
    over: Receiver<()>,
    statuses: Receiver<Code>,
    close: Arc<Event>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves one end of a socket pair and hands out the other.
    pub fn start<F>(
        quiet: Duration,
        handler: impl Fn(Call) -> F + Send + 'static,
    ) -> (Self, UnixStream)
    where
        F: Future<Output = Result<Answer, Status>>,
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let close = Arc::new(Event::new());
        let closing = close.listen();
        let (ended, over) = channel();
        let (counted, statuses) = channel();
        let thread = std::thread::spawn(move || {
            rt::block_on(async move |_| {
                // Nothing may receive them.
                let counted = |code| {
                    let _ = counted.send(code);
                };
                rpc::serve_counted(ours.try_into().unwrap(), quiet, closing, handler, counted).await
            });
            let _ = ended.send(());
        });
        (
            Self {
                over,
                statuses,
                close,
                thread,
            },
            theirs,
        )
    }

    /// Tells it to finish.
    pub fn close(&self) {
        self.close.notify(usize::MAX);
    }

    /// Returns the status of the next call that has ended.
    pub fn status(&self) -> Code {
        self.statuses.recv_timeout(SOON).expect("a call has ended")
    }

    /// Waits until `serve` has returned, which it must do by now.
    pub fn join(self) {
        self.over.recv_timeout(SOON).expect("serve has returned");
        self.thread.join().unwrap();
    }

    /// Returns whether `serve` still runs.
    pub fn is_running(&self) -> bool {
        self.over.try_recv().is_err()
    }
}

/// Answers with a lease that quotes the config, or with the error that its host interface names, as
/// in "5 text"; "0 text" is a lease with a warning.
pub async fn answer(call: Call) -> Result<Answer, Status> {
    let config = match call {
        Call::Clean => return Ok(Reply::Operation(OperationResponse { success: true }).into()),
        Call::Setup(config) | Call::Teardown(config) => config,
        Call::Renew(_) | Call::Release(_) => {
            return Err(Status::new(Code::PermissionDenied, "not here"));
        }
    };
    let reply = Reply::Lease(quoting(&config));
    match config.host_iface.split_once(' ') {
        None => Ok(reply.into()),
        Some(("0", warning)) => Ok(Answer {
            reply,
            warning: Some(warning.into()),
        }),
        Some((code, message)) => Err(Status::new(
            Code::from(code.parse::<u32>().unwrap()),
            message,
        )),
    }
}

/// The lease that [`answer`] gives.
pub fn quoting(config: &NetworkConfig) -> NetavarkLease {
    NetavarkLease {
        lease_time: 3600,
        yiaddr: "10.88.1.2".into(),
        subnet_mask: "255.255.0.0".into(),
        gateways: vec!["10.88.0.1".into()],
        mac_address: config.container_mac_addr.clone(),
        host_name: config.host_name.clone(),
        ..Default::default()
    }
}

/// A config with this MAC address.
pub fn config(mac: &str) -> NetworkConfig {
    NetworkConfig {
        container_mac_addr: mac.into(),
        host_name: "weiß".into(),
        ..Default::default()
    }
}

/// The end of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    Begun,
    Dropped,
}

/// A call that never ends by itself.
pub type Endless = Pin<Box<dyn Future<Output = Result<Answer, Status>>>>;

/// Returns a handler whose calls never end, and a receiver of their fates.
pub fn endless() -> (impl Fn(Call) -> Endless + Send, Receiver<Fate>) {
    struct Guard(Sender<Fate>);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send(Fate::Dropped);
        }
    }
    let (fates, seen) = channel();
    let handler = move |_| -> Endless {
        let fates = fates.clone();
        Box::pin(async move {
            let _ = fates.send(Fate::Begun);
            let _guard = Guard(fates);
            futures_lite::future::pending().await
        })
    };
    (handler, seen)
}
