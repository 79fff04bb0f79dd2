//! Lines and status changes that clients send about a job.
//!
//! Owns: their limits and which change is legal. Pure. Must not know: how they become durable.

use super::found::{Found, Path};
use super::raw::NewRecord;
use super::{LOG_BYTES_MAX, StatusUpdate};
use crate::handler::rules;
use crate::model::{Job, NewLog, Refusal, RefusalCode};

/// Records of one append.
pub const RECORDS_MAX: usize = 1_000;
/// Bytes of one append in all: what one frame of the native socket may carry.
pub const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;
pub const FIELDS_MAX: usize = 32;
pub const FIELD_NAME_BYTES_MAX: usize = 128;
pub const FIELD_VALUE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a resource or trace id that a line names.
const LABEL_BYTES_MAX: usize = 128;
const PHASE_BYTES_MAX: usize = 256;
const FAILURE_BYTES_MAX: usize = 4 * 1024;

/// Checks an append and stamps the records that carry no time.
///
/// # Errors
/// INVALID_PAYLOAD with every violation, PAYLOAD_TOO_LARGE.
pub fn check_records(records: &mut [NewLog], now_ms: i64) -> Result<(), Refusal> {
    let mut found = Found::default();
    let at = Path::Root.key("records");
    if records.is_empty() || records.len() > RECORDS_MAX {
        found.add(&at, format!("must be 1 to {RECORDS_MAX}, is {}", records.len()));
        return Err(found.into_refusal());
    }
    let mut bytes = 0;
    for (index, record) in records.iter_mut().enumerate() {
        check_record(record, &at.index(index), &mut found);
        bytes +=
            record.message.len() + record.fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if record.timestamp_ms <= 0 {
            record.timestamp_ms = now_ms;
        }
    }
    if !found.is_empty() {
        return Err(found.into_refusal());
    }
    if bytes > APPEND_BYTES_MAX {
        return Err(too_large(bytes));
    }
    Ok(())
}

/// The same for an append with pieces of output: the limit of a message is not one of a chunk.
///
/// # Errors
/// INVALID_PAYLOAD with every violation, PAYLOAD_TOO_LARGE.
pub fn check_output(records: Vec<NewRecord>, now_ms: i64) -> Result<Vec<NewRecord>, Refusal> {
    let mut chunks = Vec::with_capacity(records.len());
    let mut bytes = 0;
    let mut labels: Vec<NewLog> = Vec::with_capacity(records.len());
    for record in records {
        let (label, chunk) = match record {
            NewRecord::Line(line) => (line, None),
            NewRecord::Chunk { stream, label, chunk } => {
                bytes += chunk.len();
                (label, Some((stream, chunk)))
            }
        };
        labels.push(label);
        chunks.push(chunk);
    }
    if bytes > APPEND_BYTES_MAX {
        return Err(too_large(bytes));
    }
    check_records(&mut labels, now_ms)?;
    let back = |(label, chunk)| match chunk {
        None => NewRecord::Line(label),
        Some((stream, chunk)) => NewRecord::Chunk { stream, label, chunk },
    };
    Ok(labels.into_iter().zip(chunks).map(back).collect())
}

fn too_large(bytes: usize) -> Refusal {
    let message = format!("the records have {bytes} bytes, more than {APPEND_BYTES_MAX}; send them in parts");
    Refusal::new(RefusalCode::PayloadTooLarge, message)
}

fn check_record(record: &NewLog, at: &Path<'_>, found: &mut Found) {
    if record.message.len() > LOG_BYTES_MAX {
        found.add(&at.key("message"), format!("is longer than {LOG_BYTES_MAX} bytes"));
    }
    for (name, text) in [("resource_id", &record.resource_id), ("trace_id", &record.trace_id)] {
        if text.len() > LABEL_BYTES_MAX || rules::has_control(text) {
            found.add(&at.key(name), format!("is longer than {LABEL_BYTES_MAX} bytes or has control characters"));
        }
    }
    let fields = at.key("fields");
    if record.fields.len() > FIELDS_MAX {
        found.add(&fields, format!("has more than {FIELDS_MAX} entries"));
    }
    for (name, value) in record.fields.iter().take(FIELDS_MAX) {
        if name.is_empty() || name.len() > FIELD_NAME_BYTES_MAX {
            found.add(&fields.key(name), format!("must have a name of 1 to {FIELD_NAME_BYTES_MAX} bytes"));
        } else if value.len() > FIELD_VALUE_BYTES_MAX {
            found.add(&fields.key(name), format!("is longer than {FIELD_VALUE_BYTES_MAX} bytes"));
        }
    }
}

/// Checks a change by itself, before anybody looks at the job.
///
/// # Errors
/// INVALID_PAYLOAD with every violation.
pub fn check_update(update: &StatusUpdate) -> Result<(), Refusal> {
    let mut found = Found::default();
    let status = Path::Root.key("status");
    if update.state.is_none() && update.phase.is_none() && update.failure.is_none() {
        found.add(&status, "changes nothing: give a state, a phase or an error");
    }
    if update.phase.as_ref().is_some_and(|phase| phase.len() > PHASE_BYTES_MAX || rules::has_control(phase)) {
        found.add(&status.key("phase"), format!("is longer than {PHASE_BYTES_MAX} bytes or has control characters"));
    }
    if let Some(failure) = &update.failure {
        let context = failure.context.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if failure.message.len() + context > FAILURE_BYTES_MAX {
            found.add(&status.key("last_error_message"), format!("is longer than {FAILURE_BYTES_MAX} bytes"));
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found.into_refusal()) }
}

/// Whether the job as it stands may be changed so. The store asks again at the moment of the change.
///
/// A state that a job with resources already has is no change and is left out: a client may send back what it read.
///
/// # Errors
/// STALE_REVISION, ILLEGAL_STATE.
pub fn legal(mut update: StatusUpdate, job: &Job) -> Result<StatusUpdate, Refusal> {
    if let Some(expected) = update.expected_revision.filter(|expected| *expected != job.revision) {
        let message = format!("the job is at revision {}, not {expected}", job.revision);
        return Err(Refusal::new(RefusalCode::Stale, message).with_job(job.public_id()));
    }
    let illegal = |message: String| Err(Refusal::new(RefusalCode::IllegalState, message).with_job(job.public_id()));
    match update.state {
        Some(state) if job.external && !job.state.may_become(state) => {
            illegal(format!("a job that is {} cannot become {}", job.state.name(), state.name()))
        }
        Some(state) if !job.external && state != job.state => {
            illegal("the state of a job with resources follows them; only its phase and message can be set".to_owned())
        }
        Some(_) if !job.external => {
            update.state = None;
            Ok(update)
        }
        Some(_) | None => Ok(update),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Failure, FailureCode, JobId, JobState, JobType, Priority, Tenant};

    fn job(external: bool, state: JobState) -> Job {
        Job {
            id: JobId::first_at_ms(1),
            job_type: JobType::default(),
            tenant: Tenant::default(),
            priority: Priority::Normal,
            state,
            phase: String::new(),
            total: 0,
            completed: 0,
            failed: 0,
            canceled: 0,
            manifest_bucket: String::new(),
            manifest_key: String::new(),
            manifest_stored: false,
            errors: Vec::new(),
            created_at_ms: 1,
            updated_at_ms: 1,
            completed_at_ms: 0,
            log_count: 0,
            bytes_stored: 0,
            revision: 7,
            trace_id: String::new(),
            external,
            cancel_requested: false,
            name: None,
            output_counts: Vec::new(),
            output_bytes: 0,
            output_at_ms: 0,
        }
    }

    fn update(state: Option<JobState>, expected_revision: Option<u64>) -> StatusUpdate {
        StatusUpdate {
            job: JobId::first_at_ms(1),
            state,
            phase: Some("working".into()),
            failure: None,
            expected_revision,
        }
    }

    fn code(checked: Result<StatusUpdate, Refusal>) -> RefusalCode {
        checked.unwrap_err().code
    }

    #[test]
    fn nobody_declares_a_job_with_resources_finished() {
        let running = job(false, JobState::InProgress);
        assert_eq!(code(legal(update(Some(JobState::Completed), None), &running)), RefusalCode::IllegalState);
        assert_eq!(legal(update(Some(JobState::InProgress), None), &running).unwrap().state, None);
        assert!(legal(update(None, Some(7)), &running).is_ok());
    }

    #[test]
    fn an_external_job_moves_forward_only_and_by_the_revision_seen() {
        let running = job(true, JobState::InProgress);
        assert_eq!(legal(update(Some(JobState::Failed), Some(7)), &running).unwrap().state, Some(JobState::Failed));
        assert_eq!(code(legal(update(Some(JobState::Queued), None), &running)), RefusalCode::IllegalState);
        assert_eq!(code(legal(update(Some(JobState::Failed), Some(6)), &running)), RefusalCode::Stale);
        let ended = job(true, JobState::Completed);
        assert_eq!(code(legal(update(Some(JobState::InProgress), None), &ended)), RefusalCode::IllegalState);
    }

    #[test]
    fn an_update_that_is_empty_or_endless_is_refused_with_its_path() {
        let mut wrong = update(None, None);
        wrong.phase = Some("a\nb".into());
        wrong.failure = Some(Failure::new(FailureCode::HandlerFailed, "x".repeat(5_000)));
        let paths: Vec<String> = check_update(&wrong).unwrap_err().violations.into_iter().map(|v| v.path).collect();
        assert_eq!(paths, ["status.phase", "status.last_error_message"]);
        wrong.phase = None;
        wrong.failure = None;
        assert_eq!(check_update(&wrong).unwrap_err().violations[0].path, "status");
    }

    #[test]
    fn a_line_without_a_time_gets_one_and_the_others_keep_theirs() {
        let mut records = vec![NewLog::default(), NewLog { timestamp_ms: 5, ..NewLog::default() }];
        check_records(&mut records, 9).unwrap();
        assert_eq!(records.iter().map(|record| record.timestamp_ms).collect::<Vec<_>>(), [9, 5]);
    }

    #[test]
    fn an_append_is_bounded_in_each_direction() {
        assert!(check_records(&mut [], 1).is_err());
        assert!(check_records(&mut vec![NewLog::default(); 1_001], 1).is_err());
        let fields: BTreeMap<String, String> = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
        let long = BTreeMap::from([("k".repeat(129), String::new()), ("v".into(), "v".repeat(4_097))]);
        let mut wrong = vec![
            NewLog { message: "x".repeat(LOG_BYTES_MAX + 1), ..NewLog::default() },
            NewLog { fields, trace_id: "a\n".into(), ..NewLog::default() },
            NewLog { fields: long, ..NewLog::default() },
        ];
        let found = check_records(&mut wrong, 1).unwrap_err().violations;
        let paths: Vec<&str> = found.iter().map(|violation| violation.path.as_str()).collect();
        assert_eq!(paths[..3], ["records[0].message", "records[1].trace_id", "records[1].fields"]);
        assert_eq!(paths.len(), 5);
        let mut many = vec![NewLog { message: "x".repeat(LOG_BYTES_MAX), ..NewLog::default() }; 200];
        assert_eq!(check_records(&mut many, 1).unwrap_err().code, RefusalCode::PayloadTooLarge);
    }
}
