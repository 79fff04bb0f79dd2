//! Queue rows, and what each keyspace's mark carries.

use prost::Message;

use super::super::tally::Tally;
use super::damaged;
use super::job::{state_from, state_number};
use crate::model::{Controls, FailureCode, JobId, JobState, JobType, Refusal, TaskIndex, TaskRef};

#[derive(Clone, PartialEq, Message)]
pub struct IdempotencyRow {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReadyRow {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
}

impl ReadyRow {
    pub fn job(&self) -> Result<JobId, Refusal> {
        job_id(&self.job)
    }
}

pub fn job_id(bytes: &[u8]) -> Result<JobId, Refusal> {
    bytes.try_into().map(JobId::from_bytes).map_err(|_| damaged("job id"))
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaseRow {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub index: u32,
}

impl LeaseRow {
    pub fn new(task: TaskRef) -> Self {
        Self { job: task.job.as_bytes().to_vec(), index: u32::from(task.index.0) }
    }

    pub fn task(&self) -> Result<TaskRef, Refusal> {
        let index = u16::try_from(self.index).map_err(|_| damaged("lease's task"))?;
        Ok(TaskRef { job: job_id(&self.job)?, index: TaskIndex(index) })
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ControlsRow {
    #[prost(bool, tag = "1")]
    pub paused: bool,
    #[prost(bool, tag = "2")]
    pub draining: bool,
    #[prost(string, repeated, tag = "3")]
    pub paused_job_types: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub paused_hosts: Vec<String>,
}

impl ControlsRow {
    pub fn new(controls: &Controls) -> Self {
        Self {
            paused: controls.paused,
            draining: controls.draining,
            paused_job_types: controls.paused_job_types.iter().map(ToString::to_string).collect(),
            paused_hosts: controls.paused_hosts.iter().cloned().collect(),
        }
    }

    pub fn into_controls(self) -> Result<Controls, Refusal> {
        let types = self.paused_job_types.iter().map(|t| JobType::parse(t).map_err(|_| damaged("paused job type")));
        Ok(Controls {
            paused: self.paused,
            draining: self.draining,
            paused_job_types: types.collect::<Result<_, _>>()?,
            paused_hosts: self.paused_hosts.into_iter().collect(),
        })
    }
}

/// The mark of one keyspace.
#[derive(Clone, PartialEq, Message)]
pub struct MarkRow {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub chain: Vec<u8>,
    /// In `ledger` only.
    #[prost(message, optional, tag = "3")]
    pub counters: Option<CountersRow>,
    /// In `queue` only.
    #[prost(message, optional, tag = "4")]
    pub queue: Option<QueueRow>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CountersRow {
    #[prost(message, repeated, tag = "1")]
    pub jobs: Vec<CodeCount>,
    #[prost(uint64, tag = "2")]
    pub tasks_open: u64,
    #[prost(uint64, tag = "3")]
    pub tasks_leased: u64,
    #[prost(message, repeated, tag = "4")]
    pub dead_letters: Vec<CodeCount>,
    #[prost(uint64, tag = "5")]
    pub dead_letter_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CodeCount {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(uint32, tag = "2")]
    pub number: u32,
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

impl CountersRow {
    pub fn new(tally: &Tally) -> Self {
        let jobs = JobState::ALL.into_iter().zip(tally.jobs).filter(|(_, count)| *count > 0);
        let letters = FailureCode::ALL.iter().zip(tally.dead_letters).filter(|(_, count)| *count > 0);
        Self {
            jobs: jobs
                .map(|(state, count)| CodeCount { number: state_number(state), count, code: String::new() })
                .collect(),
            tasks_open: tally.tasks_open,
            tasks_leased: tally.tasks_leased,
            dead_letters: letters
                .map(|(code, count)| CodeCount { code: code.as_str().to_owned(), number: 0, count })
                .collect(),
            dead_letter_bytes: tally.dead_letter_bytes,
        }
    }

    /// Fills the totals of `tally`; its allocators stand in the queue's mark.
    pub fn fill(&self, tally: &mut Tally) -> Result<(), Refusal> {
        tally.tasks_open = self.tasks_open;
        tally.tasks_leased = self.tasks_leased;
        tally.dead_letter_bytes = self.dead_letter_bytes;
        for entry in &self.jobs {
            let state = state_from(entry.number).ok_or_else(|| damaged("job counters"))?;
            for (known, count) in JobState::ALL.into_iter().zip(&mut tally.jobs) {
                if known == state {
                    *count = entry.count;
                }
            }
        }
        for entry in &self.dead_letters {
            let code = FailureCode::parse(&entry.code).ok_or_else(|| damaged("dead letter counters"))?;
            if let Some(count) = tally.dead_letters.get_mut(code as usize) {
                *count = entry.count;
            }
        }
        Ok(())
    }
}

/// The queue's allocators and floors.
#[derive(Clone, PartialEq, Message)]
pub struct QueueRow {
    #[prost(uint64, tag = "1")]
    pub next_epoch: u64,
    /// By class, high first: the sequence the next ready entry gets.
    #[prost(uint64, repeated, tag = "2")]
    pub next_ready: Vec<u64>,
    /// By class: no ready entry has a lower sequence.
    #[prost(uint64, repeated, tag = "3")]
    pub ready_floor: Vec<u64>,
    /// No lease has a lower epoch.
    #[prost(uint64, tag = "4")]
    pub lease_floor: u64,
}
