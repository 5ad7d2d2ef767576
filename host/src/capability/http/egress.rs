//! The egress rules: the origins that a request may be sent to and the addresses that a name may resolve to. Pure decisions, so
//! that a table can test them; `client` checks them before every connection.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::Origin;
use crate::model::failure::{Failure, FailureKind, HostCode};

/// The kind of an address, as far as the egress rules depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capability) enum AddressKind {
    /// Public or private: an issuer may be there.
    Plain,
    /// This machine (127.0.0.0/8, ::1).
    Loopback,
    /// This link (169.254.0.0/16, fe80::/10).
    LinkLocal,
    /// The address of a cloud's metadata service, which issues the machine's own credentials.
    Metadata,
    /// 0.0.0.0/8 and ::, which some systems treat as loopback.
    Unspecified,
    /// 224.0.0.0/4, ff00::/8 and the IPv4 broadcast address.
    Multicast,
    /// An IPv6 form that a translator or tunnel maps to some IPv4 address: 6to4, Teredo, RFC 2765.
    Translated,
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "an address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata address",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast or broadcast address",
            Self::Translated => "an IPv6 spelling of an IPv4 address",
        })
    }
}

/// AWS, Azure, Google Cloud and most others; AWS ECS tasks; AWS EKS pod identity; Alibaba Cloud; Azure's wire server; Oracle's older
/// cloud.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Unique local addresses of Google Cloud, Oracle Cloud, Scaleway, Akamai (Linode) and Alibaba Cloud.
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
];

/// The kind of `address`, whatever its form.
fn kind_of(address: IpAddr) -> AddressKind {
    match canonical(address) {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => kind_of_v6(v6),
    }
}

/// IPv4-mapped (::ffff:0:0/96), the deprecated IPv4-compatible (::/96) and NAT64 addresses (64:ff9b::/96, RFC 6052) as the IPv4
/// addresses in them.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    match (v6.segments(), v6) {
        (_, Ipv6Addr::UNSPECIFIED | Ipv6Addr::LOCALHOST) => address,
        ([0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..], _) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => address,
    }
}

/// The kind of an address with a NAT64 prefix for local use (RFC 8215). Only its translator knows how long the prefix is, so
/// every place where the IPv4 address may be (RFC 6052 §2.2) counts.
fn kind_behind_local_nat64(address: Ipv6Addr) -> AddressKind {
    let o = address.octets();
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        o6,
        o7,
        _,
        o9,
        o10,
        o11,
        o12,
        o13,
        o14,
        o15,
    ] = o;
    let shorter = [[o6, o7, o9, o10], [o7, o9, o10, o11], [o9, o10, o11, o12]]
        .map(|octets| kind_of_v4(Ipv4Addr::from(octets)));
    let longest = Ipv4Addr::from([o12, o13, o14, o15]);
    let refused =
        |kind: &AddressKind| !matches!(kind, AddressKind::Plain | AddressKind::Unspecified);
    match std::iter::once(kind_of_v4(longest))
        .chain(shorter)
        .find(refused)
    {
        Some(kind) => kind,
        // With a shorter prefix the address ends in zeros.
        None if longest.is_unspecified() && shorter.contains(&AddressKind::Plain) => {
            AddressKind::Plain
        }
        None => kind_of_v4(longest),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> AddressKind {
    if METADATA_V4.contains(&address) {
        AddressKind::Metadata
    } else if address.octets().starts_with(&[0]) {
        AddressKind::Unspecified
    } else if address.is_loopback() {
        AddressKind::Loopback
    } else if address.is_link_local() {
        AddressKind::LinkLocal
    } else if address.is_multicast() || address.is_broadcast() {
        AddressKind::Multicast
    } else {
        AddressKind::Plain
    }
}

fn kind_of_v6(address: Ipv6Addr) -> AddressKind {
    match address.segments() {
        // AWS: instance metadata, time and DNS are all in fd00:ec2::/32.
        [0xfd00, 0x0ec2, ..] => AddressKind::Metadata,
        _ if METADATA_V6.contains(&address) => AddressKind::Metadata,
        [0x64, 0xff9b, 1, ..] => kind_behind_local_nat64(address),
        // IPv4-translated addresses of RFC 2765.
        [0, 0, 0, 0, 0xffff, 0, ..] => AddressKind::Translated,
        // 6to4 (RFC 3056) and Teredo (RFC 4380).
        [0x2002, ..] | [0x2001, 0, ..] => AddressKind::Translated,
        _ if address.is_unspecified() => AddressKind::Unspecified,
        _ if address.is_loopback() => AddressKind::Loopback,
        _ if address.is_multicast() => AddressKind::Multicast,
        _ if address.is_unicast_link_local() => AddressKind::LinkLocal,
        _ => AddressKind::Plain,
    }
}

/// The host name of the loopback interface.
pub(super) const LOCALHOST: &str = "localhost";

/// Whether a name is loopback: `localhost` and everything below it (RFC 6761 §6.3).
pub(super) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == LOCALHOST || name.ends_with(".localhost")
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capability) enum Provenance {
    /// A name resolved to it.
    Resolved,
    /// `localhost` resolved to it.
    Localhost,
    /// It is a literal in the origin.
    Literal,
    /// It is the address of a proxy from the configuration or the environment, which is allowed unless no host may be reached
    /// there.
    Proxy,
}

/// Whether a connection to `address` is allowed; if not, its kind. `exceptions` are the job's `allow_addresses`.
///
/// # Errors
/// The kind of the refused address.
pub(in crate::capability) fn check_address(
    address: IpAddr,
    written: Provenance,
    exceptions: &BTreeSet<IpNet>,
) -> Result<(), AddressKind> {
    let plain = canonical(address);
    if exceptions
        .iter()
        .any(|network| network.contains(&address) || network.contains(&plain))
    {
        return Ok(());
    }
    // Loopback and link-local addresses are normally written plainly; an obscured form is an attempt to get around the rules.
    let is_disguised = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let written = match written {
        Provenance::Literal | Provenance::Proxy if is_disguised => Provenance::Resolved,
        written => written,
    };
    match (kind_of(address), written) {
        (AddressKind::Plain, _)
        | (
            AddressKind::Loopback,
            Provenance::Localhost | Provenance::Literal | Provenance::Proxy,
        )
        | (AddressKind::LinkLocal, Provenance::Literal | Provenance::Proxy) => Ok(()),
        (kind, _) => Err(kind),
    }
}

/// The address in a URL's host, if it is a literal. `host` is in the URL standard's normal form, in which every form of an IPv4
/// address has become dotted decimal.
#[must_use]
pub(in crate::capability) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

/// Whether a request may be sent to `origin`: it is among the plugin's endpoints or the job's `allow`.
///
/// # Errors
/// `http.origin-denied`, with the line to add.
pub(in crate::capability) fn check_origin(
    origin: &Origin,
    job: &str,
    endpoints: &BTreeSet<Origin>,
    allow: &[Origin],
) -> Result<(), Failure> {
    if endpoints.contains(origin) || allow.contains(origin) {
        return Ok(());
    }
    let secure = endpoints
        .iter()
        .chain(allow)
        .any(|allowed| allowed.scheme() == "https" && allowed.host() == origin.host());
    let hint = if secure && origin.scheme() == "http" {
        "; https is allowed there"
    } else {
        ""
    };
    Err(Failure::new(
        FailureKind::InvalidConfig,
        HostCode::HttpOriginDenied,
        format!(
            "job `{job}` may not send requests to {origin}{hint}; if it must, add `allow: [{origin}]` under `source`"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_recognised_in_every_spelling() {
        use AddressKind::*;
        for (text, kind) in [
            ("203.0.113.7", Plain),
            ("10.0.0.1", Plain),
            ("192.168.1.1", Plain),
            ("100.64.0.1", Plain),
            ("2001:db8::1", Plain),
            ("fd12:3456::1", Plain),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("169.254.1.1", LinkLocal),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("::ffff:169.254.1.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("169.254.170.23", Metadata),
            ("100.100.100.200", Metadata),
            ("168.63.129.16", Metadata),
            ("::ffff:169.254.169.254", Metadata),
            ("::ffff:a9fe:a9fe", Metadata),
            ("::169.254.169.254", Metadata),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("192.0.0.192", Metadata),
            ("64:ff9b::c000:c0", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:42::42", Metadata),
            ("fd00:a9fe:a9fe::1", Metadata),
            ("fd00:100::100:200", Metadata),
            ("fd20:ce::255", Plain),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("::ffff:0.0.0.0", Unspecified),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("255.255.255.255", Multicast),
            ("ff02::1", Multicast),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("64:ff9b::7f00:1", Loopback),
            ("64:ff9b::a9fe:101", LinkLocal),
            ("64:ff9b::cb00:7107", Plain),
            ("64:ff9b::", Unspecified),
            // For local use: with a prefix of 96, 48, 56 and 64 bits.
            ("64:ff9b:1::cb00:7107", Plain),
            ("64:ff9b:1::a9fe:a9fe", Metadata),
            ("64:ff9b:1:abcd::7f00:1", Loopback),
            ("64:ff9b:1:a9fe:a9:fe00::", Metadata),
            ("64:ff9b:1:7f:0:100::", Loopback),
            ("64:ff9b:1::1", Unspecified),
            ("::ffff:0:127.0.0.1", Translated),
            ("2002:a9fe:a9fe::1", Translated),
            ("2001:0:4136:e378::1", Translated),
        ] {
            assert_eq!(kind_of(address(text)), kind, "{text}");
        }
    }

    #[test]
    fn an_address_is_reached_only_as_it_is_written() {
        use Provenance::*;
        let none = BTreeSet::new();
        for (text, resolved, localhost, as_literal, proxy) in [
            ("203.0.113.7", true, true, true, true),
            ("10.0.0.1", true, true, true, true),
            ("127.0.0.1", false, true, true, true),
            ("::1", false, true, true, true),
            ("169.254.1.1", false, false, true, true),
            ("fe80::1", false, false, true, true),
            ("169.254.169.254", false, false, false, false),
            ("::ffff:169.254.169.254", false, false, false, false),
            ("fd00:ec2::254", false, false, false, false),
            ("0.0.0.0", false, false, false, false),
            ("224.0.0.1", false, false, false, false),
            ("64:ff9b::cb00:7107", true, true, true, true),
            ("64:ff9b::a9fe:a9fe", false, false, false, false),
            // Loopback and link-local addresses in a form in which they are not normally written.
            ("::ffff:127.0.0.1", false, true, false, false),
            ("::127.0.0.1", false, true, false, false),
            ("64:ff9b::7f00:1", false, true, false, false),
            ("64:ff9b:1::7f00:1", false, true, false, false),
            ("::ffff:169.254.1.1", false, false, false, false),
            ("2002:cb00:7107::1", false, false, false, false),
        ] {
            for (written, allowed) in [
                (Resolved, resolved),
                (Localhost, localhost),
                (Literal, as_literal),
                (Proxy, proxy),
            ] {
                let decision = check_address(address(text), written, &none);
                assert_eq!(decision.is_ok(), allowed, "{text} {written:?}");
            }
        }
    }

    #[test]
    fn an_exception_opens_its_address_in_every_spelling_and_no_other() {
        let exceptions = [
            "169.254.169.254/32",
            "127.0.0.0/8",
            "2002:cb00::/32",
            "fe80::1/128",
        ]
        .map(|network| network.parse().unwrap());
        let exceptions = BTreeSet::from(exceptions);
        for (text, allowed) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("169.254.170.2", false),
            ("127.200.0.1", true),
            ("::ffff:127.200.0.1", true),
            ("::1", false),
            ("2002:cb00:7107::1", true),
            ("2002:cb01::1", false),
            ("fe80::1", true),
            ("fe80::2", false),
        ] {
            let decision = check_address(address(text), Provenance::Resolved, &exceptions);
            assert_eq!(decision.is_ok(), allowed, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_spelling_of_a_refused_address_is_reached(
            net in proptest::sample::select(vec![
                "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "169.254.169.254/32", "169.254.170.2/32",
                "100.100.100.200/32", "168.63.129.16/32", "255.255.255.255/32",
            ]),
            host: u32,
            rest: u16,
            form in 0..9_usize,
        ) {
            let net: ipnet::Ipv4Net = net.parse().unwrap();
            let v4 = Ipv4Addr::from(u32::from(net.network()) | (host & u32::from(net.hostmask())));
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let v6 = match form {
                0 => Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
                1 if high > 0 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                2 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                3 => Ipv6Addr::new(0x64, 0xff9b, 1, rest, 0, 0, high, low),
                4 if a > 0 => Ipv6Addr::new(0x64, 0xff9b, 1, high, c, d << 8, 0, rest),
                5 if a > 0 => Ipv6Addr::new(0x64, 0xff9b, 1, a, b, low, 0, rest),
                6 => Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                7 => Ipv6Addr::new(0x2002, high, low, rest, 0, 0, 0, 1),
                _ => Ipv6Addr::new(0x2001, 0, rest, rest, 0, 0, !high, !low),
            };
            let none = BTreeSet::new();
            for written in [Provenance::Resolved, Provenance::Literal, Provenance::Proxy] {
                prop_assert!(check_address(v6.into(), written, &none).is_err(), "{v6} for {v4} {written:?}");
            }
        }
    }

    #[test]
    fn everything_below_localhost_is_this_machine() {
        for (name, expected) in [
            ("localhost", true),
            ("localhost.", true),
            ("LOCALHOST", true),
            ("idp.localhost", true),
            ("a.b.localhost.", true),
            ("notlocalhost", false),
            ("localhost.example.org", false),
            ("localhost..", false),
            ("", false),
        ] {
            assert_eq!(is_localhost(name), expected, "{name}");
        }
    }

    #[test]
    fn every_url_spelling_of_an_address_is_seen_as_that_address() {
        for (url, expected) in [
            ("http://127.0.0.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254"),
            ("http://%31%32%37.0.0.1/", "127.0.0.1"),
            ("http://①②⑦.0.0.1/", "127.0.0.1"),
        ] {
            let url = url::Url::parse(url).unwrap();
            assert_eq!(
                literal(url.host_str().unwrap()),
                Some(address(expected)),
                "{url}"
            );
        }
        assert_eq!(literal("idp.example.org"), None);
    }

    #[test]
    fn only_endpoints_and_allow_may_be_reached() {
        let origin = |text: &str| Origin::parse(text).unwrap();
        let endpoints = BTreeSet::from([origin("https://idp.example.org")]);
        let allow = [
            origin("https://login.example.org:8443"),
            origin("http://127.0.0.1:9000"),
        ];
        for (text, refused) in [
            ("https://idp.example.org", None),
            ("https://idp.example.org:443", None),
            ("https://IDP.example.org", None),
            ("https://login.example.org:8443", None),
            ("http://127.0.0.1:9000", None),
            (
                "http://127.0.0.1:9001",
                Some("allow: [http://127.0.0.1:9001]"),
            ),
            (
                "http://localhost:9000",
                Some("allow: [http://localhost:9000]"),
            ),
            (
                "https://login.example.org",
                Some("allow: [https://login.example.org]"),
            ),
            ("http://idp.example.org", Some("https is allowed there")),
            (
                "https://idp.example.org.evil.test",
                Some("allow: [https://idp.example.org.evil.test]"),
            ),
            ("https://idp.example.org.", None),
        ] {
            let decision = check_origin(&origin(text), "warehouse", &endpoints, &allow);
            match (decision, refused) {
                (Ok(()), None) => {}
                (Err(failure), Some(part)) => {
                    assert_eq!(failure.code(), Some("http.origin-denied"));
                    assert!(failure.message.contains(part), "{}", failure.message);
                }
                (decision, _) => panic!("{text}: {decision:?}"),
            }
        }
    }
}
