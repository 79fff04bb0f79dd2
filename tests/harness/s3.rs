//! An S3 store in this process: the real protocol by `s3s-fs` over a temporary folder, and a double in front of it that can fail
//! on demand.
//!
//! Owns: what an object store may do to us. Must not know: FetchBox.
// Room tests include this file too, and each user needs another part of it.
#![allow(dead_code, clippy::disallowed_methods, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

pub const ACCESS_KEY: &str = "fetchbox-test";
pub const SECRET_KEY: &str = "fetchbox-test-secret";

/// The real protocol, no tricks. Listens until it is dropped.
pub struct S3Server {
    folder: tempfile::TempDir,
    addr: SocketAddr,
    faults: Arc<Faults>,
    accept: JoinHandle<()>,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl S3Server {
    /// With these buckets, empty.
    pub async fn start(buckets: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(&data).expect("the data folder");
        for bucket in buckets {
            std::fs::create_dir_all(data.join(bucket)).expect("a bucket's folder");
        }
        std::fs::write(folder.path().join("id"), ACCESS_KEY).expect("the access key's file");
        std::fs::write(folder.path().join("secret"), format!("{SECRET_KEY}\n")).expect("the secret key's file");
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&data).expect("the data folder"));
        builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let faults = Arc::new(Faults::default());
        let store = Store { service: builder.build(), data };
        let accept = tokio::spawn(accept(listener, store, faults.clone()));
        Self { folder, addr, faults, accept }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn access_key_id_file(&self) -> PathBuf {
        self.folder.path().join("id")
    }

    pub fn secret_access_key_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// The object's bytes, read behind the protocol's back.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.data().join(bucket).join(key)).ok()
    }

    /// Every key of a bucket, sorted.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let root = self.data().join(bucket);
        let (mut keys, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(key) = path.strip_prefix(&root) {
                    keys.push(key.to_string_lossy().into_owned());
                }
            }
        }
        keys.sort();
        keys
    }

    /// For a store that has lost, or not yet got, its bucket.
    pub fn make_bucket(&self, bucket: &str) {
        std::fs::create_dir_all(self.data().join(bucket)).expect("a bucket's folder");
    }

    /// Multipart uploads begun and neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        let names = std::fs::read_dir(self.data()).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload-")).count()
    }

    fn data(&self) -> PathBuf {
        Path::new(self.folder.path()).join("data")
    }
}

/// The same server with switches. Faults meet requests before (or instead of) the server, in the order they were set.
pub struct S3Double {
    server: S3Server,
}

impl std::ops::Deref for S3Double {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.server
    }
}

impl S3Double {
    pub async fn start(buckets: &[&str]) -> Self {
        Self { server: S3Server::start(buckets).await }
    }

    /// The next `times` requests that match meet `fault`.
    pub fn fault(&self, which: Which, times: u32, fault: Fault) {
        lock(&self.faults.queue).push(Pending { which, left: times, fault });
    }

    /// Drops every connection, old and new, until it is switched off again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.faults.unreachable.store(unreachable, Ordering::SeqCst);
    }

    /// The next request of this kind (and, for a part, of this part number) stops at `moment` until it is told how to go on.
    pub fn hold(&self, which: Which, part: Option<u32>, moment: Moment) -> Held {
        let (reached, when_reached) = oneshot::channel();
        let (go, when_to_go) = oneshot::channel();
        lock(&self.faults.stops).push(Stop { which, part, moment, reached: Some(reached), go: Some(when_to_go) });
        Held { reached: Some(when_reached), go }
    }

    /// Parts that are in the store, those of ended uploads and those sent twice included.
    pub fn parts_stored(&self) -> u64 {
        self.faults.parts.load(Ordering::SeqCst)
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        lock(&self.faults.queue).clear();
        lock(&self.faults.stops).clear();
        self.set_unreachable(false);
    }

    /// Requests of this kind so far, faulty ones included.
    pub fn count(&self, which: &Which) -> usize {
        lock(&self.faults.log).iter().filter(|call| which.matches(call)).count()
    }

    /// Requests of any kind so far.
    pub fn requests(&self) -> u64 {
        self.faults.requests.load(Ordering::SeqCst)
    }
}

/// Which requests a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Any,
    Put,
    CreateMultipart,
    Part,
    Complete,
    Abort,
    Head,
    Get,
    Delete,
}

impl Which {
    fn of(method: &Method, query: &str) -> Which {
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match *method {
            Method::PUT if has("uploadId") => Which::Part,
            Method::PUT => Which::Put,
            Method::POST if has("uploads") => Which::CreateMultipart,
            Method::POST => Which::Complete,
            Method::DELETE if has("uploadId") => Which::Abort,
            Method::DELETE => Which::Delete,
            Method::HEAD => Which::Head,
            _ => Which::Get,
        }
    }

    fn matches(self, call: &Which) -> bool {
        self == Which::Any || self == *call
    }
}

#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with this S3 error code; the request has no effect.
    Answer(u16, &'static str),
    /// 200 with an error document of this code; the request has no effect.
    OkWithError(&'static str),
    /// The request takes effect and its answer is lost with the connection.
    DropReply,
    /// The connection closes before the request takes effect.
    DropRequest,
    /// The request takes effect after this wait.
    Delay(Duration),
}

/// Where in a request's life it stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It came and has had no effect.
    Arrived,
    /// It has had its effect, and the client does not know.
    Done,
    /// Its answer is about to leave. It does not stop here.
    Answered,
}

/// A request that stops at a moment. Dropped, it loses its connection there and then.
pub struct Held {
    reached: Option<oneshot::Receiver<()>>,
    go: oneshot::Sender<()>,
}

impl Held {
    /// Waits until the request is there.
    pub async fn reached(&mut self) {
        if let Some(reached) = self.reached.take() {
            reached.await.expect("the double forgot the request");
        }
    }

    pub fn go_on(self) {
        let _ = self.go.send(());
    }
}

struct Stop {
    which: Which,
    part: Option<u32>,
    moment: Moment,
    reached: Option<oneshot::Sender<()>>,
    go: Option<oneshot::Receiver<()>>,
}

impl Stop {
    async fn at(&mut self, moment: Moment) -> Result<(), Cut> {
        if self.moment != moment {
            return Ok(());
        }
        if let Some(reached) = self.reached.take() {
            let _ = reached.send(());
        }
        match self.go.take() {
            Some(go) if moment != Moment::Answered => go.await.map_err(|_| Cut),
            _ => Ok(()),
        }
    }
}

struct Pending {
    which: Which,
    left: u32,
    fault: Fault,
}

#[derive(Default)]
struct Faults {
    queue: Mutex<Vec<Pending>>,
    log: Mutex<Vec<Which>>,
    stops: Mutex<Vec<Stop>>,
    parts: AtomicU64,
    unreachable: AtomicBool,
    requests: AtomicU64,
}

impl Faults {
    fn next(&self, call: Which) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        lock(&self.log).push(call);
        let mut queue = lock(&self.queue);
        let at = queue.iter().position(|pending| pending.which.matches(&call))?;
        let pending = queue.get_mut(at)?;
        let fault = pending.fault.clone();
        pending.left = pending.left.saturating_sub(1);
        if pending.left == 0 {
            queue.remove(at);
        }
        Some(fault)
    }

    fn stop_of(&self, call: Which, query: &str) -> Option<Stop> {
        let part = query.split('&').find_map(|pair| pair.strip_prefix("partNumber=")?.parse().ok());
        let mut stops = lock(&self.stops);
        let at =
            stops.iter().position(|stop| stop.which.matches(&call) && (stop.part.is_none() || stop.part == part))?;
        Some(stops.remove(at))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Store {
    service: S3Service,
    data: PathBuf,
}

async fn accept(listener: TcpListener, store: Store, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if faults.unreachable.load(Ordering::SeqCst) {
                    continue;
                }
                let (store, faults) = (store.clone(), faults.clone());
                connections.spawn(async move {
                    let handle = service_fn(move |request| handle(store.clone(), faults.clone(), request));
                    // An error here is a fault we made or a client that left.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), handle).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An error ends the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("scripted")]
struct Cut;

async fn handle(store: Store, faults: Arc<Faults>, request: Request<Incoming>) -> Result<Response<s3s::Body>, Cut> {
    if faults.unreachable.load(Ordering::SeqCst) {
        return Err(Cut);
    }
    let query = request.uri().query().unwrap_or_default();
    let call = Which::of(request.method(), query);
    let stop = faults.stop_of(call, query);
    let Some(mut stop) = stop else { return answer(&store, &faults, call, request).await };
    stop.at(Moment::Arrived).await?;
    let (parts, body) = answer(&store, &faults, call, request).await?.into_parts();
    // A Complete takes effect while its answer is being written.
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    stop.at(Moment::Done).await?;
    stop.at(Moment::Answered).await?;
    Ok(Response::from_parts(parts, s3s::Body::from(body)))
}

async fn answer(
    store: &Store,
    faults: &Faults,
    call: Which,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Cut> {
    let fault = faults.next(call);
    let reply = answer_to(store, call, fault, request).await;
    if call == Which::Part && reply.as_ref().is_ok_and(|reply| reply.status() == 200) {
        faults.parts.fetch_add(1, Ordering::SeqCst);
    }
    reply
}

async fn answer_to(
    store: &Store,
    call: Which,
    fault: Option<Fault>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Cut> {
    match fault {
        Some(Fault::Answer(status, code)) => {
            drain(request).await;
            Ok(error_document(status, code))
        }
        Some(Fault::OkWithError(code)) => {
            drain(request).await;
            Ok(error_document(200, code))
        }
        Some(Fault::DropRequest) => {
            drain(request).await;
            Err(Cut)
        }
        Some(Fault::DropReply) => {
            let reply = forward(store, call, request).await?;
            // A Complete takes effect while its answer is being written.
            let _ = reply.into_body().collect().await;
            Err(Cut)
        }
        Some(Fault::Delay(wait)) => {
            tokio::time::sleep(wait).await;
            forward(store, call, request).await
        }
        None => forward(store, call, request).await,
    }
}

async fn forward(store: &Store, call: Which, request: Request<Incoming>) -> Result<Response<s3s::Body>, Cut> {
    let bucket = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
    if !store.data.join(bucket).is_dir() {
        // s3s-fs would make it on the way; every other store says NoSuchBucket.
        drain(request).await;
        return Ok(error_document(404, "NoSuchBucket"));
    }
    let reply = hyper::service::Service::call(&store.service, request).await.map_err(|_| Cut)?;
    let unknown_upload = matches!(call, Which::Part | Which::Complete | Which::Abort);
    if reply.status() != 403 || !unknown_upload {
        return Ok(reply);
    }
    // s3s-fs calls an unknown upload AccessDenied; every other store says NoSuchUpload.
    let (parts, body) = reply.into_parts();
    let bytes = body.collect().await.map_err(|_| Cut)?.to_bytes();
    if String::from_utf8_lossy(&bytes).contains("AccessDenied") {
        return Ok(error_document(404, "NoSuchUpload"));
    }
    Ok(Response::from_parts(parts, s3s::Body::from(bytes)))
}

async fn drain(request: Request<Incoming>) {
    let _ = request.into_body().collect().await;
}

fn error_document(status: u16, code: &str) -> Response<s3s::Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>scripted</Message></Error>"
    );
    let mut reply = Response::new(s3s::Body::from(Bytes::from(text)));
    *reply.status_mut() = hyper::StatusCode::from_u16(status).expect("a status");
    reply.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/xml"));
    reply
}
