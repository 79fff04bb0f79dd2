//! What the window holds: tasks that may start, grouped in lanes that are open or shut as a whole.
//!
//! Pure. Must not know: how tasks are read or leased.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::hosts::HostTable;
use crate::model::{Controls, JobId, JobType, Priority, TaskIndex, TaskRef, TaskSpec};
use crate::store::{Plan, QueueKey, TenantKey};
use crate::worker::{host_part, host_port};

/// A host, or none for tasks that talk to the object store only.
pub(super) type Site = Option<Arc<str>>;

/// Tasks that the same switches and limits hold back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane {
    /// Normalised `host:port`.
    pub host: Site,
    pub tenant: TenantKey,
    pub job_type: JobType,
    /// The job, when it limits its own attempts, and how many may run.
    pub own: Option<(JobId, u32)>,
}

/// Order of start within a class: jobs as accepted, and in a job its manifest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(JobId, u16);

impl Order {
    pub fn of(task: TaskRef) -> Self {
        // MANIFEST is the greatest index: it wraps to the front.
        Self(task.job, task.index.0.wrapping_add(1))
    }
}

/// What an attempt needs of its job.
#[derive(Debug)]
pub(super) struct JobPart {
    pub job_type: JobType,
    pub tenant: TenantKey,
    /// Attempts of its resources that may run at once; 0: no limit of its own.
    pub parallel_max: u32,
    pub priority: Priority,
    pub trace_id: String,
    pub manifest_bucket: String,
    pub manifest_key: String,
}

/// A task that may start.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub task: TaskRef,
    /// Where the queue has it.
    pub from: QueueKey,
    pub lane: Arc<Lane>,
    pub job: Arc<JobPart>,
    /// None for the manifest's own task.
    pub spec: Option<Arc<TaskSpec>>,
    /// Since when it could start.
    pub since_ms: i64,
    pub bytes: usize,
}

/// One row of the queue as read: tasks of one job.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub key: QueueKey,
    pub plan: Arc<Plan>,
    pub tasks: Vec<TaskIndex>,
}

impl Row {
    pub fn job_part(&self) -> Arc<JobPart> {
        Arc::new(JobPart {
            job_type: self.plan.job_type.clone(),
            tenant: TenantKey::of(&self.plan.tenant),
            parallel_max: self.plan.parallel_max,
            priority: self.plan.priority,
            trace_id: self.plan.trace_id.clone(),
            manifest_bucket: self.plan.manifest_bucket.clone(),
            manifest_key: self.plan.manifest_key.clone(),
        })
    }

    /// What decides the lane of a task, next to its job. None: the plan has no such task.
    pub fn seat(&self, index: TaskIndex) -> Option<Seat<'_>> {
        if index == TaskIndex::MANIFEST {
            return Some(Seat::Store);
        }
        self.spec(index).map(|spec| Seat::Host(host_part(&spec.url)))
    }

    pub fn lane(&self, seat: Seat<'_>, job: &JobPart) -> Arc<Lane> {
        let (host, own) = match seat {
            // The manifest is no download.
            Seat::Store => (None, None),
            Seat::Host(url) => {
                let own = (job.parallel_max > 0).then_some((self.plan.job, job.parallel_max));
                (Some(Arc::from(host_of(url))), own)
            }
        };
        Arc::new(Lane { host, tenant: job.tenant, job_type: self.plan.job_type.clone(), own })
    }

    pub fn candidate(&self, index: TaskIndex, job: &Arc<JobPart>, lane: &Arc<Lane>) -> Candidate {
        let spec = if index == TaskIndex::MANIFEST { None } else { self.spec(index) };
        let since_ms = match self.key {
            QueueKey::Ready { .. } => self.plan.created_at_ms,
            QueueKey::Due { at_ms, .. } => at_ms,
        };
        Candidate {
            task: TaskRef { job: self.plan.job, index },
            from: self.key,
            lane: lane.clone(),
            job: job.clone(),
            spec: spec.map(|spec| Arc::new(spec.clone())),
            since_ms,
            bytes: CANDIDATE_BYTES + spec.map_or(0, spec_bytes),
        }
    }

    fn spec(&self, index: TaskIndex) -> Option<&TaskSpec> {
        self.plan.tasks.get(usize::from(index.0))
    }
}

/// What tasks of one job have in common that share a lane: whom they talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seat<'a> {
    /// The object store only.
    Store,
    /// The beginning of the URL.
    Host(&'a str),
}

/// What a candidate without headers and tags occupies, with its places in the indexes.
const CANDIDATE_BYTES: usize = 600;

fn spec_bytes(spec: &TaskSpec) -> usize {
    let headers: usize = spec.headers.iter().map(|h| h.name.len() + h.value.len() + 48).sum();
    let pairs = |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| k.len() + v.len() + 64).sum::<usize>();
    spec.url.len() + spec.resource_id.len() + headers + pairs(&spec.tags) + pairs(&spec.object_metadata)
}

/// What limits, pauses and switches are kept by: the worker's own name for the host, so that both count the same places. A URL
/// that cannot be fetched has host `-`; the worker will say what is wrong with it.
pub(super) fn host_of(url: &str) -> String {
    host_port(url).unwrap_or_else(|| "-".to_owned())
}

/// What is open now.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub controls: &'a Controls,
    pub hosts: &'a HostTable,
    /// Steady: of hosts, pauses, looks.
    pub now_ms: i64,
    /// Of what is stored.
    pub wall_ms: i64,
}

impl Gates<'_> {
    /// Nothing of the lane can start until a switch is turned or a pause is over.
    pub fn is_shut(&self, lane: &Lane) -> bool {
        self.controls.paused_job_types.contains(&lane.job_type)
            || lane
                .host
                .as_deref()
                .is_some_and(|host| self.is_switched_off(host) || self.hosts.is_shut(host, self.now_ms))
    }

    /// Nothing but its host holds the lane back.
    pub fn is_on(&self, lane: &Lane) -> bool {
        !self.controls.paused_job_types.contains(&lane.job_type)
    }

    /// A new attempt may start at the host now.
    pub fn is_host_open(&self, host: &str) -> bool {
        !self.is_switched_off(host) && self.hosts.is_open(host, self.now_ms)
    }

    /// Operators may name a host with its port, or without for all its ports.
    fn is_switched_off(&self, host: &str) -> bool {
        let paused = &self.controls.paused_hosts;
        !paused.is_empty()
            && (paused.contains(host) || host.rsplit_once(':').is_some_and(|(name, _)| paused.contains(name)))
    }
}

/// Rows known but not held in memory, because their lanes were shut or had enough: found again by lane.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Each row with how many of its tasks the lane waits for, as far as is known.
    lanes: BTreeMap<Arc<Lane>, BTreeMap<(JobId, QueueKey), usize>>,
    rows: BTreeMap<QueueKey, (JobId, BTreeSet<Arc<Lane>>)>,
    tenants: HashMap<TenantKey, usize>,
    entries: usize,
}

impl Aside {
    pub fn add(&mut self, job: JobId, key: QueueKey, lane: &Arc<Lane>, tasks: usize) {
        let (_, lanes) = self.rows.entry(key).or_insert_with(|| (job, BTreeSet::new()));
        if lanes.insert(lane.clone()) {
            self.entries += 1;
            *self.tenants.entry(lane.tenant).or_default() += 1;
        }
        *self.lanes.entry(lane.clone()).or_default().entry((job, key)).or_default() += tasks;
    }

    pub fn remove(&mut self, key: QueueKey) {
        let Some((job, lanes)) = self.rows.remove(&key) else { return };
        for lane in lanes {
            self.entries -= 1;
            if let Some(entries) = self.tenants.get_mut(&lane.tenant) {
                *entries -= 1;
                if *entries == 0 {
                    self.tenants.remove(&lane.tenant);
                }
            }
            if let Some(keys) = self.lanes.get_mut(&lane) {
                keys.remove(&(job, key));
                if keys.is_empty() {
                    self.lanes.remove(&lane);
                }
            }
        }
    }

    pub fn contains(&self, key: QueueKey, lane: &Arc<Lane>) -> bool {
        self.rows.get(&key).is_some_and(|(_, lanes)| lanes.contains(lane))
    }

    pub fn has(&self, lane: &Arc<Lane>) -> bool {
        self.lanes.contains_key(lane)
    }

    pub fn entries(&self) -> usize {
        self.entries
    }

    pub fn entries_of(&self, tenant: TenantKey) -> usize {
        self.tenants.get(&tenant).copied().unwrap_or(0)
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// How many tenants have any.
    pub fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Up to `max` rows, oldest jobs first: of each lane as many as have the tasks that it has `room` for.
    pub fn oldest(&self, max: usize, room: impl Fn(&Lane) -> usize) -> Vec<QueueKey> {
        let mut keys: BTreeSet<(JobId, QueueKey)> = BTreeSet::new();
        for (lane, rows) in &self.lanes {
            let mut room = room(lane);
            for (row, tasks) in rows.iter().take(max) {
                let is_late = keys.len() >= max && keys.last().is_some_and(|last| row > last);
                if room == 0 || is_late {
                    break;
                }
                room = room.saturating_sub(*tasks);
                keys.insert(*row);
                if keys.len() > max {
                    keys.pop_last();
                }
            }
        }
        keys.into_iter().map(|(_, key)| key).collect()
    }
}

/// Lanes of rows passed over that are told apart.
const SKIPPED_LANES_MAX: usize = 64;

/// Rows passed over without being remembered one by one, because too many are put aside: from where on they are read again.
#[derive(Debug)]
pub(super) struct Skipped<P> {
    pub first: P,
    pub since_ms: i64,
    pub lanes: BTreeSet<Arc<Lane>>,
    /// There are more lanes than these.
    pub is_cut: bool,
}

impl<P: Ord + Copy> Skipped<P> {
    pub fn new(first: P, since_ms: i64) -> Self {
        Self { first, since_ms, lanes: BTreeSet::new(), is_cut: false }
    }

    pub fn add(&mut self, at: P, lane: &Arc<Lane>) {
        self.first = self.first.min(at);
        if self.lanes.len() < SKIPPED_LANES_MAX {
            self.lanes.insert(lane.clone());
        } else if !self.lanes.contains(lane) {
            self.is_cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::super::limits::Rules;
    use super::*;

    fn lane_at(host: &str) -> Lane {
        Lane { host: Some(host.into()), tenant: TenantKey(0), job_type: JobType::default(), own: None }
    }

    #[test]
    fn a_host_can_be_paused_with_or_without_its_port() {
        let hosts = HostTable::new(Rules::new(&Options::default()));
        let lane = |host: &str| lane_at(host);
        let mut controls = Controls::default();
        controls.paused_hosts.insert("a".to_owned());
        controls.paused_hosts.insert("b:80".to_owned());
        let gates = Gates { controls: &controls, hosts: &hosts, now_ms: 0, wall_ms: 0 };
        assert!(gates.is_shut(&lane("a:80")) && gates.is_shut(&lane("a:443")));
        assert!(gates.is_shut(&lane("b:80")) && !gates.is_shut(&lane("b:443")));
        assert!(!gates.is_host_open("b:80") && gates.is_host_open("b:443"));
    }

    #[test]
    fn rows_put_aside_come_back_oldest_first_and_once() {
        let lane = |host: &str| Arc::new(lane_at(host));
        let key =
            |n: i64| QueueKey::Due { at_ms: n, task: TaskRef { job: JobId::first_at_ms(n), index: TaskIndex(0) } };
        let mut aside = Aside::default();
        for n in (0..10).rev() {
            aside.add(JobId::first_at_ms(n), key(n), &lane(if n % 2 == 0 { "a" } else { "b" }), 10);
            aside.add(JobId::first_at_ms(n), key(n), &lane("c"), 10);
        }
        let of_b = |room| move |lane: &Lane| if lane.host.as_deref() == Some("b") { room } else { 0 };
        assert_eq!(aside.oldest(3, |_| usize::MAX), [key(0), key(1), key(2)]);
        assert_eq!(aside.oldest(2, of_b(usize::MAX)), [key(1), key(3)]);
        assert_eq!(aside.oldest(9, of_b(11)), [key(1), key(3)], "no more than there is room for");
        assert_eq!(aside.oldest(9, of_b(1)), [key(1)]);
        for n in 0..10 {
            aside.remove(key(n));
        }
        assert_eq!((aside.entries(), aside.lanes.len() + aside.tenants.len(), aside.rows.len()), (0, 0, 0));
    }
}
