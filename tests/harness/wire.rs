//! The native socket without a client: bytes out, frames in. For what no well-meaning client would send.

use std::path::Path;

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{in_time, pb};

pub struct Wire(UnixStream);

impl Wire {
    pub async fn connect(path: &Path) -> Wire {
        let connected = async {
            loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return stream,
                    // A full backlog: the daemon is busy with others.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        };
        Wire(in_time("a connection", connected).await)
    }

    /// Errors are kept quiet: the daemon may have hung up already, which is what some tests want.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    pub async fn send_frame(&mut self, body: &[u8]) {
        self.send(&frame(body)).await;
    }

    pub async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// None: the daemon closed the connection.
    pub async fn receive(&mut self) -> Option<pb::IpcResponse> {
        in_time("an answer", async {
            let length = self.0.read_u32().await.ok()?;
            let mut body = vec![0; length as usize];
            self.0.read_exact(&mut body).await.ok()?;
            Some(pb::IpcResponse::decode(body.as_slice()).unwrap())
        })
        .await
    }

    /// The code of the error that comes next.
    pub async fn refusal(&mut self) -> (u64, pb::ErrorDetail) {
        let response = self.receive().await.expect("the connection closed without an answer");
        match response.body {
            Some(pb::ipc_response::Body::Error(error)) => (response.request_id, error),
            other => panic!("no refusal but {other:?}"),
        }
    }

    pub async fn is_closed(&mut self) -> bool {
        while self.receive().await.is_some() {}
        true
    }

    pub async fn ask(&mut self, request_id: u64, body: pb::ipc_request::Body) -> pb::IpcResponse {
        self.send_frame(&request(request_id, body)).await;
        self.receive().await.expect("the connection closed without an answer")
    }

    /// Asserts that the connection still works.
    pub async fn ping(&mut self) {
        let response = self.ask(9_999, pb::ipc_request::Body::Ping(pb::Ping {})).await;
        assert!(matches!(response.body, Some(pb::ipc_response::Body::Pong(_))), "{response:?}");
    }
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

pub fn request(request_id: u64, body: pb::ipc_request::Body) -> Vec<u8> {
    pb::IpcRequest { version: 1, request_id, trace_parent: String::new(), body: Some(body) }.encode_to_vec()
}
