//! Storage parked: while the object store takes nothing, one probe at a time finds out when it does again.
//!
//! Pure. Must not know: how objects are stored, what other tasks do.

use crate::model::{Failure, TaskRef};

/// How many attempts may start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    All,
    /// One, as a probe.
    One,
    /// None before this time.
    Wait(i64),
}

#[derive(Debug)]
pub(super) struct Parking {
    min_ms: i64,
    max_ms: i64,
    parked: Option<Parked>,
}

#[derive(Debug)]
struct Parked {
    delay_ms: i64,
    next_ms: i64,
    probe: Probe,
    alarm: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Probe {
    None,
    /// Being leased or running. A slow origin must not keep storage parked: after `until_ms` another one may ask.
    Out {
        task: TaskRef,
        until_ms: i64,
    },
}

impl Probe {
    fn is(&self, asked: TaskRef) -> bool {
        match self {
            Probe::None => false,
            Probe::Out { task, .. } => *task == asked,
        }
    }
}

impl Parking {
    pub fn new(min_ms: i64, max_ms: i64) -> Self {
        Self { min_ms: min_ms.max(1), max_ms: max_ms.max(min_ms).max(1), parked: None }
    }

    pub fn allowance(&self, now_ms: i64) -> Allowance {
        match &self.parked {
            None => Allowance::All,
            Some(parked) => {
                let next_ms = match parked.probe {
                    Probe::Out { until_ms, .. } => until_ms,
                    Probe::None => parked.next_ms,
                };
                if now_ms >= next_ms { Allowance::One } else { Allowance::Wait(next_ms) }
            }
        }
    }

    /// A task was picked under [`Allowance::One`].
    pub fn probing(&mut self, task: TaskRef, now_ms: i64) {
        let until_ms = now_ms.saturating_add(self.max_ms);
        if let Some(parked) = &mut self.parked {
            parked.probe = Probe::Out { task, until_ms };
        }
    }

    /// Storage refused this task. Returns when the task may be tried again.
    pub fn refused(&mut self, task: TaskRef, failure: &Failure, now_ms: i64) -> i64 {
        let (min_ms, max_ms) = (self.min_ms, self.max_ms);
        let parked = self.parked.get_or_insert_with(|| Parked {
            delay_ms: min_ms,
            next_ms: now_ms.saturating_add(min_ms),
            probe: Probe::None,
            alarm: String::new(),
        });
        // Attempts that ran when storage was parked end one after the other: only the probe tells something new.
        if parked.probe.is(task) {
            parked.probe = Probe::None;
            parked.delay_ms = parked.delay_ms.saturating_mul(2).min(max_ms);
            parked.next_ms = now_ms.saturating_add(parked.delay_ms);
        }
        parked.alarm = failure.to_string();
        parked.next_ms.max(now_ms)
    }

    /// An object was stored. True when storage had been parked.
    pub fn succeeded(&mut self) -> bool {
        self.parked.take().is_some()
    }

    /// The task ended in a way that says nothing about storage, or was not to be had: another one may probe.
    pub fn ended(&mut self, task: TaskRef) {
        if let Some(parked) = &mut self.parked
            && parked.probe.is(task)
        {
            parked.probe = Probe::None;
        }
    }

    /// Why storage is parked; empty while it works.
    pub fn alarm(&self) -> &str {
        self.parked.as_ref().map_or("", |parked| &parked.alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FailureCode, JobId, TaskIndex};

    fn task(index: u16) -> TaskRef {
        TaskRef { job: JobId::first_at_ms(1), index: TaskIndex(index) }
    }

    #[test]
    fn a_full_store_is_asked_ever_more_rarely_and_forgotten_at_the_first_success() {
        let full = Failure::new(FailureCode::StorageFull, "no room");
        let mut parking = Parking::new(1_000, 60_000);
        assert_eq!(parking.allowance(0), Allowance::All);
        assert_eq!(parking.refused(task(1), &full, 0), 1_000);
        assert_eq!(parking.refused(task(2), &full, 10), 1_000, "an older attempt's end changes nothing");
        assert_eq!(parking.allowance(999), Allowance::Wait(1_000));

        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(parking.allowance(now), Allowance::One);
            parking.probing(task(3), now);
            assert_eq!(parking.allowance(now), Allowance::Wait(now + 60_000), "one probe at a time");
            let next = parking.refused(task(3), &full, now);
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert!(parking.alarm().contains("STORAGE_FULL"));
        assert!(parking.succeeded());
        assert_eq!(parking.allowance(now), Allowance::All);
        assert_eq!(parking.alarm(), "");
    }

    #[test]
    fn a_probe_that_dies_of_something_else_does_not_park_for_ever() {
        let mut parking = Parking::new(1_000, 60_000);
        parking.refused(task(1), &Failure::new(FailureCode::StorageUnavailable, "down"), 0);
        parking.probing(task(2), 1_000);
        parking.ended(task(2));
        assert_eq!(parking.allowance(1_000), Allowance::One);
    }

    #[test]
    fn a_probe_from_a_slow_origin_does_not_hold_all_the_others() {
        let mut parking = Parking::new(1_000, 60_000);
        parking.refused(task(1), &Failure::new(FailureCode::StorageUnavailable, "down"), 0);
        parking.probing(task(2), 1_000);
        assert_eq!(parking.allowance(60_999), Allowance::Wait(61_000));
        assert_eq!(parking.allowance(61_000), Allowance::One);
    }
}
