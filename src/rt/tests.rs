//! What the rest of the crate counts on, whichever runtime is behind it.

use std::cell::Cell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::process::Command;

use futures_lite::future::{or, poll_once};

use super::process::OUTPUT_LIMIT;
use super::*;

const STEP: Duration = Duration::from_millis(20);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn sleepers_on_the_boot_clock_wake_in_order_and_never_early() {
    block_on(async move |runtime| {
        let start = now();
        let log = Rc::new(RefCell::new(Vec::new()));
        let sleepers: Vec<_> = [3, 1, 2, 1]
            .into_iter()
            .map(|steps| {
                let (runtime2, log) = (runtime.clone(), Rc::clone(&log));
                runtime.spawn(async move {
                    runtime2.sleep_until(start + STEP * steps).await.unwrap();
                    assert!(now() >= start + STEP * steps);
                    log.borrow_mut().push(steps);
                })
            })
            .collect();
        for sleeper in sleepers {
            sleeper.await;
        }
        assert_eq!(*log.borrow(), [1, 1, 2, 3]);
    });
}

#[test]
fn a_past_deadline_is_over_at_once_and_one_beyond_time_never_is() {
    block_on(async move |runtime| {
        assert!(poll_once(runtime.sleep_until(now())).await.is_some());
        let never = async {
            runtime
                .sleep_until(Instant::from_boot(Duration::MAX))
                .await
                .is_ok()
        };
        let soon = async { runtime.sleep_until(now() + STEP).await.is_err() };
        assert!(!or(never, soon).await, "the sooner one must win");
    });
}

#[test]
fn a_sleeper_that_is_dropped_leaves_the_timer_to_the_others() {
    block_on(async move |runtime| {
        let armed = |alarm: &Alarm| {
            rustix::time::timerfd_gettime(alarm.timer.get_ref())
                .unwrap()
                .it_value
        };
        let mut sleep = Box::pin(runtime.sleep_until(now() + Duration::from_secs(1000)));
        assert!(poll_once(&mut sleep).await.is_none());
        let alarm = runtime.alarm().unwrap();
        assert!(armed(&alarm).tv_sec > 900);
        drop(sleep);
        assert!(alarm.sleepers.borrow().is_empty());
        assert_eq!(
            (armed(&alarm).tv_sec, armed(&alarm).tv_nsec),
            (0, 0),
            "nobody is left to be woken"
        );
    });
}

#[test]
fn a_failure_of_the_timer_is_every_sleepers_and_the_next_one_has_another_timer() {
    block_on(async move |runtime| {
        let mut asleep = Box::pin(runtime.sleep_until(now() + Duration::from_secs(1000)));
        let mut never = Box::pin(runtime.sleep_until(Instant::from_boot(Duration::MAX)));
        assert!(poll_once(&mut asleep).await.is_none() && poll_once(&mut never).await.is_none());
        let alarm = runtime.alarm().unwrap();
        alarm.fail(&io::Error::new(io::ErrorKind::BrokenPipe, "a test"));
        for sleeper in [asleep, never] {
            let error = sleeper.await.unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (io::ErrorKind::BrokenPipe, "a test".to_owned())
            );
        }
        runtime.sleep_until(now() + STEP).await.unwrap();
        assert!(!Rc::ptr_eq(&alarm, &runtime.alarm().unwrap()));
    });
}

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
        // Later than it was, and not at all, while it runs.
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

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_program_runs_to_its_end_and_all_that_it_says_is_heard() {
    block_on(async move |_| {
        let (status, said) = run(
            &mut shell("read x; echo out; echo err >&2; exit 7"),
            PATIENCE,
        )
        .await
        .unwrap();
        assert_eq!(
            (status.code(), said.as_slice()),
            (Some(7), b"out\nerr\n".as_slice())
        );
        let (status, said) = run(&mut shell("head -c 1000000 /dev/zero"), PATIENCE)
            .await
            .unwrap();
        assert_eq!((status.code(), said.len()), (Some(0), OUTPUT_LIMIT));
        assert_eq!(
            run(&mut Command::new("/nonexistent"), PATIENCE)
                .await
                .unwrap_err()
                .kind(),
            io::ErrorKind::NotFound
        );
    });
}

#[test]
fn a_program_is_killed_and_reaped_when_its_time_is_up_or_nobody_waits() {
    let gone = |pid: &str| !std::path::Path::new("/proc").join(pid.trim()).exists();
    let script =
        |path: &std::path::Path| shell(&format!("echo $$ > {}; exec sleep 1000", path.display()));
    block_on(async move |_| {
        let path = std::env::temp_dir().join(format!("rt-test-{}", std::process::id()));
        let error = run(&mut script(&path), Duration::from_millis(500))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(gone(&std::fs::read_to_string(&path).unwrap()));

        std::fs::remove_file(&path).unwrap();
        let written = async {
            while !std::fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n')) {
                sleep(STEP).await;
            }
        };
        or(written, async {
            drop(run(&mut script(&path), PATIENCE).await)
        })
        .await;
        let pid = std::fs::read_to_string(&path).unwrap();
        // Reaped by a later call at the latest: the drop waits for nothing.
        let start = now();
        while !gone(&pid) {
            assert!(now() - start < PATIENCE, "{pid} is still there");
            run(&mut shell(":"), PATIENCE).await.unwrap();
        }
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_program_that_closes_its_output_and_lives_on_holds_up_nothing() {
    block_on(async move |runtime| {
        let turns = Rc::new(Cell::new(0));
        let counting = Rc::clone(&turns);
        let _ticking = runtime.spawn(async move {
            loop {
                sleep(STEP).await;
                counting.set(counting.get() + 1);
            }
        });
        let (status, output) = run(
            &mut shell("echo out; exec >&- 2>&-; sleep 0.3; exit 7"),
            PATIENCE,
        )
        .await
        .unwrap();
        assert_eq!(
            (status.code(), output.as_slice()),
            (Some(7), b"out\n".as_slice())
        );
        assert!(
            turns.get() >= 5,
            "{} turns for others in 300 ms",
            turns.get()
        );
        let start = now();
        let error = run(&mut shell("exec >&- 2>&-; exec sleep 1000"), 10 * STEP)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(now() - start < PATIENCE / 2);
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
