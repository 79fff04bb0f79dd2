//! A queue so simple that it is plainly right: what the planner and the loop are tested against.
//!
//! Must not know: the planner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lane::Row;
use super::reads::{DuePage, Fetched, Reads};
use crate::model::{JobId, JobType, Priority, TaskIndex, TaskRef, TaskSpec, Tenant};
use crate::store::{DueCursor, End, Plan, QueueKey, ReadyEntry, ReadyNews, ReadyPage, ReadyTenants, TenantKey};

pub(super) const HOSTS: [&str; 4] = ["a", "b", "c", "d"];
pub(super) const TENANTS: [&str; 3] = ["t", "u", "v"];

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
    pub rows: BTreeMap<(Priority, TenantKey, u64), usize>,
    pub news: ReadyNews,
    pub states: BTreeMap<TaskRef, State>,
}

impl Queue {
    pub fn submit(&mut self, priority: Priority, hosts: &[u8], job_type: &str, now: i64) {
        self.submit_for(0, 0, priority, hosts, job_type, now);
    }

    /// `parallel_max` 0: the job has no limit of its own.
    pub fn submit_for(
        &mut self,
        tenant: usize,
        parallel_max: u32,
        priority: Priority,
        hosts: &[u8],
        job_type: &str,
        now: i64,
    ) {
        let tenant = Tenant::parse(TENANTS[tenant % TENANTS.len()]).unwrap();
        let key = TenantKey::of(&tenant);
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
        self.rows.insert((priority, key, seq), self.jobs.len());
        let first = self.news.first.entry((class(priority), key)).or_insert(seq);
        *first = seq.min(*first);
        self.jobs.push(Arc::new(Plan {
            job,
            job_type: JobType::parse(job_type).unwrap(),
            tenant,
            parallel_max,
            priority,
            trace_id: String::new(),
            created_at_ms: now,
            manifest_bucket: "b".to_owned(),
            manifest_key: "k".to_owned(),
            manifest_open: true,
            tasks,
            bytes: 100,
        }));
    }

    /// One job with a resource at each of these hosts.
    pub fn submit_urls(&mut self, hosts: &[String], now: i64) {
        self.submit(Priority::Normal, &vec![0; hosts.len()], "x", now);
        let plan = self.jobs.last_mut().map(Arc::make_mut).unwrap();
        for (task, host) in plan.tasks.iter_mut().zip(hosts) {
            task.url = format!("http://{host}/");
        }
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
            QueueKey::Ready { priority, tenant, seq } => {
                let plan = self.jobs[*self.rows.get(&(priority, tenant, seq))?].clone();
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
        for &(priority, from) in &reads.tenants {
            let mut tenants: BTreeMap<TenantKey, u64> = BTreeMap::new();
            for &(_, tenant, seq) in self.rows.keys().filter(|key| key.0 == priority && key.1 >= from) {
                tenants.entry(tenant).or_insert(seq);
            }
            // Two at a time, so that searching goes on.
            let next = tenants.keys().nth(2).copied();
            let tenants = tenants.into_iter().take(2).collect();
            fetched.tenants.push((priority, ReadyTenants { tenants, next, damaged: Vec::new() }));
        }
        for read in &reads.ready {
            let mut entries = Vec::new();
            let (mut next_seq, mut count, mut end) = (read.after, 0, true);
            let from = std::ops::Bound::Excluded((read.priority, read.tenant, read.after));
            for (&(priority, tenant, seq), &at) in self.rows.range((from, std::ops::Bound::Unbounded)) {
                if (priority, tenant) != (read.priority, read.tenant) {
                    break;
                }
                if count >= read.tasks {
                    end = false;
                    break;
                }
                let plan = self.jobs[at].clone();
                let tasks = self.ready_of(&plan);
                count += tasks.len().max(1);
                entries.push(ReadyEntry { key: QueueKey::Ready { priority, tenant, seq }, plan, tasks });
                next_seq = seq;
            }
            fetched.ready.push((*read, ReadyPage { entries, next_seq, end, ..ReadyPage::default() }));
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
            if let QueueKey::Ready { priority, tenant, seq } = key {
                self.rows.remove(&(*priority, *tenant, *seq));
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

fn class(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

fn indexes(tasks: usize) -> impl Iterator<Item = TaskIndex> {
    (0..u16::try_from(tasks).unwrap()).map(TaskIndex)
}
