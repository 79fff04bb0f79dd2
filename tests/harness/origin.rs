//! A scriptable HTTP/1.1 origin on loopback.
//!
//! Owns: what an origin on the internet may do to us, good or bad, and the truth about what it served. Writes the wire itself,
//! because a proper HTTP library refuses to lie about lengths. Must not know: FetchBox.
// Room tests include this file too, and each user needs another part of it.
#![allow(dead_code, clippy::disallowed_methods, clippy::expect_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

// Stands beside this file, from wherever it is included.
#[path = "range.rs"]
mod range;

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How a path answers. Built up: `Behaviour::body(1000, 7).fail_first(2, 500).delay_ms(50)`.
#[derive(Clone)]
pub struct Behaviour {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    endless: bool,
    delay: Duration,
    pieces: Option<(usize, Duration)>,
    fail: Option<(u32, u16)>,
    fail_headers: Vec<(String, String)>,
    length: Length,
    reset_after: Option<usize>,
    close_after: Option<usize>,
    hang_after: Option<usize>,
    etag: Option<String>,
    ranges: range::Ranges,
}

#[derive(Clone, Copy, PartialEq)]
enum Length {
    True,
    Said(u64),
    /// The body ends with the connection.
    Unsaid,
    Chunked,
}

impl Behaviour {
    /// 200 with `bytes` bytes that depend on `seed` only.
    pub fn body(bytes: usize, seed: u64) -> Self {
        Self::bytes(seeded(bytes, seed))
    }

    /// 200 with exactly these bytes.
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![],
            body: Arc::new(body.into()),
            endless: false,
            delay: Duration::ZERO,
            pieces: None,
            fail: None,
            fail_headers: vec![],
            length: Length::True,
            reset_after: None,
            close_after: None,
            hang_after: None,
            etag: None,
            ranges: range::Ranges::Right,
        }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::bytes(format!("status {status}")) }
    }

    pub fn redirect(status: u16, to: impl Into<String>) -> Self {
        Self::status(status).header("Location", to)
    }

    /// A body that never ends, in chunked encoding.
    pub fn endless() -> Self {
        Self { endless: true, length: Length::Chunked, ..Self::body(64 * 1024, 1) }
    }

    /// Takes the request and never answers.
    pub fn silent() -> Self {
        Self::body(1, 1).hang_before_headers()
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The first `times` requests to each path answer `status`.
    pub fn fail_first(mut self, times: u32, status: u16) -> Self {
        self.fail = Some((times, status));
        self
    }

    /// A header for the answers of `fail_first`, for example Retry-After.
    pub fn fail_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fail_headers.push((name.to_owned(), value.into()));
        self
    }

    /// Waits before the headers.
    pub fn delay_ms(mut self, ms: u64) -> Self {
        self.delay = Duration::from_millis(ms);
        self
    }

    /// Sends the body in pieces with a pause after each.
    pub fn pieces(mut self, bytes: usize, pause_ms: u64) -> Self {
        self.pieces = Some((bytes.max(1), Duration::from_millis(pause_ms)));
        self
    }

    /// Says this Content-Length whatever the body is, and closes after the body.
    pub fn says_length(mut self, bytes: u64) -> Self {
        self.length = Length::Said(bytes);
        self
    }

    /// No Content-Length: the body ends with the connection.
    pub fn without_length(mut self) -> Self {
        self.length = Length::Unsaid;
        self
    }

    pub fn chunked(mut self) -> Self {
        self.length = Length::Chunked;
        self
    }

    /// Resets the connection (RST) after this many body bytes.
    pub fn reset_after(mut self, bytes: usize) -> Self {
        self.reset_after = Some(bytes);
        self
    }

    /// Closes the connection (FIN) after this many body bytes.
    pub fn close_after(mut self, bytes: usize) -> Self {
        self.close_after = Some(bytes);
        self
    }

    /// Falls silent after this many body bytes and keeps the connection.
    pub fn hang_after(mut self, bytes: usize) -> Self {
        self.hang_after = Some(bytes);
        self
    }

    /// Carries this ETag (quotes and `W/` included) and honours Range, If-Range and If-None-Match.
    pub fn versioned(mut self, etag: &str) -> Self {
        self.etag = Some(etag.to_owned());
        self
    }

    /// Answers a range with 206 and the body from its start.
    pub fn wrong_range(mut self) -> Self {
        self.ranges = range::Ranges::FromTheStart;
        self
    }

    fn hang_before_headers(mut self) -> Self {
        self.delay = Duration::from_secs(3_600);
        self
    }

    /// The digest of the whole body.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.body.as_slice()).into()
    }

    pub fn len(&self) -> u64 {
        self.body.len() as u64
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub at: Instant,
    /// The how-manieth request to this path, from 1.
    pub hit: u32,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Body bytes of one answer, as far as they were written to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub status: u16,
    /// Where in the body they begin.
    pub from: u64,
    pub bytes: u64,
}

type Script = Arc<dyn Fn(&Seen) -> Behaviour + Send + Sync>;

#[derive(Default)]
struct Truth {
    routes: Vec<(String, Script)>,
    seen: Vec<Seen>,
    hits: HashMap<String, u32>,
    served: HashMap<String, Vec<[u8; 32]>>,
    sent: HashMap<String, Vec<Sent>>,
    open: u32,
    open_most: u32,
}

/// Listens until it is dropped.
pub struct Origin {
    addr: SocketAddr,
    truth: Arc<Mutex<Truth>>,
    accept: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        // The connections live in a JoinSet of this task and end with it.
        self.accept.abort();
    }
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let truth = Arc::new(Mutex::new(Truth::default()));
        let accept = tokio::spawn(accept(listener, truth.clone()));
        Self { addr, truth, accept }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `host:port`
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Answers every path that begins so; the longest beginning wins, the latest of equal ones.
    pub fn on(&self, prefix: &str, behaviour: Behaviour) {
        self.on_fn(prefix, move |_| behaviour.clone());
    }

    pub fn on_fn(&self, prefix: &str, script: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static) {
        lock(&self.truth).routes.push((prefix.to_owned(), Arc::new(script)));
    }

    /// Requests to exactly this path.
    pub fn hits(&self, path: &str) -> u32 {
        lock(&self.truth).hits.get(path).copied().unwrap_or(0)
    }

    pub fn hits_total(&self) -> u64 {
        lock(&self.truth).seen.len() as u64
    }

    /// Requests to exactly this path, in order.
    pub fn requests(&self, path: &str) -> Vec<Seen> {
        lock(&self.truth).seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Digests of the 200 bodies sent to their end for this path.
    pub fn served(&self, path: &str) -> Vec<[u8; 32]> {
        lock(&self.truth).served.get(path).cloned().unwrap_or_default()
    }

    /// Every answer of this path, in order: what left of its body.
    pub fn sent(&self, path: &str) -> Vec<Sent> {
        lock(&self.truth).sent.get(path).cloned().unwrap_or_default()
    }

    /// Every request, in order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.truth).seen.clone()
    }

    /// The most requests that were in work at the same time.
    pub fn open_most(&self) -> u32 {
        lock(&self.truth).open_most
    }
}

fn lock(truth: &Mutex<Truth>) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, truth: Arc<Mutex<Truth>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, truth.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut stream: TcpStream, truth: Arc<Mutex<Truth>>) {
    let mut buffer = Vec::new();
    while let Some(mut seen) = read_request(&mut stream, &mut buffer).await {
        let behaviour = {
            let mut truth = lock(&truth);
            let hit = truth.hits.entry(seen.path.clone()).or_default();
            *hit += 1;
            seen.hit = *hit;
            truth.seen.push(seen.clone());
            truth.open += 1;
            truth.open_most = truth.open_most.max(truth.open);
            let routes = truth.routes.iter().filter(|(prefix, _)| seen.path.starts_with(prefix.as_str()));
            routes.max_by_key(|(prefix, _)| prefix.len()).map(|(_, script)| script.clone())
        };
        let behaviour = behaviour.map_or_else(|| Behaviour::status(404), |script| script(&seen));
        let _open = Open(truth.clone());
        match answer(&mut stream, &seen, &behaviour, &truth).await {
            Ok(After::KeepAlive) if behaviour.length == Length::True || behaviour.length == Length::Chunked => {
                note_served(&truth, &seen, &behaviour);
            }
            Ok(After::KeepAlive) => {
                note_served(&truth, &seen, &behaviour);
                return;
            }
            Ok(After::Close) | Err(_) => return,
            Ok(After::Reset) => {
                // Closing with zero linger sends RST instead of FIN.
                let _ = stream.set_zero_linger();
                return;
            }
        }
    }
}

struct Open(Arc<Mutex<Truth>>);

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).open -= 1;
    }
}

fn note_served(truth: &Mutex<Truth>, seen: &Seen, behaviour: &Behaviour) {
    let failed = behaviour.fail.is_some_and(|(times, _)| seen.hit <= times);
    if behaviour.status == 200 && !failed {
        lock(truth).served.entry(seen.path.clone()).or_default().push(behaviour.sha256());
    }
}

enum After {
    KeepAlive,
    Close,
    Reset,
}

async fn answer(
    stream: &mut TcpStream,
    seen: &Seen,
    behaviour: &Behaviour,
    truth: &Mutex<Truth>,
) -> std::io::Result<After> {
    tokio::time::sleep(behaviour.delay).await;
    if let Some((_, status)) = behaviour.fail.filter(|(times, _)| seen.hit <= *times) {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 7\r\n");
        behaviour.fail_headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\nfailing").as_bytes()).await?;
        return Ok(After::KeepAlive);
    }
    let cut = range::cut(behaviour, seen);
    let body = behaviour.body.get(cut.from..cut.to).unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} Scripted\r\n{}", cut.status, cut.headers);
    behaviour.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    match behaviour.length {
        Length::True => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
        Length::Said(bytes) => head.push_str(&format!("Content-Length: {bytes}\r\n")),
        Length::Unsaid => head.push_str("Connection: close\r\n"),
        Length::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if seen.method == "HEAD" {
        return Ok(After::KeepAlive);
    }
    let at = {
        let mut truth = lock(truth);
        let sent = truth.sent.entry(seen.path.clone()).or_default();
        sent.push(Sent { status: cut.status, from: cut.from as u64, bytes: 0 });
        sent.len() - 1
    };
    let count = |bytes: usize| {
        let mut truth = lock(truth);
        if let Some(sent) = truth.sent.get_mut(&seen.path).and_then(|sent| sent.get_mut(at)) {
            sent.bytes += bytes as u64;
        }
    };
    loop {
        let after = send_body(stream, behaviour, body, &count).await?;
        if !behaviour.endless || !matches!(after, After::KeepAlive) {
            if behaviour.length == Length::Chunked && matches!(after, After::KeepAlive) {
                stream.write_all(b"0\r\n\r\n").await?;
            }
            return Ok(after);
        }
    }
}

async fn send_body(
    stream: &mut TcpStream,
    behaviour: &Behaviour,
    body: &[u8],
    count: &(impl Fn(usize) + Sync),
) -> std::io::Result<After> {
    let stops = [behaviour.reset_after, behaviour.close_after, behaviour.hang_after];
    let end = stops.into_iter().flatten().min().unwrap_or(body.len()).min(body.len());
    let (bytes, pause) = behaviour.pieces.unwrap_or((256 * 1024, Duration::ZERO));
    for piece in body.get(..end).unwrap_or_default().chunks(bytes) {
        if behaviour.length == Length::Chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(piece).await?;
        }
        count(piece.len());
        if !pause.is_zero() {
            stream.flush().await?;
            tokio::time::sleep(pause).await;
        }
    }
    if behaviour.hang_after.is_some() {
        std::future::pending::<()>().await;
    }
    if behaviour.reset_after.is_some() {
        return Ok(After::Reset);
    }
    Ok(if behaviour.close_after.is_some() { After::Close } else { After::KeepAlive })
}

/// None: the client is gone, or sends what is no request.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > HEAD_BYTES_MAX || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(buffer.get(..end)?).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let mut request = lines.next()?.split(' ');
    let (method, target) = (request.next()?.to_owned(), request.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Seen { method, path: path.to_owned(), query: query.to_owned(), headers, at: Instant::now(), hit: 0 })
}

/// The same bytes for the same seed, for ever.
pub fn seeded(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        body.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    body.truncate(bytes);
    body
}
