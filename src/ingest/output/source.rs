//! One sender of output that nobody answers: what it brings is gathered and handed over in large pieces; what it left out is noticed.
//!
//! Owns: the sender's jobs and the sequences it has reached in each, gaps and the lines that tell of them. Must not know: wires, batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Traffic;
use super::spool::{Item, Packet, Pass, Spool};
use crate::clock::Clock;
use crate::model::{JobName, LogLevel, LogStream, NewLog, NewOutput, OutputKind};
use crate::priority::give_way;

/// Jobs of one sender whose sequences are remembered, some 3 MB. Beyond it all are forgotten: gaps across that moment are not seen.
const JOBS_MAX: usize = 10_000;
/// Between two lines about gaps in one job's log.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A jump beyond this is no gap but another way of counting.
const JUMP_MAX: u64 = 1 << 40;

const KINDS: usize = OutputKind::ALL.len();

/// The spool takes nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("output is not taken any more")]
pub struct Closed;

/// One record as it came.
pub struct Arrived<'a> {
    pub job: &'a [u8],
    pub kind: OutputKind,
    pub stream: LogStream,
    pub time_ns: i64,
    pub sequence: u64,
    pub data: Bytes,
}

pub struct OutputSource {
    spool: Arc<Spool>,
    traffic: Arc<Traffic>,
    clock: Clock,
    places: HashMap<Box<[u8]>, usize>,
    jobs: Vec<Sent>,
    /// Of the record before: mostly the next one is of the same job.
    last: usize,
    /// Counts packets, so that a job's place in the present one is known to be of it.
    packet: u64,
    names: Vec<Arc<JobName>>,
    records: Vec<(u32, NewOutput)>,
    bytes: usize,
    at: Option<Instant>,
    /// Jobs with gaps not yet told.
    untold: Vec<usize>,
    _pass: Pass,
}

/// What this sender has sent of one job.
struct Sent {
    name: Arc<JobName>,
    /// The packet in which the job has the place `at`.
    packet: u64,
    at: u32,
    reached: [Option<u64>; KINDS],
    told: Option<Instant>,
    missing: Vec<Missing>,
}

struct Missing {
    kind: OutputKind,
    count: u64,
    before: u64,
}

impl OutputSource {
    pub(super) fn new(spool: Arc<Spool>, traffic: Arc<Traffic>, clock: Clock, pass: Pass) -> Self {
        Self {
            spool,
            traffic,
            clock,
            places: HashMap::new(),
            jobs: Vec::new(),
            last: 0,
            packet: 0,
            names: Vec::new(),
            records: Vec::new(),
            bytes: 0,
            at: None,
            untold: Vec::new(),
            _pass: pass,
        }
    }

    /// Gathers one record. False: no job may be called so.
    pub fn take(&mut self, arrived: Arrived<'_>) -> bool {
        let Arrived { job, kind, stream, time_ns, sequence, data } = arrived;
        let Some(place) = self.place(job) else { return false };
        if kind != OutputKind::Other {
            self.note_sequence(place, kind, sequence);
        }
        give_way(data.len());
        self.push(place, NewOutput { kind, stream, time_ns, sequence, label: None, data });
        true
    }

    /// Waits for room and hands over what was gathered.
    pub async fn hand_over(&mut self) -> Result<(), Closed> {
        if !self.untold.is_empty() {
            self.tell_of_gaps(false);
        }
        if self.records.is_empty() {
            return Ok(());
        }
        self.spool.turn().await;
        let lease = self.spool.lease(self.bytes).await.ok_or(Closed)?;
        let expected = self.records.len();
        let records = std::mem::replace(&mut self.records, Vec::with_capacity(expected));
        let names = std::mem::take(&mut self.names);
        let bytes = std::mem::take(&mut self.bytes);
        self.packet += 1;
        let at = self.at.take().unwrap_or_else(Clock::instant);
        self.spool.put(Item::Packet(Packet { names, records, bytes, at, lease })).map_err(|_| Closed)?;
        // Who was woken by this waits on this very thread, however many are idle, until this task has nothing to read for once.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// When [`Self::hand_over`] should be called even if nothing comes: gaps wait to be told.
    pub fn due(&self) -> Option<Instant> {
        let told = self.untold.iter().filter_map(|place| self.jobs.get(*place)?.told);
        told.min().map(|told| told + TELL_EVERY)
    }

    /// The sender is gone: whatever it left is handed over.
    pub async fn finish(mut self) -> Result<(), Closed> {
        self.tell_of_gaps(true);
        self.hand_over().await
    }

    fn place(&mut self, job: &[u8]) -> Option<usize> {
        if let Some(last) = self.jobs.get(self.last)
            && last.name.as_str().as_bytes() == job
        {
            return Some(self.last);
        }
        if let Some(place) = self.places.get(job) {
            self.last = *place;
            return Some(*place);
        }
        let name = JobName::parse(std::str::from_utf8(job).ok()?)?;
        if self.jobs.len() >= JOBS_MAX {
            self.tell_of_gaps(true);
            self.jobs.clear();
            self.places.clear();
        }
        self.last = self.jobs.len();
        self.places.insert(job.into(), self.last);
        // No packet has this number: the job has no place in the present one.
        let packet = u64::MAX;
        let reached = [None; KINDS];
        self.jobs.push(Sent { name: Arc::new(name), packet, at: 0, reached, told: None, missing: Vec::new() });
        Some(self.last)
    }

    fn push(&mut self, place: usize, record: NewOutput) {
        let Some(sent) = self.jobs.get_mut(place) else { return };
        if sent.packet != self.packet {
            sent.packet = self.packet;
            sent.at = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            self.names.push(Arc::clone(&sent.name));
        }
        if self.records.is_empty() {
            self.at = Some(Clock::instant());
        }
        self.bytes += record.weight();
        self.records.push((sent.at, record));
    }

    fn note_sequence(&mut self, place: usize, kind: OutputKind, sequence: u64) {
        let Some(sent) = self.jobs.get_mut(place) else { return };
        let Some(reached) = sent.reached.get_mut(kind.index()) else { return };
        let next = reached.replace(sequence).map_or(sequence, |last| last.saturating_add(1));
        if sequence <= next || sequence - next > JUMP_MAX {
            return;
        }
        let count = sequence - next;
        self.traffic.metrics.persist_gaps.inc_by(count);
        if sent.missing.is_empty() {
            self.untold.push(place);
        }
        match sent.missing.iter_mut().find(|missing| missing.kind == kind) {
            Some(missing) => (missing.count, missing.before) = (missing.count + count, sequence),
            None => sent.missing.push(Missing { kind, count, before: sequence }),
        }
        let now = Clock::instant();
        if sent.told.is_none_or(|told| now >= told + TELL_EVERY) {
            self.tell(place, now);
            self.untold.retain(|waiting| *waiting != place);
        }
    }

    fn tell_of_gaps(&mut self, all: bool) {
        let now = Clock::instant();
        for place in std::mem::take(&mut self.untold) {
            let told = self.jobs.get(place).and_then(|sent| sent.told);
            if all || told.is_none_or(|told| now >= told + TELL_EVERY) {
                self.tell(place, now);
            } else {
                self.untold.push(place);
            }
        }
    }

    /// A line in the job's own log, where the records are missing.
    fn tell(&mut self, place: usize, now: Instant) {
        let Some(sent) = self.jobs.get_mut(place) else { return };
        sent.told = Some(now);
        let missing = std::mem::take(&mut sent.missing);
        let each = missing
            .iter()
            .map(|gap| format!("{} {} records before sequence {}", gap.count, gap.kind.name(), gap.before));
        let each: Vec<String> = each.collect();
        if each.is_empty() {
            return;
        }
        let now_ms = self.clock.now_ms();
        let label = NewLog {
            level: LogLevel::Warn,
            timestamp_ms: now_ms,
            message: format!("missing: {}. The sender left them out, or they were refused", each.join(", ")),
            fields: missing.iter().map(|gap| (format!("missing_{}", gap.kind.name()), gap.count.to_string())).collect(),
            ..NewLog::default()
        };
        self.push(
            place,
            NewOutput {
                kind: OutputKind::Log,
                stream: LogStream::Job,
                time_ns: now_ms.saturating_mul(1_000_000),
                sequence: 0,
                label: Some(Box::new(label)),
                data: Bytes::new(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn source() -> (OutputSource, Arc<Spool>, Arc<Traffic>) {
        let spool = Arc::new(Spool::new(1 << 20));
        let traffic = Arc::new(Traffic::new(Arc::new(Metrics::new())));
        let pass = spool.pass().unwrap();
        (OutputSource::new(spool.clone(), traffic.clone(), Clock::manual(5), pass), spool, traffic)
    }

    fn log(job: &[u8], sequence: u64) -> Arrived<'_> {
        let (kind, stream) = (OutputKind::Log, LogStream::Stdout);
        Arrived { job, kind, stream, time_ns: 1, sequence, data: Bytes::from_static(b"x") }
    }

    async fn packet(spool: &Spool) -> Packet {
        match spool.take(1, 1).await.unwrap().remove(0) {
            Item::Packet(packet) => packet,
            Item::Call(_) => panic!("a call"),
        }
    }

    #[tokio::test]
    async fn records_left_out_are_counted_and_told_of_once_a_second_and_a_restart_is_no_gap() {
        let (mut source, spool, traffic) = source();
        for sequence in [0, 1, 4, 9, 0, 1, 1] {
            assert!(source.take(log(b"a", sequence)));
        }
        source.hand_over().await.unwrap();
        assert_eq!(traffic.metrics.persist_gaps.get(), 6);
        let first = packet(&spool).await;
        let streams: Vec<LogStream> = first.records.iter().map(|(_, record)| record.stream).collect();
        assert_eq!(
            streams.iter().position(|stream| *stream == LogStream::Job),
            Some(2),
            "before the record behind the gap"
        );
        assert_eq!(streams.len(), 8, "the second gap waits for its second");
        assert!(source.due().is_some());
        source.finish().await.unwrap();
        let rest = packet(&spool).await;
        let label = rest.records[0].1.label.clone().unwrap();
        assert_eq!(label.fields["missing_log"], "4");
        assert!(label.message.contains("4 log records before sequence 9"), "{}", label.message);
    }

    #[tokio::test]
    async fn each_packet_names_its_own_jobs() {
        let (mut source, spool, _) = source();
        for job in [b"a", b"b", b"a"] {
            assert!(source.take(log(job, 0)));
        }
        assert!(!source.take(log(b"../x", 0)) && !source.take(log(b"", 0)) && !source.take(log(&[0; 1 << 20], 0)));
        source.hand_over().await.unwrap();
        assert!(source.take(log(b"b", 1)));
        source.hand_over().await.unwrap();
        let (first, second) = (packet(&spool).await, packet(&spool).await);
        let names = |packet: &Packet| -> Vec<String> {
            packet.records.iter().map(|(at, _)| packet.names[*at as usize].to_string()).collect()
        };
        assert_eq!((names(&first), names(&second)), (vec!["a".into(), "b".into(), "a".into()], vec!["b".to_owned()]));
    }

    #[tokio::test]
    async fn a_sender_that_names_a_job_a_record_costs_bounded_memory() {
        let (mut source, ..) = source();
        for n in 0..2 * JOBS_MAX + 10 {
            assert!(source.take(log(format!("job-{n}").as_bytes(), 0)));
        }
        assert!(source.jobs.len() <= JOBS_MAX && source.places.len() == source.jobs.len());
    }
}
