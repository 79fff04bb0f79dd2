//! The load generator: N connections, each with a window of requests in flight, over the native socket.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fetchbox::proto::fetchbox::v1::{
    IpcRequest, IpcResponse, Manifest, Resource, SubmitJobRequest, ipc_request, ipc_response, submit_job_request,
};
use prost::Message;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

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

/// One thread for all connections, so that the daemon keeps the rest of a small machine. It is woken by answers alone, as redis-benchmark
/// is: who waits for room to write as well is woken each time the other side reads, and the other side pays for that.
pub fn run(socket: &Path, shape: Shape, length: Duration) -> Result {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let begun = Instant::now();
    let until = begun + length;
    let mut connections: Vec<Connection> = (0..shape.connections).map(|_| Connection::open(socket, shape)).collect();
    for (index, connection) in connections.iter_mut().enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, &connection.stream, data, epoll::EventFlags::IN).expect("a socket can be waited for");
        connection.ask();
    }
    let mut open = connections.len();
    let mut events = Vec::with_capacity(64);
    while open > 0 {
        epoll::wait(&epoll, spare_capacity(&mut events), None).expect("events");
        for event in events.drain(..) {
            let connection = &mut connections[event.data.u64() as usize];
            connection.read();
            if Instant::now() < until {
                connection.ask();
            } else if connection.in_flight == 0 {
                open -= 1;
            }
        }
    }
    let mut total = Result { seconds: begun.elapsed().as_secs_f64(), ..Result::default() };
    for part in connections.into_iter().map(|connection| connection.result) {
        total.acknowledged += part.acknowledged;
        total.refused += part.refused;
        total.latencies.extend(part.latencies);
    }
    total.latencies.sort_unstable();
    total
}

struct Connection {
    stream: UnixStream,
    window: usize,
    request: IpcRequest,
    next_id: u64,
    in_flight: usize,
    started: HashMap<u64, Instant>,
    input: Vec<u8>,
    output: Vec<u8>,
    room: Vec<u8>,
    result: Result,
}

impl Connection {
    fn open(socket: &Path, shape: Shape) -> Self {
        Self {
            stream: UnixStream::connect(socket).expect("the socket accepts"),
            window: shape.window,
            request: request(shape.resources),
            next_id: 1,
            in_flight: 0,
            started: HashMap::new(),
            input: Vec::new(),
            output: Vec::new(),
            room: vec![0; 64 << 10],
            result: Result::default(),
        }
    }

    /// Fills the window. A window of requests fits into a socket, one of answers too: nobody waits for the other for ever.
    fn ask(&mut self) {
        self.output.clear();
        while self.in_flight < self.window {
            self.request.request_id = self.next_id;
            self.output.extend_from_slice(&(self.request.encoded_len() as u32).to_be_bytes());
            self.request.encode(&mut self.output).expect("a vector grows");
            self.started.insert(self.next_id, Instant::now());
            self.next_id += 1;
            self.in_flight += 1;
        }
        self.stream.write_all(&self.output).expect("the daemon reads");
    }

    /// Something is there.
    fn read(&mut self) {
        let read = self.stream.read(&mut self.room).expect("the daemon answers");
        assert!(read > 0, "the daemon closed the connection");
        self.input.extend_from_slice(&self.room[..read]);
        let mut rest = self.input.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if tail.len() < length {
                break;
            }
            let answer = IpcResponse::decode(&tail[..length]).expect("an answer decodes");
            rest = &tail[length..];
            self.in_flight -= 1;
            match answer.body {
                Some(ipc_response::Body::Submit(_)) => self.result.acknowledged += 1,
                other => {
                    if self.result.refused == 0 {
                        eprintln!("refused: {other:?}");
                    }
                    self.result.refused += 1;
                }
            }
            if let Some(at) = self.started.remove(&answer.request_id) {
                self.result.latencies.push(at.elapsed().as_micros() as u32);
            }
        }
        let used = self.input.len() - rest.len();
        self.input.drain(..used);
    }
}
