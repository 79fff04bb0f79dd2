//! Page tokens: opaque text that holds where a list stopped, and nothing of this process.
//!
//! Owns: the token's bytes: version, kind of list, cursor, check sum; written as hexadecimal digits. Must not know: what a cursor means.

use base16ct::lower;

use crate::model::{DeadLetterId, JobId, Refusal, TaskIndex, TaskRef};

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;

/// Which list a token belongs to: one list's token is refused by every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Jobs = b'J',
    Tasks = b'T',
    Failures = b'F',
    DeadLetters = b'D',
    Metrics = b'M',
    /// Jobs whose name begins as asked, behind those whose id does.
    Named = b'N',
    Search = b'S',
}

pub fn write(kind: Kind, cursor: &[u8]) -> String {
    let mut bytes = vec![VERSION, kind as u8];
    bytes.extend_from_slice(cursor);
    bytes.extend_from_slice(&check(&bytes));
    lower::encode_string(&bytes)
}

/// None for the empty token: a list's beginning.
pub fn read<const N: usize>(kind: Kind, token: &str) -> Result<Option<[u8; N]>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    unpack(kind, token).map(Some).ok_or_else(foreign)
}

pub fn foreign() -> Refusal {
    Refusal::invalid("page_token", "not a token this list has given; start again without one")
}

fn unpack<const N: usize>(kind: Kind, token: &str) -> Option<[u8; N]> {
    // The length is checked first, so that a long forgery costs nothing.
    if token.len() != 2 * (2 + N + CHECK_BYTES) {
        return None;
    }
    // Lower case only: one cursor, one spelling.
    let bytes = lower::decode_vec(token).ok()?;
    let (body, sum) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    let (head, cursor) = body.split_first_chunk::<2>()?;
    if *head != [VERSION, kind as u8] || *sum != check(body) {
        return None;
    }
    cursor.try_into().ok()
}

/// FNV-1a: finds a digit lost in copying. Nobody is kept from forging a token, and nothing is gained by it.
fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_be_bytes()
}

pub const MOMENT_BYTES: usize = 26;

/// A dead letter's or failure's place in its index.
pub fn from_moment(id: DeadLetterId) -> [u8; MOMENT_BYTES] {
    let mut bytes = [0; MOMENT_BYTES];
    let (time, task) = bytes.split_at_mut(8);
    time.copy_from_slice(&id.died_at_ms.to_be_bytes());
    let (job, index) = task.split_at_mut(16);
    job.copy_from_slice(id.task.job.as_bytes());
    index.copy_from_slice(&id.task.index.0.to_be_bytes());
    bytes
}

/// None when the bytes are not those of a moment.
pub fn to_moment(bytes: &[u8]) -> Option<DeadLetterId> {
    let (time, rest) = bytes.split_first_chunk::<8>()?;
    let (job, rest) = rest.split_first_chunk::<16>()?;
    let index: [u8; 2] = rest.try_into().ok()?;
    let task = TaskRef { job: JobId::from_bytes(*job), index: TaskIndex(u16::from_be_bytes(index)) };
    Some(DeadLetterId { died_at_ms: i64::from_be_bytes(*time), task })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_goes_on_where_its_token_says(cursor: [u8; 18]) {
            let token = write(Kind::Tasks, &cursor);
            prop_assert_eq!(read::<18>(Kind::Tasks, &token).unwrap(), Some(cursor));
        }

        #[test]
        fn a_token_with_one_wrong_digit_is_refused_and_never_skips_rows(cursor: [u8; 16], at in 0usize..44, by in 1u8..16) {
            let mut token = write(Kind::Jobs, &cursor).into_bytes();
            let digits = b"0123456789abcdef";
            let digit = digits.iter().position(|digit| *digit == token[at]).unwrap();
            token[at] = digits[digit ^ usize::from(by)];
            let refusal = read::<16>(Kind::Jobs, std::str::from_utf8(&token).unwrap()).unwrap_err();
            prop_assert_eq!(refusal.violations[0].path.as_str(), "page_token");
        }

        #[test]
        fn any_text_as_a_token_is_refused_without_a_panic(text in "\\PC{1,60}") {
            prop_assert!(read::<16>(Kind::Jobs, &text).is_err());
        }

        #[test]
        fn a_moment_survives_its_bytes(died_at_ms: i64, job: [u8; 16], index: u16) {
            let id = DeadLetterId { died_at_ms, task: TaskRef { job: JobId::from_bytes(job), index: TaskIndex(index) } };
            prop_assert_eq!(to_moment(&from_moment(id)), Some(id));
        }
    }

    #[test]
    fn another_lists_token_is_refused() {
        let token = write(Kind::Failures, &[7; MOMENT_BYTES]);
        assert!(read::<MOMENT_BYTES>(Kind::DeadLetters, &token).is_err());
        assert!(read::<16>(Kind::Failures, &token).is_err());
        assert!(read::<MOMENT_BYTES>(Kind::Failures, &token.to_uppercase()).is_err() || token == token.to_uppercase());
        assert_eq!(read::<MOMENT_BYTES>(Kind::Failures, "").unwrap(), None);
    }
}
