//! Namespaces: what is none is refused at once, and whatever was entered is left.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use smol_dhcp_proxy::net::netlink::Netlink;
use smol_dhcp_proxy::net::netns::{Netns, NetnsError};
use smol_dhcp_proxy::net::raw::RawSocket;
use smol_dhcp_proxy::net::udp::Port;
use smol_dhcp_proxy::rt;

use super::lab::namespace::Namespace;
use super::lab::{Result, eventually, sandbox};

trials![
    what_is_no_network_namespace_is_refused_at_once,
    a_visit_ends_where_it_began,
    a_panic_inside_comes_home_too,
    nothing_pins_a_namespace_after_drop,
    nothing_leaks_a_descriptor,
    the_other_end_of_a_pair_is_in_one_namespace,
    all_addresses_of_a_namespace,
];

fn what_is_no_network_namespace_is_refused_at_once() -> Result {
    let folder = sandbox::folder("paths")?;
    let at = |name: &str| folder.join(name);
    fs::write(at("file"), "")?;
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0)?;
    symlink(at("nowhere"), at("dangling"))?;
    symlink(at("loop"), at("loop"))?;
    symlink(at("fifo"), at("to-fifo"))?;
    let _listener = UnixListener::bind(at("socket"))?;

    let missing = "No such file or directory";
    let other = "is another kind of namespace, not a network namespace";
    let cases: &[(PathBuf, &str)] = &[
        (at("fifo"), "is a FIFO, not a network namespace"),
        (at("to-fifo"), "is a FIFO, not a network namespace"),
        (at("file"), "is a regular file, not a network namespace"),
        (at("socket"), "is a socket, not a network namespace"),
        (folder.clone(), "is a directory, not a network namespace"),
        (
            "/dev/null".into(),
            "is a character device, not a network namespace",
        ),
        (
            "/dev/tty".into(),
            "is a character device, not a network namespace",
        ),
        ("/proc/self/ns/mnt".into(), other),
        ("/proc/self/ns/user".into(), other),
        ("/proc/self/ns/pid".into(), other),
        (at("dangling"), missing),
        (at("absent"), missing),
        ("".into(), missing),
        ("/proc/0/ns/net".into(), missing),
        (at("file").join("below"), "Not a directory"),
        (at("loop"), "Too many levels of symbolic links"),
        (at("zero\0inside"), "Invalid argument"),
        (at(&"long".repeat(100)), "File name too long"),
    ];
    let home = Netns::current()?.id();
    let before = descriptors()?;
    for (path, expected) in cases {
        let start = rt::now();
        let error = Netns::open(path)
            .err()
            .ok_or_else(|| format!("{path:?} was taken for a namespace"))?;
        let took = rt::now() - start;
        let text = error.to_string();
        assert!(text.contains(expected), "{path:?}: {text}");
        assert!(
            text.as_bytes().starts_with(path.as_os_str().as_bytes()),
            "{text} does not name {path:?}"
        );
        assert!(took < Duration::from_millis(30), "{path:?} took {took:?}");
    }
    assert_eq!(descriptors()?, before);
    assert_eq!(Netns::current()?.id(), home);
    Ok(())
}

fn a_visit_ends_where_it_began() -> Result {
    let container = Namespace::new("container")?;
    let netns = Netns::open(container.path())?;
    let home = Netns::current()?.id();
    assert_ne!(netns.id(), home);
    assert_ne!(
        netns.id().cookie,
        home.cookie,
        "every namespace has a cookie of its own"
    );
    assert!(home.cookie.is_some());

    let inside = netns.enter(Netns::current)??;
    assert_eq!(inside.id(), netns.id());
    assert_eq!(Netns::current()?.id(), home);
    // Another path to the same namespace.
    let thread = netns.enter(|| Netns::open(Path::new("/proc/thread-self/ns/net")))??;
    assert_eq!(thread.id(), netns.id());
    // Home is a namespace like any other.
    assert_eq!(Netns::current()?.enter(Netns::current)??.id(), home);
    Ok(())
}

fn a_panic_inside_comes_home_too() -> Result {
    let container = Namespace::new("container")?;
    let netns = Netns::open(container.path())?;
    let home = Netns::current()?.id();
    // Not `panic!`, which would print its message into the report.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        netns.enter(|| std::panic::resume_unwind(Box::new("inside")))
    }));
    assert!(outcome.is_err());
    assert_eq!(Netns::current()?.id(), home);
    Ok(())
}

fn nothing_pins_a_namespace_after_drop() -> Result {
    let (host, container) = (Namespace::new("host")?, Namespace::new("container")?);
    host.veth("outer", &container, "eth0")?;
    let netns = Netns::open(container.path())?;
    let opened = netns.enter(|| -> Result<_> {
        let netlink = Netlink::open()?;
        let link = netlink.link_by_name("eth0")?.ok_or("no eth0")?;
        netlink.set_address(link.index, [10, 1, 0, 2].into(), 24, None, None)?;
        Ok((
            netlink,
            RawSocket::open(link.index, link.mac.ok_or("no MAC")?)?,
            Port::open("eth0")?,
        ))
    })??;
    let gone = || Netns::open(container.path()).is_err();
    assert!(!gone());
    drop(container);
    drop(netns);
    // The sockets alone hold it: both ends of a veth pair go when one of their namespaces does.
    assert!(host.link("outer").is_ok());
    drop(opened);
    eventually("the namespace's end", Duration::from_secs(5), || {
        Ok(host.link("outer").is_err().then_some(()))
    })
}

fn nothing_leaks_a_descriptor() -> Result {
    let (host, container) = (Namespace::new("host")?, Namespace::new("container")?);
    host.veth("outer", &container, "eth0")?;
    let round = || -> Result {
        let netns = Netns::open(container.path())?;
        let _both = netns.enter(|| -> Result<_> {
            let netlink = Netlink::open()?;
            let link = netlink.link_by_name("eth0")?.ok_or("no eth0")?;
            netlink.set_address(link.index, [10, 1, 0, 2].into(), 24, None, None)?;
            assert!(RawSocket::open(9999, [2, 0, 0, 0, 0, 1]).is_err());
            assert!(Port::open("absent").is_err());
            Ok((
                RawSocket::open(link.index, link.mac.ok_or("no MAC")?)?,
                Port::open("eth0")?,
            ))
        })??;
        assert!(matches!(
            Netns::open("/dev/null".as_ref()),
            Err(NetnsError::NotANamespace { .. })
        ));
        Ok(())
    };
    // Before there is a packet socket, for these are closed a while after they were dropped.
    let before = descriptors()?;
    for _ in 0..20 {
        round()?;
    }
    eventually("all is closed", Duration::from_secs(5), || {
        Ok((descriptors()? == before).then_some(()))
    })
}

/// Indexes are those of a namespace, and two may have the same one.
fn the_other_end_of_a_pair_is_in_one_namespace() -> Result {
    let (host, container) = (Namespace::new("host")?, Namespace::new("container")?);
    let third = Namespace::new("third")?;
    host.veth("outer", &container, "eth0")?;
    let open = |namespace: &Namespace| Netns::open(namespace.path());
    let netlink = open(&container)?.enter(Netlink::open)??;
    let link = netlink.link_by_name("eth0")?.ok_or("no eth0")?;
    assert_eq!(link.parent_elsewhere, Some(host.link("outer")?.index));
    assert!(link.parent_namespace.is_some());
    let id = |namespace: &Namespace| -> Result<_> {
        Ok(netlink.namespace_id(open(namespace)?.as_fd())?)
    };
    assert_eq!(id(&host)?, link.parent_namespace);
    assert_eq!(id(&third)?, None);
    let file = fs::File::open("/dev/null")?;
    assert!(netlink.namespace_id(file.as_fd()).is_err());
    Ok(())
}

fn all_addresses_of_a_namespace() -> Result {
    let (host, container) = (Namespace::new("host")?, Namespace::new("container")?);
    host.veth("outer", &container, "eth0")?;
    container.add_address("eth0", [10, 1, 0, 2].into(), 24)?;
    container.add_address("lo", [10, 1, 0, 3].into(), 32)?;
    let netlink = Netns::open(container.path())?.enter(Netlink::open)??;
    let index = container.link("eth0")?.index;
    let all = netlink.all_addresses()?;
    let on = |address: [u8; 4]| {
        let mut all = all.iter();
        all.find(|(_, on)| on.address == std::net::Ipv4Addr::from(address))
            .map(|(index, _)| *index)
    };
    assert_eq!(
        (on([10, 1, 0, 2]), on([10, 1, 0, 3])),
        (Some(index), Some(1))
    );
    assert_eq!(netlink.addresses(index)?.len(), 1);
    Ok(())
}

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
