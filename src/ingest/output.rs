//! The output of jobs on its way in: which job it belongs to, and one commit for what comes together.
//!
//! Owns: finding or making the job of a name, packing batches off the threads that others wait for. Must not know: wires.

use super::Ingest;
use crate::model::{JobId, JobName, JobType, NewOutput, OutputShare, Refusal, RefusalCode, Tenant};
use crate::store::{NamedJob, OutputBatch};

impl Ingest {
    /// The job that another program calls so; made, and running from now on, if there is none.
    pub async fn open_job(&self, name: &str) -> Result<JobId, Refusal> {
        self.while_open()?;
        if let Some(known) = self.inner.reader.find_job(name)? {
            return Ok(known);
        }
        let invalid =
            || Refusal::invalid("job_uuid", "must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with one of A-Z a-z 0-9");
        let name = JobName::parse(name).ok_or_else(invalid)?;
        let named = NamedJob {
            name,
            id: self.inner.intake.mint(),
            job_type: JobType::parse("joblet").unwrap_or_default(),
            tenant: Tenant::default(),
            now_ms: self.inner.intake.now_ms(),
        };
        let ids = self.inner.store.open_named(vec![named]).await?;
        ids.first().copied().ok_or_else(|| Refusal::new(RefusalCode::Internal, "the job was not made"))
    }

    /// Appends records to one job, in order; answered after the sync. Returns the ordinal of the first record of the first record's
    /// kind.
    pub async fn append_output(&self, job: JobId, records: Vec<NewOutput>) -> Result<u64, Refusal> {
        self.while_open()?;
        let now_ms = self.inner.intake.now_ms();
        let shares = vec![OutputShare { job, records }];
        let (tell, told) = tokio::sync::oneshot::channel();
        let store = self.inner.store.clone();
        let packed = tokio::task::spawn_blocking(move || {
            store.append_output(OutputBatch::new(&shares, now_ms), move |answer| drop(tell.send(answer)));
        });
        packed.await.map_err(|error| Refusal::new(RefusalCode::Internal, format!("packing output: {error}")))?;
        let stopped = |_| Refusal::new(RefusalCode::Unavailable, "the store stopped before it answered");
        let firsts = told.await.map_err(stopped)??;
        firsts.into_iter().next().unwrap_or(Ok(0))
    }
}
