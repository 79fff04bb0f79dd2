//! The load generator: N connections, each with a window of requests in flight, over the native socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fetchbox::proto::fetchbox::v1::{
    IpcRequest, IpcResponse, Manifest, Resource, SubmitJobRequest, ipc_request, ipc_response, submit_job_request,
};
use prost::Message;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Clone, Copy)]
pub struct Shape {
    pub connections: usize,
    pub window: usize,
    pub resources: usize,
}

#[derive(Default)]
pub struct Result {
    pub acknowledged: u64,
    pub refused: u64,
    pub seconds: f64,
    /// Microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Result {
    pub fn jobs_per_second(&self) -> f64 {
        self.acknowledged as f64 / self.seconds
    }

    pub fn quantile_ms(&self, q: f64) -> f64 {
        let index = ((self.latencies.len().max(1) - 1) as f64 * q) as usize;
        f64::from(self.latencies.get(index).copied().unwrap_or(0)) / 1_000.0
    }
}

fn request(resources: usize) -> IpcRequest {
    let resource = |index: usize| Resource {
        id: format!("r{index}"),
        url: format!("http://origin.example/some/path/of/usual/length/{index:06}.jpg"),
        ..Resource::default()
    };
    let manifest = Manifest {
        manifest_version: "v1".into(),
        metadata_json: br#"{"source":"bench","page":1234,"title":"a manifest of usual size"}"#.to_vec(),
        resources: (0..resources).map(resource).collect(),
        ..Manifest::default()
    };
    let submit = SubmitJobRequest {
        source: Some(submit_job_request::Source::Manifest(manifest)),
        ..SubmitJobRequest::default()
    };
    IpcRequest { version: 1, request_id: 0, body: Some(ipc_request::Body::Submit(submit)), ..IpcRequest::default() }
}

/// One thread for all connections, so that the daemon keeps the rest of a small machine.
pub fn run(socket: &Path, shape: Shape, length: Duration) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let begun = Instant::now();
        let until = begun + length;
        let connections = (0..shape.connections).map(|_| tokio::spawn(connection(socket.to_owned(), shape, until)));
        let mut total = Result::default();
        for connection in connections.collect::<Vec<_>>() {
            let part = connection.await.expect("no connection panics");
            total.acknowledged += part.acknowledged;
            total.refused += part.refused;
            total.latencies.extend(part.latencies);
        }
        total.seconds = begun.elapsed().as_secs_f64();
        total.latencies.sort_unstable();
        total
    })
}

/// A connection that is woken by answers alone, as redis-benchmark's are: a socket that waits for room to write as well is woken each
/// time the other side reads, and the other side pays for that.
struct Connection(AsyncFd<UnixStream>);

impl Connection {
    #[expect(deprecated, reason = "its successor is an unsafe function; a UnixStream keeps its descriptor")]
    fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        AsyncFd::with_interest(stream, Interest::READABLE).map(Self)
    }

    async fn write_all(&self, mut rest: &[u8]) -> std::io::Result<()> {
        while !rest.is_empty() {
            match self.0.get_ref().write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                // Rare: a window of requests fits into a socket.
                Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is there, at the end of `input`; waits for the first byte.
    async fn read_some(&self, input: &mut Vec<u8>, room: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(read) = ready.try_io(|stream| stream.get_ref().read(room)) {
                let read = read?;
                if read < room.len() {
                    ready.clear_ready();
                }
                input.extend_from_slice(room.get(..read).unwrap_or_default());
                return Ok(read);
            }
        }
    }
}

async fn connection(socket: std::path::PathBuf, shape: Shape, until: Instant) -> Result {
    let stream = Connection::open(&socket).expect("the socket accepts");
    let mut room = vec![0; 64 << 10];
    let mut request = request(shape.resources);
    let mut result = Result::default();
    let (mut next_id, mut in_flight) = (1u64, 0usize);
    let mut started = std::collections::HashMap::new();
    let mut input = Vec::with_capacity(64 << 10);
    let mut output = Vec::with_capacity(64 << 10);
    loop {
        let open = Instant::now() < until;
        if !open && in_flight == 0 {
            return result;
        }
        output.clear();
        while open && in_flight < shape.window {
            request.request_id = next_id;
            output.extend_from_slice(&(request.encoded_len() as u32).to_be_bytes());
            request.encode(&mut output).expect("a vector grows");
            started.insert(next_id, Instant::now());
            next_id += 1;
            in_flight += 1;
        }
        stream.write_all(&output).await.expect("the daemon reads");
        let read = stream.read_some(&mut input, &mut room).await.expect("the daemon answers");
        assert!(read > 0, "the daemon closed the connection");
        let mut rest = input.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if tail.len() < length {
                break;
            }
            let answer = IpcResponse::decode(&tail[..length]).expect("an answer decodes");
            rest = &tail[length..];
            in_flight -= 1;
            match answer.body {
                Some(ipc_response::Body::Submit(_)) => result.acknowledged += 1,
                other => {
                    if result.refused == 0 {
                        eprintln!("refused: {other:?}");
                    }
                    result.refused += 1;
                }
            }
            if let Some(at) = started.remove(&answer.request_id) {
                result.latencies.push(at.elapsed().as_micros() as u32);
            }
        }
        let used = input.len() - rest.len();
        input.drain(..used);
    }
}
