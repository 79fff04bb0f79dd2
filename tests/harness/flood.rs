//! An origin on loopback that makes any number of bodies of any size fast, and knows their digests.
//!
//! Owns: what body a path has. Must not know: FetchBox.
//!
//! `/{name}?bytes=N` is N bytes that no other name has: the same random block over and over, each time under a head that says whose
//! and how manieth it is.
#![allow(dead_code, clippy::disallowed_methods, clippy::expect_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use xxhash_rust::xxh3::Xxh3;

/// One turn of the block: head and random bytes.
const TURN: usize = 256 * 1024;
const HEAD: usize = 32;

/// A whole body as it was sent: path, length, SHA-256.
pub type Told = (String, u64, [u8; 32]);

/// Listens until it is dropped.
pub struct Flood {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

struct Shared {
    block: Bytes,
    /// Digests are made of what is sent, while it is sent.
    digesting: bool,
    told: Mutex<Vec<Told>>,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Flood {
    /// `digesting`: keep the digest of every body that was sent to its end.
    pub async fn start(digesting: bool) -> Flood {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { block: block(), digesting, told: Mutex::default() });
        let accept = tokio::spawn(accept(listener, shared.clone()));
        Flood { addr, shared, accept }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, name: &str, bytes: u64) -> String {
        url(self.addr, name, bytes)
    }

    /// What was sent to its end so far.
    pub fn told(&self) -> Vec<Told> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn url(addr: SocketAddr, name: &str, bytes: u64) -> String {
    format!("http://{addr}/{name}?bytes={bytes}")
}

/// The digest a body has, without sending it.
pub fn digest(name: &str, bytes: u64) -> [u8; 32] {
    let block = block();
    let mut digest = Sha256::new();
    pieces(name, bytes, block).for_each(|piece| digest.update(&piece));
    digest.finalize().into()
}

/// The same by XXH3.
pub fn quick_digest(name: &str, bytes: u64) -> u128 {
    let mut digest = Xxh3::new();
    pieces(name, bytes, block()).for_each(|piece| digest.update(&piece));
    digest.digest128()
}

fn block() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = BytesMut::with_capacity(TURN);
    while block.len() < TURN - HEAD {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        block.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    block.freeze()
}

/// The body in order: for each turn its head and as much of the block as is left to send.
fn pieces(name: &str, bytes: u64, block: Bytes) -> impl Iterator<Item = Bytes> + Send + Sync + 'static + use<> {
    let name = name.to_owned();
    let turns = bytes.div_ceil(TURN as u64);
    (0..turns).flat_map(move |turn| {
        let left = usize::try_from(bytes - turn * TURN as u64).unwrap_or(usize::MAX);
        let head = Bytes::from(format!("{:>1$}", format!("{name}:{turn}\n"), HEAD));
        let head = head.slice(head.len() - HEAD..);
        [head.slice(..HEAD.min(left)), block.slice(..block.len().min(left.saturating_sub(HEAD)))]
    })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let shared = shared.clone();
                connections.spawn(async move {
                    let answer = service_fn(move |request| std::future::ready(answer(&shared, &request)));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(shared: &Arc<Shared>, request: &Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let query = request.uri().query().unwrap_or_default();
    let bytes: u64 = query.strip_prefix("bytes=").and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = pieces(&name, bytes, shared.block.clone());
    let body: Body = if shared.digesting {
        let seed = (body, Sha256::new(), 0, shared.clone(), name.clone());
        let told = stream::unfold(seed, move |(mut body, mut digest, sent, shared, name)| async move {
            let piece = body.next()?;
            digest.update(&piece);
            let sent = sent + piece.len() as u64;
            // Nobody asks again after the last byte that was promised.
            if sent == bytes {
                let told = (name.clone(), bytes, digest.clone().finalize().into());
                shared.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
            }
            Some((Ok(Frame::data(piece)), (body, digest, sent, shared, name)))
        });
        StreamBody::new(told).boxed()
    } else if bytes <= TURN as u64 {
        let mut whole = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or(TURN));
        body.for_each(|piece| whole.extend_from_slice(&piece));
        Full::new(whole.freeze()).boxed()
    } else {
        StreamBody::new(stream::iter(body.map(|piece| Ok(Frame::data(piece))))).boxed()
    };
    let answer = Response::builder()
        .header("content-length", bytes)
        .header("content-type", "application/octet-stream")
        .header("etag", format!("\"{name}-{bytes}\""));
    Ok(answer.body(body).expect("these headers are valid"))
}
