//! The streams against a job that changes at every possible moment.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::*;
use crate::ledger::logs::tests::record;
use crate::model::{JobState, LogLevel};
use crate::store::{LogSlice, OutputLimit};

const ID: JobId = JobId::MIN;

/// One job in memory. `on_read` runs after each read of the job: what it does falls between reading and waiting.
#[derive(Clone)]
struct Fake {
    world: Arc<Mutex<World>>,
    ring: watch::Sender<u64>,
}

struct World {
    job: Option<Job>,
    kept_from: u64,
    /// Offsets from here on are counted, but cannot be read yet.
    visible: u64,
    script: Vec<Change>,
}

#[derive(Clone, Copy)]
enum Change {
    Append(u64),
    End,
    Delete,
    Touch,
}

struct FakeWake(watch::Receiver<u64>);

impl Wake for FakeWake {
    async fn changed(&mut self) -> Result<(), Refusal> {
        self.0.changed().await.map_err(|_| Refusal::new(RefusalCode::Unavailable, "gone"))
    }
}

impl Fake {
    fn new(log_count: u64, script: &[Change]) -> Self {
        let job = Some(Job { log_count, ..crate::ledger::explain::tests::job(2) });
        let script = script.iter().rev().copied().collect();
        Self {
            world: Arc::new(Mutex::new(World { job, kept_from: 0, visible: u64::MAX, script })),
            ring: watch::channel(0).0,
        }
    }

    fn change(&self, change: Change) {
        let mut world = self.world.lock().unwrap();
        if let Some(job) = &mut world.job {
            job.revision += 1;
            match change {
                Change::Append(lines) => job.log_count += lines,
                Change::End => job.state = JobState::Completed,
                Change::Touch => {}
                Change::Delete => world.job = None,
            }
        }
        self.ring.send_modify(|n| *n += 1);
    }
}

impl Records for Fake {
    fn job(&self, _: JobId) -> Result<Option<Job>, Refusal> {
        let job = self.world.lock().unwrap().job.clone();
        let next = self.world.lock().unwrap().script.pop();
        if let Some(change) = next {
            self.change(change);
        }
        Ok(job)
    }

    fn readable(&self, _: JobId, log_count: u64) -> u64 {
        log_count.min(self.world.lock().unwrap().visible)
    }

    fn slice(&self, _: JobId, from: u64, limit: OutputLimit, _: &Filter) -> Result<(LogSlice, usize), Refusal> {
        let world = self.world.lock().unwrap();
        let count = world.job.as_ref().map_or(0, |job| job.log_count);
        let until = count.min(world.visible);
        let records: Vec<LogRecord> = (from.max(world.kept_from)..until).take(limit.rows).map(record).collect();
        let next = if records.len() < limit.rows { until } else { records[records.len() - 1].offset + 1 };
        Ok((LogSlice { records, next: next.max(from), end: next >= until }, 0))
    }

    fn block_before(&self, _: JobId, _: u64, _: &Filter) -> Result<Option<(u64, u64, bool)>, Refusal> {
        Ok(None)
    }

    fn kept_from(&self, _: JobId) -> Result<u64, Refusal> {
        Ok(self.world.lock().unwrap().kept_from)
    }
}

impl Source for Fake {
    type Wake = FakeWake;

    fn wake(&self, _: JobId) -> FakeWake {
        FakeWake(self.ring.subscribe())
    }
}

fn all_levels() -> LogQuery {
    LogQuery { min_level: LogLevel::Trace, ..LogQuery::default() }
}

async fn offsets(fake: Fake, query: LogQuery) -> Vec<u64> {
    let pages: Vec<_> = follow(fake, ID, query, Followers::new()).collect().await;
    pages.into_iter().flat_map(|page| page.unwrap().records).map(|record| record.offset).collect()
}

use Change::{Append, Delete, End, Touch};

#[tokio::test]
async fn a_follow_shows_every_line_once_however_history_and_present_meet() {
    for script in [
        vec![Append(1), Append(700), Touch, Append(3), End],
        vec![Touch, Touch, Append(5), Append(0), Append(1), End],
        vec![Append(2_000), End],
        vec![End],
    ] {
        let appended: u64 = script.iter().map(|c| if let Append(lines) = c { *lines } else { 0 }).sum();
        let got = offsets(Fake::new(300, &script), all_levels()).await;
        assert_eq!(got, (0..300 + appended).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_follow_of_a_job_that_ended_ends() {
    let fake = Fake::new(10, &[]);
    fake.change(End);
    assert_eq!(offsets(fake, LogQuery { offset: 7, ..all_levels() }).await, [7, 8, 9]);
}

#[tokio::test]
async fn a_follow_from_another_life_of_a_name_is_refused_and_one_from_the_end_is_not() {
    let fake = Fake::new(100, &[]);
    let query = |offset| LogQuery { offset, ..all_levels() };
    let refused = follow(fake.clone(), ID, query(101), Followers::new()).next().await.unwrap().unwrap_err();
    assert_eq!(refused.code, RefusalCode::OutOfRange);
    assert!(refused.message.contains("offset 101 ") && refused.message.contains("is 100:"), "{refused}");
    fake.change(Append(2));
    fake.change(End);
    assert_eq!(offsets(fake.clone(), query(100)).await, [100, 101]);
    assert!(offsets(fake, query(102)).await.is_empty());
}

#[tokio::test]
async fn a_line_that_is_counted_before_it_can_be_read_is_not_passed_over() {
    let fake = Fake::new(10, &[]);
    fake.world.lock().unwrap().visible = 8;
    fake.change(End);
    let heard = tokio::spawn(offsets(fake.clone(), all_levels()));
    while fake.ring.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    fake.world.lock().unwrap().visible = 10;
    fake.change(Touch);
    assert_eq!(heard.await.unwrap(), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_reader_is_told_what_it_has_not_seen() {
    let fake = Fake::new(300, &[]);
    let mut pages = follow(fake.clone(), ID, LogQuery { limit: 100, ..all_levels() }, Followers::new());
    let mut behind = Vec::new();
    for _ in 0..3 {
        behind.push(pages.next().await.unwrap().unwrap().behind);
        fake.change(Append(50));
    }
    assert_eq!(behind, [200, 150, 100]);
}

#[tokio::test]
async fn a_follow_with_a_filter_or_with_deleted_lines_ends_as_well() {
    let fake = Fake::new(10, &[Append(5), End]);
    assert!(offsets(fake, LogQuery { text: "nowhere".into(), ..all_levels() }).await.is_empty());
    let fake = Fake::new(10, &[]);
    fake.world.lock().unwrap().kept_from = 10;
    fake.change(End);
    assert!(offsets(fake, all_levels()).await.is_empty());
}

#[tokio::test]
async fn a_follow_from_the_tail_goes_on_where_the_tail_ended() {
    let fake = Fake::new(500, &[Touch, Append(1), Append(4), End]);
    let got = offsets(fake, LogQuery { tail: 3, ..all_levels() }).await;
    // The read of the job before its log saw 500 lines, the log then already had 501.
    assert!(got.starts_with(&[497, 498, 499]) || got.starts_with(&[498, 499, 500]), "{got:?}");
    assert_eq!(*got.last().unwrap(), 504);
    assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 1), "{got:?}");
}

#[tokio::test]
async fn a_long_search_tells_how_far_it_is() {
    let fake = Fake::new(25_000, &[End]);
    let query = LogQuery { text: "nowhere".into(), ..all_levels() };
    let pages: Vec<_> = follow(fake, ID, query, Followers::new()).map(|page| page.unwrap().next_offset).collect().await;
    assert_eq!(pages.len(), 2, "{pages:?}");
}

#[tokio::test]
async fn a_deleted_job_ends_its_streams_with_not_found_under_its_name() {
    let fake = || {
        let fake = Fake::new(1, &[Touch, Touch, Delete]);
        fake.world.lock().unwrap().job.as_mut().unwrap().name = crate::model::JobName::parse("nightly");
        fake
    };
    let pages: Vec<_> = follow(fake(), ID, all_levels(), Followers::new()).collect().await;
    let jobs: Vec<_> = watch(fake(), ID, 0).collect().await;
    for ended in [pages.last().unwrap().as_ref().unwrap_err(), jobs.last().unwrap().as_ref().unwrap_err()] {
        assert_eq!(ended.code, RefusalCode::NotFound);
        assert_eq!((ended.message.as_str(), ended.job_id.as_str()), ("job nightly does not exist", "nightly"));
    }
}

#[tokio::test]
async fn a_watch_never_goes_back_and_ends_with_the_outcome() {
    let fake = Fake::new(0, &[Touch, Append(1), Touch, Append(2), End]);
    let jobs: Vec<_> = watch(fake, ID, 0).map(Result::unwrap).collect().await;
    assert!(jobs.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    assert!(jobs.last().unwrap().state.is_terminal());
}

#[tokio::test]
async fn a_watch_resumed_behind_the_end_ends_without_repeating_it() {
    let fake = Fake::new(0, &[]);
    fake.change(End);
    let revision = fake.world.lock().unwrap().job.as_ref().unwrap().revision;
    assert_eq!(watch(fake.clone(), ID, revision).count().await, 0);
    assert_eq!(watch(fake, ID, revision - 1).count().await, 1);
}
