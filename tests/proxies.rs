//! What demands a proxy goes through one that works, whatever the others do, and never directly; and nobody reads a password.

use fetchbox::config::Config;
use fetchbox::model::FailureCode;
use fetchbox::worker::proxy::PoolOptions;

use crate::harness::binary::{Home, fetchbox};
use crate::harness::host::Host;
use crate::harness::manifest::{Resource, raw, resource, submission};
use crate::harness::origin::{Behaviour, Origin};
use crate::harness::proxy::{Asked, Mood, Proxy};
use crate::harness::{ask, http_get, in_time, pb};

const USER: &str = "collector";
const PASSWORD: &str = "s3cret%41 päss:word@home";
/// Longer than a label may be: it is told apart from a name before anybody is asked for it.
const NAME: &str = "known-to-the-proxy-and-longer-than-any-label-in-the-domain-name-system.test";

fn pool(endpoints: &[String], fallbacks: &[&str]) -> PoolOptions {
    let fallbacks = fallbacks.iter().map(|name| (*name).to_owned()).collect();
    PoolOptions { endpoints: endpoints.to_vec(), fallbacks, ..PoolOptions::default() }
}

fn set(config: &mut Config, name: &str, endpoints: &[String], fallbacks: &[&str]) {
    config.proxies.pools.insert(name.to_owned(), pool(endpoints, fallbacks));
}

fn through(url: &str, pool: &str) -> Resource {
    resource("r", url).with("proxy_hint", serde_json::json!({ "primary_pool": pool }))
}

async fn origin() -> Origin {
    let origin = Origin::start().await;
    origin.on("/", Behaviour::body(70_000, 1));
    origin
}

async fn run(host: &Host, resources: &[Resource]) -> pb::Job {
    let client = host.client().await;
    let job_id = ask::submit(&client, submission(resources)).await;
    ask::end_of(&client, &job_id).await
}

#[track_caller]
fn completed(job: &pb::Job) {
    assert_eq!(job.state(), pb::JobState::Completed, "{:?}", job.last_error);
}

async fn letter(host: &Host, job: &pb::Job) -> pb::FailureInfo {
    assert_eq!(job.state(), pb::JobState::Failed, "{job:?}");
    let selector = pb::DeadLetterSelector { job_id: job.job_id.clone(), ..Default::default() };
    let mut letters = ask::letters(&host.client().await, selector).await;
    assert_eq!(letters.len(), 1);
    letters.remove(0).failure.unwrap()
}

async fn metric(host: &Host, name: &str) -> String {
    let (_, text) = http_get(host.http(), "/metrics").await;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_comes_through_an_http_and_through_a_socks5_proxy() {
    let origin = origin().await;
    let (http, socks) = (Proxy::http().await, Proxy::socks5().await);
    let host = Host::start(|config| {
        set(config, "http", &[http.endpoint()], &[]);
        set(config, "socks", &[socks.endpoint()], &[]);
        set(config, "socks-here", &[socks.endpoint().replace("socks5h", "socks5")], &[]);
    })
    .await;
    completed(&run(&host, &[through(&origin.url("/a"), "http")]).await);
    completed(&run(&host, &[through(&origin.url("/b"), "socks")]).await);
    completed(&run(&host, &[through(&origin.url("/c"), "socks-here")]).await);
    let asked = |proxy: &Proxy| proxy.asked().into_iter().map(|asked| (asked.how, asked.target)).collect::<Vec<_>>();
    let target = |how: &str| (how.to_owned(), origin.host());
    assert_eq!(asked(&http), [target("GET")]);
    assert_eq!(asked(&socks), [target("SOCKS"), target("SOCKS")]);
    assert_eq!(metric(&host, "fetchbox_proxy_requests_total{pool=\"http\"}").await, "1");
    assert_eq!(metric(&host, "fetchbox_proxy_failures_total{pool=\"http\"}").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_only_the_proxy_knows_is_resolved_by_it_and_an_inner_one_is_refused_here() {
    let origin = origin().await;
    let (http, socks) = (Proxy::http().await, Proxy::socks5().await);
    let host = Host::start(|config| {
        set(config, "http", &[http.endpoint()], &[]);
        set(config, "socks", &[socks.endpoint()], &[]);
        set(config, "socks-here", &[socks.endpoint().replace("socks5h", "socks5")], &[]);
        // `localhost` is an inner address now, and the proxies still may be one.
        config.worker.allow_networks.clear();
        config.dispatch.unlikely_attempts_max = 1;
    })
    .await;
    let url = format!("http://{NAME}:{}/", origin.addr().port());
    for (proxy, pool) in [(&http, "http"), (&socks, "socks")] {
        proxy.knows(NAME, origin.addr());
        completed(&run(&host, &[through(&url, pool)]).await);
        assert!(proxy.asked()[0].target.starts_with(NAME), "{:?}", proxy.asked());
        for url in [origin.url("/"), format!("http://localhost:{}/", origin.addr().port())] {
            let failure = letter(&host, &run(&host, &[through(&url, pool)]).await).await;
            assert_eq!(failure.code, FailureCode::DownloadBlockedAddress.as_str(), "{failure:?}");
        }
        assert_eq!(proxy.asked().len(), 1);
    }
    let failure = letter(&host, &run(&host, &[through(&url, "socks-here")]).await).await;
    assert_eq!(failure.code, FailureCode::DownloadNoHost.as_str(), "{failure:?}");
    assert_eq!(socks.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_files_and_stand_in_no_log_and_no_answer() {
    let origin = origin().await;
    let (http, socks) = (Proxy::http().await.demands(USER, PASSWORD), Proxy::socks5().await.demands(USER, PASSWORD));
    let strict = Proxy::http().await.demands(USER, "another");
    let mut home = Home::new();
    let (user, password) = (home.path().join("user"), home.path().join("password"));
    std::fs::write(&user, format!("{USER}\n")).unwrap();
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    for (name, proxy) in [("http", &http), ("socks", &socks), ("strict", &strict)] {
        set(&mut home.config, name, &[proxy.endpoint()], &[]);
        let pool = home.config.proxies.pools.get_mut(name).unwrap();
        (pool.username_file, pool.password_file) = (Some(user.clone()), Some(password.clone()));
    }
    home.config.log.filter = "trace".to_owned();
    home.config.dispatch.attempts_max = 2;
    let daemon = home.start().await;
    let client = daemon.client().await;
    let mut answers = String::new();
    for (name, state) in
        [("http", pb::JobState::Completed), ("socks", pb::JobState::Completed), ("strict", pb::JobState::Failed)]
    {
        let job_id = ask::submit(&client, submission(&[through(&origin.url("/a"), name)])).await;
        let job = ask::end_of(&client, &job_id).await;
        assert_eq!(job.state(), state, "{name}: {:?}", job.last_error);
        for verb in
            [vec!["job", &job_id], vec!["job", &job_id, "--explain"], vec!["logs", &job_id], vec!["dlq", "list"]]
        {
            let output = home.run(&verb).await;
            answers.push_str(&String::from_utf8_lossy(&output.stdout));
            answers.push_str(&String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(answers.contains("DOWNLOAD_NO_PROXY") && answers.contains("407"), "{answers}");
    for proxy in [&http, &socks] {
        assert_eq!(proxy.asked()[0].credentials, Some((USER.to_owned(), PASSWORD.to_owned())));
    }
    let log = daemon.stderr();
    daemon.kill().await;
    assert!(log.contains(&strict.host()), "the log tells which proxy fails");
    let base64 = ["Y29sbGVjdG9y", "czNjcmV0"];
    for secret in [USER, "s3cret", "p%C3%A4ss"].into_iter().chain(base64) {
        assert!(!answers.contains(secret), "{secret} in {answers}");
        assert!(!log.contains(secret), "{secret} in the daemon's log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_proxy_does_wrong_the_next_one_is_used_within_the_same_attempt() {
    let moods = [Mood::Refuses, Mood::Says(407), Mood::Garbage];
    for (bad, moods) in
        [(Proxy::http().await, moods), (Proxy::socks5().await, [Mood::Refuses, Mood::Says(4), Mood::Garbage])]
    {
        for mood in moods {
            let (origin, good) = (origin().await, Proxy::http().await);
            bad.set(mood);
            let host = Host::start(|config| {
                set(config, "eu", &[bad.endpoint()], &["world"]);
                set(config, "world", &[good.endpoint()], &[]);
            })
            .await;
            let before = bad.connections();
            let job = run(&host, &[through(&origin.url("/a"), "eu")]).await;
            completed(&job);
            assert_eq!((bad.connections() - before, good.asked().len()), (1, 1), "{mood:?}");
            let tasks = ask::tasks(&host.client().await, &job.job_id).await;
            assert_eq!(tasks[0].attempts, 1, "{mood:?}: the resource is not to blame");
            assert_eq!(metric(&host, "fetchbox_proxy_failures_total{pool=\"eu\"}").await, "1", "{mood:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cuts_bodies_short_costs_an_attempt_and_the_next_one_delivers() {
    let (origin, bad, good) = (origin().await, Proxy::http().await, Proxy::http().await);
    bad.set(Mood::Cuts(10_000));
    let host = Host::start(|config| set(config, "eu", &[bad.endpoint(), good.endpoint()], &[])).await;
    completed(&run(&host, &[through(&origin.url("/a"), "eu")]).await);
    assert_eq!((bad.asked().len(), good.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_proxy_is_given_up_after_the_connect_timeout() {
    let (origin, bad, good) = (origin().await, Proxy::socks5().await, Proxy::http().await);
    bad.set(Mood::Hangs);
    let host = Host::start(|config| {
        set(config, "eu", &[bad.endpoint()], &["world"]);
        set(config, "world", &[good.endpoint()], &[]);
        config.worker.connect_timeout_ms = 300;
    })
    .await;
    completed(&run(&host, &[through(&origin.url("/a"), "eu")]).await);
    assert_eq!((bad.connections(), good.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_proxy_is_dead_the_job_says_so_and_the_origin_hears_nothing() {
    let (origin, first, second) = (origin().await, Proxy::http().await, Proxy::socks5().await);
    first.set(Mood::Refuses);
    second.set(Mood::Refuses);
    let host = Host::start(|config| {
        set(config, "eu", &[first.endpoint()], &["world"]);
        set(config, "world", &[second.endpoint()], &[]);
        (config.proxies.cool_off_min_ms, config.proxies.cool_off_max_ms) = (50, 100);
    })
    .await;
    let failure = letter(&host, &run(&host, &[through(&origin.url("/a"), "eu")]).await).await;
    assert_eq!(failure.code, FailureCode::DownloadNoProxy.as_str(), "{failure:?}");
    assert_eq!(failure.context.get("proxy").map(String::as_str), Some("eu"), "{failure:?}");
    assert_eq!(failure.context.get("host"), Some(&origin.host()));
    assert_eq!(origin.hits_total(), 0, "a direct request");
    assert!(first.connections() > 0 && second.connections() > 0);

    // They come back, and so does the resource.
    first.set(Mood::Well);
    completed(&run(&host, &[through(&origin.url("/a"), "eu")]).await);
    assert_eq!((origin.hits_total(), first.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_proxy_is_left_alone_until_a_probe_finds_it_well() {
    let (origin, bad, good) = (origin().await, Proxy::http().await, Proxy::http().await);
    bad.set(Mood::Refuses);
    let host = Host::start(|config| {
        set(config, "eu", &[bad.endpoint()], &["world"]);
        set(config, "world", &[good.endpoint()], &[]);
        (config.proxies.cool_off_min_ms, config.proxies.cool_off_max_ms) = (600_000, 600_000);
        config.dispatch.in_flight = 1;
    })
    .await;
    let resources: Vec<_> = (0..20)
        .map(|at| {
            let hint = serde_json::json!({ "primary_pool": "eu" });
            resource(&format!("r{at}"), &origin.url(&format!("/{at}"))).with("proxy_hint", hint)
        })
        .collect();
    completed(&run(&host, &resources).await);
    assert_eq!((bad.connections(), good.asked().len()), (3, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_origin_is_reached_by_a_tunnel_and_a_false_one_is_not_believed() {
    let (http, socks, false_origin) = (Proxy::http().await, Proxy::socks5().await, Proxy::http().await);
    // As good as a proxy that answers in the origin's place.
    false_origin.set(Mood::Garbage);
    let host = Host::start(|config| {
        set(config, "eu", &[http.endpoint()], &["world"]);
        set(config, "world", &[socks.endpoint()], &[]);
        (config.dispatch.unlikely_attempts_max, config.dispatch.attempts_max) = (1, 1);
    })
    .await;
    let url = format!("https://{}/a", false_origin.host());
    let failure = letter(&host, &run(&host, &[through(&url, "eu")]).await).await;
    assert_eq!(failure.code, FailureCode::DownloadTls.as_str(), "{failure:?}");
    assert!(failure.context["proxy"].starts_with("world "), "{failure:?}");
    let target = |how: &str| Asked { how: how.to_owned(), target: false_origin.host(), credentials: None };
    assert_eq!((http.asked(), socks.asked()), (vec![target("CONNECT")], vec![target("SOCKS")]));
    for mood in [Mood::Says(407), Mood::Says(502), Mood::Garbage] {
        http.set(mood);
        let before = socks.asked().len();
        run(&host, &[through(&url, "eu")]).await;
        assert!(socks.asked().len() > before, "{mood:?}: the next one was not tried");
    }
    assert_eq!(false_origin.connections(), 5, "each through a proxy that works, none directly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_connection_needs_an_operators_word() {
    let (origin, gone) = (origin().await, Proxy::http().await.endpoint());
    let host = Host::start(|config| {
        set(config, "strict", std::slice::from_ref(&gone), &[]);
        set(config, "loose", &[gone], &[]);
        config.proxies.pools.get_mut("loose").unwrap().allow_direct = true;
        config.dispatch.attempts_max = 1;
    })
    .await;
    letter(&host, &run(&host, &[through(&origin.url("/a"), "strict")]).await).await;
    assert_eq!(origin.hits_total(), 0);
    completed(&run(&host, &[through(&origin.url("/a"), "loose")]).await);
    assert_eq!(origin.hits_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_names_a_pool_that_is_there_or_the_manifest_is_refused() {
    let (origin, proxy) = (origin().await, Proxy::http().await);
    let host = Host::start(|config| set(config, "eu", &[proxy.endpoint()], &[])).await;
    let hinted = |hint: serde_json::Value| resource("r1", &origin.url("/")).with("proxy_hint", hint);
    let resources = [
        resource("r0", &origin.url("/")),
        hinted(serde_json::json!({ "primary_pool": "us", "fallbacks": ["eu", "mars"] })),
    ];
    let error = host.client().await.submit_job(submission(&resources)).await.unwrap_err();
    let text = format!("{error:?}");
    for path in ["resources[1].proxy_hint.primary_pool", "resources[1].proxy_hint.fallbacks[1]"] {
        assert!(text.contains(path), "{path}: {text}");
    }
    assert!(!text.contains("fallbacks[0]"), "{text}");
    let error = host.client().await.submit_job(raw("{}")).await.unwrap_err();
    assert_eq!(error.code(), "INVALID_PAYLOAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_cannot_work_are_told_by_config_check_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.yml");
    let check = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = fetchbox();
        command.args(["config", "check"]).arg(&file);
        let output = in_time("config check", command.output()).await.unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    let pools = "proxies:\n  pools:\n    eu: { endpoints: ['http://p:1'], fallbacks: [left, right] }\n    \
                 left: { endpoints: ['http://p:2'], fallbacks: [world] }\n    \
                 right: { endpoints: ['socks5://p:3'], fallbacks: [world] }\n    world: { endpoints: ['https://p:4'] }\n";
    let handler = "handlers:\n  gallery: { proxy: { primary: eu, fallbacks: [world] } }\n";
    assert_eq!(check(&format!("{pools}{handler}")).await.0, Some(0), "a diamond is fine");

    let circle = pools.replace("['https://p:4']", "['https://p:4'], fallbacks: [eu]");
    let (code, told) = check(&circle).await;
    assert_eq!(code, Some(78), "{told}");
    assert!(told.contains("proxies.pools.world.fallbacks[0]") && told.contains("eu → left → world → eu"), "{told}");

    let wrong = pools.replace("http://p:1", "http://me:hush@p:1").replace("[world]", "[moon]");
    let (code, told) = check(&format!("{wrong}handlers:\n  gallery: {{ proxy: {{ primary: mars }} }}\n")).await;
    assert_eq!(code, Some(78), "{told}");
    for place in ["proxies.pools.eu.endpoints[0]", "proxies.pools.left.fallbacks[0]", "handlers.gallery.proxy.primary"]
    {
        assert!(told.contains(place), "{place}: {told}");
    }
    assert!(!told.contains("hush"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_is_not_there_stops_the_start_by_name() {
    let mut home = Home::new();
    let mut eu = pool(&["http://127.0.0.1:1".to_owned()], &[]);
    let user = home.path().join("user");
    std::fs::write(&user, USER).unwrap();
    (eu.username_file, eu.password_file) = (Some(user), Some(home.path().join("nobody-wrote-it")));
    home.config.proxies.pools.insert("eu".to_owned(), eu);
    let ended = home.try_start().await.err().expect("it started");
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("proxies.pools.eu.password_file") && ended.stderr.contains("nobody-wrote-it"));
    assert!(!ended.stderr.contains(USER), "{}", ended.stderr);
}
