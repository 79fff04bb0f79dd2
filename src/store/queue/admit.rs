//! Admit: job, manifest, idempotency key and queue entry in one batch. Three rows for a small job.

use std::time::Duration;

use prost::Message;

use crate::model::{JobId, JobState, Priority, Refusal, RefusalCode};
use crate::store::keys::{self, Family};
use crate::store::records::{IdempotencyRow, JobRow, ReadyRow, SpecRow, priority_number};
use crate::store::tx::Tx;
use crate::store::{Admitted, Idempotency, NewJob, TenantKey};

/// A spec of at most this many bytes rides in the job's row: one row less for the many small jobs, and still cheap to
/// rewrite with each change of the job.
const INLINE_SPEC_BYTES_MAX: usize = 1_024;

/// A job encoded outside the commit, ready to be put.
pub struct Admission {
    id: JobId,
    job: JobRow,
    spec: Option<Vec<u8>>,
    idempotency: Option<Idempotency>,
    tenant: TenantKey,
    priority: Priority,
    open_tasks_max: u64,
}

impl Admission {
    pub fn new(job: NewJob) -> Self {
        let spec = SpecRow::new(&job.manifest, &job.tasks).encode_to_vec();
        let inline = spec.len() <= INLINE_SPEC_BYTES_MAX;
        let mut row = JobRow {
            job_type: job.job_type.to_string(),
            tenant: job.tenant.to_string(),
            priority: priority_number(job.priority),
            total: u32::try_from(job.tasks.len()).unwrap_or(u32::MAX),
            manifest_bucket: job.manifest_bucket,
            manifest_key: job.manifest_key,
            created_at_ms: job.now_ms,
            updated_at_ms: job.now_ms,
            revision: 1,
            trace_id: job.trace_id,
            external: job.external,
            parallel_max: job.parallel_max,
            idempotency: job.idempotency.map(|i| i.key.to_vec()).unwrap_or_default(),
            ..JobRow::default()
        };
        row.set_state(JobState::Queued);
        let spec = if inline {
            row.inline_spec = spec;
            None
        } else {
            Some(spec)
        };
        Self {
            id: job.id,
            job: row,
            spec,
            idempotency: job.idempotency,
            tenant: TenantKey::of(&job.tenant),
            priority: job.priority,
            open_tasks_max: job.open_tasks_max,
        }
    }

    /// About what the verb writes.
    pub fn bytes(&self) -> usize {
        512 + self.job.inline_spec.len() + self.spec.as_ref().map_or(0, Vec::len)
    }
}

pub fn admit(tx: &mut Tx<'_>, admission: Admission) -> Result<Admitted, Refusal> {
    let Admission { id, mut job, spec, idempotency, tenant, priority, open_tasks_max } = admission;
    if let Some(idempotency) = &idempotency
        && let Some(known) = tx.row::<IdempotencyRow>(Family::Idempotency, &keys::idempotency(&idempotency.key))?
        && let Some(admitted) = duplicate(tx, idempotency, &known)?
    {
        return Ok(admitted);
    }
    let tasks = u64::from(job.open_tasks());
    if tx.tally.tasks_open + tasks > open_tasks_max {
        let refusal = Refusal::new(
            RefusalCode::RateLimited,
            format!("{} tasks are open and {open_tasks_max} may be", tx.tally.tasks_open),
        );
        return Err(refusal.with_retry_after(Duration::from_secs(5)));
    }
    let admitted =
        Admitted { job: id, manifest_key: job.manifest_key.clone(), resource_count: job.total, duplicate: false };
    if let Some(idempotency) = idempotency {
        let row = IdempotencyRow { job: id.as_bytes().to_vec(), body: idempotency.body.to_vec() };
        tx.put_row(keys::idempotency(&idempotency.key), &row);
    }
    if let Some(spec) = spec {
        tx.put(keys::spec(id), spec);
    }
    if !job.external {
        let class = keys::class_index(priority);
        if let Some(next) = tx.tally.next_ready.get_mut(class) {
            job.ready_seq = *next;
            *next += 1;
        }
        tx.put_row(keys::ready(priority, tenant, job.ready_seq), &ReadyRow { job: id.as_bytes().to_vec() });
        tx.readied.push((class, tenant, job.ready_seq));
        tx.queue_moved = true;
    }
    tx.tally.tasks_open += tasks;
    tx.tally.count_state(None, Some(JobState::Queued));
    tx.put_job_row(id, &job);
    tx.touched.insert(id);
    tx.created.push(id);
    Ok(admitted)
}

/// The key is known: the same body is the same job, another body is refused. None when the job is not kept any more.
fn duplicate(tx: &Tx<'_>, asked: &Idempotency, known: &IdempotencyRow) -> Result<Option<Admitted>, Refusal> {
    let id = known.job.as_slice().try_into().map(JobId::from_bytes);
    let id = id.map_err(|_| crate::store::records::damaged("idempotency"))?;
    let Some(job) = tx.job(id)? else { return Ok(None) };
    if known.body != asked.body {
        let message = format!("the idempotency key was used for job {id} with another manifest");
        return Err(Refusal::new(RefusalCode::AlreadyExists, message).with_job(id));
    }
    Ok(Some(Admitted { job: id, manifest_key: job.manifest_key, resource_count: job.total, duplicate: true }))
}
