//! The native socket's client: many requests in flight on one connection, matched to their answers by id.
//!
//! Owns: framing, the window, the matching. Must not know: gRPC. A broken connection stays broken: connect again and repeat what was not
//! answered, with the same idempotency keys.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, Options, addr};
use crate::proto::fetchbox::v1::{self as pb, ipc_request, ipc_response};

/// Requests in flight until the first answer says otherwise.
const FIRST_CREDITS: u32 = 64;
/// A longer answer is not one of ours.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// One connection. Cheap to clone; it closes when the last clone is gone.
#[derive(Clone)]
pub struct IpcClient {
    shared: Arc<Shared>,
    _alive: Arc<DropGuard>,
}

struct Shared {
    stream: UnixStream,
    state: Mutex<State>,
    /// One permit per request that may still be sent.
    credits: Semaphore,
    /// Bytes are left to write.
    unwritten: Notify,
}

struct State {
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<ipc_response::Body, Error>>>,
    unsent: BytesMut,
    window: u32,
    /// Permits to withhold because the window became smaller.
    owed: u32,
    broken: Option<Error>,
}

impl IpcClient {
    /// Connects; a socket that is busy is tried again for as long as `options` say.
    pub async fn connect(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        let path = path.as_ref();
        let patience = Duration::from_millis(options.connect_timeout_ms);
        let stream = addr::patiently(patience, || UnixStream::connect(path)).await;
        let stream = stream.map_err(|error| Error::unreachable(path.display(), error))?;
        let shared = Arc::new(Shared {
            stream,
            state: Mutex::new(State {
                next_id: 1,
                waiting: HashMap::new(),
                unsent: BytesMut::new(),
                window: FIRST_CREDITS,
                owed: 0,
                broken: None,
            }),
            credits: Semaphore::new(FIRST_CREDITS as usize),
            unwritten: Notify::new(),
        });
        let closed = CancellationToken::new();
        tokio::spawn(drive(shared.clone(), closed.clone()));
        Ok(Self { shared, _alive: Arc::new(closed.drop_guard()) })
    }

    /// Makes a job durable. Waits while the window is full.
    pub async fn submit(&self, request: pb::SubmitJobRequest) -> Result<pb::SubmitJobResponse, Error> {
        match self.call(ipc_request::Body::Submit(request)).await? {
            ipc_response::Body::Submit(response) => Ok(response),
            other => Err(mismatch(&other)),
        }
    }

    pub async fn ping(&self) -> Result<pb::Pong, Error> {
        match self.call(ipc_request::Body::Ping(pb::Ping {})).await? {
            ipc_response::Body::Pong(pong) => Ok(pong),
            other => Err(mismatch(&other)),
        }
    }

    pub async fn get_job(&self, job_id: impl Into<String>) -> Result<pb::Job, Error> {
        match self.call(ipc_request::Body::GetJob(pb::GetJobRequest { job_id: job_id.into() })).await? {
            ipc_response::Body::Job(job) => Ok(job),
            other => Err(mismatch(&other)),
        }
    }

    pub async fn append_logs(&self, request: pb::AppendLogsRequest) -> Result<pb::AppendLogsResponse, Error> {
        match self.call(ipc_request::Body::AppendLogs(request)).await? {
            ipc_response::Body::AppendLogs(response) => Ok(response),
            other => Err(mismatch(&other)),
        }
    }

    pub async fn update_status(&self, request: pb::UpdateJobStatusRequest) -> Result<pb::Ack, Error> {
        match self.call(ipc_request::Body::UpdateStatus(request)).await? {
            ipc_response::Body::Ack(ack) => Ok(ack),
            other => Err(mismatch(&other)),
        }
    }

    async fn call(&self, body: ipc_request::Body) -> Result<ipc_response::Body, Error> {
        match self.shared.credits.acquire().await {
            // Given back by the answer, not by this call: an abandoned request still occupies its place.
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.shared.broken()),
        }
        let answer = self.shared.send(body)?;
        match answer.await {
            Ok(Ok(ipc_response::Body::Error(detail))) => Err(Error::refused(detail)),
            Ok(result) => result,
            Err(_) => Err(self.shared.broken()),
        }
    }
}

fn mismatch(body: &ipc_response::Body) -> Error {
    let name = format!("{body:?}");
    let kind = name.split('(').next().unwrap_or_default();
    Error::Protocol { message: format!("an answer of kind {kind} to a request of another kind") }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> Error {
        self.lock()
            .broken
            .clone()
            .unwrap_or_else(|| Error::Unreachable { message: "the connection is closed".to_owned() })
    }

    /// Queues a request and writes at once what the socket takes: a lone request does not wait for another task.
    fn send(&self, body: ipc_request::Body) -> Result<oneshot::Receiver<Result<ipc_response::Body, Error>>, Error> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        let request_id = state.next_id;
        state.next_id += 1;
        let request = pb::IpcRequest { version: 1, request_id, trace_parent: String::new(), body: Some(body) };
        let len = request.encoded_len();
        state.unsent.reserve(4 + len);
        state.unsent.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        request.encode_raw(&mut state.unsent);
        state.waiting.insert(request_id, answer);
        if !self.write(&mut state)? {
            self.unwritten.notify_one();
        }
        Ok(answered)
    }

    /// True when everything is written.
    fn write(&self, state: &mut State) -> Result<bool, Error> {
        while !state.unsent.is_empty() {
            match self.stream.try_write(&state.unsent) {
                Ok(written) => state.unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The reader sees the same end, after the answers that are still on their way.
                Err(error) => return Err(Error::unreachable("native socket", error)),
            }
        }
        Ok(true)
    }

    /// Hands one answer over and gives its place back, as far as the window allows.
    fn answered(&self, response: pb::IpcResponse) -> Result<(), Error> {
        let Some(body) = response.body else {
            return Err(Error::Protocol { message: "an answer without a body".to_owned() });
        };
        if response.request_id == 0 {
            return Err(match body {
                ipc_response::Body::Error(detail) => Error::refused(detail),
                other => mismatch(&other),
            });
        }
        let mut state = self.lock();
        let Some(waiting) = state.waiting.remove(&response.request_id) else {
            return Err(Error::Protocol { message: format!("an answer to nothing: {}", response.request_id) });
        };
        let window = response.credits.max(1);
        let mut freed = 1;
        if window > state.window {
            freed += window - state.window;
        } else {
            state.owed += state.window - window;
        }
        state.window = window;
        let withheld = freed.min(state.owed);
        state.owed -= withheld;
        drop(state);
        self.credits.add_permits((freed - withheld) as usize);
        // Whoever asked may have gone; its request was done all the same.
        let _ = waiting.send(Ok(body));
        Ok(())
    }

    fn fail(&self, error: Error) {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        state.broken = Some(error.clone());
        drop(state);
        self.credits.close();
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }
}

/// Reads answers, and writes what did not fit at once, until the connection ends.
async fn drive(shared: Arc<Shared>, closed: CancellationToken) {
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let error = tokio::select! {
        error = read_answers(&shared, &mut input) => error,
        error = write_rest(&shared) => error,
        () = closed.cancelled() => Error::Unreachable { message: "the client was closed".to_owned() },
    };
    shared.fail(error);
}

async fn read_answers(shared: &Shared, input: &mut BytesMut) -> Error {
    loop {
        if let Err(error) = shared.stream.readable().await {
            return Error::unreachable("native socket", error);
        }
        input.reserve(READ_BYTES);
        match shared.stream.try_read_buf(input) {
            Ok(0) => return Error::Unreachable { message: "the daemon closed the connection".to_owned() },
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Error::unreachable("native socket", error),
        }
        while let Some(header) = input.first_chunk::<4>() {
            let len = u32::from_be_bytes(*header) as usize;
            if len > ANSWER_BYTES_MAX {
                return Error::Protocol { message: format!("an answer of {len} bytes") };
            }
            let Some(body) = input.get(4..4 + len) else { break };
            let response = match pb::IpcResponse::decode(body) {
                Ok(response) => response,
                Err(error) => return Error::Protocol { message: error.to_string() },
            };
            input.advance(4 + len);
            if let Err(error) = shared.answered(response) {
                return error;
            }
        }
    }
}

async fn write_rest(shared: &Shared) -> Error {
    loop {
        shared.unwritten.notified().await;
        loop {
            if let Err(error) = shared.stream.writable().await {
                return Error::unreachable("native socket", error);
            }
            let written = shared.write(&mut shared.lock());
            match written {
                Ok(true) => break,
                Ok(false) => {}
                // Answers may still be readable; the reader ends the connection.
                Err(_) => return std::future::pending().await,
            }
        }
    }
}
