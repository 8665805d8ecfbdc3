//! The name of the client: option 12, or option 81 in its place (RFC 4702).

use super::double::{Says::*, *};
use dhcproto::Name;
use dhcproto::v4::fqdn::{ClientFQDN, FqdnFlags};
use dhcproto::v4::{DhcpOption, OptionCode};
use smol_dhcp_proxy::dhcp::Probe;

/// A client with the host name `web` and the fully qualified name `fqdn`.
fn called(fqdn: &str) -> Conversation {
    let fqdn = fqdn.to_owned();
    Conversation::start()
        .without_fuzz()
        .configured(move |config| {
            config.host_name = Some("web".to_owned());
            config.fqdn = Some(fqdn);
            config.probe = Probe::Off;
        })
}

/// The options 12 and 81 of the client's last message.
fn names(c: &Conversation) -> (Option<DhcpOption>, Option<DhcpOption>) {
    let options = c.last().opts();
    (
        options.get(OptionCode::Hostname).cloned(),
        options.get(OptionCode::ClientFQDN).cloned(),
    )
}

/// RFC 4702 §2.1, §2.2, §2.3: S and E, result codes 0, and a name that ends with the root; as
/// dhcproto reads it.
fn option_81(name: &str) -> DhcpOption {
    let mut fqdn = ClientFQDN::new(
        FqdnFlags::default().set_s(true).set_e(true),
        Name::from_ascii(name).unwrap(),
    );
    fqdn.set_r1(0).set_r2(0);
    DhcpOption::ClientFQDN(fqdn)
}

/// RFC 4702 §3.1: option 81 is in DISCOVER and every REQUEST, and option 12 is not.
#[test]
fn option_81_replaces_option_12() {
    let whole = (None, Some(option_81("web.lab.example.")));
    for written in ["web.lab.example", "web.lab.example."] {
        let mut c = called(written);
        c.at(0).sends(discover());
        assert_eq!(names(&c), whole, "DISCOVER");
        c.hears(offer(IP)).sends(request(IP));
        assert_eq!(names(&c), whole, "REQUEST");
        c.hears(ack(IP, hours(1))).says(Bound(IP));
        c.at(1800).sends(renew(IP));
        assert_eq!(names(&c), whole, "renewal");
        c.wakes_at(3150).sends(rebind(IP));
        assert_eq!(names(&c), whole, "rebinding");
        // RFC 2131 table 5: a RELEASE has no name.
        c.releases().sends(goodbye(IP)).says(Released);
        assert_eq!(names(&c), (None, None), "RELEASE");
    }
}

#[test]
fn an_invalid_fqdn_is_replaced_by_the_host_name() {
    let label = "x".repeat(63);
    let as_long_as_fits = [&label[..], &label, &label, &label[..58]].join("."); // and 3 bytes before it, 2 around it
    let mut c = called(&as_long_as_fits);
    c.at(0).sends(discover());
    assert_eq!(
        names(&c),
        (None, Some(option_81(&format!("{as_long_as_fits}."))))
    );

    let too_long_for_the_option = format!("{as_long_as_fits}x");
    let too_long_a_label = format!("{label}x.lab.example");
    for name in [
        "",
        ".",
        "web..example",
        "web lab.example",
        "wéb.example",
        &too_long_a_label,
        &too_long_for_the_option,
    ] {
        let mut c = called(name);
        c.at(0).sends(discover());
        assert_eq!(
            names(&c),
            (Some(DhcpOption::Hostname("web".to_owned())), None),
            "{name}"
        );
    }
}
