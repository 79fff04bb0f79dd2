//! joblet's persist messages ↔ nouns.
//!
//! Owns: records out and in, what their numbers mean. Must not know: which calls there are.

use bytes::Bytes;
use prost::Message;

use crate::api::joblet::message;
use crate::ledger::{MetricPage, OutputQuery};
use crate::model::series::{Series, Values};
use crate::model::{Job, LogStream, NewOutput, OutputKind, OutputRecord, Refusal};
use crate::proto::joblet::{self as jp, ipc, persist as pp};

/// Records of one append.
const APPEND_MAX: usize = 10_000;

pub(crate) fn stream_in(stream: i32) -> Option<LogStream> {
    match pp::StreamType::try_from(stream) {
        Ok(pp::StreamType::Stdout) => Some(LogStream::Stdout),
        Ok(pp::StreamType::Stderr) => Some(LogStream::Stderr),
        Ok(pp::StreamType::Unspecified) | Err(_) => None,
    }
}

/// Which records of a kind, by the times that all queries have.
pub(crate) fn output_query(kind: OutputKind, start_time: i64, end_time: i64) -> OutputQuery {
    let mut query = OutputQuery::new(kind);
    (query.from_ns, query.until_ns) = (start_time, end_time);
    query
}

/// A record as the message that a query streams. None: its data are not what they should be.
pub(crate) type Show<T> = fn(&str, OutputRecord) -> Option<T>;

pub(crate) fn log_line(job: &str, record: OutputRecord) -> Option<pp::LogLine> {
    let stream = match record.entry.stream {
        LogStream::Stdout => pp::StreamType::Stdout,
        LogStream::Stderr => pp::StreamType::Stderr,
        LogStream::Job => return None,
    };
    Some(pp::LogLine {
        job_uuid: job.to_owned(),
        stream: stream.into(),
        timestamp: record.entry.time_ns,
        sequence: record.entry.sequence,
        content: record.entry.data.into(),
        offset: record.ordinal,
    })
}

macro_rules! same_numbers {
    ($($show:ident: $message:ident;)*) => {
        $(pub(crate) fn $show(job: &str, record: OutputRecord) -> Option<pp::$message> {
            let mut message = pp::$message::decode(record.entry.data).ok()?;
            message.job_uuid = job.to_owned();
            (message.timestamp, message.sequence) = (record.entry.time_ns, record.entry.sequence);
            Some(message)
        })*
    };
}

same_numbers! {
    plain_metric: Metric;
    exec: ExecEvent;
    connect: ConnectEvent;
    accept: AcceptEvent;
    mmap: MmapEvent;
    mprotect: MprotectEvent;
    file: FileEvent;
}

/// Always with data: joblet's core reads them without looking.
pub(crate) fn metric(job: &str, record: OutputRecord) -> Option<pp::Metric> {
    let mut metric = plain_metric(job, record)?;
    metric.data.get_or_insert_default();
    Some(metric)
}

/// The two packages number `protocol` and `bytes` the other way round.
pub(crate) fn socket_data(job: &str, record: OutputRecord) -> Option<pp::SocketDataEvent> {
    let event = ipc::SocketDataEvent::decode(record.entry.data).ok()?;
    Some(pp::SocketDataEvent {
        job_uuid: job.to_owned(),
        timestamp: record.entry.time_ns,
        sequence: record.entry.sequence,
        pid: event.pid,
        comm: event.comm,
        direction: event.direction,
        dst_addr: event.addr,
        dst_port: event.port,
        bytes: event.bytes,
        protocol: event.protocol,
    })
}

pub(crate) fn job_metrics(job: &str, record: OutputRecord) -> Option<jp::JobMetricsEvent> {
    let pp::Metric { job_uuid, timestamp, data, .. } = metric(job, record)?;
    let data = data.unwrap_or_default();
    let (disk, network) = (data.disk_io.unwrap_or_default(), data.network_io.unwrap_or_default());
    Some(jp::JobMetricsEvent {
        timestamp,
        job_uuid,
        cpu_percent: data.cpu_usage * 100.0,
        memory_bytes: data.memory_usage,
        memory_limit: 0,
        disk_read_bytes: disk.read_bytes,
        disk_write_bytes: disk.write_bytes,
        net_recv_bytes: network.rx_bytes,
        net_sent_bytes: network.tx_bytes,
        gpu_percent: data.gpu_usage * 100.0,
        gpu_memory_bytes: 0,
    })
}

pub(crate) fn chunk(_job: &str, record: OutputRecord) -> Option<jp::DataChunk> {
    Some(jp::DataChunk { payload: record.entry.data.into() })
}

fn whole_number(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and is 0 for what is no number")]
    let whole = value.round() as i64;
    whole
}

/// One metric for each step of a page, in the order of time.
pub(crate) fn step_metrics(job: &str, page: MetricPage, function: pp::Aggregate) -> Vec<pp::Metric> {
    let pick = |values: Values| match function {
        pp::Aggregate::Unspecified | pp::Aggregate::Avg => values.avg,
        pp::Aggregate::Min => values.min,
        pp::Aggregate::Max => values.max,
        pp::Aggregate::Sum => values.sum,
        pp::Aggregate::Last => values.last,
    };
    let mut steps: std::collections::BTreeMap<i64, pp::MetricData> = std::collections::BTreeMap::new();
    for (series, points) in page.series {
        for point in points {
            set(steps.entry(point.time_ns).or_default(), series, pick(point.values).unwrap_or(0.0));
        }
    }
    let metric = |(timestamp, data)| pp::Metric { job_uuid: job.to_owned(), timestamp, sequence: 0, data: Some(data) };
    steps.into_iter().map(metric).collect()
}

fn set(data: &mut pp::MetricData, series: Series, value: f64) {
    let whole = whole_number(value);
    let disk = |data: &mut pp::MetricData, field: fn(&mut pp::DiskIo) -> &mut i64| {
        *field(data.disk_io.get_or_insert_default()) = whole;
    };
    let network = |data: &mut pp::MetricData, field: fn(&mut pp::NetworkIo) -> &mut i64| {
        *field(data.network_io.get_or_insert_default()) = whole;
    };
    match series {
        Series::CpuUsage => data.cpu_usage = value,
        Series::MemoryUsage => data.memory_usage = whole,
        Series::GpuUsage => data.gpu_usage = value,
        Series::DiskReadBytes => disk(data, |io| &mut io.read_bytes),
        Series::DiskWriteBytes => disk(data, |io| &mut io.write_bytes),
        Series::DiskReadOps => disk(data, |io| &mut io.read_ops),
        Series::DiskWriteOps => disk(data, |io| &mut io.write_ops),
        Series::NetRxBytes => network(data, |io| &mut io.rx_bytes),
        Series::NetTxBytes => network(data, |io| &mut io.tx_bytes),
        Series::NetRxPackets => network(data, |io| &mut io.rx_packets),
        Series::NetTxPackets => network(data, |io| &mut io.tx_packets),
    }
}

pub(crate) fn new_outputs(job: &str, records: Vec<pp::OutputRecord>) -> Result<Vec<NewOutput>, Refusal> {
    if records.len() > APPEND_MAX {
        return Err(Refusal::invalid("records", format!("at most {APPEND_MAX}, these are {}", records.len())));
    }
    records.into_iter().enumerate().map(|(at, record)| new_output_of(job, at, record)).collect()
}

fn new_output_of(job: &str, at: usize, record: pp::OutputRecord) -> Result<NewOutput, Refusal> {
    let known = u8::try_from(record.r#type).ok().and_then(OutputKind::from_number);
    let kind = known.filter(|kind| *kind != OutputKind::Other).unwrap_or(OutputKind::Other);
    let (mut time_ns, mut sequence) = (record.timestamp, record.sequence);
    let mut stream = LogStream::Stdout;
    let data: Bytes = match kind {
        OutputKind::Log => {
            let wrong = || Refusal::invalid(format!("records[{at}].stream"), "must be STDOUT or STDERR");
            stream = stream_in(record.stream).ok_or_else(wrong)?;
            record.data.into()
        }
        OutputKind::Other => {
            // As it would have come by the socket.
            let envelope = ipc::IpcMessage {
                version: 1,
                r#type: i32::try_from(record.r#type).unwrap_or(0),
                job_uuid: job.to_owned(),
                timestamp: time_ns,
                sequence,
                data: record.data.into(),
            };
            envelope.encode_to_vec().into()
        }
        OutputKind::Metric
        | OutputKind::Exec
        | OutputKind::Connect
        | OutputKind::Accept
        | OutputKind::SocketData
        | OutputKind::Mmap
        | OutputKind::Mprotect
        | OutputKind::File => {
            // Nobody could read it, here as little as from the socket.
            let wrong = || Refusal::invalid(format!("records[{at}].data"), format!("is no {} message", kind.name()));
            let stamp = message::stamp(kind, &record.data).ok_or_else(wrong)?;
            if time_ns == 0 {
                (time_ns, sequence) = (stamp.time_ns.unwrap_or(0), stamp.sequence.unwrap_or(0));
            }
            record.data.into()
        }
    };
    Ok(NewOutput { kind, stream, time_ns, sequence, label: None, data })
}

pub(crate) fn job_info(job: &Job) -> pp::JobInfo {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    pp::JobInfo {
        job_id: job.public_id(),
        created_at: job.created_at_ms.div_euclid(1_000),
        last_updated: job.updated_at_ms.max(job.output_at_ms).div_euclid(1_000),
        log_count: number(job.log_count),
        metric_count: number(job.records_of(OutputKind::Metric)),
        size_bytes: number(job.output_bytes),
    }
}

/// Of the types that joblet has numbers for.
pub(crate) fn next_ordinals(job: &Job) -> std::collections::HashMap<u32, u64> {
    let known = OutputKind::ALL.into_iter().filter(|kind| *kind != OutputKind::Other);
    known.map(|kind| (u32::from(kind as u8), job.records_of(kind))).filter(|(_, next)| *next > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: OutputKind, data: Vec<u8>) -> OutputRecord {
        let entry =
            NewOutput { kind, stream: LogStream::Stdout, time_ns: 5, sequence: 7, label: None, data: data.into() };
        OutputRecord { ordinal: 3, entry }
    }

    #[test]
    fn a_socket_events_bytes_are_not_taken_for_its_protocol() {
        let event = ipc::SocketDataEvent {
            job_uuid: "x".into(),
            addr: "10.0.0.1".into(),
            port: 443,
            protocol: "tcp".into(),
            bytes: 1_234,
            ..Default::default()
        };
        let shown = socket_data("job", record(OutputKind::SocketData, event.encode_to_vec())).unwrap();
        assert_eq!((shown.protocol.as_str(), shown.bytes, shown.dst_port), ("tcp", 1_234, 443));
        assert_eq!((shown.job_uuid.as_str(), shown.timestamp, shown.sequence), ("job", 5, 7));
    }

    #[test]
    fn a_metric_without_data_does_not_make_the_core_panic() {
        assert_eq!(
            metric("job", record(OutputKind::Metric, Vec::new())).unwrap().data,
            Some(pp::MetricData::default())
        );
        assert_eq!(metric("job", record(OutputKind::Metric, vec![0xff])), None);
    }

    #[test]
    fn a_record_that_could_never_be_read_is_not_acknowledged() {
        let good = ipc::ExecEvent { timestamp: 4, sequence: 5, ..Default::default() }.encode_to_vec();
        let good = pp::OutputRecord { r#type: 3, data: good, ..Default::default() };
        let taken = new_output_of("job", 0, good.clone()).unwrap();
        assert_eq!((taken.kind, taken.time_ns, taken.sequence), (OutputKind::Exec, 4, 5));
        for number in 2..=9 {
            let bad = pp::OutputRecord { r#type: number, data: vec![0xff], ..Default::default() };
            let refused = new_outputs("job", vec![good.clone(), bad]).unwrap_err();
            assert_eq!(refused.violations[0].path, "records[1].data", "{number}: {refused}");
        }
    }

    #[test]
    fn a_record_of_a_type_nobody_knows_is_kept_whole() {
        let kept =
            new_output_of("job", 0, pp::OutputRecord { r#type: 77, data: vec![1, 2], ..Default::default() }).unwrap();
        assert_eq!(kept.kind, OutputKind::Other);
        let envelope = ipc::IpcMessage::decode(kept.data).unwrap();
        assert_eq!((envelope.r#type, &envelope.data[..]), (77, &[1u8, 2][..]));
        let log = pp::OutputRecord { r#type: 1, ..Default::default() };
        assert_eq!(new_output_of("job", 4, log).unwrap_err().violations[0].path, "records[4].stream");
    }
}
