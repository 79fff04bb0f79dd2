//! Which addresses a download may reach: public ones, and what the operator allowed, without what the operator denied.
//!
//! Owns: the rule, as a pure function of an address. Must not know: names, sockets, URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Not public by the IANA special-purpose registry, each with what it is.
const SPECIAL_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    // The wire server of one cloud: a public address that is answered from inside the machine's host.
    (v4(168, 63, 129, 16, 32), "a cloud's platform service"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Inside 2000::/3; everything outside it is not public anyway. Tunnels are refused whole, because the far end of one decides
/// where a packet comes out.
const SPECIAL_V6: [(Ipv6Net, &str); 4] = [
    (v6(0x2001, 0, 0, 23), "protocol assignments (Teredo, ORCHID, benchmarking)"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
];

const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Named only so that a refusal can say what the address is.
const OTHER_V6: [(Ipv6Net, &str); 6] = [
    (v6(0x64, 0xff9b, 0, 32), "NAT64"),
    (v6(0x100, 0, 0, 64), "discard-only"),
    (v6(0xfc00, 0, 0, 7), "unique local"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

/// IPv6 forms that are carried on to the IPv4 address inside them.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);
const COMPATIBLE: Ipv6Net = v6(0, 0, 0, 96);

/// The rule with the operator's exceptions.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

/// Networks in CIDR notation; a bare address means that address alone.
pub(super) fn networks(texts: &[String]) -> Result<Vec<IpNet>, String> {
    let parse = |text: &String| {
        let text = text.trim();
        let single = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse::<IpNet>().or_else(|_| single());
        network.map_err(|_| format!("{text:?} is not a network like 10.0.0.0/8"))
    };
    texts.iter().map(parse).collect()
}

impl Guard {
    /// `denied` wins over `allowed`, and `allowed` over what is not public.
    pub fn new(allowed: &[String], denied: &[String]) -> Result<Self, String> {
        Ok(Self { allowed: networks(allowed)?, denied: networks(denied)? })
    }

    /// `Err` says what the address is instead of public.
    pub fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        // A mapped address is the same host by another spelling, so it stands under the same rule.
        let address = address.to_canonical();
        let stands_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if stands_in(&self.denied) {
            return Err("denied by worker.deny_networks");
        }
        if !stands_in(&self.allowed) {
            return not_public(address).map_or(Ok(()), Err);
        }
        // Who allows a translator's prefix allows the translation, not what lies behind it.
        embedded(address).map_or(Ok(()), |inner| self.check(inner))
    }
}

/// The IPv4 address that a translator or a tunnel would carry this one on to.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let bits = u128::from(address);
    let shift = if SIX_TO_FOUR.contains(&address) {
        80
    } else if NAT64.contains(&address) || (COMPATIBLE.contains(&address) && bits > 1) {
        0
    } else {
        return None;
    };
    let inner = u32::try_from((bits >> shift) & u128::from(u32::MAX)).ok()?;
    Some(Ipv4Addr::from(inner).into())
}

/// What a canonical address is, if it is not one anybody on the internet could reach.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what),
        IpAddr::V6(address) if GLOBAL_UNICAST.contains(&address) => {
            SPECIAL_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what)
        }
        IpAddr::V6(address) if address.is_loopback() => Some("loopback"),
        IpAddr::V6(address) => {
            let known = OTHER_V6.iter().find(|(network, _)| network.contains(&address));
            Some(known.map_or("not global unicast", |(_, what)| *what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Target;
    use super::*;

    fn refused(url: &str) -> bool {
        match Target::parse(url) {
            Ok(target) => target.literal().is_some_and(|address| Guard::default().check(address).is_err()),
            Err(_) => true,
        }
    }

    #[test]
    fn no_spelling_of_an_inner_address_gets_through() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "127.255.255.254",
            "0x7f.0.0.1",
            "0x7f000001",
            "0X7F.1",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "0177.1",
            "127.0.0.1.",
            "0",
            "0.0.0.0",
            "0x0",
            "１２７.０.０.１",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "10.0.0.1",
            "10.1",
            "167772161",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "0xc0a80101",
            "192.168.257",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "4294967295",
            "168.63.129.16",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[::7f00:1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::8.8.8.8]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2002:c0a8:101::1]",
            "[2001::1]",
            "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[5f00::1]",
            "[4000::1]",
        ] {
            for url in [format!("http://{host}/x"), format!("https://{host}:8443/x")] {
                assert!(refused(&url), "{url}");
            }
        }
    }

    #[test]
    fn public_addresses_are_reached() {
        for host in [
            "8.8.8.8",
            "1.1.1.1",
            "93.184.216.34",
            "134744072",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "11.0.0.1",
            "169.253.0.1",
            "[2606:4700:4700::1111]",
            "[2001:4860:4860::8888]",
            "[::ffff:8.8.8.8]",
            "[2003::1]",
            "[2a00::1]",
        ] {
            assert!(!refused(&format!("http://{host}/")), "{host}");
        }
    }

    #[test]
    fn an_operator_can_allow_a_network_and_no_more() {
        let guard = Guard::new(&["127.0.0.0/8".into(), "10.1.2.3".into(), "fd00::/8".into()], &[]).unwrap();
        let check = |text: &str| guard.check(text.parse().unwrap()).is_ok();
        assert!(check("127.0.0.1") && check("::ffff:127.9.9.9") && check("10.1.2.3") && check("fd00::1"));
        assert!(!check("10.1.2.4") && !check("::1") && !check("192.168.0.1") && !check("fe80::1"));
        assert!(Guard::new(&["10.0.0.0/33".into()], &[]).is_err());
        assert!(Guard::new(&[], &["everything".into()]).is_err());
    }

    #[test]
    fn what_an_operator_denies_is_refused_in_every_form_even_if_it_is_allowed_or_public() {
        let guard = Guard::new(&["10.0.0.0/8".into()], &["10.9.0.0/16".into(), "8.8.8.8".into()]).unwrap();
        let check = |text: &str| guard.check(text.parse().unwrap()).is_ok();
        assert!(check("10.1.1.1") && check("8.8.4.4"));
        assert!(!check("10.9.1.1") && !check("8.8.8.8") && !check("::ffff:8.8.8.8") && !check("::ffff:10.9.0.1"));
    }

    #[test]
    fn an_allowed_translator_does_not_lead_to_inner_addresses() {
        let guard = Guard::new(&["64:ff9b::/96".into(), "2002::/16".into(), "::/96".into()], &["9.9.9.9".into()]);
        let check = |text: &str| guard.as_ref().unwrap().check(text.parse().unwrap()).is_ok();
        assert!(check("64:ff9b::8.8.8.8") && check("2002:808:808::1") && check("::8.8.8.8"));
        for inner in ["64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::9.9.9.9", "2002:7f00:1::", "::127.0.0.1"] {
            assert!(!check(inner), "{inner}");
        }
        assert!(!check("64:ff9b:1::8.8.8.8"), "another translator is another network");
    }
}
