//! Reading metrics: samples in the order of time, roll-ups.
//!
//! Owns: finding samples by time in blocks that are in the order of arrival, with bounded memory. Must not know: queries, arithmetic.

use std::collections::BTreeMap;

use super::Reader;
use crate::model::series::Sample;
use crate::model::{JobId, OutputKind, Refusal};
use crate::store::keys::{self, Space};
use crate::store::output::{Rollup, Tail, sample, sample_time};

/// Block heads read at a time.
const HEADS: usize = 64;

impl Reader {
    /// The samples of a tail, in the order of [`Sample::place`].
    pub fn unsealed_samples(&self, tail: &Tail) -> Result<Vec<Sample>, Refusal> {
        let mut samples = Vec::new();
        for chunk in tail.chunks() {
            samples.extend(chunk.records(OutputKind::Metric)?.iter().filter_map(sample));
        }
        samples.sort_unstable_by_key(Sample::place);
        Ok(samples)
    }

    /// The first `rows` sealed samples at or behind the place `from` and before `until_ns`, in the order of [`Sample::place`]. `tail`:
    /// what was not sealed when the query began; what was sealed since is not in here.
    pub fn sealed_samples(
        &self,
        id: JobId,
        tail: &Tail,
        from: (i64, u64),
        until_ns: i64,
        rows: usize,
    ) -> Result<Vec<Sample>, Refusal> {
        let sealed_end = tail.first().unwrap_or(u64::MAX);
        let mut first: BTreeMap<(i64, u64), Sample> = BTreeMap::new();
        // Behind it nothing is wanted any more.
        let mut end_ns = until_ns;
        let mut next = 0;
        loop {
            let heads = self.heads_of(id, OutputKind::Metric, next, HEADS)?;
            let last = heads.len() < HEADS;
            for head in heads {
                if head.first >= sealed_end {
                    return Ok(first.into_values().collect());
                }
                next = head.last + 1;
                if sample_time(head.time_max_ns) < from.0 || sample_time(head.time_min_ns) > end_ns {
                    continue;
                }
                for sample in self.block(&head)?.iter().filter_map(sample) {
                    let place = sample.place();
                    if sample.ordinal >= sealed_end || place < from || sample.time_ns >= until_ns {
                        continue;
                    }
                    first.insert(place, sample);
                    if first.len() > rows {
                        first.pop_last();
                        end_ns = first.last_key_value().map_or(until_ns, |((time_ns, _), _)| *time_ns);
                    }
                }
            }
            if last {
                return Ok(first.into_values().collect());
            }
        }
    }

    /// Up to `rows` roll-ups of steps in `from_ms..until_ms`, in order.
    pub fn rollups(
        &self,
        id: JobId,
        resolution_s: u16,
        from_ms: i64,
        until_ms: i64,
        rows: usize,
    ) -> Result<Vec<Rollup>, Refusal> {
        self.rollup_rows(id, resolution_s, from_ms, until_ms).take(rows).collect()
    }

    /// The same, the last first.
    pub fn rollups_back(
        &self,
        id: JobId,
        resolution_s: u16,
        from_ms: i64,
        until_ms: i64,
        rows: usize,
    ) -> Result<Vec<Rollup>, Refusal> {
        self.rollup_rows(id, resolution_s, from_ms, until_ms).rev().take(rows).collect()
    }

    fn rollup_rows(
        &self,
        id: JobId,
        resolution_s: u16,
        from_ms: i64,
        until_ms: i64,
    ) -> impl DoubleEndedIterator<Item = Result<Rollup, Refusal>> + use<> {
        let from = keys::rollup(id, resolution_s, from_ms).bytes;
        let until = keys::rollup(id, resolution_s, until_ms).bytes.max(from.clone());
        self.spaces
            .range(Space::Output, &from, &until)
            .map(|row| row.and_then(|(key, value)| Rollup::read(&key, &value)))
    }
}
