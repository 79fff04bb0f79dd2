//! A queue so simple that it is plainly right: what the planner and the loop are tested against.
//!
//! Must not know: the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lane::Row;
use super::window::{DuePage, Fetched, Reads};
use crate::model::{JobId, JobType, Priority, TaskIndex, TaskRef, TaskSpec, Tenant};
use crate::store::{DueCursor, End, Plan, QueueKey, ReadyEntry, ReadyPage};

pub(super) const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    Due(i64),
    Leased,
    Done,
}

#[derive(Default)]
pub(super) struct Queue {
    pub jobs: Vec<Arc<Plan>>,
    /// Row of each job in the ready index, until spent.
    pub rows: BTreeMap<(Priority, u64), usize>,
    pub states: BTreeMap<TaskRef, State>,
}

impl Queue {
    pub fn submit(&mut self, priority: Priority, hosts: &[u8], job_type: &str, now: i64) {
        let seq = self.jobs.len() as u64 + 1;
        let job = JobId::first_at_ms(i64::try_from(seq).unwrap());
        let tasks: Vec<TaskSpec> = hosts
            .iter()
            .enumerate()
            .map(|(i, host)| TaskSpec {
                resource_id: format!("r{i}"),
                url: format!("http://{}/{i}", HOSTS[usize::from(*host) % HOSTS.len()]),
                ..TaskSpec::default()
            })
            .collect();
        for index in indexes(tasks.len()).chain([TaskIndex::MANIFEST]) {
            self.states.insert(TaskRef { job, index }, State::Ready);
        }
        self.rows.insert((priority, seq), self.jobs.len());
        self.jobs.push(Arc::new(Plan {
            job,
            job_type: JobType::parse(job_type).unwrap(),
            tenant: Tenant::default(),
            priority,
            trace_id: String::new(),
            created_at_ms: now,
            manifest_bucket: "b".to_owned(),
            manifest_key: "k".to_owned(),
            manifest_stored: false,
            tasks,
            bytes: 100,
        }));
    }

    pub fn plan(&self, job: JobId) -> Arc<Plan> {
        self.jobs.iter().find(|plan| plan.job == job).unwrap().clone()
    }

    fn ready_of(&self, plan: &Plan) -> Vec<TaskIndex> {
        let indexes = [TaskIndex::MANIFEST].into_iter().chain(indexes(plan.tasks.len()));
        indexes.filter(|index| self.states[&TaskRef { job: plan.job, index: *index }] == State::Ready).collect()
    }

    fn row(&self, key: QueueKey) -> Option<Row> {
        match key {
            QueueKey::Ready { priority, seq } => {
                let plan = self.jobs[*self.rows.get(&(priority, seq))?].clone();
                Some(Row { key, tasks: self.ready_of(&plan), plan })
            }
            QueueKey::Due { at_ms, task } => (self.states[&task] == State::Due(at_ms)).then(|| Row {
                key,
                plan: self.plan(task.job),
                tasks: vec![task.index],
            }),
        }
    }

    pub fn fetch(&self, reads: &Reads) -> Fetched {
        let mut fetched = Fetched::default();
        for read in &reads.ready {
            let mut entries = Vec::new();
            let (mut next_seq, mut count, mut end) = (read.after, 0, true);
            let from = std::ops::Bound::Excluded((read.priority, read.after));
            for (&(priority, seq), &at) in self.rows.range((from, std::ops::Bound::Unbounded)) {
                if priority != read.priority {
                    break;
                }
                if count >= read.tasks {
                    end = false;
                    break;
                }
                let plan = self.jobs[at].clone();
                let tasks = self.ready_of(&plan);
                count += tasks.len().max(1);
                entries.push(ReadyEntry { key: QueueKey::Ready { priority, seq }, plan, tasks });
                next_seq = seq;
            }
            fetched.ready.push((read.priority, ReadyPage { entries, next_seq, end }));
        }
        for (priority, key) in &reads.again {
            fetched.again.push((*priority, *key, self.row(*key)));
        }
        if let Some(read) = reads.due {
            let due: BTreeSet<(i64, TaskRef)> = self
                .states
                .iter()
                .filter_map(|(task, state)| if let State::Due(at) = state { Some((*at, *task)) } else { None })
                .filter(|(at, task)| DueCursor { at_ms: *at, task: Some(*task) } > read.from)
                .collect();
            let page: Vec<_> = due.iter().filter(|(at, _)| *at <= read.until_ms).take(read.rows).copied().collect();
            let is_end = page.len() < read.rows;
            let rows = page.iter().filter_map(|&(at_ms, task)| self.row(QueueKey::Due { at_ms, task })).collect();
            let next = page.last().map_or(read.from, |(at, task)| DueCursor { at_ms: *at, task: Some(*task) });
            let rest = due.iter().find(|(at, _)| *at > read.until_ms).map(|(at, _)| *at);
            fetched.due = Some(DuePage { rows, next, end: is_end.then_some(rest) });
        }
        fetched
    }

    pub fn lease(&mut self, picks: &[(TaskRef, QueueKey)], spent: &[QueueKey]) -> Vec<bool> {
        let had = picks.iter().map(|(task, from)| {
            let fits = match from {
                QueueKey::Ready { .. } => self.states[task] == State::Ready,
                QueueKey::Due { at_ms, .. } => self.states[task] == State::Due(*at_ms),
            };
            if fits {
                self.states.insert(*task, State::Leased);
            }
            fits
        });
        let had: Vec<bool> = had.collect();
        for key in spent {
            let row = self.row(*key);
            assert!(
                row.is_none_or(|row| row.tasks.is_empty()),
                "{key:?} is spent but holds ready tasks: they are lost"
            );
            if let QueueKey::Ready { priority, seq } = key {
                self.rows.remove(&(*priority, *seq));
            }
        }
        had
    }

    pub fn settle(&mut self, task: TaskRef, end: &End) {
        let state = match end {
            End::Retry { not_before_ms, .. } | End::Released { not_before_ms, .. } => State::Due(*not_before_ms),
            End::Stored { .. } | End::ManifestStored | End::Dead(_) => State::Done,
        };
        self.states.insert(task, state);
    }

    /// Every lease is void, as after a crash.
    pub fn void(&mut self, now: i64) {
        for state in self.states.values_mut().filter(|state| **state == State::Leased) {
            *state = State::Due(now);
        }
    }

    pub fn is_done(&self) -> bool {
        self.states.values().all(|state| *state == State::Done)
    }
}

fn indexes(tasks: usize) -> impl Iterator<Item = TaskIndex> {
    (0..u16::try_from(tasks).unwrap()).map(TaskIndex)
}
