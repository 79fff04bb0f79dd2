//! URLs and redirects that want to lead inside: nothing is connected to.
//!
//! Connections are seen twice: by listeners on the loopback addresses, and by a trap that stands in for the connector and the
//! resolver. Nothing leaves loopback even if the guard fails.

use std::net::TcpListener;

use super::fetch::Want;
use super::proxy::{PoolOptions, Proxies};
use super::tests::origin::Behaviour;
use super::trap_test::{Bench, Trap};
use super::*;
use crate::model::FailureCode::{DownloadBadUrl, DownloadBlockedAddress, DownloadRedirects};
use crate::model::{FailureCode, ProxyHint};
use crate::telemetry::Metrics;

/// Each spelling of an address that is not public, without scheme and port.
const INNER_HOSTS: &[&str] = &[
    // loopback
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.0.0.1.",
    "0x7f.0.0.1",
    "0x7f000001",
    "0X7F.1",
    "0x7f.0x0.0x0.0x1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "00000177.0.0.0001",
    "%31%32%37.0.0.1",
    "127%2E0%2E0%2E1",
    "１２７.０.０.１",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "①②⑦.⓪.⓪.①",
    "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
    "127.0.0.1\u{ad}",
    "0",
    "0.0.0.0",
    "0x0",
    "0.0.0.1",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "ｌｏｃａｌｈｏｓｔ",
    // private
    "10.0.0.1",
    "10.1",
    "012.0.0.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.168.257",
    "0xc0a80101",
    "3232235777",
    "[::ffff:10.0.0.1]",
    "[::ffff:c0a8:101]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "100.64.0.1",
    // link-local and metadata
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "metadata.inner.example",
    // translated and tunnelled
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::8.8.8.8]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001:0:7f00:1::]",
    // reserved in other ways
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    "[ff02::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[100::1]",
    "[5f00::1]",
    "[4000::1]",
    // names that lead there
    "loop.example",
    "six.example",
    "mapped.example",
    "nat64.example",
    "mixed.example",
    "late.example",
    "bücher.example",
];

/// URLs that are none, or whose host is not what it looks like.
const TRICKS: &[&str] = &[
    "http://127.0.0.1:80@8.8.8.8/",
    "http://8.8.8.8@127.0.0.1/",
    "http://8.8.8.8:80@127.0.0.1/",
    "http://8.8.8.8%40127.0.0.1/",
    "http://127.0.0.2#@8.8.8.8/",
    "http://127.0.0.2\\@8.8.8.8/",
    "http:\\\\127.0.0.2/",
    "http:/127.0.0.2/",
    "http://127.0.0.2?@8.8.8.8/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1",
    "http://[127.0.0.1]/",
    "http://256.0.0.1/",
    "http://127.0.0.1.1/",
    "http://0x100000000/",
    "http://1.2.3.4.5/",
    "http://127.0.0.0x/",
    "http://127.0.0.1:0/",
    "http:///127.0.0.1:99999/",
    "http://127.0.0.1 .example/",
    "http://\u{0}127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:70/_x",
    "ftp://127.0.0.1/",
    "dict://127.0.0.1:11211/stat",
    "unix:///run/x.sock",
    "jar:http://127.0.0.1!/",
    "data:text/plain,x",
    "//127.0.0.1/",
    "127.0.0.1",
];

fn name_all(trap: &Trap) {
    for name in ["localhost", "localhost."] {
        trap.name(name, &[&["127.0.0.1", "::1"]]);
    }
    for (name, addresses) in [
        ("metadata.inner.example", &["169.254.169.254"][..]),
        ("loop.example", &["127.0.0.1"]),
        ("six.example", &["::1"]),
        ("mapped.example", &["::ffff:10.0.0.1"]),
        ("nat64.example", &["64:ff9b::a9fe:a9fe"]),
        ("mixed.example", &["8.8.8.8", "10.0.0.1"]),
        ("late.example", &["8.8.8.8", "1.1.1.1", "9.9.9.9", "fd00::1"]),
        ("xn--bcher-kva.example", &["192.168.0.1"]),
    ] {
        trap.name(name, &[addresses]);
    }
}

/// Listeners on one port of several loopback addresses, as far as this machine has them.
struct Listeners {
    port: u16,
    all: Vec<TcpListener>,
}

impl Listeners {
    fn start() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for address in ["127.0.0.2", "127.255.255.254", "[::1]"] {
            all.extend(TcpListener::bind(format!("{address}:{port}")));
        }
        all.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        Self { port, all }
    }

    /// A connection is complete before anybody accepts it, so it would be here by now.
    fn assert_untouched(&self, what: &str) {
        for listener in &self.all {
            assert!(listener.accept().is_err(), "{what} reached {:?}", listener.local_addr());
        }
    }
}

#[tokio::test]
async fn no_spelling_of_an_inner_address_is_connected_to() {
    assert!(INNER_HOSTS.len() + TRICKS.len() >= 60);
    let bench = Bench::with(|options| options.allow_networks.clear()).await;
    name_all(&bench.trap);
    let listeners = Listeners::start();
    for host in INNER_HOSTS {
        for url in [
            format!("http://{host}:{}/", listeners.port),
            format!("https://{host}:{}/", listeners.port),
            format!("http://{host}/latest/meta-data/"),
        ] {
            assert_eq!(bench.fails(&url).await, DownloadBlockedAddress, "{url}");
        }
        listeners.assert_untouched(host);
        assert_eq!(bench.trap.seen().caught, [""; 0], "{host}");
    }
    for url in TRICKS {
        let code = bench.fails(url).await;
        assert!(matches!(code, DownloadBadUrl | DownloadBlockedAddress), "{url}: {code:?}");
        listeners.assert_untouched(url);
        assert_eq!(bench.trap.seen().caught, [""; 0], "{url}");
    }
    assert_eq!(bench.gate.take_events(), [""; 0], "no host is told to have answered or not");

    // That the traps are open: what is public is caught, and what reaches a listener is seen.
    assert_eq!(bench.fails("http://8.8.8.8/").await, FailureCode::DownloadConnect);
    assert_eq!(bench.fails("http://[2606:4700:4700::1111]/").await, FailureCode::DownloadConnect);
    assert_eq!(bench.trap.seen().caught, ["8.8.8.8", "2606:4700:4700::1111"]);
    let _reaches = std::net::TcpStream::connect(("127.0.0.1", listeners.port)).unwrap();
    assert!(listeners.all[0].accept().is_ok());
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_a_url_does_not() {
    let bench = Bench::new().await;
    name_all(&bench.trap);
    let listeners = Listeners::start();
    let own = "127.0.0.1";
    let same_host = |host: &str| {
        let target = target::Target::parse(&format!("http://{host}/"));
        target.is_ok_and(|target| target.literal().map(|address| address.to_canonical()) == own.parse().ok())
    };
    // 127.0.0.1 itself is allowed here, and so is a name that leads nowhere else.
    let hosts = INNER_HOSTS.iter().filter(|host| !same_host(host) && **host != "loop.example");
    let mut chains = 0;
    for host in hosts {
        for status in [301, 307] {
            let end = format!("http://{host}:{}/", listeners.port);
            bench.origin.on("/one", Behaviour::redirect(status, "/two"));
            bench.origin.on("/two", Behaviour::redirect(status, &end));
            assert_eq!(bench.fails(&bench.origin.url("/one")).await, DownloadBlockedAddress, "{end}");
            let bare = end.trim_start_matches("http:");
            bench.origin.on("/bare", Behaviour::redirect(status, bare));
            assert_eq!(bench.fails(&bench.origin.url("/bare")).await, DownloadBlockedAddress, "{bare}");
            chains += 2;
        }
        listeners.assert_untouched(host);
    }
    // The one with a single slash is a path of the same origin when it stands in a redirect.
    let tricks = TRICKS.iter().filter(|url| url.contains(':') && !url.contains('\0') && **url != "http:/127.0.0.2/");
    for url in tricks {
        bench.origin.on("/trick", Behaviour::redirect(302, *url));
        let code = bench.fails(&bench.origin.url("/trick")).await;
        assert!(matches!(code, DownloadBadUrl | DownloadBlockedAddress), "{url}: {code:?}");
        chains += 1;
    }
    assert!(chains >= 60, "{chains}");
    listeners.assert_untouched("a trick");
    let seen = bench.trap.seen();
    assert_eq!(seen.caught, [""; 0]);
    let by_literal: Vec<&String> =
        seen.begun.iter().filter(|begun| begun.starts_with(|c: char| !c.is_alphabetic())).collect();
    assert!(by_literal.iter().all(|begun| **begun == bench.origin.host()), "{by_literal:?}");
}

#[tokio::test]
async fn a_name_that_changes_its_address_between_two_requests_is_judged_each_time() {
    let bench = Bench::new().await;
    let port = bench.origin.addr().port();
    // The first answer is fine, so its redirect is followed; the connection is closed, so the name is looked up again.
    bench.trap.name("rebind.example", &[&["127.0.0.1"], &["169.254.169.254"]]);
    let next = format!("http://rebind.example:{port}/second");
    bench.origin.on("/first", Behaviour::redirect(302, &next).header("Connection", "close").without_length());
    let first = format!("http://rebind.example:{port}/first");
    assert_eq!(bench.fails(&first).await, DownloadBlockedAddress);
    assert_eq!((bench.origin.hits("/first"), bench.origin.hits("/second")), (1, 0));
    let seen = bench.trap.seen();
    assert_eq!((seen.lookups.len(), seen.caught.len()), (2, 0), "{seen:?}");

    // What is checked is what is connected to: there is no second look between the two.
    bench.trap.name("public.example", &[&["93.184.216.34"], &["10.0.0.1"]]);
    let code = bench.fails("http://public.example/").await;
    assert_eq!(code, FailureCode::DownloadConnect, "the trap took it");
    assert_eq!(bench.trap.seen().caught, ["public.example at 93.184.216.34"]);
    assert_eq!(bench.fails("http://public.example/").await, DownloadBlockedAddress);
    assert_eq!(bench.trap.seen().caught.len(), 1);
}

#[tokio::test]
async fn a_body_that_goes_on_is_judged_again() {
    let bench = Bench::new().await;
    bench.trap.name("rebind.example", &[&["127.0.0.1"], &["10.0.0.1"]]);
    bench.origin.on("/", Behaviour::body(10_000, 1).header("ETag", "\"v1\"").close_after(5_000));
    let url = format!("http://rebind.example:{}/", bench.origin.addr().port());
    assert_eq!(bench.fails(&url).await, DownloadBlockedAddress);
    assert_eq!((bench.origin.hits_total(), bench.trap.seen().caught.len()), (1, 0));
}

#[tokio::test]
async fn what_an_operator_denies_is_not_reached_although_it_is_allowed() {
    let bench = Bench::with(|options| {
        options.allow_networks = vec!["0.0.0.0/0".into(), "::/0".into()];
        options.deny_networks = vec!["127.0.0.0/8".into(), "8.8.8.8".into()];
    })
    .await;
    bench.trap.name("denied.example", &[&["1.1.1.1", "8.8.8.8"]]);
    for url in
        [&bench.origin.url("/"), "http://denied.example/", "http://[::ffff:8.8.8.8]/", "http://[64:ff9b::7f00:1]/"]
    {
        assert_eq!(bench.fails(url).await, DownloadBlockedAddress, "{url}");
    }
    assert_eq!((bench.origin.hits_total(), bench.trap.seen().caught.len()), (0, 0));
}

#[tokio::test]
async fn https_is_never_left_for_http() {
    let from = target::Target::parse("https://a.example/").unwrap();
    assert_eq!(from.redirected("http://a.example/"), Err(target::BadHop::Downgrade));
    let bench = Bench::new().await;
    for (path, to) in [("/self", "/self"), ("/ping", "/pong"), ("/pong", "/ping")] {
        bench.origin.on(path, Behaviour::redirect(302, to));
    }
    for path in ["/self", "/ping"] {
        assert_eq!(bench.fails(&bench.origin.url(path)).await, DownloadRedirects, "{path}");
    }
    assert_eq!((bench.origin.hits("/self"), bench.origin.hits("/ping") + bench.origin.hits("/pong")), (6, 6));
}

#[tokio::test]
async fn through_a_proxy_the_guard_says_no_before_the_proxy_is_asked() {
    let bench = Bench::with(|options| options.allow_networks.clear()).await;
    name_all(&bench.trap);
    // The proxy is where the operator says, allowed or not; here the origin plays it.
    bench.trap.name("proxy.inner.example", &[&["127.0.0.1"]]);
    let port = bench.origin.addr().port();
    let endpoints = vec![format!("http://proxy.inner.example:{port}")];
    let pools = [("eu".to_owned(), PoolOptions { endpoints, ..PoolOptions::default() })].into();
    let options = proxy::Options { pools, ..proxy::Options::default() };
    let worker = bench.worker.clone().with_proxies(Proxies::new(&options, &Metrics::new()).unwrap());
    let ask = async |url: String| {
        let hint = ProxyHint { primary_pool: "eu".into(), ..ProxyHint::default() };
        let spec = TaskSpec { url, proxy_hint: Some(hint), ..TaskSpec::default() };
        let want = Want { spec: &spec, bytes_max: 1_000, from: None, unless: None };
        match worker.fetch(want, &bench.gate).await {
            Ok(fetch::Answered::Body(fetched)) => Ok(fetched.context()),
            Ok(fetch::Answered::NotChanged { .. }) => panic!("nobody asked"),
            Err(failed) => Err(failed.failure.code),
        }
    };
    for host in INNER_HOSTS.iter().chain(&["proxy.inner.example"]) {
        assert_eq!(ask(format!("http://{host}/")).await, Err(DownloadBlockedAddress), "{host}");
    }
    assert_eq!(bench.origin.hits_total(), 0, "the proxy heard of none of them");

    // A name that is unknown here is the proxy's to resolve.
    bench.origin.on("http://far.example/", Behaviour::body(10, 1));
    let context = ask("http://far.example/x".into()).await.unwrap();
    assert_eq!(
        (context["proxy"].clone(), context["host"].as_str()),
        (format!("eu proxy.inner.example:{port}"), "far.example:80")
    );
    bench.origin.on("http://far.example/in", Behaviour::redirect(302, "http://169.254.169.254/"));
    assert_eq!(ask("http://far.example/in".into()).await, Err(DownloadBlockedAddress));
    assert_eq!(bench.origin.hits_total(), 2);
    assert_eq!(bench.trap.seen().caught, [""; 0]);
}
