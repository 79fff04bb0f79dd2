//! Job rows lately written: who changes a job again finds its row here, and not in the tables.
//!
//! Owns: how many are remembered. Must not know: what rows mean.
//!
//! A batch of output of 500 jobs changes 500 rows: without looking them up, a line is shown a tenth earlier.

use std::collections::{BTreeMap, HashMap};

use super::keys::{Family, Key};

/// Rows of one generation; two are kept, some 4 MB at most.
const ROWS_MAX: usize = 2_048;
/// A larger row is not remembered: it has a manifest inside.
const ROW_BYTES_MAX: usize = 1 << 10;

#[derive(Debug, Default)]
pub struct Recent {
    young: HashMap<Key, Vec<u8>>,
    old: HashMap<Key, Vec<u8>>,
}

impl Recent {
    pub fn get(&self, key: &Key) -> Option<&Vec<u8>> {
        if !is_job(key) {
            return None;
        }
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// What a commit wrote and deleted.
    pub fn note(&mut self, changes: &BTreeMap<Key, Option<Vec<u8>>>) {
        for (key, value) in changes.iter().filter(|(key, _)| is_job(key)) {
            self.old.remove(key);
            match value {
                Some(value) if value.len() <= ROW_BYTES_MAX => self.remember(key, value),
                Some(_) | None => drop(self.young.remove(key)),
            }
        }
    }

    fn remember(&mut self, key: &Key, value: &[u8]) {
        if let Some(known) = self.young.get_mut(key) {
            known.clear();
            known.extend_from_slice(value);
            return;
        }
        if self.young.len() >= ROWS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), value.to_vec());
    }
}

fn is_job(key: &Key) -> bool {
    key.bytes.first() == Some(&(Family::Job as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;
    use crate::store::keys;

    fn key(n: u64) -> Key {
        keys::job(JobId::first_at_ms(i64::try_from(n).unwrap()))
    }

    #[test]
    fn a_row_that_was_changed_deleted_or_grew_is_never_found_as_it_was() {
        let mut recent = Recent::default();
        let mut write = |rows: &[(u64, Option<Vec<u8>>)]| {
            recent.note(&rows.iter().map(|(n, row)| (key(*n), row.clone())).collect());
            [1, 2].map(|n| recent.get(&key(n)).cloned())
        };
        assert_eq!(write(&[(1, Some(vec![1])), (2, Some(vec![2]))]), [Some(vec![1]), Some(vec![2])]);
        assert_eq!(write(&[(1, Some(vec![3; 9]))]), [Some(vec![3; 9]), Some(vec![2])]);
        // Both are of the older generation now.
        let many: Vec<_> = (10..10 + ROWS_MAX as u64).map(|n| (n, Some(vec![0]))).collect();
        assert_eq!(write(&many), [Some(vec![3; 9]), Some(vec![2])]);
        assert_eq!(write(&[(1, None)]), [None, Some(vec![2])]);
        assert_eq!(write(&[(2, Some(vec![0; ROW_BYTES_MAX + 1]))]), [None, None]);
        assert_eq!(write(&[(2, Some(vec![4]))]), [None, Some(vec![4])]);
        assert_eq!(write(&[(2, None)]), [None, None]);
    }

    #[test]
    fn a_million_jobs_are_not_all_remembered() {
        let mut recent = Recent::default();
        for n in 0..10 * ROWS_MAX as u64 {
            recent.note(&BTreeMap::from([(key(n), Some(vec![0]))]));
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * ROWS_MAX);
    }
}
