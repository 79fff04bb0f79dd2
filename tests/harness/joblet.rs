//! A writer on the joblet socket: frames as joblet's core makes them, good ones and others. It never reads, as the core does not.

use std::path::Path;

use bytes::Bytes;
use fetchbox::proto::joblet::ipc;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::in_time;

pub struct Sender(UnixStream);

impl Sender {
    pub async fn connect(path: &Path) -> Sender {
        let connected = async {
            loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return stream,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        };
        Sender(in_time("a connection", connected).await)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        in_time("sending", self.0.write_all(bytes)).await.unwrap();
    }

    /// The same for a daemon that may be gone or hang up: how much it took.
    pub async fn try_send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match in_time("sending", self.0.write(rest)).await {
                Ok(0) | Err(_) => break,
                Ok(more) => sent += more,
            }
        }
        sent
    }

    /// What fits into the socket's buffer without anybody reading it.
    pub fn fill(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.0.try_write(&bytes[sent..]) {
                Ok(more) => sent += more,
                Err(_) => break,
            }
        }
        sent
    }

    pub async fn finish(mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Waits until the daemon hangs up. It must not have written anything.
    pub async fn until_closed(mut self) {
        use tokio::io::AsyncReadExt as _;
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = in_time("the end", self.0.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "the daemon wrote to the sender");
    }
}

/// Around any body.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

pub fn envelope(job: &str, number: i32, sequence: u64, data: Vec<u8>) -> Vec<u8> {
    let message = ipc::IpcMessage {
        version: 1,
        r#type: number,
        job_uuid: job.to_owned(),
        timestamp: 1_700_000_000_000_000_000,
        sequence,
        data: data.into(),
    };
    framed(&message.encode_to_vec())
}

/// A chunk of output, as a frame.
pub fn chunk(job: &str, stderr: bool, sequence: u64, content: impl Into<Bytes>) -> Vec<u8> {
    let stream = if stderr { ipc::StreamType::Stderr } else { ipc::StreamType::Stdout };
    let line = ipc::LogLine {
        job_uuid: job.to_owned(),
        stream: stream.into(),
        timestamp: 1_700_000_000_000_000_000,
        sequence,
        content: content.into(),
    };
    envelope(job, ipc::MessageType::Log.into(), sequence, line.encode_to_vec())
}
