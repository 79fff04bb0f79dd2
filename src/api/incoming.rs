//! Accepting connections without ever spinning or running out of places.
//!
//! Owns: listening with a long backlog, the cap on connections, the pause after a failed accept.
//! Must not know: what is spoken on a connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// Connections the kernel holds for us: a full Unix backlog answers EAGAIN, which few clients expect.
const BACKLOG: u32 = 4_096;
/// Out of descriptors, an accept fails at once and would fail at once again.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds and listens. The path must be free; folder, mode and stale sockets are the caller's.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Binds and listens. Which addresses are allowed is the caller's to know.
pub fn listen_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// A listener that gives one connection at a time.
pub(super) trait Accept: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;
    fn accept_one(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for UnixListener {
    type Io = UnixStream;
    async fn accept_one(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;
    async fn accept_one(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One door's places. While all are taken, new connections wait in the backlog.
pub(super) struct Gate<L> {
    listener: L,
    door: &'static str,
    places: Arc<Semaphore>,
}

impl<L: Accept> Gate<L> {
    pub(super) fn new(listener: L, door: &'static str, connections_max: usize) -> Self {
        Self { listener, door, places: Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// The next connection. Never fails: errors are logged and waited out.
    pub(super) async fn next(&self) -> Seated<L::Io> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                tracing::warn!(door = self.door, "every connection is in use; new ones wait");
                match self.places.clone().acquire_owned().await {
                    Ok(place) => place,
                    Err(_) => std::future::pending().await,
                }
            }
        };
        let mut failed = false;
        loop {
            match self.listener.accept_one().await {
                Ok(io) => return Seated { io, _place: place },
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !failed {
                        tracing::warn!(door = self.door, %error, "cannot accept connections; trying again");
                    }
                    failed = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The same as a stream without end and without errors.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Seated<L::Io>>> {
        stream::unfold(self, |gate| async move { Some((Ok(gate.next().await), gate)) })
    }
}

/// A connection and its place, given back together.
pub(super) struct Seated<T> {
    pub(super) io: T,
    _place: OwnedSemaphorePermit,
}

impl<T: Connected> Connected for Seated<T> {
    type ConnectInfo = T::ConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Seated<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Seated<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_cap_waits_for_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let gate = Gate::new(listen_unix(&path).unwrap(), "test", 1);
        let _first = UnixStream::connect(&path).await.unwrap();
        let _second = UnixStream::connect(&path).await.unwrap();
        let seated = gate.next().await;
        let mut waiting = Box::pin(gate.next());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(seated);
        waiting.await;
    }
}
