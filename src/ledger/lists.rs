//! The paged lists: jobs, tasks, failures, dead letters.
//!
//! Owns: each list's filter, its order and its cursor. Must not know: how a page is cut (see `scan`), how rows look.

use super::scan::{self, Rows, Take};
use super::token::{self, Kind, MOMENT_BYTES};
use super::{FailureFilter, JobFilter, Page, PageRequest, RecentFailure};
use crate::model::{
    DeadLetter, DeadLetterId, DeadLetterSelector, Failure, Job, JobId, JobName, Refusal, Task, TaskIndex, TaskSpec,
};
use crate::store::Reader;

/// A job is accepted up to this long after its id was minted: id bounds are wider than the asked range by as much.
const MINTED_EARLIER_MS: i64 = 60_000;

/// Newest first by id. With a prefix: first the jobs whose id begins so, then those whose name does.
pub fn jobs(reader: &Reader, filter: &JobFilter, page: &PageRequest) -> Result<Page<Job>, Refusal> {
    let size = scan::page_rows(page.size);
    let by_id = prefix_bounds(&filter.id_prefix);
    let by_name = !filter.id_prefix.is_empty() && JobName::parse(&filter.id_prefix).is_some();
    let named = token::read::<16>(Kind::Named, &page.token).ok().flatten().filter(|_| by_name);
    let mut items = Vec::new();
    if named.is_none() {
        match by_id {
            Ok(bounds) => {
                let (floor, top) = job_bounds(filter, bounds);
                let before = match token::read::<16>(Kind::Jobs, &page.token)? {
                    Some(bytes) => JobId::from_bytes(bytes).min(top),
                    None => top,
                };
                let rows = Jobs { reader, filter, floor, except: None };
                let (found, next) = scan::scan(&rows, size, before)?;
                items = found;
                if let Some(id) = next {
                    return Ok(Page { items, next_token: token::write(Kind::Jobs, id.as_bytes()) });
                }
            }
            Err(refusal) if !by_name => return Err(refusal),
            Err(_) if !page.token.is_empty() => return Err(token::foreign()),
            Err(_) => {}
        }
    }
    if !by_name {
        return Ok(Page { items, next_token: String::new() });
    }
    let (floor, top) = job_bounds(filter, (JobId::MIN, JobId::MAX));
    let before = named.map_or(top, |bytes| JobId::from_bytes(bytes).min(top));
    if items.len() == size {
        return Ok(Page { items, next_token: token::write(Kind::Named, before.as_bytes()) });
    }
    let rows = Jobs { reader, filter, floor, except: Some(prefix_bounds(&filter.id_prefix).ok()) };
    let (found, next) = scan::scan(&rows, size - items.len(), before)?;
    items.extend(found);
    let next_token = next.map_or_else(String::new, |id| token::write(Kind::Named, id.as_bytes()));
    Ok(Page { items, next_token })
}

struct Jobs<'a> {
    reader: &'a Reader,
    filter: &'a JobFilter,
    floor: JobId,
    /// Set: only jobs whose name begins as asked, but for those whose id does and which were listed before.
    except: Option<Option<(JobId, JobId)>>,
}

impl Rows for Jobs<'_> {
    type Row = Job;
    type Cursor = JobId;

    fn read(&self, before: &JobId, rows: usize) -> Result<Vec<Job>, Refusal> {
        self.reader.jobs_before(*before, self.floor, rows)
    }
    fn cursor_of(&self, job: &Job) -> JobId {
        job.id
    }
    fn take(&self, job: &Job) -> Take {
        let by_name = self.except.is_none_or(|listed| {
            job.name.as_ref().is_some_and(|name| name.as_str().starts_with(&self.filter.id_prefix))
                && listed.is_none_or(|(floor, top)| job.id < floor || job.id >= top)
        });
        (by_name && job_matches(self.filter, job)).into()
    }
    fn weigh(&self, job: &Job) -> usize {
        512 + job.phase.len() + job.manifest_key.len() + job.errors.iter().map(failure_bytes).sum::<usize>()
    }
}

fn job_matches(filter: &JobFilter, job: &Job) -> bool {
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == job.tenant)
        && filter.job_type.as_ref().is_none_or(|job_type| *job_type == job.job_type)
        && (filter.states.is_empty() || filter.states.contains(&job.state))
        && within(job.created_at_ms, filter.created_from_ms, filter.created_until_ms)
}

/// From inclusive, until exclusive, 0 = open.
pub fn within(at_ms: i64, from_ms: i64, until_ms: i64) -> bool {
    (from_ms == 0 || at_ms >= from_ms) && (until_ms == 0 || at_ms < until_ms)
}

/// The ids that can match: from the first, inclusive, to the second, exclusive.
fn job_bounds(filter: &JobFilter, (mut floor, mut top): (JobId, JobId)) -> (JobId, JobId) {
    if filter.created_from_ms > 0 {
        floor = floor.max(JobId::first_at_ms(filter.created_from_ms.saturating_sub(MINTED_EARLIER_MS)));
    }
    if filter.created_until_ms > 0 {
        top = top.min(JobId::first_at_ms(filter.created_until_ms.saturating_add(MINTED_EARLIER_MS)));
    }
    (floor, top)
}

fn prefix_bounds(prefix: &str) -> Result<(JobId, JobId), Refusal> {
    const SHAPE: &str = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    let refuse = || {
        Refusal::invalid("id_prefix", "not the beginning of a job id (lower-case hexadecimal digits, hyphens in place)")
    };
    if prefix.len() > SHAPE.len() {
        return Err(refuse());
    }
    let (mut low, mut digits) = (0u128, 0);
    for (given, shape) in prefix.chars().zip(SHAPE.chars()) {
        match (shape, given) {
            ('-', '-') => {}
            ('x', '0'..='9' | 'a'..='f') => {
                low = low << 4 | u128::from(given.to_digit(16).unwrap_or(0));
                digits += 1;
            }
            _ => return Err(refuse()),
        }
    }
    let open_bits = 128 - 4 * digits;
    let low = low.checked_shl(open_bits).unwrap_or(0);
    let last = low | 1u128.checked_shl(open_bits).map_or(u128::MAX, |above| above - 1);
    Ok((JobId::from_bytes(low.to_be_bytes()), JobId::from_bytes(last.saturating_add(1).to_be_bytes())))
}

/// In the manifest's order. `states` are names as of `TaskState::name`; none means all.
pub fn tasks(reader: &Reader, id: JobId, states: &[&'static str], page: &PageRequest) -> Result<Page<Task>, Refusal> {
    let from = match token::read::<18>(Kind::Tasks, &page.token)? {
        Some(cursor) => task_cursor(id, cursor)?,
        None => TaskIndex(0),
    };
    let (items, next) = scan::scan(&Tasks { reader, id, states }, scan::page_rows(page.size), from)?;
    let next_token = next.map_or_else(String::new, |from| {
        let [high, low] = from.0.to_be_bytes();
        let cursor: Vec<u8> = id.as_bytes().iter().copied().chain([high, low]).collect();
        token::write(Kind::Tasks, &cursor)
    });
    Ok(Page { items, next_token })
}

/// Another job's token would silently skip resources of this one.
fn task_cursor(id: JobId, cursor: [u8; 18]) -> Result<TaskIndex, Refusal> {
    let Some((job, [high, low])) = cursor.split_first_chunk::<16>() else { return Err(token::foreign()) };
    if job != id.as_bytes() {
        return Err(token::foreign());
    }
    Ok(TaskIndex(u16::from_be_bytes([*high, *low])))
}

struct Tasks<'a> {
    reader: &'a Reader,
    id: JobId,
    states: &'a [&'static str],
}

impl Rows for Tasks<'_> {
    type Row = Task;
    /// The next one to read.
    type Cursor = TaskIndex;

    fn read(&self, from: &TaskIndex, rows: usize) -> Result<Vec<Task>, Refusal> {
        self.reader.tasks(self.id, *from, rows)
    }
    fn cursor_of(&self, task: &Task) -> TaskIndex {
        TaskIndex(task.task.index.0.saturating_add(1))
    }
    fn take(&self, task: &Task) -> Take {
        (self.states.is_empty() || self.states.contains(&task.state.name())).into()
    }
    fn weigh(&self, task: &Task) -> usize {
        256 + spec_bytes(&task.spec) + task.last_failure.as_ref().map_or(0, failure_bytes)
    }
}

fn spec_bytes(spec: &TaskSpec) -> usize {
    let pairs = spec.tags.iter().chain(&spec.object_metadata).map(|(key, value)| key.len() + value.len() + 4);
    let headers = spec.headers.iter().map(|header| header.name.len() + header.value.len() + 4);
    spec.url.len() + spec.resource_id.len() + pairs.sum::<usize>() + headers.sum::<usize>()
}

fn failure_bytes(failure: &Failure) -> usize {
    64 + failure.message.len() + failure.context.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>()
}

/// Failed attempts of all jobs, newest first.
pub fn failures(reader: &Reader, filter: &FailureFilter, page: &PageRequest) -> Result<Page<RecentFailure>, Refusal> {
    let before = match token::read::<MOMENT_BYTES>(Kind::Failures, &page.token)? {
        Some(bytes) => token::to_moment(&bytes),
        None => None,
    };
    let (rows, next) = scan::scan(&Failures { reader, filter }, scan::page_rows(page.size), before)?;
    let next_token =
        next.flatten().map_or_else(String::new, |id| token::write(Kind::Failures, &token::from_moment(id)));
    Ok(Page { items: rows.into_iter().map(|(_, failure)| failure).collect(), next_token })
}

struct Failures<'a> {
    reader: &'a Reader,
    filter: &'a FailureFilter,
}

impl Rows for Failures<'_> {
    type Row = (DeadLetterId, RecentFailure);
    type Cursor = Option<DeadLetterId>;

    fn read(&self, before: &Self::Cursor, rows: usize) -> Result<Vec<Self::Row>, Refusal> {
        let read = self.reader.failures_before(*before, rows)?;
        let named = |(id, job_type, tenant, failure): (DeadLetterId, _, _, _)| {
            (id, RecentFailure { job: id.task.job, job_type, tenant, failure })
        };
        Ok(read.into_iter().map(named).collect())
    }
    fn cursor_of(&self, row: &Self::Row) -> Self::Cursor {
        Some(row.0)
    }
    fn take(&self, row: &Self::Row) -> Take {
        failure_matches(self.filter, &row.1).into()
    }
    fn weigh(&self, row: &Self::Row) -> usize {
        128 + failure_bytes(&row.1.failure)
    }
}

fn failure_matches(filter: &FailureFilter, row: &RecentFailure) -> bool {
    filter.tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant)
        && filter.job_type.as_ref().is_none_or(|job_type| *job_type == row.job_type)
        && row.failure.code.as_str().starts_with(&filter.code_prefix)
        && (filter.host.is_empty() || filter.host == row.failure.host())
}

/// Oldest first. The selector's `max` holds over all pages together; its switches for changing things mean nothing here.
pub fn dead_letters(
    reader: &Reader,
    selector: &DeadLetterSelector,
    page: &PageRequest,
) -> Result<Page<DeadLetter>, Refusal> {
    const BYTES: usize = MOMENT_BYTES + 4;
    let (after, given) = match token::read::<BYTES>(Kind::DeadLetters, &page.token)? {
        Some(bytes) => split_letter_cursor(&bytes).map(|(id, given)| (Some(id), given)).ok_or_else(token::foreign)?,
        None => (None, 0),
    };
    let left = if selector.max == 0 { u32::MAX } else { selector.max.saturating_sub(given) };
    let size = scan::page_rows(page.size).min(usize::try_from(left).unwrap_or(usize::MAX));
    if size == 0 {
        return Ok(Page { items: Vec::new(), next_token: String::new() });
    }
    let mut ids = selector.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let (items, next) = scan::scan(&Letters { reader, selector, ids }, size, after)?;
    let given = given.saturating_add(u32::try_from(items.len()).unwrap_or(u32::MAX));
    let spent = selector.max != 0 && given >= selector.max;
    let next_token = next.flatten().filter(|_| !spent).map_or_else(String::new, |id| {
        let cursor: Vec<u8> = token::from_moment(id).into_iter().chain(given.to_be_bytes()).collect();
        token::write(Kind::DeadLetters, &cursor)
    });
    Ok(Page { items: items.into_iter().filter_map(|(_, letter)| letter).collect(), next_token })
}

fn split_letter_cursor(bytes: &[u8]) -> Option<(DeadLetterId, u32)> {
    let (id, given) = bytes.split_last_chunk::<4>()?;
    Some((token::to_moment(id)?, u32::from_be_bytes(*given)))
}

struct Letters<'a> {
    reader: &'a Reader,
    selector: &'a DeadLetterSelector,
    /// In order; none means every letter.
    ids: Vec<DeadLetterId>,
}

impl Rows for Letters<'_> {
    /// None: a named letter that does not exist.
    type Row = (DeadLetterId, Option<DeadLetter>);
    type Cursor = Option<DeadLetterId>;

    fn read(&self, after: &Self::Cursor, rows: usize) -> Result<Vec<Self::Row>, Refusal> {
        if self.ids.is_empty() {
            let read = self.reader.dead_letters(*after, rows)?;
            return Ok(read.into_iter().map(|letter| (letter.id, Some(letter))).collect());
        }
        let named = self.ids.iter().filter(|id| after.is_none_or(|after| **id > after)).take(rows);
        named.map(|id| Ok((*id, self.reader.dead_letter(*id)?))).collect()
    }
    fn cursor_of(&self, row: &Self::Row) -> Self::Cursor {
        Some(row.0)
    }
    fn take(&self, row: &Self::Row) -> Take {
        // Letters come in order of death: behind the first one too young all are.
        if self.selector.before_ms != 0 && row.0.died_at_ms >= self.selector.before_ms {
            return Take::Stop;
        }
        row.1.as_ref().is_some_and(|letter| self.selector.matches(letter)).into()
    }
    fn weigh(&self, row: &Self::Row) -> usize {
        row.1.as_ref().map_or(0, |letter| 256 + spec_bytes(&letter.spec) + failure_bytes(&letter.failure))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::FailureCode;

    proptest! {
        #[test]
        fn an_id_prefix_finds_exactly_the_ids_that_begin_with_it(id: [u8; 16], other: [u8; 16], length in 0usize..=36) {
            let (id, other) = (JobId::from_bytes(id), JobId::from_bytes(other));
            prop_assume!(id < JobId::MAX && other < JobId::MAX);
            let prefix = &id.to_string()[..length];
            let (floor, top) = prefix_bounds(prefix).unwrap();
            prop_assert!(floor <= id && id < top);
            prop_assert_eq!(other.to_string().starts_with(prefix), floor <= other && other < top);
        }
    }

    #[test]
    fn a_prefix_that_no_id_has_is_refused_by_name() {
        for bad in ["x", "0192A", "01920000a", "0192-", "../", &"0".repeat(40)] {
            assert_eq!(prefix_bounds(bad).unwrap_err().violations[0].path, "id_prefix", "{bad}");
        }
        assert_eq!(prefix_bounds("").unwrap(), (JobId::MIN, JobId::MAX));
    }

    #[test]
    fn a_time_range_bounds_the_scan_and_loses_no_job_at_its_edges() {
        let filter = JobFilter { created_from_ms: 5_000_000, created_until_ms: 6_000_000, ..JobFilter::default() };
        let (floor, top) = job_bounds(&filter, (JobId::MIN, JobId::MAX));
        assert!(floor <= JobId::first_at_ms(4_999_000) && floor > JobId::first_at_ms(4_000_000));
        assert!(top > JobId::first_at_ms(6_000_000) && top < JobId::first_at_ms(7_000_000));
        assert!(within(5_000_000, 5_000_000, 6_000_000) && !within(6_000_000, 5_000_000, 6_000_000));
        assert!(within(i64::MAX, 1, 0) && within(0, 0, 1));
    }

    #[test]
    fn another_jobs_task_token_is_refused() {
        let mut cursor = [0; 18];
        cursor[17] = 9;
        assert_eq!(task_cursor(JobId::MIN, cursor).unwrap(), TaskIndex(9));
        assert!(task_cursor(JobId::MAX, cursor).is_err());
    }

    #[test]
    fn failures_are_found_by_family_and_host() {
        let failure = Failure::new(FailureCode::DownloadTimeout, "silent").with("host", "a:80");
        let (job, job_type, tenant) = (JobId::MIN, Default::default(), Default::default());
        let row = RecentFailure { job, job_type, tenant, failure };
        let matches = |code: &str, host: &str| {
            failure_matches(&FailureFilter { code_prefix: code.into(), host: host.into(), ..Default::default() }, &row)
        };
        assert!(matches("", "") && matches("DOWNLOAD_", "a:80"));
        assert!(!matches("UPLOAD_", "") && !matches("", "b:80"));
    }
}
