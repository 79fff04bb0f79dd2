//! Job rows in memory: those of the newest jobs, which most lists ask for, and those lately written, which are soon written again.
//!
//! Owns: how many are kept, and from which job on none is missing. Must not know: what rows mean.
//!
//! A list that begins in memory costs the same however many jobs are kept. A batch of output of 500 jobs changes 500 rows: without
//! looking them up in tables, a line is shown a tenth earlier.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included};
use std::sync::{PoisonError, RwLock};

use super::keys::{self, Family, Key};

/// Newest jobs kept: two pages of the largest size.
pub const NEWEST_MAX: usize = 2_048;
/// Rows lately written of one generation; two are kept. With the newest some 12 MB at most, rather 3.
const LATELY_MAX: usize = 2_048;
/// A larger row is not kept: one whose last errors say much. Its manifest has a row of its own from 1 KiB on.
const ROW_BYTES_MAX: usize = 2 << 10;

/// Shared by the committer, which changes it after each group, and readers.
pub struct Recent(RwLock<Rows>);

struct Rows {
    /// Every job from `floor` on. None: its row is large and must be read.
    newest: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    floor: Vec<u8>,
    /// Of older jobs.
    young: HashMap<Vec<u8>, Vec<u8>>,
    old: HashMap<Vec<u8>, Vec<u8>>,
}

/// The part of a range that stands in memory.
pub struct Newest {
    /// Keys and rows, the newest first.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// What stands below this key was not looked at.
    pub floor: Vec<u8>,
}

impl Recent {
    /// `newest`: keys and values of the last [`NEWEST_MAX`] jobs, the newest first; fewer when there are no more.
    pub fn new(newest: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let whole = newest.len() < NEWEST_MAX;
        let floor = newest.last().filter(|_| !whole).map_or(vec![Family::Job as u8], |(key, _)| key.clone());
        let newest = newest.into_iter().map(|(key, row)| (key, kept(&row))).collect();
        Self::of(newest, floor)
    }

    /// Knows no job, not even that there is none.
    pub fn unknown() -> Self {
        Self::of(BTreeMap::new(), keys::end_of(Family::Job))
    }

    fn of(newest: BTreeMap<Vec<u8>, Option<Vec<u8>>>, floor: Vec<u8>) -> Self {
        Self(RwLock::new(Rows { newest, floor, young: HashMap::new(), old: HashMap::new() }))
    }

    /// A job's row. None: it must be looked up.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        if !is_job(key) {
            return None;
        }
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (key, rows) = (&key.bytes, &*rows);
        let lately = || rows.young.get(key).or_else(|| rows.old.get(key));
        rows.newest.get(key).map_or_else(lately, Option::as_ref).cloned()
    }

    /// Up to `rows` of the newest jobs in `from..until`: down to the first whose row is not kept.
    pub fn newest(&self, from: &[u8], until: &[u8], rows: usize) -> Newest {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut newest = Newest { rows: Vec::new(), floor: known.floor.clone() };
        let from = known.floor.as_slice().max(from);
        if from >= until {
            return newest;
        }
        for (key, row) in known.newest.range::<[u8], _>((Included(from), Excluded(until))).rev().take(rows) {
            let Some(row) = row else {
                // Just after it: tables begin with this one.
                newest.floor = [key, &[0][..]].concat();
                break;
            };
            newest.rows.push((key.clone(), row.clone()));
        }
        newest
    }

    /// What a group wrote and deleted. Before anybody is told of it.
    pub fn note(&self, changes: &BTreeMap<Key, Option<Vec<u8>>>) {
        let mut jobs = changes.iter().filter(|(key, _)| is_job(key)).peekable();
        if jobs.peek().is_none() {
            return;
        }
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in jobs {
            rows.note(&key.bytes, row.as_deref());
        }
    }
}

impl Rows {
    fn note(&mut self, key: &[u8], row: Option<&[u8]>) {
        if key < self.floor.as_slice() {
            self.old.remove(key);
            match row.filter(|row| row.len() <= ROW_BYTES_MAX) {
                Some(row) => self.remember(key, row),
                None => drop(self.young.remove(key)),
            }
            return;
        }
        let Some(row) = row else {
            self.newest.remove(key);
            return;
        };
        match self.newest.get_mut(key) {
            Some(Some(known)) if row.len() <= ROW_BYTES_MAX => {
                known.clear();
                known.extend_from_slice(row);
            }
            Some(known) => *known = kept(row),
            None => drop(self.newest.insert(key.to_vec(), kept(row))),
        }
        if self.newest.len() > NEWEST_MAX {
            self.newest.pop_first();
            self.floor = self.newest.first_key_value().map_or_else(Vec::new, |(key, _)| key.clone());
        }
    }

    fn remember(&mut self, key: &[u8], row: &[u8]) {
        if let Some(known) = self.young.get_mut(key) {
            known.clear();
            known.extend_from_slice(row);
            return;
        }
        if self.young.len() >= LATELY_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.to_vec(), row.to_vec());
    }
}

fn kept(row: &[u8]) -> Option<Vec<u8>> {
    (row.len() <= ROW_BYTES_MAX).then(|| row.to_vec())
}

fn is_job(key: &Key) -> bool {
    key.bytes.first() == Some(&(Family::Job as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;

    fn key(n: usize) -> Key {
        keys::job(JobId::first_at_ms(i64::try_from(n).unwrap()))
    }

    fn write(recent: &Recent, rows: &[(usize, Option<Vec<u8>>)]) {
        recent.note(&rows.iter().map(|(n, row)| (key(*n), row.clone())).collect());
    }

    fn newest(recent: &Recent, from: usize, until: usize, rows: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        recent.newest(&key(from).bytes, &key(until).bytes, rows).rows
    }

    #[test]
    fn a_row_that_was_changed_deleted_or_grew_is_never_found_as_it_was() {
        // Once with jobs older than any that is kept as newest, once with the newest.
        for recent in [Recent::unknown(), Recent::new(Vec::new())] {
            let write = |rows: &[_]| {
                write(&recent, rows);
                [1, 2].map(|n| recent.get(&key(n)))
            };
            assert_eq!(write(&[(1, Some(vec![1])), (2, Some(vec![2]))]), [Some(vec![1]), Some(vec![2])]);
            assert_eq!(write(&[(1, Some(vec![3; 9]))]), [Some(vec![3; 9]), Some(vec![2])]);
            // Both are of the older generation now, or of the newest no more.
            let many: Vec<_> = (10..10 + LATELY_MAX).map(|n| (n, Some(vec![0]))).collect();
            let found = write(&many);
            assert!(found == [Some(vec![3; 9]), Some(vec![2])] || found == [None, None]);
            assert_eq!(write(&[(1, None)])[0], None);
            assert_eq!(write(&[(2, Some(vec![0; ROW_BYTES_MAX + 1]))]), [None, None]);
            assert_eq!(write(&[(2, Some(vec![4]))]), [None, Some(vec![4])]);
            assert_eq!(write(&[(2, None)]), [None, None]);
        }
    }

    #[test]
    fn a_million_jobs_are_not_all_remembered() {
        let recent = Recent::unknown();
        let kept = Recent::new(Vec::new());
        for n in 0..5 * LATELY_MAX {
            write(&recent, &[(n, Some(vec![0]))]);
            write(&kept, &[(n, Some(vec![0]))]);
        }
        let (recent, kept) = (recent.0.read().unwrap(), kept.0.read().unwrap());
        assert!(recent.young.len() + recent.old.len() <= 2 * LATELY_MAX);
        assert_eq!((kept.newest.len(), kept.young.len()), (NEWEST_MAX, 0));
    }

    #[test]
    fn from_the_floor_on_no_job_is_missing_and_below_it_none_is_shown() {
        let recent = Recent::new(Vec::new());
        let all = 3 * NEWEST_MAX;
        // Out of order, as ids are that were minted by many threads; each third is deleted again.
        for n in (0..all).map(|n| n ^ 5) {
            write(&recent, &[(n, Some(n.to_be_bytes().to_vec()))]);
        }
        for n in (0..all).step_by(3) {
            write(&recent, &[(n, None)]);
        }
        let floor = recent.newest(&[], &[], 0).floor;
        let alive = (0..all).filter(|n| n % 3 > 0 && key(*n).bytes >= floor).rev();
        let expected: Vec<_> = alive.map(|n| (key(n).bytes, n.to_be_bytes().to_vec())).collect();
        assert!(expected.len() > NEWEST_MAX / 2);
        assert_eq!(newest(&recent, 0, all, all), expected);
        assert_eq!(
            newest(&recent, all - 10, all - 2, 3),
            expected.iter().filter(|(k, _)| *k < key(all - 2).bytes).take(3).cloned().collect::<Vec<_>>()
        );
        assert_eq!(newest(&recent, 5, 5, 3), []);
        // What is written below the floor is remembered, and not among the newest.
        write(&recent, &[(1, Some(vec![9]))]);
        assert_eq!(recent.get(&key(1)), Some(vec![9]));
        assert_eq!(newest(&recent, 0, all, all), expected);
    }

    #[test]
    fn a_list_ends_in_memory_at_a_row_that_must_be_read() {
        let rows = [(key(7).bytes, vec![7]), (key(5).bytes, vec![0; ROW_BYTES_MAX + 1]), (key(3).bytes, vec![3])];
        let recent = Recent::new(rows.to_vec());
        let page = |from: usize, rows| {
            let page = recent.newest(&key(from).bytes, &key(100).bytes, rows);
            (page.rows, page.floor)
        };
        let large = [&key(5).bytes, &[0][..]].concat();
        let least = vec![Family::Job as u8];
        assert_eq!(page(0, 9), (vec![(key(7).bytes, vec![7])], large.clone()));
        assert_eq!(page(5, 2), (vec![(key(7).bytes, vec![7])], large));
        assert_eq!(page(6, 9), (vec![(key(7).bytes, vec![7])], least.clone()));
        assert_eq!(recent.get(&key(5)), None);
        write(&recent, &[(5, Some(vec![5]))]);
        assert_eq!(page(4, 9), (vec![(key(7).bytes, vec![7]), (key(5).bytes, vec![5])], least));
    }

    #[test]
    fn after_a_start_older_jobs_than_those_that_were_read_are_not_said_to_be_none() {
        let full = (0..NEWEST_MAX).rev().map(|n| (key(n + 50).bytes, vec![1]));
        assert_eq!(Recent::new(full.collect()).newest(&[], &[], 0).floor, key(50).bytes);
        assert_eq!(Recent::unknown().newest(&[], &key(1).bytes, 9).floor, keys::end_of(Family::Job));
    }
}
