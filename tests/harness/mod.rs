//! What the integration tests stand on: daemons, an origin, an S3 store, and the one invariant checker.
//!
//! Must not know: anything a client of FetchBox could not know. Daemons are driven through `fetchbox::client` only.

pub mod ask;
pub mod binary;
pub mod checker;
pub mod flood;
pub mod host;
pub mod joblet;
pub mod manifest;
pub mod null_s3;
pub mod origin;
pub mod proxy;
pub mod s3;
pub mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fetchbox::config::{Config, TcpAt};
pub use fetchbox::proto::fetchbox::v1 as pb;

/// Nothing a test waits for takes longer, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Embedded defaults in `data`, any free port, loopback origins allowed, retries soon.
pub fn config(data: &Path) -> Config {
    let mut config = Config { data_dir: data.to_owned(), ..Config::default() };
    config.listen.grpc_tcp = TcpAt::At(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.listen.http = TcpAt::At(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.worker.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    config.dispatch.backoff_min_ms = 20;
    config.dispatch.backoff_max_ms = 200;
    config
}

/// Objects go to this store.
pub fn on_s3(config: &mut Config, store: &s3::S3Server, bucket: &str) {
    config.storage.kind = fetchbox::objects::Kind::S3;
    config.storage.bucket = bucket.to_owned();
    config.storage.endpoint = Some(store.endpoint());
    config.storage.access_key_id_file = Some(store.access_key_id_file());
    config.storage.secret_access_key_file = Some(store.secret_access_key_file());
}

/// Sets one key as its line in the file would.
pub fn set(config: &mut Config, section: &str, key: &str, value: impl Into<serde_yaml::Value>) {
    let mut all = serde_yaml::to_value(&*config).unwrap();
    all[section][key] = value.into();
    let root = config.storage.root.clone();
    *config = serde_yaml::from_value(all).unwrap_or_else(|error| panic!("{section}.{key}: {error}"));
    config.storage.root = root;
}

/// At most this many downloads at once.
pub fn few_at_once(config: &mut Config, count: u32) {
    config.dispatch.in_flight = count;
    config.dispatch.per_host = count;
}

/// The result of something that must end.
#[track_caller]
pub fn in_time<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let what = what.to_owned();
    async move { tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}")) }
}

/// For what gives no event to await: looks again every few milliseconds.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `GET path` on the HTTP listener: status and body.
pub async fn http_get(at: SocketAddr, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// From `FETCHBOX_SEED`, else from the clock; printed, so that a failure can be had again.
pub fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = std::env::var("FETCHBOX_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(now.as_nanos() as u64);
    println!("FETCHBOX_SEED={seed}");
    seed
}

/// A number from the environment, for runs longer than the suite's.
pub fn rounds(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

pub fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}
