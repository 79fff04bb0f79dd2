//! What a daemon keeps of one file's kind, record by record.
//!
//! Owns: which question answers for which file, and answers as entries. Must not know: files.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::layout::FileKind;
use super::line::{BadLine, Entry};
use crate::client::persist::Persist;
use crate::client::{Answers, Error};
use crate::model::JobName;
use crate::proto::joblet::{ipc, persist as pb};

/// In their order. Of a job nobody knows: none.
pub async fn kept(
    persist: &Persist,
    job: &JobName,
    kind: FileKind,
) -> Result<BoxStream<'static, Result<Entry, Error>>, Error> {
    let events = || pb::QueryTelemetryRequest { job_uuid: job.to_string(), ..Default::default() };
    Ok(match kind {
        FileKind::Stdout | FileKind::Stderr => {
            let request =
                pb::QueryLogsRequest { job_uuid: job.to_string(), stream: kind.stream() as i32, ..Default::default() };
            persist.query_logs(request).await?.map(|log| log.map(entry_of)).boxed()
        }
        FileKind::Metrics => {
            let request = pb::QueryMetricsRequest { job_uuid: job.to_string(), ..Default::default() };
            entries(persist.query_metrics(request).await?, job, kind)
        }
        FileKind::Exec => entries(persist.query_exec_events(events()).await?, job, kind),
        FileKind::Connect => entries(persist.query_connect_events(events()).await?, job, kind),
        FileKind::File => entries(persist.query_file_events(events()).await?, job, kind),
        FileKind::Accept => entries(persist.query_accept_events(events()).await?, job, kind),
        FileKind::SocketData => {
            let answers = persist.query_socket_data_events(events()).await?;
            entries(answers.map(|event| event.map(as_written)).boxed(), job, kind)
        }
        FileKind::Mmap => entries(persist.query_mmap_events(events()).await?, job, kind),
        FileKind::Mprotect => entries(persist.query_mprotect_events(events()).await?, job, kind),
    })
}

/// The ordinal that the next record of this kind gets.
pub async fn next_ordinal(persist: &Persist, job: &JobName, kind: FileKind) -> Result<u64, Error> {
    let of_type = u32::try_from(kind.message_type() as i32).unwrap_or_default();
    match persist.get_job_info(pb::GetJobInfoRequest { job_id: job.to_string() }).await {
        Ok(info) => Ok(info.next_ordinals.get(&of_type).copied().unwrap_or_default()),
        Err(error) if error.code() == "NOT_FOUND" => Ok(0),
        Err(error) => Err(error),
    }
}

fn entry_of(log: pb::LogLine) -> Entry {
    Entry { timestamp: log.timestamp, sequence: log.sequence, data: log.content }
}

/// The messages of both packages have the same numbers, but one.
fn entries<M: prost::Message + 'static>(
    answers: Answers<M>,
    job: &JobName,
    kind: FileKind,
) -> BoxStream<'static, Result<Entry, Error>> {
    let job = job.clone();
    let entry = move |message: M| Entry::of_message(kind, &job, &message.encode_to_vec()).map_err(unexpected);
    answers.map(move |message| message.and_then(&entry)).boxed()
}

fn unexpected(bad: BadLine) -> Error {
    Error::Protocol { message: bad.0 }
}

/// That one: the service gives it other names and numbers than the wire and the files do.
fn as_written(event: pb::SocketDataEvent) -> ipc::SocketDataEvent {
    let pb::SocketDataEvent {
        job_uuid,
        timestamp,
        sequence,
        pid,
        comm,
        direction,
        dst_addr,
        dst_port,
        bytes,
        protocol,
    } = event;
    ipc::SocketDataEvent {
        job_uuid,
        timestamp,
        sequence,
        pid,
        comm,
        direction,
        addr: dst_addr,
        port: dst_port,
        protocol,
        bytes,
    }
}
