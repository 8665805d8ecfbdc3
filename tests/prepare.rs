//! The hooks of a service, `before_exit` and `extend_drain`, in real processes with this test in the
//! part of systemd.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an error ends, and says where"
)]

#[path = "lab/service.rs"]
mod lab;

use std::cell::{Cell, RefCell};
use std::env;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::pending;
use lab::{Daemon, Lab, PATIENCE, finish, readable, talk, this_program};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use smol_dhcp_proxy::rt;
use smol_dhcp_proxy::service::{Connection, Notify, Reason, Service};

/// A service that does something before it leaves: this program, which becomes one when the
/// environment says so. It stays for 50 ms, and tells the manager when it begins to prepare and
/// when that is broken off.
#[test]
fn thoughtful_service() {
    struct Told(Notify, &'static str);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.status(self.1);
        }
    }

    let (Some(path), Ok(habit)) = (env::var_os("THOUGHTFUL_PATH"), env::var("THOUGHTFUL_HABIT"))
    else {
        return;
    };
    let timeout = Duration::from_millis(if habit == "hasty" { 0 } else { 50 });
    let mut service = Service::new(path).idle_timeout(timeout);
    let (idle, notify) = (service.idle().clone(), service.notify().clone());
    let objection = Rc::new(RefCell::new(None));
    let (held, first) = (Rc::clone(&objection), Cell::new(true));
    let grace = habit.strip_prefix("grace ").map(str::to_owned);
    let prepare = move || {
        let (idle, notify, held) = (idle.clone(), notify.clone(), Rc::clone(&held));
        let habit = if first.replace(false) {
            habit.clone()
        } else {
            "agrees".into()
        };
        async move {
            notify.status("preparing");
            match habit.as_str() {
                "objects" => *held.borrow_mut() = Some(idle.activity()),
                "ponders" => {
                    let _told = Told(notify, "broken off");
                    pending::<()>().await;
                }
                "reconsiders" => drop(idle.activity()),
                _ => {}
            }
        }
    };
    service = match grace {
        None => service.before_exit(prepare),
        Some(grace) => {
            let ends = grace == "ends";
            let extension = move || async move {
                if !ends {
                    pending::<()>().await;
                }
            };
            service
                .drain_timeout(Duration::ZERO)
                .extend_drain(extension)
        }
    };
    let handler = move |Connection { stream, .. }| {
        // The next connection withdraws the objection.
        let objection = objection.take();
        async move {
            let _ = futures_lite::io::copy(stream.clone(), stream).await;
            drop(objection);
        }
    };
    let reason = service.run(handler).unwrap();
    std::process::exit(if reason == Reason::Idle { 0 } else { 7 });
}

/// Starts [`thoughtful_service`] and waits until it is ready.
fn thoughtful(lab: &Lab, habit: &str) -> Daemon {
    let mut command = this_program("thoughtful_service");
    command
        .env("THOUGHTFUL_PATH", lab.path())
        .env("THOUGHTFUL_HABIT", habit);
    let daemon = Daemon::start({
        command.env("NOTIFY_SOCKET", lab.directory.join("notify"));
        command
    });
    assert_eq!(lab.hears(), "READY=1");
    daemon
}

#[test]
fn before_it_leaves_it_prepares_once() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "agrees");
    assert_eq!(
        [lab.hears(), lab.hears()],
        ["STATUS=preparing", "STOPPING=1"]
    );
    daemon.ends_well();
}

#[test]
fn an_objection_to_leaving_keeps_it_until_it_is_taken_back() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "objects");
    assert_eq!(lab.hears(), "STATUS=preparing");
    let pidfd = pidfd_open(Pid::from_child(&daemon.0), PidfdFlags::empty()).unwrap();
    assert!(
        !readable(&pidfd, Duration::from_millis(300)),
        "it left in spite of the objection"
    );
    talk(&lab.path(), b"please").unwrap();
    assert_eq!(
        [lab.hears(), lab.hears()],
        ["STATUS=preparing", "STOPPING=1"]
    );
    daemon.ends_well();
}

#[test]
fn who_comes_while_it_prepares_is_served_and_it_prepares_again_later() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "ponders");
    assert_eq!(lab.hears(), "STATUS=preparing");
    let held = UnixStream::connect(lab.path()).unwrap();
    assert_eq!(lab.hears(), "STATUS=broken off");
    lab.manager
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(
        lab.manager.recv(&mut [0; 64]).is_err(),
        "nothing is prepared while somebody is there"
    );
    lab.manager.set_read_timeout(Some(PATIENCE)).unwrap();
    finish(held, b"served").unwrap();
    assert_eq!(
        [lab.hears(), lab.hears()],
        ["STATUS=preparing", "STOPPING=1"]
    );
    daemon.ends_well();
}

#[test]
fn work_that_came_and_went_while_it_prepared_lets_it_wait_and_prepare_again() {
    let lab = Lab::new();
    let start = rt::now();
    let daemon = thoughtful(&lab, "reconsiders");
    assert_eq!(
        [lab.hears(), lab.hears(), lab.hears()],
        ["STATUS=preparing", "STATUS=preparing", "STOPPING=1"]
    );
    daemon.ends_well();
    assert!(
        rt::now() - start >= Duration::from_millis(100),
        "it waited twice"
    );
}

#[test]
fn a_signal_ends_it_while_it_prepares() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let daemon = thoughtful(&lab, "ponders");
        assert_eq!(lab.hears(), "STATUS=preparing");
        daemon.signal(signal);
        let (status, errors) = daemon.ends();
        assert_eq!(status.code(), Some(7), "{errors}");
        let rest = [lab.hears(), lab.hears()];
        assert!(
            rest.contains(&"STATUS=broken off".to_owned())
                && rest.contains(&"STOPPING=1".to_owned()),
            "{rest:?}"
        );
    }
}

#[test]
fn without_patience_it_leaves_at_once_and_serves_who_waits() {
    let lab = Lab::new();
    let daemon = thoughtful(&lab, "hasty");
    assert_eq!(
        [lab.hears(), lab.hears()],
        ["STATUS=preparing", "STOPPING=1"]
    );
    daemon.ends_well();

    let lab = Lab::new();
    let listener = lab.listener();
    let waiting = UnixStream::connect(lab.path()).unwrap();
    let daemon = lab.activated(&listener, "0");
    finish(waiting, b"in time").unwrap();
    daemon.ends_well();
}

#[test]
fn the_time_of_a_drain_counts_from_the_end_of_its_grace() {
    let terminated = |habit| {
        let lab = Lab::new();
        let daemon = thoughtful(&lab, habit);
        let mut held = UnixStream::connect(lab.path()).unwrap();
        held.set_read_timeout(Some(PATIENCE)).unwrap();
        held.write_all(b"a").unwrap();
        held.read_exact(&mut [0]).unwrap();
        daemon.signal(Signal::TERM);
        assert_eq!(lab.hears(), "STOPPING=1");
        (daemon, held)
    };
    let (daemon, mut held) = terminated("grace lasts");
    held.write_all(b"b").unwrap();
    held.read_exact(&mut [0]).unwrap();
    drop(held);
    assert_eq!(
        daemon.ends().0.code(),
        Some(7),
        "with its last connection it ends"
    );

    let (daemon, mut held) = terminated("grace ends");
    assert_eq!(held.read(&mut [0]).unwrap(), 0, "no time is left");
    assert_eq!(daemon.ends().0.code(), Some(7));

    let (daemon, mut held) = terminated("grace lasts");
    daemon.signal(Signal::TERM);
    assert_eq!(
        held.read(&mut [0]).unwrap(),
        0,
        "a second signal ends the grace"
    );
    assert_eq!(daemon.ends().0.code(), Some(7));
}
