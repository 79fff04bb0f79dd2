//! Downloads over connections that break, versions that change, and origins that lie.

use super::fetch::{Answered, Fetched, Resume, Want};
use super::tests::origin::{Behaviour, Origin, Seen, seeded};
use super::trap_test::{Bench, read};
use super::*;
use crate::model::{FailureCode, Header};

const MIB: usize = 1024 * 1024;

/// The first byte that is asked for.
fn wanted(seen: &Seen) -> Option<usize> {
    seen.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// Answers a range with what follows, as `tag`, whatever If-Range says.
fn rest(body: &[u8], tag: &str, from: usize) -> Behaviour {
    let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
    Behaviour::bytes(&body[from..]).answers(206).header("ETag", tag).header("Content-Range", range)
}

/// Every first answer breaks off as `breaks` says, every other one brings the rest.
fn breaking(origin: &Origin, path: &str, body: &[u8], breaks: fn(Behaviour) -> Behaviour) {
    let body = body.to_vec();
    origin.on_fn(path, move |seen| match wanted(seen) {
        Some(from) => rest(&body, "\"v1\"", from),
        None => breaks(Behaviour::bytes(body.clone()).header("ETag", "\"v1\"")),
    });
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_where_it_stopped() {
    let bench = Bench::with(|options| options.idle_timeout_ms = 400).await;
    let body = seeded(3 * MIB, 7);
    type Breaks = fn(Behaviour) -> Behaviour;
    let breaks: [(&str, Breaks); 4] = [
        ("/closed", |behaviour| behaviour.close_after(MIB)),
        ("/reset", |behaviour| behaviour.pieces(64 * 1024, 5).reset_after(MIB)),
        ("/torn", |behaviour| behaviour.chunked().close_after(MIB)),
        ("/hang", |behaviour| behaviour.hang_after(MIB)),
    ];
    for (path, how) in breaks {
        breaking(&bench.origin, path, &body, how);
        let spec = bench.spec(path);
        let mut fetched = bench.ask(&spec).await.unwrap();
        assert_eq!((fetched.offset(), fetched.validators().etag.as_str()), (0, "\"v1\""));
        let got = read(&mut fetched).await.1.unwrap();
        assert!(got == body, "{path}: the joined body is another one");
        let context = fetched.context();
        let requests = bench.origin.requests(path);
        assert_eq!(requests.len(), 2, "{path}");
        assert_eq!(requests[1].header("range"), Some(format!("bytes={}-", context["resumed_at"]).as_str()));
        assert_eq!(requests[1].header("if-range"), Some("\"v1\""));
        assert_eq!(context["resumes"], "1");
        assert_eq!(bench.gate.take_events(), ["well", "ill", "well"], "{path}");
    }
}

#[tokio::test]
async fn two_versions_are_never_joined() {
    let bench = Bench::new().await;
    let (old, new) = (seeded(2 * MIB, 1), seeded(2 * MIB, 2));
    type Answer = fn(&[u8], &[u8], usize) -> Behaviour;
    let answers: [(&str, Answer); 7] = [
        ("/whole", |_, new, _| Behaviour::bytes(new).header("ETag", "\"v2\"")),
        ("/other", |_, new, from| rest(new, "\"v2\"", from)),
        ("/weak", |_, new, from| rest(new, "W/\"v1\"", from)),
        ("/early", |old, _, from| rest(old, "\"v1\"", from - 1)),
        ("/start", |old, _, _| rest(old, "\"v1\"", 0)),
        ("/longer", |old, _, from| rest(&[old, b"x"].concat(), "\"v1\"", from)),
        ("/none", |_, _, _| Behaviour::status(416).header("Content-Range", "bytes */9")),
    ];
    for (path, answer) in answers {
        let (before, after) = (old.clone(), new.clone());
        bench.origin.on_fn(path, move |seen| match wanted(seen) {
            Some(from) => answer(&before, &after, from),
            None => Behaviour::bytes(before.clone()).header("ETag", "\"v1\"").close_after(MIB),
        });
        let spec = bench.spec(path);
        let mut fetched = bench.ask(&spec).await.unwrap();
        let (got, end) = read(&mut fetched).await;
        assert_eq!(end.unwrap_err().failure.code, FailureCode::DownloadInterrupted, "{path}");
        assert!(got == old[..MIB], "{path}: nothing but the old version was handed out");
        assert_eq!(bench.origin.hits(path), 2, "{path}");
        assert!(fetched.next().await.is_err(), "a broken body does not look like a whole one");
    }
}

#[tokio::test]
async fn the_end_of_a_range_is_not_taken_for_the_end_of_a_body_whose_length_nobody_told() {
    let bench = Bench::new().await;
    let body = seeded(3 * MIB, 4);
    let whole = body.clone();
    bench.origin.on_fn("/", move |seen| match wanted(seen) {
        Some(from) => {
            let range = format!("bytes {from}-{}/*", from + MIB - 1);
            let piece = Behaviour::bytes(&whole[from..from + MIB]).answers(206);
            piece.header("ETag", "\"v1\"").header("Content-Range", range)
        }
        None => Behaviour::bytes(whole.clone()).header("ETag", "\"v1\"").chunked().close_after(MIB),
    });
    let spec = bench.spec("/");
    let mut fetched = bench.ask(&spec).await.unwrap();
    let (got, end) = read(&mut fetched).await;
    assert_eq!(end.unwrap_err().failure.code, FailureCode::DownloadInterrupted, "{} of {}", got.len(), body.len());
    assert_eq!(bench.origin.hits("/"), 2);
}

/// One answer a connection, and no word of it: a second request finds the connection closed. `/N` leads to `/N-1`.
async fn one_answer_each() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap().to_owned();
                let answer = match path.trim_start_matches('/').parse::<u32>().unwrap() {
                    0 => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
                    left => format!("HTTP/1.1 302 Found\r\nLocation: /{}\r\nContent-Length: 0\r\n\r\n", left - 1),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                // The next request has left before anybody can see that the connection ends.
                let _ = stream.read(&mut head).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn an_origin_that_closes_after_each_answer_without_a_word_loses_nothing() {
    let bench = Bench::new().await;
    let addr = one_answer_each().await;
    let mut spec = bench.spec("/");
    for redirects in [0, 1, 3, 5] {
        spec.url = format!("http://{addr}/{redirects}");
        let mut fetched = bench.ask(&spec).await.unwrap_or_else(|failed| panic!("{redirects} redirects: {failed:?}"));
        assert_eq!(read(&mut fetched).await.1.unwrap(), b"hello", "{redirects} redirects");
    }
    assert!(!bench.gate.take_events().contains(&"ill".to_owned()), "it is no fault of the host");
}

#[tokio::test]
async fn what_cannot_be_told_apart_is_not_resumed() {
    let bench = Bench::new().await;
    let broken = Behaviour::body(2 * MIB, 1).close_after(MIB);
    for (path, behaviour) in [
        ("/bare", broken.clone()),
        ("/weak", broken.clone().header("ETag", "W/\"v1\"")),
        ("/dated", broken.clone().header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")),
        ("/none", broken.clone().header("ETag", "\"v1\"").header("Accept-Ranges", "none")),
    ] {
        bench.origin.on(path, behaviour);
        assert_eq!(bench.fails(&bench.origin.url(path)).await, FailureCode::DownloadLengthMismatch, "{path}");
        assert_eq!(bench.origin.hits(path), 1, "{path}");
    }
    let bench = Bench::with(|options| options.resumes_max = 0).await;
    bench.origin.on("/", broken.header("ETag", "\"v1\""));
    assert_eq!(bench.fails(&bench.origin.url("/")).await, FailureCode::DownloadLengthMismatch);
    assert_eq!(bench.origin.hits("/"), 1);
}

#[tokio::test]
async fn an_origin_that_breaks_for_ever_is_given_up_and_one_that_gets_on_is_not() {
    let bench = Bench::new().await;
    let body = seeded(MIB, 3);
    for (path, step, requests) in [("/stuck", 1_000, 4), ("/gets-on", 100_000, 11)] {
        let body = body.clone();
        bench.origin.on_fn(path, move |seen| match wanted(seen) {
            Some(from) => rest(&body, "\"v1\"", from).close_after(step),
            None => Behaviour::bytes(body.clone()).header("ETag", "\"v1\"").close_after(step),
        });
        let got = bench.get(&bench.origin.url(path)).await;
        assert_eq!(bench.origin.hits(path), requests, "{path}");
        match (path, got) {
            ("/stuck", Err(failed)) => {
                assert_eq!(failed.failure.code, FailureCode::DownloadLengthMismatch);
                let context = &failed.failure.context;
                assert_eq!((context["resumes"].as_str(), context["bytes"].as_str()), ("3", "4000"));
            }
            ("/gets-on", Ok(got)) => assert!(got == seeded(MIB, 3)),
            (path, got) => panic!("{path}: {got:?}"),
        }
    }
    // Ranges shorter than what was asked for are taken one after the other, and nobody is blamed for them.
    bench.gate.take_events();
    bench.origin.on_fn("/slices", move |seen| match wanted(seen) {
        Some(from) => {
            let end = (from + 300_000).min(body.len());
            let range = format!("bytes {from}-{}/{}", end - 1, body.len());
            let part = Behaviour::bytes(&body[from..end]).answers(206);
            part.header("ETag", "\"v1\"").header("Content-Range", range)
        }
        None => Behaviour::bytes(body.clone()).header("ETag", "\"v1\"").close_after(100_000),
    });
    assert!(bench.get(&bench.origin.url("/slices")).await.unwrap() == seeded(MIB, 3));
    assert_eq!(bench.gate.take_events().iter().filter(|event| *event == "ill").count(), 1);
}

fn resume(offset: u64, etag: &str, total: Option<u64>) -> Resume {
    Resume { offset, etag: etag.into(), total, landed: None }
}

async fn continue_from<'a>(bench: &'a Bench, spec: &'a TaskSpec, from: Resume) -> Box<Fetched<'a>> {
    let want = Want { spec, bytes_max: 1 << 30, from: Some(from), unless: None };
    match bench.worker.fetch(want, &bench.gate).await {
        Ok(Answered::Body(fetched)) => fetched,
        Ok(Answered::NotChanged { .. }) => panic!("nobody asked"),
        Err(failed) => panic!("{failed:?}"),
    }
}

#[tokio::test]
async fn bytes_that_are_safe_are_not_downloaded_twice() {
    let bench = Bench::new().await;
    let body = seeded(2 * MIB, 5);
    breaking(&bench.origin, "/x", &body, |behaviour| behaviour);
    let spec = bench.spec("/x");
    let mut fetched = continue_from(&bench, &spec, resume(MIB as u64, "\"v1\"", Some(body.len() as u64))).await;
    assert_eq!((fetched.offset(), fetched.total()), (MIB as u64, Some(2 * MIB as u64)));
    assert!(read(&mut fetched).await.1.unwrap() == body[MIB..]);
    assert_eq!(fetched.context()["resumed_at"], MIB.to_string());
    assert_eq!(bench.origin.requests("/x").len(), 1);

    // The cap is for the whole body, not for what is left of it.
    let from = Some(resume(MIB as u64, "\"v1\"", None));
    let want = Want { spec: &spec, bytes_max: MIB as u64 + 10, from, unless: None };
    match bench.worker.fetch(want, &bench.gate).await {
        Err(failed) => assert_eq!(failed.failure.code, FailureCode::DownloadTooLarge),
        Ok(_) => panic!("too large"),
    }
}

#[tokio::test]
async fn what_cannot_go_on_begins_anew_and_says_so() {
    let bench = Bench::new().await;
    let new = seeded(MIB, 6);
    type Answer = fn(&[u8], usize) -> Behaviour;
    // The answer to a range, and how many requests it takes to get all.
    let answers: [(&str, Answer, u32); 6] = [
        ("/changed", |new, _| Behaviour::bytes(new).header("ETag", "\"v2\""), 1),
        ("/416", |_, _| Behaviour::status(416), 2),
        ("/other", |new, from| rest(new, "\"v2\"", from), 2),
        ("/shifted", |new, from| rest(new, "\"v1\"", from + 1), 2),
        ("/unnamed", |new, from| rest(new, "", from), 2),
        ("/rangeless", |new, from| Behaviour::bytes(&new[from..]).answers(206).header("ETag", "\"v1\""), 2),
    ];
    for (path, answer, requests) in answers {
        let body = new.clone();
        bench.origin.on_fn(path, move |seen| match wanted(seen) {
            Some(from) => answer(&body, from),
            None => Behaviour::bytes(body.clone()).header("ETag", "\"v2\""),
        });
        let spec = bench.spec(path);
        let mut fetched = continue_from(&bench, &spec, resume(1_000, "\"v1\"", None)).await;
        assert_eq!((fetched.offset(), fetched.total()), (0, Some(new.len() as u64)), "{path}");
        assert!(fetched.context().contains_key("restarted"), "{path}");
        assert!(read(&mut fetched).await.1.unwrap() == new, "{path}");
        assert_eq!(bench.origin.hits(path), requests, "{path}");
    }
    // Nothing is asked for by a tag that stands for no bytes.
    let spec = bench.spec("/changed");
    continue_from(&bench, &spec, resume(1_000, "W/\"v1\"", None)).await;
    assert_eq!(bench.origin.requests("/changed").last().unwrap().header("range"), None);
    // Nobody asked for a part here.
    bench.origin.on("/part", rest(&new, "\"v1\"", 0));
    assert_eq!(bench.fails(&bench.origin.url("/part")).await, FailureCode::DownloadUnexpectedStatus);
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_and_only_who_asked_may_be_told_so() {
    let bench = Bench::new().await;
    bench.origin.on("/x", Behaviour::bytes("").answers(304).without_length());
    let spec = bench.spec("/x");
    let known = Validators { etag: "W/\"a\"".into(), last_modified: "Sun, 06 Nov 1994 08:49:37 GMT".into() };
    for (unless, is_told) in [(Some(&known), true), (Some(&Validators::default()), false), (None, false)] {
        let want = Want { spec: &spec, bytes_max: 10, from: None, unless };
        match bench.worker.fetch(want, &bench.gate).await {
            Ok(Answered::NotChanged { context }) => {
                assert!(is_told);
                assert_eq!(context["host"], bench.origin.host());
            }
            Ok(Answered::Body(_)) => panic!("a 304 has no body"),
            Err(failed) => {
                assert!(!is_told);
                assert_eq!(failed.failure.code, FailureCode::DownloadUnexpectedStatus);
            }
        }
    }
    let asked = &bench.origin.requests("/x")[0];
    assert_eq!(asked.header("if-none-match"), Some("W/\"a\""));
    assert_eq!(asked.header("if-modified-since"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
}

#[tokio::test]
async fn a_trickle_does_not_hold_a_place_for_ever() {
    let bench = Bench::with(|options| (options.pace_window_ms, options.bytes_per_second_min) = (200, 1_000)).await;
    bench.origin.on("/", Behaviour::body(100_000, 1).header("ETag", "\"v1\"").pieces(1, 5));
    assert_eq!(bench.fails(&bench.origin.url("/")).await, FailureCode::DownloadTimeout);
    assert_eq!(bench.origin.hits("/"), 1, "another connection would be no faster");
}

#[tokio::test]
async fn no_body_is_other_than_it_was_said_to_be() {
    let bench = Bench::new().await;
    let body = Behaviour::body(100_000, 1);
    bench.origin.on("/more-said", body.clone().says_length(200_000));
    assert_eq!(bench.fails(&bench.origin.url("/more-said")).await, FailureCode::DownloadLengthMismatch);
    // What follows the declared length is not a part of the answer.
    bench.origin.on("/less-said", body.clone().says_length(50_000));
    assert_eq!(bench.get(&bench.origin.url("/less-said")).await.unwrap(), seeded(100_000, 1)[..50_000]);
    // A range that brings more than it says, in an encoding that does not show it.
    bench.origin.on_fn("/over", |seen| match wanted(seen) {
        Some(from) => {
            let range = format!("bytes {from}-{}/100000", from + 10);
            let over = Behaviour::bytes(&seeded(100_000, 1)[from..]).answers(206).chunked();
            over.header("ETag", "\"v1\"").header("Content-Range", range)
        }
        None => Behaviour::body(100_000, 1).header("ETag", "\"v1\"").chunked().close_after(50_000),
    });
    assert_eq!(bench.fails(&bench.origin.url("/over")).await, FailureCode::DownloadLengthMismatch);
}

#[tokio::test]
async fn a_bomb_is_refused_by_its_header_and_an_endless_body_by_its_size() {
    let bench = Bench::new().await;
    let squeezed = Behaviour::body(1_000, 1).header("Content-Encoding", "gzip").header("ETag", "\"v1\"");
    bench.origin.on("/gzip", squeezed.clone());
    assert_eq!(bench.fails(&bench.origin.url("/gzip")).await, FailureCode::DownloadEncoding);
    let spec = bench.spec("/gzip");
    bench.origin.on("/gzip", rest(&seeded(1_000, 1), "\"v1\"", 10).header("Content-Encoding", "br"));
    let want = Want { spec: &spec, bytes_max: 10_000, from: Some(resume(10, "\"v1\"", None)), unless: None };
    let refused = bench.worker.fetch(want, &bench.gate).await.err().unwrap();
    assert_eq!(refused.failure.code, FailureCode::DownloadEncoding);

    bench.origin.on("/endless", Behaviour::endless());
    let spec = bench.spec("/endless");
    let want = Want { spec: &spec, bytes_max: 500_000, from: None, unless: None };
    let Ok(Answered::Body(mut fetched)) = bench.worker.fetch(want, &bench.gate).await else { panic!("it has a body") };
    let (got, end) = read(&mut fetched).await;
    assert_eq!(end.unwrap_err().failure.code, FailureCode::DownloadTooLarge);
    assert!(got.len() <= 500_000);
}

#[tokio::test]
async fn a_way_back_to_the_first_origin_does_not_bring_its_credentials_back() {
    let bench = Bench::new().await;
    let other = Origin::start().await;
    bench.origin.on("/start", Behaviour::redirect(302, other.url("/there")));
    other.on("/there", Behaviour::redirect(302, bench.origin.url("/back")));
    bench.origin.on("/back", Behaviour::body(10, 1));
    let secret = ["Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization"];
    let headers = secret.into_iter().chain(["Accept"]).map(|name| Header { name: name.into(), value: "s".into() });
    let spec = TaskSpec { headers: headers.collect(), ..bench.spec("/start") };
    read(&mut bench.ask(&spec).await.unwrap()).await.1.unwrap();
    let shown = |seen: &Seen| secret.iter().filter(|name| seen.header(&name.to_lowercase()).is_some()).count();
    assert_eq!(shown(&bench.origin.requests("/start")[0]), 3, "all but the one that is for a proxy");
    assert_eq!((shown(&other.requests("/there")[0]), shown(&bench.origin.requests("/back")[0])), (0, 0));
    assert_eq!(other.requests("/there")[0].header("accept"), Some("s"));
}

#[tokio::test]
async fn a_host_is_told_apart_from_what_is_wrong_with_a_task() {
    let bench = Bench::with(|options| (options.connect_timeout_ms, options.idle_timeout_ms) = (300, 100)).await;
    bench.origin.on("/late", Behaviour::status(503).header("Retry-After", "Sun, 06 Nov 1994 08:50:37 GMT"));
    bench.origin.on("/asks", Behaviour::status(429).header("Retry-After", "Sunday, 06-Nov-94 08:51:37 GMT"));
    bench.origin.on("/past", Behaviour::status(429).header("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"));
    bench.origin.on("/absurd", Behaviour::status(429).header("Retry-After", "99999999999999999999999"));
    bench.origin.on("/broken", Behaviour::status(500));
    bench.origin.on("/gone", Behaviour::status(404));
    bench.origin.on("/silent", Behaviour::silent());
    let refuses = Origin::start().await;
    let refused = refuses.url("/");
    drop(refuses);
    tokio::task::yield_now().await;
    for (url, events) in [
        (bench.origin.url("/late"), &["ill", "throttled 60"][..]),
        (bench.origin.url("/asks"), &["throttled 120"]),
        (bench.origin.url("/past"), &["throttled 0"]),
        (bench.origin.url("/absurd"), &["throttled 86400"]),
        (bench.origin.url("/broken"), &["ill"]),
        (bench.origin.url("/gone"), &["well"]),
        (bench.origin.url("/silent"), &["ill"]),
        (refused, &["ill"]),
        ("http://nobody.example/".into(), &[]),
        ("http://10.0.0.1/".into(), &[]),
        ("nonsense".into(), &[]),
    ] {
        bench.fails(&url).await;
        assert_eq!(bench.gate.take_events(), events, "{url}");
    }
}

#[tokio::test]
async fn http_2_is_offered_to_an_origin_that_speaks_tls() {
    use tokio::io::AsyncReadExt as _;
    let bench = Bench::with(|options| options.connect_timeout_ms = 2_000).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let hello = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut hello, mut piece) = (Vec::new(), [0; 4096]);
        // A record says its length in bytes 3 and 4.
        while hello.len() < 5 || hello.len() < 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])) {
            let bytes = stream.read(&mut piece).await.unwrap();
            assert!(bytes > 0);
            hello.extend_from_slice(&piece[..bytes]);
        }
        hello
    };
    let (hello, code) = tokio::join!(hello, bench.fails(&url));
    let offer = b"\x02h2\x08http/1.1";
    assert!(hello.windows(offer.len()).any(|window| window == offer), "no ALPN with h2 in the first message");
    assert!(matches!(code, FailureCode::DownloadTls | FailureCode::DownloadConnect), "{code:?}");
}

#[tokio::test]
async fn a_site_that_does_not_want_it_is_not_asked_for_it() {
    let bench = Bench::with(|options| options.robots = true).await;
    let other = Origin::start().await;
    let rules = "User-agent: fetchbox\nDisallow: /private\nAllow: /private/open\n";
    bench.origin.on("/robots.txt", Behaviour::bytes(rules));
    bench.origin.on("/", Behaviour::body(10, 1));
    other.on("/robots.txt", Behaviour::redirect(301, "/rules"));
    other.on("/rules", Behaviour::bytes("User-agent: *\nDisallow: /"));
    bench.origin.on("/away", Behaviour::redirect(302, other.url("/x")));
    let secret = vec![Header { name: "Authorization".into(), value: "s".into() }];
    let spec = TaskSpec { headers: secret, ..bench.spec("/private/open") };
    read(&mut bench.ask(&spec).await.unwrap()).await.1.unwrap();
    assert_eq!(bench.fails(&bench.origin.url("/private/x")).await, FailureCode::DownloadRobots);
    bench.get(&bench.origin.url("/open?x")).await.unwrap();
    assert_eq!(bench.fails(&bench.origin.url("/away")).await, FailureCode::DownloadRobots);
    assert_eq!((bench.origin.hits("/private/x"), other.hits("/x")), (0, 0));
    assert_eq!((bench.origin.hits("/robots.txt"), other.hits("/robots.txt")), (1, 1), "read once");
    assert_eq!(bench.origin.requests("/robots.txt")[0].header("authorization"), None);
}

#[tokio::test]
async fn rules_that_cannot_be_had_hold_a_download_up_and_rules_that_are_not_there_do_not() {
    for (status, code) in [
        (404, None),
        (403, None),
        (204, None),
        (500, Some(FailureCode::DownloadServerError)),
        (429, Some(FailureCode::DownloadThrottled)),
    ] {
        let bench = Bench::with(|options| options.robots = true).await;
        bench.origin.on("/robots.txt", Behaviour::status(status));
        bench.origin.on("/x", Behaviour::body(10, 1));
        match (bench.get(&bench.origin.url("/x")).await, code) {
            (Ok(_), None) => assert_eq!(bench.origin.hits("/x"), 1),
            (Err(failed), Some(code)) => {
                assert_eq!((failed.failure.code, bench.origin.hits("/x")), (code, 0));
                assert!(failed.failure.message.contains("robots.txt"), "{}", failed.failure);
            }
            (got, code) => panic!("{status}: {got:?} instead of {code:?}"),
        }
    }
    let bench = Bench::with(|options| options.robots = true).await;
    bench.origin.on("/robots.txt", Behaviour::endless());
    bench.origin.on("/x", Behaviour::body(10, 1));
    bench.get(&bench.origin.url("/x")).await.unwrap();
    let bench = Bench::with(|options| options.robots = true).await;
    bench.origin.on("/robots.txt", Behaviour::redirect(302, "http://169.254.169.254/"));
    assert_eq!(bench.fails(&bench.origin.url("/x")).await, FailureCode::DownloadBlockedAddress);
    assert_eq!(bench.trap.seen().caught, [""; 0]);
}

/// Else `?id=1` goes on with the bytes of `?id=2`.
#[tokio::test]
async fn a_query_that_was_asked_for_is_a_part_of_what_is_joined() {
    let bench = Bench::new().await;
    let (one, two) = (seeded(MIB, 1), seeded(MIB, 2));
    bench.origin.on_fn("/x", move |seen| match (wanted(seen), seen.hit) {
        (Some(_), 2) => Behaviour::redirect(302, "/x?id=2"),
        (Some(from), _) => rest(&two, "\"v1\"", from),
        (None, _) => Behaviour::bytes(one.clone()).header("ETag", "\"v1\"").close_after(1_000),
    });
    let spec = bench.spec("/x?id=1");
    let (got, end) = read(&mut bench.ask(&spec).await.unwrap()).await;
    assert_eq!((got.len(), end.unwrap_err().failure.code), (1_000, FailureCode::DownloadInterrupted));
}
