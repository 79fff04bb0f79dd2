//! AppendLogs, the same from every door.
//!
//! Owns: the order of its steps. Must not know: which door.

use super::{Api, convert};
use crate::model::Refusal;
use crate::proto::fetchbox::v1 as pb;

/// Everything before the first await is done at the first poll: pipelined appends of one connection keep their order.
pub(super) async fn append_logs(api: &Api, append: pb::AppendLogsRequest) -> Result<pb::AppendLogsResponse, Refusal> {
    let job = api.job_id("job_id", &append.job_id)?;
    let records = convert::new_records(append.records)?;
    let count = convert::count(records.len());
    let first_offset = api.ingest.append_records(job, records).await?;
    Ok(pb::AppendLogsResponse { first_offset, count })
}
