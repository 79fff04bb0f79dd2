//! Job output as a stream of messages: page after page as the client takes them, never more than one ahead.
//!
//! Owns: limit and offset, one stream after the other, joining history and live. Must not know: which call it serves, the messages.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream, StreamExt as _};

use super::convert::{self, Show};
use super::door::Door;
use crate::ledger::{MetricQuery, OutputPage, OutputQuery, StoreWake};
use crate::model::{Job, JobId, LogStream, OutputRecord, Refusal, RefusalCode};
use crate::proto::joblet::persist as pp;

pub(super) type Items<T> = BoxStream<'static, Result<T, Refusal>>;

/// How much of what a query keeps is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// None: all.
    left: Option<u64>,
    skip: u64,
}

impl Part {
    /// As requests say it: a limit of 0 means all, less than 0 is as 0.
    pub(super) fn new(limit: i32, offset: i32) -> Self {
        let limit = u64::try_from(limit).unwrap_or(0);
        Self { left: (limit > 0).then_some(limit), skip: u64::try_from(offset).unwrap_or(0) }
    }

    pub(super) fn at_most(mut self, limit: u64) -> Self {
        self.left = Some(self.left.map_or(limit, |left| left.min(limit)));
        self
    }

    fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    fn cut<T>(&mut self, items: &mut Vec<T>) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(items.len());
        items.drain(..skipped);
        self.skip -= skipped as u64;
        if let Some(left) = &mut self.left {
            items.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= items.len() as u64;
        }
    }
}

/// Which of a job's records, and how they are sent.
pub(super) struct Reading {
    pub(super) query: OutputQuery,
    pub(super) part: Part,
    /// Streams that are sent one after the other; empty: as `query` says.
    pub(super) streams: VecDeque<LogStream>,
    pub(super) from: u64,
    /// Not 0: only the last so many.
    pub(super) tail: u64,
    pub(super) follow: bool,
}

impl Reading {
    pub(super) fn new(query: OutputQuery, part: Part) -> Self {
        Self { query, part, streams: VecDeque::new(), from: 0, tail: 0, follow: false }
    }

    /// All of standard output, then all of standard error.
    pub(super) fn one_after_the_other(mut self) -> Self {
        self.query.stream = Some(LogStream::Stdout);
        self.streams = [LogStream::Stderr].into();
        self
    }
}

struct State<T> {
    door: Door,
    job: JobId,
    public: String,
    reading: Reading,
    show: Show<T>,
    next: u64,
    /// Ordinals from here on came after the question.
    until: u64,
    watch: Option<StoreWake>,
    done: bool,
}

impl Door {
    /// The job's records as `reading` says. Nothing is read before the first item is asked for.
    pub(super) fn output<T: Send + 'static>(&self, job: &Job, reading: Reading, show: Show<T>) -> Items<T> {
        let state = State {
            door: self.clone(),
            job: job.id,
            public: job.public_id(),
            next: reading.from,
            until: if reading.follow { u64::MAX } else { job.records_of(reading.query.kind) },
            // Before anything is read: what is committed from now on wakes it.
            watch: reading.follow.then(|| self.api.ledger.output_watch(job.id)),
            reading,
            show,
            done: false,
        };
        let pages = stream::unfold(Some(state), |state| async {
            let mut state = state?;
            match state.next_page().await {
                Ok(Some(page)) => Some((Ok(page), Some(state))),
                Ok(None) => None,
                Err(refusal) => Some((Err(refusal), None)),
            }
        });
        one_by_one(pages.boxed())
    }

    /// The values of steps, each as one metric.
    pub(super) fn step_metrics(
        &self,
        job: &Job,
        query: MetricQuery,
        function: pp::Aggregate,
        part: Part,
    ) -> Items<pp::Metric> {
        let (door, id, public) = (self.clone(), job.id, job.public_id());
        let pages = stream::unfold(Some((query, part)), move |state| {
            let (door, public) = (door.clone(), public.clone());
            async move {
                let (mut query, mut part) = state?;
                if part.is_over() {
                    return None;
                }
                let asked = query.clone();
                match door.read(move |ledger| ledger.metrics(id, &asked)).await {
                    Ok(page) => {
                        query.token.clone_from(&page.next_token);
                        let mut items = convert::step_metrics(&public, page, function);
                        part.cut(&mut items);
                        let rest = (!query.token.is_empty()).then_some((query, part));
                        Some((Ok(items), rest))
                    }
                    // Deleted while it was read: it has nothing more.
                    Err(refusal) if refusal.code == RefusalCode::NotFound => None,
                    Err(refusal) => Some((Err(refusal), None)),
                }
            }
        });
        one_by_one(pages.boxed())
    }
}

fn one_by_one<T: Send + 'static>(pages: BoxStream<'static, Result<Vec<T>, Refusal>>) -> Items<T> {
    let items = pages.flat_map(|page| match page {
        Ok(items) => stream::iter(items).map(Ok).left_stream(),
        Err(refusal) => stream::iter([Err(refusal)]).right_stream(),
    });
    items.boxed()
}

impl<T: Send + 'static> State<T> {
    async fn next_page(&mut self) -> Result<Option<Vec<T>>, Refusal> {
        if self.reading.tail > 0 {
            self.find_tail().await?;
        }
        while !self.done && !self.reading.part.is_over() {
            // The job before its records: of an ended job there are then no more than are read.
            let id = self.job;
            let Some(has_ended) = self.has_ended().await? else { return Ok(None) };
            let (query, next, until) = (self.reading.query.clone(), self.next, self.until);
            let page: OutputPage = self.door.read(move |ledger| ledger.output(id, &query, next, until)).await?;
            self.next = page.next;
            let mut items = self.shown(page.records);
            self.reading.part.cut(&mut items);
            if page.end && (self.watch.is_none() || items.is_empty()) {
                self.at_end(has_ended).await?;
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// Whether a job that is followed has ended. None: it was deleted.
    async fn has_ended(&self) -> Result<Option<bool>, Refusal> {
        if self.watch.is_none() {
            return Ok(Some(true));
        }
        let id = self.job;
        match self.door.read(move |ledger| ledger.job(id)).await {
            Ok(job) => Ok(Some(job.state.is_terminal())),
            Err(refusal) if refusal.code == RefusalCode::NotFound => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// Everything there was is read.
    async fn at_end(&mut self, has_ended: bool) -> Result<(), Refusal> {
        if let Some(watch) = &mut self.watch {
            if has_ended {
                self.done = true;
                return Ok(());
            }
            return watch.changed().await;
        }
        match self.reading.streams.pop_front() {
            Some(stream) => {
                self.reading.query.stream = Some(stream);
                self.next = self.reading.from;
            }
            None => self.done = true,
        }
        Ok(())
    }

    async fn find_tail(&mut self) -> Result<(), Refusal> {
        let (id, query, count) = (self.job, self.reading.query.clone(), std::mem::take(&mut self.reading.tail));
        let mut until = self.until;
        let found = self.door.read(move |ledger| {
            if until == u64::MAX {
                until = ledger.job(id)?.records_of(query.kind);
            }
            ledger.output_tail(id, &query, until, count)
        });
        self.next = self.next.max(found.await?);
        Ok(())
    }

    fn shown(&self, records: Vec<OutputRecord>) -> Vec<T> {
        let count = records.len();
        let items: Vec<T> = records.into_iter().filter_map(|record| (self.show)(&self.public, record)).collect();
        self.door.api.metrics.persist_undecodable.inc_by((count - items.len()) as u64);
        items
    }
}
