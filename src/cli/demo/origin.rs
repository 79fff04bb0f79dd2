//! A small origin on loopback that is slow, stumbles once and lost one file.
//!
//! Owns: an HTTP server for the demo's resources. Must not know: FetchBox.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::manifest::{ITEMS, Item, Manner, body};

pub struct Origin {
    at: SocketAddr,
    state: Arc<Shared>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU32,
    stumbled: AtomicBool,
}

impl Origin {
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let at = listener.local_addr()?;
        let state = Arc::new(Shared::default());
        let router = Router::new().route("/{name}", get(serve)).with_state(state.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            // An origin that dies shows as failed downloads, which is what a demo is about.
            let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        });
        Ok(Self { at, state, stop, task })
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.at)
    }

    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// How often it was asked for anything.
    pub fn requests(&self) -> u32 {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(Duration::from_secs(1), self.task).await.is_err() {
            abort.abort();
        }
    }
}

async fn serve(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let Some(item) = ITEMS.iter().find(|item| item.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match item.manner {
        Manner::Missing => StatusCode::NOT_FOUND.into_response(),
        Manner::FailOnce if !shared.stumbled.swap(true, Ordering::Relaxed) => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Manner::FailOnce => send(item, 200),
        Manner::Serve { over_ms } => send(item, over_ms),
    }
}

/// The body in 20 pieces, so that progress is there to be seen.
fn send(item: &Item, over_ms: u64) -> Response {
    const PIECES: usize = 20;
    let whole = Bytes::from(body(item));
    let piece = whole.len().div_ceil(PIECES).max(1);
    let pieces: Vec<Bytes> =
        (0..whole.len()).step_by(piece).map(|at| whole.slice(at..whole.len().min(at + piece))).collect();
    let wait = Duration::from_millis(over_ms / PIECES as u64);
    let flow = stream::unfold(pieces.into_iter(), move |mut left| async move {
        let next = left.next()?;
        tokio::time::sleep(wait).await;
        Some((Ok::<_, Infallible>(next), left))
    });
    let kind = match item.name.rsplit_once('.').map(|(_, ext)| ext) {
        Some("jpg") => "image/jpeg",
        Some("html") => "text/html",
        Some("css") => "text/css",
        Some("txt") => "text/plain",
        Some("ogg") => "audio/ogg",
        Some("mp4") => "video/mp4",
        _ => "application/octet-stream",
    };
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_LENGTH, whole.len().to_string())];
    (headers, Body::from_stream(flow)).into_response()
}
