//! The copy of the leases as others read it, at whatever moment they do.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::lab::dhcp_server::{Server, Settings};
use crate::lab::topology::SERVER_LINK;
use crate::lab::{Result, eventually};
use crate::stage;

trials![
    valid_and_private_at_every_instant,
    a_lost_lease_is_not_in_it,
];

fn valid_and_private_at_every_instant() -> Result {
    let stage = stage(8, &[])?;
    let _server = Server::start(&stage.topology.server, SERVER_LINK, Settings::default())?;
    let over = AtomicBool::new(false);
    let (reads, most) = std::thread::scope(|scope| -> Result<_> {
        let reader = scope.spawn(|| -> Result<_> {
            let (mut reads, mut most) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let leases = stage.unit.copy()?;
                let entries = leases.as_object().ok_or("no object")?;
                assert!(
                    entries.values().all(|entry| entry[0]["yiaddr"].is_string()),
                    "{leases}"
                );
                let mode = fs::metadata(stage.unit.lease_file())?.permissions().mode();
                assert_eq!(mode & 0o7777, 0o600);
                (reads, most) = (reads + 1, most.max(entries.len()));
            }
            Ok((reads, most))
        });
        let writers: Vec<_> = (0..8)
            .map(|container| {
                let stage = &stage;
                scope.spawn(move || -> Result {
                    for _ in 0..5 {
                        stage.setup(container)?;
                        stage.teardown(container)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let written: Result = writers
            .into_iter()
            .try_for_each(|writer| writer.join().expect("no panic in a call"));
        over.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| "the file was not in order")?;
        written?;
        read
    })?;
    assert!(
        reads > 100 && most > 1,
        "{reads} reads, at most {most} leases"
    );
    assert_eq!(stage.unit.leases()?, serde_json::json!({}));
    assert_eq!(stage.unit.copy()?, serde_json::json!({}));
    // Nothing beside it: no temporary file stays.
    let folder = stage
        .unit
        .lease_file()
        .parent()
        .ok_or("no folder")?
        .to_owned();
    let strays =
        fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let strays: Vec<String> = strays
        .filter(|name| {
            (name.starts_with("nv-proxy.lease") || name.starts_with("nv-proxy.state"))
                && name.len() > 14
        })
        .collect();
    assert_eq!(strays, [""; 0]);
    Ok(())
}

fn a_lost_lease_is_not_in_it() -> Result {
    let stage = stage(1, &[])?;
    let container = &stage.topology.containers[0];
    let seconds = Duration::from_secs;
    let settings = Settings {
        lease: seconds(4),
        t1: Some(seconds(1)),
        t2: Some(seconds(2)),
        ..Settings::default()
    };
    let server = Server::start(&stage.topology.server, SERVER_LINK, settings)?;
    stage.setup(0)?;
    server.set_silent(true);
    eventually("the address is gone", seconds(8), || {
        Ok(container.address()?.is_none().then_some(()))
    })?;
    let entry = || {
        Ok::<_, Box<dyn Error + Send + Sync>>(
            stage.unit.leases()?[container.mac.to_string()][0].clone(),
        )
    };
    eventually(
        "the file has no lease any more, but that one is looked for",
        seconds(15),
        || {
            let entry = entry()?;
            Ok((entry["yiaddr"] == "" && entry["state"] == "INIT").then_some(()))
        },
    )?;
    server.set_silent(false);
    eventually("the next one is in it", seconds(70), || {
        Ok((entry()?["yiaddr"] != "").then_some(()))
    })?;
    // The file has it first.
    eventually("and on the link", seconds(5), || {
        Ok(container.address()?.map(drop))
    })
}
