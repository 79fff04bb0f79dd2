//! A trap in place of the network, and a bench around a worker that can only fetch.
//!
//! Owns: what would have been connected to, written down and not connected to. Must not know: what any test expects.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::fetch::{Answered, Fetched, Want};
use super::resolve::Net;
use super::tests::origin::Origin;
use super::*;
use crate::model::FailureCode;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Names have the addresses the test gives them, and connections go to 127.0.0.1 alone.
#[derive(Default)]
pub(super) struct Trap {
    names: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    seen: Arc<Mutex<Seen>>,
    /// In place of the machine's certificates.
    trusted: Option<reqwest::Certificate>,
}

#[derive(Default, Clone, Debug)]
pub(super) struct Seen {
    /// Names that were asked for.
    pub(super) lookups: Vec<String>,
    /// Connections that were begun, as the connector was told.
    pub(super) begun: Vec<String>,
    /// Addresses that a packet would have gone to, were it not for the trap.
    pub(super) caught: Vec<String>,
}

impl Trap {
    /// `name` leads to each of `answers` in turn; the last one stays.
    pub(super) fn name(&self, name: &str, answers: &[&[&str]]) {
        let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(name.into(), answers.iter().map(parse).collect());
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

#[async_trait]
impl Net for Trap {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.seen.lock().unwrap().lookups.push(name.to_owned());
        let mut names = self.names.lock().unwrap();
        let Some(answers) = names.get_mut(name) else {
            return Err(io::Error::other("failed to lookup address information: Name or service not known"));
        };
        let answer = answers.front().cloned().unwrap_or_default();
        if answers.len() > 1 {
            answers.pop_front();
        }
        Ok(answer)
    }

    fn wire(&self, builder: reqwest::ClientBuilder, resolver: Arc<dyn Resolve>) -> reqwest::ClientBuilder {
        let tap = Tap { inner: resolver, seen: self.seen.clone() };
        let builder = self.trusted.iter().cloned().fold(builder, |builder, own| builder.tls_certs_only([own]));
        builder.dns_resolver(Arc::new(tap)).connector_layer(Layer(self.seen.clone()))
    }
}

fn passes(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// What the resolver hands out is what the connector connects to.
struct Tap {
    inner: Arc<dyn Resolve>,
    seen: Arc<Mutex<Seen>>,
}

impl Resolve for Tap {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, seen, answer) = (name.as_str().to_owned(), self.seen.clone(), self.inner.resolve(name));
        Box::pin(async move {
            let (good, bad): (Vec<SocketAddr>, Vec<SocketAddr>) = answer.await?.partition(|found| passes(found.ip()));
            if good.is_empty() {
                seen.lock().unwrap().caught.extend(bad.iter().map(|found| format!("{host} at {}", found.ip())));
                return Err(Error::from("caught in the trap"));
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

#[derive(Clone)]
struct Layer(Arc<Mutex<Seen>>);

impl<S> tower::Layer<S> for Layer {
    type Service = Connector<S>;

    fn layer(&self, inner: S) -> Connector<S> {
        Connector { inner, seen: self.0.clone() }
    }
}

#[derive(Clone)]
struct Connector<S> {
    inner: S,
    seen: Arc<Mutex<Seen>>,
}

impl<S, R> tower::Service<R> for Connector<S>
where
    S: tower::Service<R, Error = Error>,
    S::Future: Send + 'static,
    R: Debug,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The type has no name and no methods, but it shows where it wants to go: `Unnameable(http://host:port/)`.
        let shown = format!("{request:?}");
        let url = shown.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
        let target = target::Target::parse(url).expect("a connector is asked for a URL");
        let mut seen = self.seen.lock().unwrap();
        seen.begun.push(target.host_port());
        match target.literal().filter(|address| !passes(*address)) {
            Some(address) => {
                seen.caught.push(address.to_string());
                Box::pin(async { Err(Error::from("caught in the trap")) })
            }
            None => Box::pin(self.inner.call(request)),
        }
    }
}

/// One place for each host, and a memory of what was said.
#[derive(Default)]
pub(super) struct Gate {
    places: Mutex<HashMap<String, Arc<tokio::sync::Semaphore>>>,
    pub(super) events: Mutex<Vec<String>>,
}

impl Gate {
    pub(super) fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

#[async_trait]
impl HostGate for Gate {
    async fn enter(&self, host: &str) -> Result<Permit, NotNow> {
        let places = self.places.lock().unwrap().entry(host.into()).or_insert_with(one_place).clone();
        let place = tokio::time::timeout(Duration::from_secs(20), places.acquire_owned());
        Ok(Permit(Some(Box::new(place.await.expect("a place is given back").unwrap()))))
    }

    fn throttled(&self, _: &str, wait: Duration) {
        self.events.lock().unwrap().push(format!("throttled {}", wait.as_secs()));
    }

    fn heard(&self, _: &str, is_well: bool) {
        self.events.lock().unwrap().push((if is_well { "well" } else { "ill" }).into());
    }
}

fn one_place() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(1))
}

/// A worker in the trap, and an origin on 127.0.0.1.
pub(super) struct Bench {
    pub(super) worker: Worker,
    pub(super) trap: Arc<Trap>,
    pub(super) gate: Gate,
    pub(super) origin: Origin,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// 127.0.0.1 is allowed and nothing else.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::in_trap(Trap::default(), change).await
    }

    /// Over https to whoever has this certificate.
    pub(super) async fn trusting(certificate: &[u8]) -> Self {
        let trusted = Some(reqwest::Certificate::from_pem(certificate).unwrap());
        Self::in_trap(Trap { trusted, ..Trap::default() }, |_| {}).await
    }

    async fn in_trap(trap: Trap, change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("objects");
        let objects = Objects::new(objects::Options { root, ..objects::Options::default() }).unwrap();
        let mut options = Options { allow_networks: vec!["127.0.0.1".into()], ..Options::default() };
        change(&mut options);
        let trap = Arc::new(trap);
        let worker = Worker::on(trap.clone(), options, objects, Clock::manual(784_111_777_000)).unwrap();
        Self { worker, trap, gate: Gate::default(), origin: Origin::start().await, _folder: folder }
    }

    pub(super) fn spec(&self, path: &str) -> TaskSpec {
        TaskSpec { url: self.origin.url(path), ..TaskSpec::default() }
    }

    /// The headers' part of a download.
    pub(super) async fn ask<'a>(&'a self, spec: &'a TaskSpec) -> Result<Box<Fetched<'a>>, classify::Failed> {
        let want = Want { spec, bytes_max: 1 << 30, from: None, unless: None };
        match self.worker.fetch(want, &self.gate).await? {
            Answered::Body(fetched) => Ok(fetched),
            Answered::NotChanged { .. } => panic!("nobody asked whether it changed"),
        }
    }

    /// The whole body of a URL, or why there is none.
    pub(super) async fn get(&self, url: &str) -> Result<Vec<u8>, classify::Failed> {
        let spec = TaskSpec { url: url.into(), ..TaskSpec::default() };
        let mut fetched = self.ask(&spec).await?;
        read(&mut fetched).await.1
    }

    /// How a download of this URL fails.
    pub(super) async fn fails(&self, url: &str) -> FailureCode {
        match self.get(url).await {
            Ok(body) => panic!("{url}: {} bytes came", body.len()),
            Err(failed) => failed.failure.code,
        }
    }
}

/// What was handed out, and whether it was all.
pub(super) async fn read(fetched: &mut Fetched<'_>) -> (Vec<u8>, Result<Vec<u8>, classify::Failed>) {
    let mut body = Vec::new();
    loop {
        match fetched.next().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => return (body.clone(), Ok(body)),
            Err(failed) => return (body, Err(failed)),
        }
    }
}
