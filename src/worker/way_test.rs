//! What origins can make of the proxies in front of them, and what a host is asked by way of several.

use std::sync::atomic::{AtomicU32, Ordering};

use super::fetch::{Answered, Want};
use super::proxy::{PoolOptions, Proxies};
use super::trap_test::{Bench, read};
use super::*;
use crate::model::{FailureCode, ProxyHint};
use crate::telemetry::Metrics;

#[allow(clippy::duplicate_mod, clippy::cast_possible_truncation)]
#[path = "../../tests/harness/proxy.rs"]
mod proxy_double;

use super::tests::origin::Behaviour;
use proxy_double::{Mood, Proxy};

/// One place, and how often somebody took it.
struct Turnstile {
    place: Arc<tokio::sync::Semaphore>,
    entered: AtomicU32,
}

impl Turnstile {
    fn new() -> Self {
        Self { place: Arc::new(tokio::sync::Semaphore::new(1)), entered: AtomicU32::new(0) }
    }

    fn entered(&self) -> u32 {
        self.entered.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl HostGate for Turnstile {
    async fn enter(&self, _: &str) -> Result<Permit, NotNow> {
        let place = tokio::time::timeout(Duration::from_secs(20), self.place.clone().acquire_owned());
        let place = place.await.expect("nobody waits for a place it holds itself").unwrap();
        self.entered.fetch_add(1, Ordering::Relaxed);
        Ok(Permit(Some(Box::new(place))))
    }

    fn throttled(&self, _: &str, _: Duration) {}

    fn heard(&self, _: &str, _: bool) {}
}

/// Pools of these endpoints; those called `loose…` allow a direct connection.
fn with_pools(bench: &Bench, pools: &[(&str, &[String])]) -> Worker {
    let pool = |(name, endpoints): &(&str, &[String])| {
        let allow_direct = name.starts_with("loose");
        ((*name).to_owned(), PoolOptions { endpoints: endpoints.to_vec(), allow_direct, ..PoolOptions::default() })
    };
    let options = proxy::Options { pools: pools.iter().map(pool).collect(), ..proxy::Options::default() };
    bench.worker.clone().with_proxies(Proxies::new(&options, &Metrics::new()).unwrap())
}

async fn get(worker: &Worker, gate: &dyn HostGate, url: &str, pool: &str) -> Result<Vec<u8>, FailureCode> {
    let hint = (!pool.is_empty()).then(|| ProxyHint { primary_pool: pool.into(), ..ProxyHint::default() });
    let spec = TaskSpec { url: url.into(), proxy_hint: hint, ..TaskSpec::default() };
    let want = Want { spec: &spec, bytes_max: 1 << 20, from: None, unless: None };
    match worker.fetch(want, gate).await {
        Ok(Answered::Body(mut fetched)) => read(&mut fetched).await.1.map_err(|failed| failed.failure.code),
        Ok(Answered::NotChanged { .. }) => panic!("nobody asked"),
        Err(failed) => Err(failed.failure.code),
    }
}

/// Nobody listens there.
async fn dead() -> String {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", gone.local_addr().unwrap())
}

async fn garbage() -> Proxy {
    let proxy = Proxy::http().await;
    proxy.set(Mood::Garbage);
    proxy
}

/// Else a host set to one request in ten seconds sees three at once whenever proxies fail behind it.
#[tokio::test]
async fn each_try_that_may_have_reached_a_host_counts_there() {
    let bench = Bench::new().await;
    bench.origin.on("/", Behaviour::body(10, 1));
    let (one, two, good, gate) = (garbage().await, garbage().await, Proxy::http().await, Turnstile::new());
    let doubtful = [one.endpoint(), two.endpoint(), good.endpoint()];
    let broken = [dead().await, dead().await, good.endpoint()];
    let worker = with_pools(&bench, &[("doubtful", &doubtful), ("broken", &broken)]);
    get(&worker, &gate, &bench.origin.url("/x"), "doubtful").await.unwrap();
    assert_eq!((gate.entered(), one.connections(), two.connections()), (3, 1, 1));
    get(&worker, &gate, &bench.origin.url("/x"), "broken").await.unwrap();
    assert_eq!(gate.entered(), 1, "a proxy that is not there has asked the host nothing");
}

/// Else an origin that breaks its answers off learns the address that a pool was there to hide.
#[tokio::test]
async fn an_origin_cannot_make_a_direct_connection_of_its_own() {
    let bench = Bench::new().await;
    bench.origin.on("/", Behaviour::body(10, 1));
    let (sly, gate) = (garbage().await, Turnstile::new());
    let (one, mixed, gone) = ([sly.endpoint()], [dead().await, sly.endpoint()], [dead().await]);
    let worker = with_pools(&bench, &[("loose-one", &one), ("loose-mixed", &mixed), ("loose-gone", &gone)]);
    // Often enough for each of them to be left alone.
    for pool in ["loose-one", "loose-mixed"].into_iter().cycle().take(12) {
        assert!(get(&worker, &gate, &bench.origin.url("/x"), pool).await.is_err(), "{pool}");
    }
    assert_eq!(bench.origin.hits_total(), 0);
    assert!(sly.connections() >= 12);
    get(&worker, &gate, &bench.origin.url("/x"), "loose-gone").await.unwrap();
    assert_eq!(bench.origin.hits_total(), 1, "the operator's word still counts where no origin had a part");
}

/// Else one hostile http origin takes a whole pool from everybody else's downloads.
#[tokio::test]
async fn an_origin_cannot_shut_a_pool_out_with_407() {
    let bench = Bench::new().await;
    let forged = Behaviour::status(407).header("Proxy-Authenticate", "Basic realm=\"proxy\"");
    bench.origin.on("/sly", forged);
    bench.origin.on("/well", Behaviour::body(10, 1));
    let (one, two, gate) = (Proxy::http().await, Proxy::http().await, Turnstile::new());
    let strict = Proxy::http().await;
    let pools = [("eu", &[one.endpoint(), two.endpoint()][..]), ("strict", &[strict.endpoint()])];
    let worker = with_pools(&bench, &pools);
    for _ in 0..6 {
        let code = get(&worker, &gate, &bench.origin.url("/sly"), "eu").await.unwrap_err();
        assert_eq!(code, FailureCode::DownloadNoProxy);
    }
    assert_eq!((one.asked().len(), two.asked().len()), (6, 6), "each was tried: it may be the proxy's own word");
    get(&worker, &gate, &bench.origin.url("/well"), "eu").await.unwrap();

    // A tunnel that is refused so is refused by the proxy.
    strict.set(Mood::Says(407));
    for _ in 0..4 {
        let url = format!("https://{}/", bench.origin.host());
        assert_eq!(get(&worker, &gate, &url, "strict").await, Err(FailureCode::DownloadNoProxy));
    }
    assert_eq!(strict.connections(), 3, "it is left alone");
}

/// Else one job with a dead pool stops everybody's downloads from a site for five minutes.
#[tokio::test]
async fn what_a_proxy_makes_of_robots_txt_binds_nobody_else() {
    let bench = Bench::with(|options| options.robots = true).await;
    bench.origin.on("/robots.txt", Behaviour::status(404));
    bench.origin.on("/x", Behaviour::body(10, 1));
    let (proxy, gate, url) = (Proxy::http().await, Turnstile::new(), bench.origin.url("/x"));
    let pools = [("gone", &[dead().await][..]), ("eu", &[proxy.endpoint()])];
    let worker = with_pools(&bench, &pools);
    assert_eq!(get(&worker, &gate, &url, "gone").await, Err(FailureCode::DownloadNoProxy));
    proxy.set(Mood::Says(500));
    assert_eq!(get(&worker, &gate, &url, "eu").await, Err(FailureCode::DownloadServerError));
    get(&worker, &gate, &url, "").await.unwrap();
    proxy.set(Mood::Well);
    get(&worker, &gate, &url, "eu").await.unwrap();
    assert_eq!(bench.origin.hits("/robots.txt"), 2, "once directly, once by the pool");
    get(&worker, &gate, &url, "").await.unwrap();
    assert_eq!(bench.origin.hits("/robots.txt"), 2, "each way keeps its own");
}
