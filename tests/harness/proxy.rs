//! An HTTP proxy and a SOCKS5 proxy on loopback, good or bad on demand.
//!
//! Owns: what a proxy may do to us, and the truth about what it was asked for. Connects to loopback only. Must not know: FetchBox.
// Room tests may include this file too, and each user needs another part of it.
#![allow(dead_code, clippy::disallowed_methods, clippy::expect_used)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const HEAD_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Requests in absolute form, and CONNECT.
    Http,
    Socks5,
}

/// What it does with the next connections.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mood {
    Well,
    /// Closes each connection with RST before a word.
    Refuses,
    /// Takes what is sent and says nothing.
    Hangs,
    /// HTTP: this status for whatever is asked. SOCKS5: this reply code.
    Says(u16),
    /// Bytes that are no answer in any protocol.
    Garbage,
    /// The answer's head and this much of its body, then the end. Not for tunnels.
    Cuts(usize),
}

/// A connection's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `CONNECT` or `SOCKS`.
    pub how: String,
    /// `host:port` as it was written, name or address.
    pub target: String,
    /// User name and password, where they came.
    pub credentials: Option<(String, String)>,
}

struct Truth {
    mood: Mood,
    wanted: Option<(String, String)>,
    /// Names that only this proxy knows.
    names: HashMap<String, SocketAddr>,
    connections: u64,
    asked: Vec<Asked>,
}

/// Listens until it is dropped.
pub struct Proxy {
    kind: Kind,
    addr: SocketAddr,
    truth: Arc<Mutex<Truth>>,
    accept: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections live in a JoinSet of this task and end with it.
        self.accept.abort();
    }
}

impl Proxy {
    pub async fn http() -> Self {
        Self::start(Kind::Http).await
    }

    pub async fn socks5() -> Self {
        Self::start(Kind::Socks5).await
    }

    async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let (names, asked) = (HashMap::new(), Vec::new());
        let truth = Arc::new(Mutex::new(Truth { mood: Mood::Well, wanted: None, names, connections: 0, asked }));
        let accept = tokio::spawn(accept(listener, kind, truth.clone()));
        Self { kind, addr, truth, accept }
    }

    /// Serves nobody who does not bring these.
    pub fn demands(self, username: &str, password: &str) -> Self {
        lock(&self.truth).wanted = Some((username.to_owned(), password.to_owned()));
        self
    }

    /// Resolves `name` to an address that nobody else knows for it.
    pub fn knows(&self, name: &str, addr: SocketAddr) {
        lock(&self.truth).names.insert(name.to_owned(), addr);
    }

    pub fn set(&self, mood: Mood) {
        lock(&self.truth).mood = mood;
    }

    /// `host:port`
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// As an endpoint of a pool: `http://…` or `socks5h://…`.
    pub fn endpoint(&self) -> String {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5h",
        };
        format!("{scheme}://{}", self.addr)
    }

    pub fn connections(&self) -> u64 {
        lock(&self.truth).connections
    }

    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.truth).asked.clone()
    }
}

fn lock(truth: &Mutex<Truth>) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, kind: Kind, truth: Arc<Mutex<Truth>>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        lock(&truth).connections += 1;
        let truth = truth.clone();
        connections.spawn(async move {
            let _ = serve(stream, kind, &truth).await;
        });
    }
}

async fn serve(mut client: TcpStream, kind: Kind, truth: &Mutex<Truth>) -> io::Result<()> {
    let mood = lock(truth).mood;
    match mood {
        Mood::Refuses => client.set_zero_linger(),
        Mood::Hangs => std::future::pending().await,
        Mood::Garbage => {
            // Read first: closing on unread bytes would be a reset.
            client.read_buf(&mut Vec::with_capacity(4_096)).await?;
            client.write_all(b"\x00\xffthis is not what you are looking for\r\n\r\n").await
        }
        Mood::Well | Mood::Says(_) | Mood::Cuts(_) => match kind {
            Kind::Http => http(client, mood, truth).await,
            Kind::Socks5 => socks5(client, mood, truth).await,
        },
    }
}

async fn http(mut client: TcpStream, mood: Mood, truth: &Mutex<Truth>) -> io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let mut lines = head.split("\r\n");
    let request: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, _] = request[..] else { return Err(bad("no request")) };
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let basic = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let credentials = basic.and_then(|(_, value)| credentials(value));
    let (authority, path) = match target.strip_prefix("http://") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => (target, ""),
    };
    note(truth, method, authority, credentials.clone());
    if !is_welcome(truth, credentials) {
        return say(&mut client, 407).await;
    }
    if let Mood::Says(status) = mood {
        return say(&mut client, status).await;
    }
    let Ok(mut origin) = reach(truth, authority).await else { return say(&mut client, 502).await };
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        origin.write_all(&rest).await?;
        return copy_bidirectional(&mut client, &mut origin).await.map(drop);
    }
    let mut forwarded = format!("{method} {} HTTP/1.1\r\n", if path.is_empty() { "/" } else { path });
    for (name, value) in headers.iter().filter(|(name, _)| !name.to_ascii_lowercase().starts_with("proxy-")) {
        forwarded.push_str(&format!("{name}: {value}\r\n"));
    }
    origin.write_all(format!("{forwarded}\r\n").as_bytes()).await?;
    // One request for each connection: the end of ours is the end of its answers.
    origin.shutdown().await?;
    let (head, body) = read_head(&mut origin).await?;
    client.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut left = match mood {
        Mood::Cuts(bytes) => bytes,
        Mood::Well | Mood::Refuses | Mood::Hangs | Mood::Says(_) | Mood::Garbage => usize::MAX,
    };
    let mut piece = body;
    loop {
        let cut = piece.len().min(left);
        client.write_all(&piece[..cut]).await?;
        left -= cut;
        piece.clear();
        if left == 0 || origin.read_buf(&mut piece).await? == 0 {
            return client.shutdown().await;
        }
    }
}

async fn say(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let answer = format!("HTTP/1.1 {status} Said By Proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

async fn socks5(mut client: TcpStream, mood: Mood, truth: &Mutex<Truth>) -> io::Result<()> {
    if client.read_u8().await? != 5 {
        return Err(bad("not SOCKS5"));
    }
    let methods = read_counted(&mut client).await?;
    let method = if lock(truth).wanted.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return client.write_all(&[5, 0xff]).await;
    }
    client.write_all(&[5, method]).await?;
    let mut credentials = None;
    if method == 2 {
        client.read_u8().await?;
        let (username, password) = (read_counted(&mut client).await?, read_counted(&mut client).await?);
        credentials = Some((text(username), text(password)));
        let welcome = is_welcome(truth, credentials.clone());
        client.write_all(&[1, u8::from(!welcome)]).await?;
        if !welcome {
            return Ok(());
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from(client.read_u32().await?).to_string(),
        3 => text(read_counted(&mut client).await?),
        _ => format!("[{}]", std::net::Ipv6Addr::from(client.read_u128().await?)),
    };
    let target = format!("{host}:{}", client.read_u16().await?);
    note(truth, "SOCKS", &target, credentials);
    let reply = |code: u8| [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    if let Mood::Says(code) = mood {
        return client.write_all(&reply(code as u8)).await;
    }
    let Ok(mut origin) = reach(truth, &target).await else { return client.write_all(&reply(5)).await };
    client.write_all(&reply(0)).await?;
    copy_bidirectional(&mut client, &mut origin).await.map(drop)
}

/// One byte of length, then as many.
async fn read_counted(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn reach(truth: &Mutex<Truth>, authority: &str) -> io::Result<TcpStream> {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let known = lock(truth).names.get(host).copied();
    let addr = match known {
        Some(addr) => addr,
        None => format!("{host}:{port}").parse().map_err(|_| bad("a name this proxy does not know"))?,
    };
    assert!(addr.ip().is_loopback(), "a test would leave loopback: {addr}");
    TcpStream::connect(addr).await
}

fn note(truth: &Mutex<Truth>, how: &str, target: &str, credentials: Option<(String, String)>) {
    lock(truth).asked.push(Asked { how: how.to_owned(), target: target.to_owned(), credentials });
}

fn is_welcome(truth: &Mutex<Truth>, credentials: Option<(String, String)>) -> bool {
    let wanted = &lock(truth).wanted;
    wanted.is_none() || *wanted == credentials
}

/// Up to the empty line, without it, and what came after it.
async fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((String::from_utf8_lossy(&bytes[..at]).into_owned(), rest));
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0 {
            return Err(bad("no head"));
        }
    }
}

/// `Basic` and base64, by hand because nothing else here needs it.
fn credentials(header: &str) -> Option<(String, String)> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in header.strip_prefix("Basic ")?.bytes().filter(|byte| *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    let (username, password) = text(bytes).split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))?;
    Some((username, password))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
