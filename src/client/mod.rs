//! A typed client for anybody's program: gRPC over a Unix socket or TCP ([`Client`]), and the native socket ([`ipc::IpcClient`]).
//!
//! Owns: connecting with patience, one method per call, errors that say what to do next. Answers are the generated messages.
//! Must not know: any room of the daemon but the generated types.

mod addr;
mod calls;
mod error;
pub mod ipc;
pub mod json;
pub mod persist;

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

pub use addr::Addr;
pub use calls::Answers;
pub use error::Error;

use crate::proto::fetchbox::v1::job_service_client::JobServiceClient;
use crate::proto::fetchbox::v1::ledger_service_client::LedgerServiceClient;

/// How patient a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a daemon that is busy or restarting is waited for.
    pub connect_timeout_ms: u64,
    /// How long one call may take; 0: as long as the daemon lets it.
    pub request_timeout_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { connect_timeout_ms: 5_000, request_timeout_ms: 0 }
    }
}

/// An answer's largest message: one record of output may have the 128 MiB that joblet's wire allows, and a little stands around it.
const MESSAGE_BYTES_MAX: usize = 129 * 1024 * 1024;
/// The daemon puts up to a thousand violations into an error.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// A connection to a daemon. Cheap to clone; reconnects by itself; calls of one client run side by side.
#[derive(Debug, Clone)]
pub struct Client {
    jobs: JobServiceClient<Channel>,
    ledger: LedgerServiceClient<Channel>,
    channel: Channel,
}

impl Client {
    /// Connects with the default options.
    pub async fn connect(addr: Addr) -> Result<Self, Error> {
        Self::connect_with(addr, &Options::default()).await
    }

    /// `Unreachable` when nobody listens there, or answers within the time given.
    pub async fn connect_with(addr: Addr, options: &Options) -> Result<Self, Error> {
        let patience = Duration::from_millis(options.connect_timeout_ms);
        let mut endpoint = Endpoint::from_static("http://fetchbox")
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_while_idle(false)
            .http2_max_header_list_size(HEADER_BYTES_MAX);
        if options.request_timeout_ms > 0 {
            endpoint = endpoint.timeout(Duration::from_millis(options.request_timeout_ms));
        }
        let unreachable = |error: tonic::transport::Error| Error::unreachable(&addr, error);
        let channel = match addr.clone() {
            Addr::Unix(path) => {
                let connect = move |_: Uri| {
                    let path = path.clone();
                    async move { addr::patiently(patience, || UnixStream::connect(&path)).await.map(TokioIo::new) }
                };
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
            Addr::Http(authority) => {
                let connect = move |_: Uri| {
                    let authority = authority.clone();
                    async move {
                        let stream = addr::patiently(patience, || TcpStream::connect(&authority)).await?;
                        stream.set_nodelay(true)?;
                        Ok::<_, std::io::Error>(TokioIo::new(stream))
                    }
                };
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
        }
        .map_err(unreachable)?;
        Ok(Self {
            jobs: JobServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            ledger: LedgerServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            channel,
        })
    }
}
