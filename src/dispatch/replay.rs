//! Replaying dead letters: choose by selector in bounded pages, queue each again.
//!
//! Must not know: the loop, how a letter is replayed in the store.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::ReplayReport;
use super::off_thread;
use super::{is_busy, pause_of};
use crate::clock::JobIds;
use crate::handler::manifest_key;
use crate::model::{DeadLetter, DeadLetterId, DeadLetterSelector, JobType, Manifest, Refusal, RefusalCode};
use crate::store::{FreshJob, Reader, Replayed, Store};

/// Letters examined between two chances for others to run.
const PAGE: usize = 1_000;
/// Replays under way at once: they share a commit.
const TOGETHER: usize = 64;
/// Jobs named in a report; the count is always whole.
const JOBS_MAX: usize = 1_000;

pub(super) struct Replay<'a> {
    pub store: &'a Store,
    pub reader: &'a Reader,
    pub ids: &'a JobIds,
    /// Where the manifest of a new job goes.
    pub default_bucket: &'a str,
    pub storage_prefix: &'a str,
    pub now_ms: i64,
}

impl Replay<'_> {
    /// Letters that die after the call began are left alone: among them are those of tasks this call has queued.
    pub async fn run(&self, selector: DeadLetterSelector) -> Result<ReplayReport, Refusal> {
        if selector.is_unrestricted() && !selector.confirm_all {
            return Err(Refusal::invalid("selector", "selects every dead letter: say confirm_all if that is meant"));
        }
        let mut chosen = Chosen { report: ReplayReport::default(), jobs: BTreeSet::new(), selector };
        if chosen.selector.ids.is_empty() {
            self.scan(&mut chosen).await?;
        } else {
            self.named(&mut chosen).await?;
        }
        Ok(chosen.report)
    }

    async fn scan(&self, chosen: &mut Chosen) -> Result<(), Refusal> {
        let mut after: Option<DeadLetterId> = None;
        loop {
            let reader = self.reader.clone();
            let page = off_thread(move || reader.dead_letters(after, PAGE)).await??;
            let is_last = page.len() < PAGE || page.last().is_some_and(|letter| letter.id.died_at_ms > self.now_ms);
            after = page.last().map(|letter| letter.id);
            let letters = chosen.pick(page, self.now_ms);
            self.replay(letters, chosen).await?;
            if is_last || chosen.is_full() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn named(&self, chosen: &mut Chosen) -> Result<(), Refusal> {
        let ids = chosen.selector.ids.clone();
        for ids in ids.chunks(PAGE) {
            let (reader, ids) = (self.reader.clone(), ids.to_vec());
            let found = off_thread(move || {
                ids.into_iter().filter_map(|id| reader.dead_letter(id).transpose()).collect::<Result<Vec<_>, _>>()
            })
            .await??;
            let letters = chosen.pick(found, self.now_ms);
            self.replay(letters, chosen).await?;
            if chosen.is_full() {
                break;
            }
        }
        Ok(())
    }

    async fn replay(&self, letters: Vec<(DeadLetterId, JobType)>, chosen: &mut Chosen) -> Result<(), Refusal> {
        let mut letters = letters.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < TOGETHER
                && let Some(letter) = letters.next()
            {
                under_way.push(self.one(letter.0, letter.1));
            }
            match under_way.next().await {
                Some(replayed) => chosen.note(replayed?),
                None => return Ok(()),
            }
        }
    }

    /// None: somebody else replayed or purged it meanwhile.
    async fn one(&self, letter: DeadLetterId, job_type: JobType) -> Result<Option<Replayed>, Refusal> {
        let id = self.ids.mint();
        let fresh = FreshJob {
            id,
            manifest_bucket: self.default_bucket.to_owned(),
            manifest_key: manifest_key(self.storage_prefix, &Manifest::default(), &job_type, &id.to_string()),
        };
        loop {
            match self.store.replay(letter, fresh.clone(), self.now_ms).await {
                Ok(replayed) => return Ok(Some(replayed)),
                Err(refusal) if refusal.code == RefusalCode::NotFound => return Ok(None),
                Err(refusal) if is_busy(&refusal) => tokio::time::sleep(pause_of(&refusal)).await,
                Err(refusal) => return Err(refusal),
            }
        }
    }
}

struct Chosen {
    selector: DeadLetterSelector,
    report: ReplayReport,
    jobs: BTreeSet<crate::model::JobId>,
}

impl Chosen {
    /// Counts what matches, and returns what is to be replayed.
    fn pick(&mut self, page: Vec<DeadLetter>, now_ms: i64) -> Vec<(DeadLetterId, JobType)> {
        let mut picked = Vec::new();
        for letter in page {
            if self.is_full() {
                break;
            }
            if letter.id.died_at_ms <= now_ms && self.selector.matches(&letter) {
                self.report.matched += 1;
                if !self.selector.dry_run {
                    picked.push((letter.id, letter.job_type));
                }
            }
        }
        picked
    }

    fn is_full(&self) -> bool {
        self.selector.max > 0 && self.report.matched >= self.selector.max
    }

    fn note(&mut self, replayed: Option<Replayed>) {
        let Some(replayed) = replayed else { return };
        self.report.replayed += 1;
        if self.jobs.len() < JOBS_MAX && self.jobs.insert(replayed.job) {
            self.report.jobs.push(replayed.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, FailureCode, JobId, JobType, TaskIndex, TaskRef, TaskSpec, Tenant};

    fn letter(died_at_ms: i64) -> DeadLetter {
        DeadLetter {
            id: DeadLetterId { died_at_ms, task: TaskRef { job: JobId::first_at_ms(died_at_ms), index: TaskIndex(0) } },
            job_type: JobType::default(),
            tenant: Tenant::default(),
            spec: TaskSpec::default(),
            failure: Failure::new(FailureCode::DownloadNotFound, "x"),
            attempts: 1,
            replay_of: String::new(),
        }
    }

    fn chosen(selector: DeadLetterSelector) -> Chosen {
        Chosen { selector, report: ReplayReport::default(), jobs: BTreeSet::new() }
    }

    #[test]
    fn a_dry_run_counts_and_replays_nothing() {
        let mut chosen = chosen(DeadLetterSelector { dry_run: true, confirm_all: true, ..Default::default() });
        assert!(chosen.pick((1..=5).map(letter).collect(), 10).is_empty());
        assert_eq!(chosen.report.matched, 5);
    }

    #[test]
    fn a_letter_that_died_of_this_very_replay_is_not_replayed_again() {
        let mut chosen = chosen(DeadLetterSelector { confirm_all: true, ..Default::default() });
        assert_eq!(chosen.pick(vec![letter(9), letter(11)], 10).len(), 1);
    }

    #[test]
    fn no_more_than_asked_for_are_replayed() {
        let mut chosen = chosen(DeadLetterSelector { max: 3, ..Default::default() });
        assert_eq!(chosen.pick((1..=5).map(letter).collect(), 10).len(), 3);
        assert!(chosen.is_full());
    }
}
