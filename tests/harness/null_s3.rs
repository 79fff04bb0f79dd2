//! An S3 store that keeps no bytes: it digests what comes and remembers sizes and digests.
//!
//! Owns: PUT, multipart, HEAD, DELETE of the protocol, without signatures. Must not know: FetchBox.
#![allow(dead_code, clippy::disallowed_methods, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use xxhash_rust::xxh3::Xxh3;

/// How bodies are told apart. A SHA-256 of each takes the stub longer than all the rest it does, and would be measured with the
/// programs that send them.
#[derive(Clone, Copy, Default)]
pub enum Sum {
    #[default]
    Sha256,
    /// 128 bits, behind them zeros.
    Xxh3,
}

enum Summing {
    Sha256(Sha256),
    Xxh3(Box<Xxh3>),
}

impl Summing {
    fn new(sum: Sum) -> Self {
        match sum {
            Sum::Sha256 => Summing::Sha256(Sha256::new()),
            Sum::Xxh3 => Summing::Xxh3(Box::default()),
        }
    }

    fn update(&mut self, piece: &[u8]) {
        match self {
            Summing::Sha256(digest) => digest.update(piece),
            Summing::Xxh3(digest) => digest.update(piece),
        }
    }

    fn digest(&self) -> [u8; 32] {
        match self {
            Summing::Sha256(digest) => digest.clone().finalize().into(),
            Summing::Xxh3(digest) => {
                let mut wide = [0; 32];
                wide[..16].copy_from_slice(&digest.digest128().to_be_bytes());
                wide
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Object {
    /// As [`Sum`] says.
    pub digest: [u8; 32],
    pub bytes: u64,
    /// `x-amz-meta-…` and the content type, as they came.
    headers: Vec<(String, String)>,
    /// How often it was written.
    pub writes: u32,
}

/// An upload whose parts are hashed in order; those that come early wait, the only bytes that are kept.
struct Upload {
    key: String,
    headers: Vec<(String, String)>,
    next: u32,
    digest: Summing,
    bytes: u64,
    early: BTreeMap<u32, Vec<Bytes>>,
}

impl Upload {
    fn take(&mut self, part: u32, pieces: Vec<Bytes>) {
        // One that is sent again is the same part, or the digest at the end tells.
        if part >= self.next {
            self.early.insert(part, pieces);
        }
        while let Some(pieces) = self.early.remove(&self.next) {
            for piece in pieces {
                self.digest.update(&piece);
                self.bytes += piece.len() as u64;
            }
            self.next += 1;
        }
    }
}

#[derive(Default)]
struct State {
    sum: Sum,
    /// By `bucket/key`.
    objects: HashMap<String, Object>,
    uploads: HashMap<String, Arc<Mutex<Upload>>>,
    uploads_begun: u64,
    requests: BTreeMap<&'static str, u64>,
    /// What we do not understand, and how often.
    refused: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<State>>;

/// Listens until it is dropped.
pub struct NullS3 {
    addr: SocketAddr,
    state: Shared,
    accept: JoinHandle<()>,
}

impl Drop for NullS3 {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl NullS3 {
    pub async fn start(sum: Sum) -> NullS3 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let state = Shared::new(Mutex::new(State { sum, ..State::default() }));
        let accept = tokio::spawn(accept(listener, state.clone()));
        NullS3 { addr, state, accept }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// By `bucket/key`.
    pub fn objects(&self) -> HashMap<String, Object> {
        lock(&self.state).objects.clone()
    }

    pub fn open_uploads(&self) -> usize {
        lock(&self.state).uploads.len()
    }

    /// Requests by kind, and those that were refused because nobody here understands them.
    pub fn requests(&self) -> Vec<(String, u64)> {
        let state = lock(&self.state);
        let known = state.requests.iter().map(|(kind, count)| ((*kind).to_owned(), *count));
        known.chain(state.refused.iter().map(|(what, count)| (format!("refused: {what}"), *count))).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Shared) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let state = state.clone();
                connections.spawn(async move {
                    let handle = service_fn(move |request| handle(state.clone(), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), handle).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Reply = Result<Response<Full<Bytes>>, hyper::Error>;

async fn handle(state: Shared, request: Request<Incoming>) -> Reply {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let of = |name: &str| {
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| value.to_owned())
        })
    };
    let key = request.uri().path().trim_start_matches('/').to_owned();
    let framed =
        request.headers().get("content-encoding").is_some_and(|coding| coding.as_bytes().starts_with(b"aws-chunked"));
    if request.headers().get("x-amz-content-sha256").is_some_and(|hash| hash.as_bytes() == b"UNSIGNED-PAYLOAD") {
        count(&state, "unsigned bodies");
    }
    let (part, upload) = (of("partNumber").and_then(|part| part.parse().ok()), of("uploadId"));
    let method = request.method().clone();
    match (method.as_str(), upload, part) {
        _ if framed => refuse(&state, request, "aws-chunked").await,
        ("PUT", Some(upload), Some(part)) => put_part(&state, request, &upload, part).await,
        ("PUT", None, None) => put(&state, request, key).await,
        ("POST", None, None) if of("uploads").is_some() => begin(&state, request, key).await,
        ("POST", Some(upload), None) => complete(&state, request, &upload).await,
        ("DELETE", Some(upload), None) => {
            count(&state, "abort");
            let known = lock(&state).uploads.remove(&upload).is_some();
            Ok(if known { plain(204, "") } else { error(404, "NoSuchUpload") })
        }
        ("DELETE", None, None) => {
            count(&state, "delete");
            lock(&state).objects.remove(&key);
            Ok(plain(204, ""))
        }
        ("HEAD", None, None) => Ok(head(&state, &key)),
        _ => {
            let what = format!("{method} {query}");
            refuse(&state, request, &what).await
        }
    }
}

fn count(state: &Shared, kind: &'static str) {
    *lock(state).requests.entry(kind).or_default() += 1;
}

async fn refuse(state: &Shared, request: Request<Incoming>, what: &str) -> Reply {
    *lock(state).refused.entry(what.to_owned()).or_default() += 1;
    request.into_body().collect().await?;
    Ok(error(501, "NotImplemented"))
}

async fn put(state: &Shared, request: Request<Incoming>, key: String) -> Reply {
    count(state, "put");
    let headers = kept(request.headers());
    let (mut digest, mut bytes) = (Summing::new(lock(state).sum), 0);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            digest.update(&piece);
            bytes += piece.len() as u64;
        }
    }
    Ok(made(state, key, digest.digest(), bytes, headers))
}

fn made(
    state: &Shared,
    key: String,
    digest: [u8; 32],
    bytes: u64,
    headers: Vec<(String, String)>,
) -> Response<Full<Bytes>> {
    let mut state = lock(state);
    let writes = state.objects.get(&key).map_or(1, |before| before.writes + 1);
    state.objects.insert(key, Object { digest, bytes, headers, writes });
    tagged(200, "", &digest)
}

async fn begin(state: &Shared, request: Request<Incoming>, key: String) -> Reply {
    count(state, "begin");
    let headers = kept(request.headers());
    request.into_body().collect().await?;
    let mut state = lock(state);
    state.uploads_begun += 1;
    let id = format!("u{}", state.uploads_begun);
    let (bucket, name) = key.split_once('/').unwrap_or((key.as_str(), ""));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key>\
         <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
    );
    let upload = Upload { key, headers, next: 1, digest: Summing::new(state.sum), bytes: 0, early: BTreeMap::new() };
    state.uploads.insert(id, Arc::new(Mutex::new(upload)));
    Ok(plain(200, &text))
}

async fn put_part(state: &Shared, request: Request<Incoming>, id: &str, part: u32) -> Reply {
    count(state, "part");
    let mut pieces = Vec::new();
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            pieces.push(piece);
        }
    }
    let Some(upload) = lock(state).uploads.get(id).cloned() else { return Ok(error(404, "NoSuchUpload")) };
    upload.lock().unwrap_or_else(PoisonError::into_inner).take(part, pieces);
    Ok(tagged(200, "", &[7; 32]))
}

async fn complete(state: &Shared, request: Request<Incoming>, id: &str) -> Reply {
    count(state, "complete");
    request.into_body().collect().await?;
    let Some(upload) = lock(state).uploads.remove(id) else { return Ok(error(404, "NoSuchUpload")) };
    let upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
    if !upload.early.is_empty() {
        return Ok(error(400, "InvalidPart"));
    }
    let digest = upload.digest.digest();
    let key = upload.key.clone();
    let reply = made(state, key.clone(), digest, upload.bytes, upload.headers.clone());
    let etag = reply.headers().get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><CompleteMultipartUploadResult><Location>/{key}</Location>\
         <Bucket>b</Bucket><Key>{key}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        etag.replace('"', "&quot;")
    );
    Ok(tagged(200, &text, &digest))
}

fn head(state: &Shared, key: &str) -> Response<Full<Bytes>> {
    count(state, "head");
    let Some(object) = lock(state).objects.get(key).cloned() else { return plain(404, "") };
    let mut reply = tagged(200, "", &object.digest);
    let mut put = |name: &str, value: &str| {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, hyper::header::HeaderValue::from_str(value)) {
            reply.headers_mut().insert(name, value);
        }
    };
    put("content-length", &object.bytes.to_string());
    put("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    object.headers.iter().for_each(|(name, value)| put(name, value));
    reply
}

fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-meta-") || *name == "content-type");
    ours.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// With a dash in it: clients take an ETag without one for an MD5.
fn tagged(status: u16, text: &str, digest: &[u8; 32]) -> Response<Full<Bytes>> {
    let tag = &base16ct::lower::encode_string(digest)[..32];
    let mut reply = plain(status, text);
    let tag = hyper::header::HeaderValue::from_str(&format!("\"{tag}-1\"")).expect("hexadecimal is a header");
    reply.headers_mut().insert("etag", tag);
    reply
}

fn plain(status: u16, text: &str) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(text.to_owned())));
    *reply.status_mut() = hyper::StatusCode::from_u16(status).expect("a status");
    reply.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/xml"));
    reply
}

fn error(status: u16, code: &str) -> Response<Full<Bytes>> {
    plain(
        status,
        &format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>null store</Message></Error>"
        ),
    )
}
