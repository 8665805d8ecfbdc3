//! gRPC conversations between a real HTTP/2 client and `rpc::serve`, over socket pairs; and once
//! with netavark's own client.

#![cfg(feature = "proxy")]
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

#[path = "lab/grpc.rs"]
mod grpc;
#[path = "lab/rpc_server.rs"]
mod rpc_server;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event_listener::Event;
use grpc::Channel;
use rpc_server::{Fate, NEVER, SOON, Server, answer, config, endless, quoting};
use smol_dhcp_proxy::rpc::{
    self, Answer, Call, Code, NetworkConfig, OperationResponse, Reply, Status,
};
use smol_dhcp_proxy::rt;

const MAC: &str = "02:00:00:00:00:01";

fn pair(quiet: Duration) -> (Server, Channel) {
    let (server, stream) = Server::start(quiet, answer);
    (server, Channel::over(stream).unwrap())
}

fn failing(code: Code, message: &str) -> Call {
    Call::Setup(NetworkConfig {
        host_iface: format!("{} {message}", code as u8),
        ..Default::default()
    })
}

#[test]
fn each_method_is_answered() {
    let (server, mut channel) = pair(NEVER);
    let lease = Reply::Lease(quoting(&config(MAC)));
    assert_eq!(channel.call(&Call::Setup(config(MAC))), Ok(lease.clone()));
    assert_eq!(channel.call(&Call::Teardown(config(MAC))), Ok(lease));
    assert_eq!(
        channel.call(&Call::Clean),
        Ok(Reply::Operation(OperationResponse { success: true }))
    );
    drop(channel);
    server.join();
}

#[test]
fn every_error_arrives_with_its_text() {
    let (_server, mut channel) = pair(NEVER);
    for number in 1..=16 {
        let code = Code::from(number);
        for text in [
            "No such device (os error 19)",
            "50 % — größer\nals 東京\t\u{0}",
            "",
        ] {
            assert_eq!(
                channel.call(&failing(code, text)),
                Err(Status::new(code, text))
            );
        }
    }
}

#[test]
fn a_warning_arrives_beside_the_reply_and_only_then() {
    let (_server, mut channel) = pair(NEVER);
    let mut ask = |call: Call| {
        let pending = channel.begin(&call).unwrap();
        channel.answer(pending).unwrap()
    };
    for text in ["the disk is full", "50 % — größer\nals 東京\t\u{0}", ""] {
        let config = NetworkConfig {
            host_iface: format!("0 {text}"),
            ..config(MAC)
        };
        let expected = Answer {
            reply: Reply::Lease(quoting(&config)),
            warning: Some(text.into()),
        };
        assert_eq!(ask(Call::Setup(config)), expected);
    }
    assert_eq!(ask(Call::Clean).warning, None);
}

#[test]
fn an_endless_error_text_is_cut() {
    let (_server, mut channel) = pair(NEVER);
    let error = channel
        .call(&failing(Code::Aborted, &"é".repeat(5000)))
        .unwrap_err();
    assert_eq!(error, Status::new(Code::Aborted, "é".repeat(512)));
}

#[test]
fn a_thousand_calls_in_a_row() {
    let (server, mut channel) = pair(NEVER);
    for number in 0..1000 {
        let config = config(&format!("mac {number}"));
        assert_eq!(
            channel.call(&Call::Setup(config.clone())),
            Ok(Reply::Lease(quoting(&config)))
        );
    }
    drop(channel);
    server.join();
}

#[test]
fn fifty_calls_at_once() {
    // No call is answered before all fifty have arrived.
    let (server, stream) = Server::start(NEVER, {
        let state: Arc<(AtomicUsize, Event)> = Arc::default();
        move |call| {
            let state = state.clone();
            async move {
                let (there, all) = &*state;
                let full = all.listen();
                if there.fetch_add(1, Ordering::Relaxed) == 49 {
                    all.notify(usize::MAX);
                }
                full.await;
                answer(call).await
            }
        }
    });
    let mut channel = Channel::over(stream).unwrap();
    let configs: Vec<_> = (0..50)
        .map(|number| config(&format!("mac {number}")))
        .collect();
    let calls: Vec<_> = configs
        .iter()
        .map(|config| channel.begin(&Call::Setup(config.clone())).unwrap())
        .collect();
    for (call, config) in calls.into_iter().zip(&configs) {
        assert_eq!(channel.finish(call), Ok(Reply::Lease(quoting(config))));
    }
    drop(channel);
    server.join();
}

#[test]
fn a_reset_stream_cancels_its_call_and_no_other() {
    let (handler, fates) = endless();
    let (server, stream) = Server::start(NEVER, handler);
    let mut channel = Channel::over(stream).unwrap();
    let first = channel.begin(&Call::Setup(config(MAC))).unwrap();
    let _second = channel.begin(&Call::Setup(config(MAC))).unwrap();
    assert_eq!(
        [fates.recv_timeout(SOON), fates.recv_timeout(SOON)],
        [Ok(Fate::Begun), Ok(Fate::Begun)]
    );
    channel.cancel(first);
    assert_eq!(fates.recv_timeout(SOON), Ok(Fate::Dropped));
    channel.ping().unwrap();
    assert!(fates.try_recv().is_err(), "the second call goes on");
    drop(channel);
    assert_eq!(fates.recv_timeout(SOON), Ok(Fate::Dropped));
    server.join();
}

#[test]
fn a_client_that_hangs_up_cancels_all_its_calls() {
    let (handler, fates) = endless();
    let (server, stream) = Server::start(NEVER, handler);
    let mut channel = Channel::over(stream).unwrap();
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(channel.begin(&Call::Setup(config(MAC))).unwrap());
        assert_eq!(fates.recv_timeout(SOON), Ok(Fate::Begun));
    }
    drop(channel);
    server.join();
    assert_eq!(
        fates.iter().collect::<Vec<_>>(),
        [Fate::Dropped, Fate::Dropped, Fate::Dropped]
    );
}

#[test]
fn a_callers_deadline_is_kept() {
    let (handler, fates) = endless();
    let (_server, stream) = Server::start(NEVER, handler);
    let mut channel = Channel::over(stream).unwrap();
    let (path, body) = Call::Setup(config(MAC)).encode();
    let request = grpc::request(&path)
        .header("grpc-timeout", "50m")
        .body(())
        .unwrap();
    let pending = channel.begin_request(request, body, false).unwrap();
    assert_eq!(
        channel.finish(pending).unwrap_err().code,
        Code::DeadlineExceeded
    );
    assert_eq!(
        [fates.recv_timeout(SOON), fates.recv_timeout(SOON)],
        [Ok(Fate::Begun), Ok(Fate::Dropped)]
    );
}

/// Each call ends with one status, also where no handler sees it or it has no answer.
#[test]
fn each_call_is_counted_by_its_status() {
    let (server, stream) = Server::start(NEVER, |call| async move {
        match &call {
            Call::Teardown(_) => std::future::pending().await,
            _ => answer(call).await,
        }
    });
    let mut channel = Channel::over(stream).unwrap();
    channel.call(&Call::Clean).unwrap();
    assert_eq!(server.status(), Code::Ok);
    channel.call(&failing(Code::NotFound, "x")).unwrap_err();
    assert_eq!(server.status(), Code::NotFound);
    let mut ask = |path: &str, timeout: Option<&str>, body: Bytes| {
        let mut request = grpc::request(path);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(()).unwrap();
        channel.begin_request(request, body, true).unwrap()
    };
    let (path, body) = Call::Teardown(config(MAC)).encode();
    for (path, timeout, body, status) in [
        (
            "/netavark_proxy.NetavarkProxy/Fly",
            None,
            body.clone(),
            Code::Unimplemented,
        ),
        (&*path, Some("20m"), body.clone(), Code::DeadlineExceeded),
        (
            &*path,
            None,
            Bytes::from_static(b"\0\0"),
            Code::InvalidArgument,
        ),
        (
            &*path,
            None,
            Bytes::from(vec![0; 20_000]),
            Code::ResourceExhausted,
        ),
    ] {
        let _pending = ask(path, timeout, body);
        assert_eq!(server.status(), status);
    }
    let pending = ask(&path, None, body.clone());
    channel.ping().unwrap();
    channel.cancel(pending);
    assert_eq!(server.status(), Code::Cancelled);
    let _pending = channel.begin(&Call::Teardown(config(MAC))).unwrap();
    channel.ping().unwrap();
    drop(channel);
    assert_eq!(server.status(), Code::Cancelled, "the caller hung up");
    server.join();
}

#[test]
fn a_quiet_connection_is_ended_and_pings_do_not_keep_it() {
    let quiet = Duration::from_millis(200);
    let (server, mut channel) = pair(quiet);
    channel.call(&Call::Clean).unwrap();
    let answered = rt::now();
    while channel.ping().is_ok() {
        assert!(rt::now() - answered < SOON, "pings keep it alive");
        std::thread::sleep(Duration::from_millis(5));
    }
    channel.wait_until_over().unwrap();
    server.join();
    let lasted = rt::now() - answered;
    assert!(
        lasted > quiet / 2 && lasted < quiet + Duration::from_millis(900),
        "{lasted:?}"
    );
}

#[test]
fn a_call_in_flight_is_not_quiet() {
    let (handler, fates) = endless();
    let quiet = Duration::from_millis(20);
    let (server, stream) = Server::start(quiet, handler);
    let mut channel = Channel::over(stream).unwrap();
    let pending = channel.begin(&Call::Setup(config(MAC))).unwrap();
    channel.set_patience(10 * quiet);
    assert_eq!(
        channel.wait_until_over().unwrap_err().code,
        Code::DeadlineExceeded,
        "it waits as long as we do"
    );
    assert!(server.is_running());
    channel.set_patience(SOON);
    channel.cancel(pending);
    channel.wait_until_over().unwrap();
    assert_eq!(fates.recv_timeout(SOON), Ok(Fate::Begun));
    server.join();
}

/// Calls aimed at the moment when the server loses its patience: served, or told that they were not
/// and may go elsewhere.
#[test]
fn no_call_is_lost_between_quiet_and_goaway() {
    let quiet = Duration::from_millis(2);
    let heard = Arc::new(AtomicUsize::new(0));
    let (mut served, mut sent_elsewhere) = (0, 0);
    for round in 0..300 {
        let counter = heard.clone();
        let (server, stream) = Server::start(quiet, move |call| {
            counter.fetch_add(1, Ordering::Relaxed);
            answer(call)
        });
        let mut channel = Channel::over(stream).unwrap();
        // On a busy machine the first call, too, may come when the patience is over.
        let mut call = || match channel.call(&Call::Clean) {
            Ok(_) => served += 1,
            // A GOAWAY with NO_ERROR in h2's words.
            Err(error) => {
                assert!(
                    error.message.ends_with("not a result of an error"),
                    "round {round}: {error}"
                );
                sent_elsewhere += 1;
            }
        };
        if round % 2 == 0 {
            call();
        }
        let aim = rt::now() + quiet + Duration::from_micros(round);
        while rt::now() < aim {
            std::hint::spin_loop();
        }
        call();
        drop(channel);
        server.join();
    }
    println!("{served} served, {sent_elsewhere} sent elsewhere");
    assert_eq!(
        heard.load(Ordering::Relaxed),
        served,
        "what was sent elsewhere was not done here"
    );
}

#[test]
fn closing_lets_calls_finish_and_takes_no_more() {
    let go = Arc::new(Event::new());
    let gate = go.clone();
    let (server, stream) = Server::start(NEVER, move |call| {
        let opened = gate.listen();
        async move {
            opened.await;
            answer(call).await
        }
    });
    let mut channel = Channel::over(stream).unwrap();
    let pending = channel.begin(&Call::Setup(config(MAC))).unwrap();
    // The answer to a PING tells that the request before it has arrived.
    channel.ping().unwrap();
    server.close();
    while channel.begin(&Call::Clean).is_ok() {
        assert!(server.is_running());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(server.is_running(), "a call is in flight");
    go.notify(usize::MAX);
    assert_eq!(
        channel.finish(pending),
        Ok(Reply::Lease(quoting(&config(MAC))))
    );
    server.join();
}

#[test]
fn what_is_not_ours_is_refused() {
    let (_server, mut channel) = pair(NEVER);
    let (path, body) = Call::Clean.encode();
    let mut attempt = |request: http::Request<()>, body: &Bytes| {
        let pending = channel.begin_request(request, body.clone(), true).unwrap();
        channel.finish(pending)
    };

    for unknown in [
        "/",
        "/netavark_proxy.NetavarkProxy/Restart",
        "/grpc.health.v1.Health/Check",
    ] {
        let error = attempt(grpc::request(unknown).body(()).unwrap(), &body).unwrap_err();
        assert_eq!(
            error,
            Status::new(Code::Unimplemented, format!("unknown method {unknown}"))
        );
    }

    let typed = |kind| {
        http::Request::post(format!("http://localhost{path}"))
            .header("content-type", kind)
            .body(())
            .unwrap()
    };
    for wrong in [
        "text/plain",
        "application/grpc+json",
        "application/grpc-web",
        "application/grpcish",
    ] {
        assert_eq!(
            attempt(typed(wrong), &body).unwrap_err().message,
            "HTTP 415 Unsupported Media Type",
            "{wrong}"
        );
    }
    for right in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
    ] {
        attempt(typed(right), &body).unwrap();
    }
    let get = http::Request::get("http://localhost/").body(()).unwrap();
    assert_eq!(
        attempt(get, &body).unwrap_err().message,
        "HTTP 405 Method Not Allowed"
    );

    let mut send = |body: &[u8]| {
        attempt(
            grpc::request(&path).body(()).unwrap(),
            &Bytes::copy_from_slice(body),
        )
        .unwrap_err()
        .code
    };
    assert_eq!(send(b""), Code::InvalidArgument);
    assert_eq!(send(&[1, 0, 0, 0, 0]), Code::Unimplemented);
    assert_eq!(
        send(&[0, 0xff, 0xff, 0xff, 0xff, 0]),
        Code::ResourceExhausted
    );
    assert_eq!(send(&[0; 10]), Code::InvalidArgument, "two messages");
    assert_eq!(
        send(&vec![0; 1 << 20]),
        Code::ResourceExhausted,
        "a megabyte"
    );
    assert!(
        attempt(grpc::request(&path).body(()).unwrap(), &body).is_ok(),
        "and all of it on one connection"
    );
}

/// The client that Podman's users have. Its path is `NETAVARK_CLIENT`, or where `tests/run`
/// installs it.
#[test]
fn netavarks_own_client_understands_us() {
    let installed = || {
        let home = PathBuf::from(std::env::var_os("HOME")?);
        Some(home.join(".cache/smol-dhcp-proxy/netavark-2.1.0/bin/netavark-dhcp-proxy-client"))
    };
    let Some(client) = std::env::var_os("NETAVARK_CLIENT")
        .map(PathBuf::from)
        .or_else(installed)
        .filter(|path| path.exists())
    else {
        assert!(
            std::env::var_os("SMOL_DHCP_PROXY_REQUIRE").is_none(),
            "netavark's client is required and missing"
        );
        return eprintln!("SKIPPED: no netavark-dhcp-proxy-client (set NETAVARK_CLIENT)");
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nv-proxy.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        rt::block_on(async move |runtime| {
            let listener = rt::Listener::new(listener).unwrap();
            let mut connections = Vec::new();
            for _ in 0..4 {
                let stream = std::future::poll_fn(|context| listener.poll_accept(context))
                    .await
                    .unwrap();
                let closing = futures_lite::future::pending::<()>();
                connections.push(runtime.spawn(rpc::serve(stream, SOON, closing, answer)));
            }
            for connection in connections {
                connection.await;
            }
        })
    });

    let run = |host_iface: &str, command: &str| {
        let file = folder.path().join("config.json");
        std::fs::write(&file, config_json(host_iface)).unwrap();
        run_client(&client, &socket, &file, command)
    };
    let (good, text) = run("eth0", "setup");
    let lease: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(good);
    assert_eq!(lease["yiaddr"], "10.88.1.2");
    assert_eq!(lease["mac_address"], MAC);
    let (good, text) = run("eth0", "teardown");
    assert!(good, "{text}");
    let (good, text) = run("0 the disk is full: größer", "setup");
    let lease: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(good, "a warning is nothing to it");
    assert_eq!(lease["yiaddr"], "10.88.1.2");
    let (good, text) = run("3 No such device: größer", "setup");
    assert!(!good && text.contains("No such device: größer"), "{text}");
    server.join().unwrap();
}

fn config_json(host_iface: &str) -> String {
    serde_json::json!({
        "host_iface": host_iface, "container_iface": "eth0", "container_mac_addr": MAC, "domain_name": "", "host_name": "",
        "version": 0, "ns_path": "/run/netns/x", "container_id": "",
    })
    .to_string()
}

fn run_client(client: &Path, socket: &Path, file: &Path, command: &str) -> (bool, String) {
    let output = Command::new(client)
        .arg("--uds")
        .arg(socket)
        .arg("-f")
        .arg(file)
        .arg(command)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}
