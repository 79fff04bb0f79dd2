//! The verbs: a batch gets its ordinals and becomes a row; a job that another program names is found or made.
//!
//! Owns: the numbering of records. Must not know: who appends, compression.

use prost::Message as _;

use super::output::{BatchRow, Chunk, Committed, OutputBatch, Piece, PieceRow, batch_keys};
use crate::model::{JobId, JobName, JobState, JobType, Manifest, Priority, Refusal, RefusalCode, Tenant};
use crate::store::keys::{self, Family};
use crate::store::queue::{self, Admission};
use crate::store::records::NameRow;
use crate::store::tx::Tx;
use crate::store::{NewJob, records};

/// Gives every piece its ordinals and puts the batch. For each piece the first ordinal, NOT_FOUND where its job is gone, or ILLEGAL_STATE
/// where it expected another one: the others stand. `number` is above those of all batches committed before: a start reads them in this order.
pub fn append(tx: &mut Tx<'_>, number: u64, batch: OutputBatch) -> Result<Vec<Result<u64, Refusal>>, Refusal> {
    let OutputBatch { pieces, packed, now_ms } = batch;
    let packed = packed?;
    let mut firsts = Vec::with_capacity(pieces.len());
    let mut rows = Vec::with_capacity(pieces.len());
    let mut chunks = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut row = PieceRow {
            job: piece.job.as_bytes().to_vec(),
            kind: u32::from(piece.kind as u8),
            count: piece.count,
            body_bytes: piece.body.len() as u64,
            data_bytes: piece.data_bytes,
            first: 0,
            void: true,
        };
        let counts = tx.counts(piece.job)?;
        let first = counts.ok_or_else(|| tx.no_job(piece.job));
        firsts.push(first.and_then(|mut counts| {
            let first = counts.end(piece.kind);
            if piece.expected.is_some_and(|expected| expected != first) {
                return Err(not_expected(&piece, first).with_job(tx.shown(piece.job)));
            }
            counts.add(piece.kind, first + piece.count, piece.data_bytes, now_ms);
            // Output is not a change of the job: its row stays, and the batch says what came.
            tx.set_counts(piece.job, counts);
            tx.touched.insert(piece.job);
            (row.first, row.void) = (first, false);
            chunks.push((piece.job, piece.kind, Chunk { batch: number, first, count: piece.count, body: piece.body }));
            Ok(first)
        }));
        rows.push(row);
    }
    if !chunks.is_empty() {
        let rows_below = u16::try_from(packed.len()).ok().and_then(|parts| parts.checked_add(1));
        let count =
            rows_below.ok_or_else(|| Refusal::new(RefusalCode::PayloadTooLarge, "an append of more than 512 GiB"))?;
        let head = BatchRow { pieces: rows, parts: u32::from(count) - 1, now_ms };
        let values = std::iter::once(head.encode_to_vec()).chain(packed);
        for (key, value) in batch_keys(number, count).zip(values) {
            tx.put(key, value);
        }
        tx.output.push(Committed { batch: number, rows: count, chunks });
    }
    Ok(firsts)
}

fn not_expected(piece: &Piece, first: u64) -> Refusal {
    let expected = piece.expected.unwrap_or_default();
    let message = format!("the next {} record is number {first}, not {expected}", piece.kind.name());
    Refusal::new(RefusalCode::IllegalState, message)
}

/// A job to be made if nobody has this name yet.
#[derive(Debug, Clone)]
pub struct NamedJob {
    pub name: JobName,
    pub id: JobId,
    pub job_type: JobType,
    pub tenant: Tenant,
    pub now_ms: i64,
}

/// The jobs of these names, in order; those that were not there run from now on.
pub fn open_named(tx: &mut Tx<'_>, jobs: Vec<NamedJob>) -> Result<Vec<JobId>, Refusal> {
    jobs.into_iter().map(|job| open_one(tx, job)).collect()
}

fn open_one(tx: &mut Tx<'_>, named: NamedJob) -> Result<JobId, Refusal> {
    let key = keys::name(&named.name);
    if let Some(known) = tx.row::<NameRow>(Family::Name, &key)? {
        let id = known.job()?;
        if known.name == named.name.as_str() && tx.staying_job(id)?.is_some() {
            return Ok(id);
        }
    }
    let NamedJob { name, id, job_type, tenant, now_ms } = named;
    let job = NewJob {
        id,
        job_type,
        tenant,
        priority: Priority::Normal,
        trace_id: String::new(),
        external: true,
        idempotency: None,
        manifest: Manifest { metadata_json: "{}".to_owned(), ..Manifest::default() },
        tasks: Vec::new(),
        manifest_bucket: String::new(),
        manifest_key: String::new(),
        now_ms,
        open_tasks_max: u64::MAX,
        parallel_max: 0,
    };
    queue::admit(tx, Admission::new(job))?;
    let mut row = tx.job(id)?.ok_or_else(|| records::damaged("a job just made"))?;
    tx.tally.count_state(Some(JobState::Queued), Some(JobState::InProgress));
    row.set_state(JobState::InProgress);
    row.name = name.as_str().to_owned();
    tx.put_job_row(id, &row);
    tx.put_row(key, &NameRow { job: id.as_bytes().to_vec(), name: row.name });
    Ok(id)
}
