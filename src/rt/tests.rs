//! Tests of the items that the crate requires of its runtime, run on both.

use std::future::poll_fn;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use futures_lite::future::{or, poll_once};

use super::*;

const STEP: Duration = Duration::from_millis(20);

#[test]
fn a_timer_can_be_set_again_after_it_fired_and_while_it_runs() {
    block_on(async move |_| {
        let mut timer = Timer::never();
        assert!(poll_once(timer.fired()).await.is_none());
        for _ in 0..2 {
            let start = now();
            timer.reset(Some(Duration::from_secs(1000)));
            assert!(poll_once(timer.fired()).await.is_none());
            timer.reset(Some(STEP));
            timer.fired().await;
            assert!(now() - start >= STEP);
        }
        // Set to a later time, and stopped, while it runs.
        let start = now();
        timer.reset(Some(STEP));
        assert!(poll_once(timer.fired()).await.is_none());
        timer.reset(Some(3 * STEP));
        timer.fired().await;
        assert!(now() - start >= 3 * STEP);
        timer.reset(Some(STEP));
        assert!(poll_once(timer.fired()).await.is_none());
        timer.reset(None);
        let fired = async {
            timer.fired().await;
            true
        };
        let late = async {
            sleep(3 * STEP).await;
            false
        };
        assert!(!or(fired, late).await);
        timer.reset(Some(Duration::ZERO));
        timer.reset(None);
        assert!(poll_once(timer.fired()).await.is_none());
    });
}

#[test]
fn a_refusing_listener_gives_out_its_backlog_and_takes_no_more() {
    block_on(async move |_| {
        let address =
            SocketAddr::from_abstract_name(format!("rt-test-{}", std::process::id())).unwrap();
        let listener = Listener::new(UnixListener::bind_addr(&address).unwrap()).unwrap();
        assert!(listener.try_accept().unwrap().is_none());
        let client = UnixStream::connect_addr(&address).unwrap();
        listener.refuse().unwrap();
        let refused = UnixStream::connect_addr(&address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(
            poll_fn(|context| listener.poll_accept(context))
                .await
                .is_ok()
        );
        assert!(!matches!(listener.try_accept(), Ok(Some(_))));
        drop(client);
    });
}

#[test]
fn what_still_runs_when_main_returns_is_dropped() {
    let guard = Rc::new(());
    let held = Rc::clone(&guard);
    block_on(async move |runtime| {
        runtime
            .spawn(async move { (held, std::future::pending::<()>().await) })
            .detach();
    });
    assert_eq!(Rc::strong_count(&guard), 1);
}
