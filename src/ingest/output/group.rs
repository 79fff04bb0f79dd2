//! What lies in the spool as shares of jobs: one batch, each job's records in the order in which they came.
//!
//! Owns: grouping, and which answer of the store is whose. Pure. Must not know: the store, names' ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::spool::{Item, Lease};
use crate::model::{JobId, JobName, NewOutput, OutputKind, OutputShare, Refusal};

/// An append that waits for its answer.
pub struct Waiting {
    kind: OutputKind,
    /// Records of that kind that stand before its own in the share.
    before: u64,
    done: oneshot::Sender<Result<u64, Refusal>>,
}

/// Whose records a share holds.
pub enum Owner {
    /// A sender's that nobody answers.
    Named(Arc<JobName>),
    /// Callers', of a job they know by its id.
    Calls(JobId, Vec<Waiting>),
}

/// One job's records of one batch.
pub struct Part {
    pub owner: Owner,
    expected: Option<u64>,
    pub records: Vec<NewOutput>,
    /// In the order of their first records, as the store cuts them, with how many there are.
    pub kinds: Vec<(OutputKind, u64)>,
}

/// What is made durable together.
pub struct Batch {
    pub parts: Vec<Part>,
    pub bytes: usize,
    pub oldest: Option<Instant>,
    /// Room that is given back with the batch.
    pub leases: Vec<Lease>,
}

impl Part {
    fn new(owner: Owner) -> Self {
        Self { owner, expected: None, records: Vec::new(), kinds: Vec::new() }
    }

    fn push(&mut self, record: NewOutput) {
        match self.kinds.iter_mut().find(|(kind, _)| *kind == record.kind) {
            Some((_, count)) => *count += 1,
            None => self.kinds.push((record.kind, 1)),
        }
        self.records.push(record);
    }

    fn count(&self, kind: OutputKind) -> u64 {
        self.kinds.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count)
    }

    pub fn into_share(self, job: JobId) -> (OutputShare, Kept) {
        let Part { owner, expected, records, kinds } = self;
        (OutputShare { job, expected, records }, Kept { owner, kinds })
    }
}

/// What is kept of a part while the store has its records.
pub struct Kept {
    pub owner: Owner,
    pub kinds: Vec<(OutputKind, u64)>,
}

impl Kept {
    /// Gives each caller the answer to its first record. `firsts`: of this part's pieces.
    pub fn answer(self, firsts: &[Result<u64, Refusal>]) {
        let Owner::Calls(_, waiting) = self.owner else { return };
        for call in waiting {
            let piece = self.kinds.iter().position(|(kind, _)| *kind == call.kind);
            let first = piece.and_then(|piece| firsts.get(piece)).cloned().unwrap_or(Ok(0));
            let _ = call.done.send(first.map(|first| first + call.before));
        }
    }

    pub fn refuse(self, refusal: &Refusal) {
        let Owner::Calls(_, waiting) = self.owner else { return };
        for call in waiting {
            let _ = call.done.send(Err(refusal.clone()));
        }
    }
}

/// Groups items by job. What came by name and what came by id are parts of their own, even of the same job.
pub fn group(items: Vec<Item>) -> Batch {
    let mut batch = Batch { parts: Vec::new(), bytes: 0, oldest: None, leases: Vec::with_capacity(items.len()) };
    let mut named: HashMap<Arc<JobName>, usize> = HashMap::new();
    let mut called: HashMap<JobId, usize> = HashMap::new();
    for item in items {
        match item {
            Item::Packet(packet) => {
                batch.note(packet.bytes, packet.at, packet.lease);
                let parts = &mut batch.parts;
                let places: Vec<usize> = packet
                    .names
                    .into_iter()
                    .map(|name| {
                        *named.entry(name).or_insert_with_key(|name| {
                            parts.push(Part::new(Owner::Named(Arc::clone(name))));
                            parts.len() - 1
                        })
                    })
                    .collect();
                for (at, record) in packet.records {
                    let part = places.get(at as usize).and_then(|place| batch.parts.get_mut(*place));
                    if let Some(part) = part {
                        part.push(record);
                    }
                }
            }
            Item::Call(call) => {
                batch.note(call.bytes, call.at, call.lease);
                let parts = &mut batch.parts;
                // What may be refused is a part of its own. What comes behind it stays behind it.
                if call.expected.is_some() {
                    called.remove(&call.job);
                }
                let place = *called.entry(call.job).or_insert_with(|| {
                    parts.push(Part::new(Owner::Calls(call.job, Vec::new())));
                    parts.len() - 1
                });
                if call.expected.is_some() {
                    called.remove(&call.job);
                }
                let Some(part) = batch.parts.get_mut(place) else { continue };
                part.expected = call.expected;
                let kind = call.records.first().map_or(OutputKind::Log, |record| record.kind);
                let before = part.count(kind);
                if let Owner::Calls(_, waiting) = &mut part.owner {
                    waiting.push(Waiting { kind, before, done: call.done });
                }
                for record in call.records {
                    part.push(record);
                }
            }
        }
    }
    batch
}

impl Batch {
    fn note(&mut self, bytes: usize, at: Instant, lease: Lease) {
        self.bytes += bytes;
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        self.leases.push(lease);
    }
}

#[cfg(test)]
mod tests {
    use super::super::spool::{Call, Packet, Spool};
    use super::*;
    use crate::clock::Clock;
    use crate::model::LogStream;

    fn record(kind: OutputKind, sequence: u64) -> NewOutput {
        NewOutput { kind, stream: LogStream::Stdout, time_ns: 1, sequence, label: None, data: bytes::Bytes::new() }
    }

    #[tokio::test]
    async fn packets_of_two_senders_keep_each_jobs_order_and_callers_learn_their_own_first() {
        let spool = Spool::new(1_000);
        let name = |name: &str| Arc::new(JobName::parse(name).unwrap());
        let mut items = Vec::new();
        for (names, sequences) in [(["a", "b"], [1, 2, 3]), (["b", "a"], [4, 5, 6])] {
            let records = sequences.map(|n| (u32::try_from(n % 2).unwrap(), record(OutputKind::Log, n)));
            let (names, records) = (names.map(name).to_vec(), records.to_vec());
            let lease = spool.lease(1).await.unwrap();
            items.push(Item::Packet(Packet { names, records, bytes: 1, at: Clock::instant(), lease }));
        }
        let mut answers = Vec::new();
        for records in
            [vec![record(OutputKind::Log, 0); 3], vec![record(OutputKind::Metric, 0)], vec![record(OutputKind::Log, 0)]]
        {
            let (done, answer) = oneshot::channel();
            answers.push(answer);
            let (job, lease) = (JobId::MIN, spool.lease(1).await.unwrap());
            items.push(Item::Call(Call { job, records, expected: None, bytes: 1, at: Clock::instant(), done, lease }));
        }
        let batch = group(items);
        let sequences = |part: &Part| part.records.iter().map(|record| record.sequence).collect::<Vec<_>>();
        assert_eq!(sequences(&batch.parts[0]), [2, 5], "a");
        assert_eq!(sequences(&batch.parts[1]), [1, 3, 4, 6], "b");
        assert_eq!(batch.parts[2].kinds, [(OutputKind::Log, 4), (OutputKind::Metric, 1)]);
        let (_, kept) = batch.parts.into_iter().nth(2).unwrap().into_share(JobId::MIN);
        kept.answer(&[Ok(100), Ok(7)]);
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap().unwrap());
        }
        assert_eq!(told, [100, 7, 103]);
    }

    #[tokio::test]
    async fn an_append_that_may_be_refused_takes_no_other_with_it_and_keeps_its_place() {
        let spool = Spool::new(1_000);
        let (mut items, mut answers) = (Vec::new(), Vec::new());
        for (sequence, expected) in [(1, None), (2, Some(7)), (3, None), (4, None), (5, Some(9)), (6, Some(10))] {
            let (done, answer) = oneshot::channel();
            answers.push(answer);
            let (job, records) = (JobId::MIN, vec![record(OutputKind::Log, sequence)]);
            let lease = spool.lease(1).await.unwrap();
            items.push(Item::Call(Call { job, records, expected, bytes: 1, at: Clock::instant(), done, lease }));
        }
        let (shares, kept): (Vec<_>, Vec<_>) =
            group(items).parts.into_iter().map(|part| part.into_share(JobId::MIN)).unzip();
        let seen: Vec<(Option<u64>, Vec<u64>)> = shares
            .iter()
            .map(|share| (share.expected, share.records.iter().map(|record| record.sequence).collect()))
            .collect();
        let alone = |expected, sequence| (Some(expected), vec![sequence]);
        assert_eq!(seen, [(None, vec![1]), alone(7, 2), (None, vec![3, 4]), alone(9, 5), alone(10, 6)]);
        let refusal = Refusal::new(crate::model::RefusalCode::IllegalState, "another");
        let said = [Ok(6), Err(refusal.clone()), Ok(7), Ok(9), Err(refusal)];
        kept.into_iter().zip(said).for_each(|(kept, first)| kept.answer(&[first]));
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap().ok());
        }
        assert_eq!(told, [Some(6), None, Some(7), Some(8), Some(9), None]);
    }
}
