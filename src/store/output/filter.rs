//! What text a block may contain, small enough to be read instead of the block.
//!
//! Owns: the filter's bytes and what they promise: never a false no. Must not know: blocks, queries.
//!
//! One bit for each run of four bytes that occurs, in ASCII lower case, so that one filter serves both ways of asking. The runs are taken
//! of each stream's text as it goes on over the records, because lines are put together from pieces. A text of `n` bytes asks for
//! `n - 3` bits: with four to nine of sixteen bits set, a text of eight bytes that is not there finds all five in one block of thirty or
//! fifty. First a wide map is filled, then it is folded to the size that the number of different runs asks for.

use crate::model::{LogStream, OutputRecord};
use crate::priority::give_way;

/// Bytes of a run.
const RUN: usize = 4;
/// The map that is filled: 16 KiB, which stay in the first cache.
const WIDE_BITS: u32 = 17;
/// Bits of the filter for ten different runs: 45 % of them are set then.
const BITS_PER_TEN_RUNS: usize = 17;
/// Of 256 KiB of text: 3 %.
const BYTES_MAX: usize = 8 << 10;
/// What a filter of little text may cost, though 3 % of it are less.
const BYTES_MIN: usize = 256;
/// Text that is read as fast as its filter.
const TEXT_BYTES_MIN: u64 = 1 << 10;
/// Text that sets about every bit whatever it says: one huge record. Building its filter would only hold up whoever waits for the sealer.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Set bits of eight, beyond which a filter says "maybe" to nearly everything and is left out.
const FULL_EIGHTHS: usize = 7;
const MULTIPLIER: u32 = 0x9e37_79b1;

/// Empty: may contain anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextFilter(Vec<u8>);

impl TextFilter {
    pub fn of(records: &[OutputRecord]) -> Self {
        let text: u64 = records.iter().map(|record| record.entry.data.len() as u64).sum();
        let said =
            records.iter().filter_map(|record| record.entry.label.as_ref()).map(|label| label.message.len() as u64);
        let text = text + said.sum::<u64>();
        if !(TEXT_BYTES_MIN..TEXT_BYTES_MAX).contains(&text) {
            return Self::default();
        }
        let mut wide = Wide::new();
        let mut streams = [Runs::default(); 3];
        for record in records {
            give_way(record.entry.data.len());
            let at = match record.entry.stream {
                LogStream::Job => 0,
                LogStream::Stdout => 1,
                LogStream::Stderr => 2,
            };
            if let Some(runs) = streams.get_mut(at) {
                runs.add(&record.entry.data, &mut wide);
            }
            // A message is looked at by itself.
            if let Some(label) = &record.entry.label {
                Runs::default().add(label.message.as_bytes(), &mut wide);
            }
        }
        Self(wide.fold(usize::try_from(text / 100 * 3).unwrap_or(usize::MAX)))
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// False only when no stream of the block contains `text`; a text that begins in one block and ends in the next is in neither.
    /// `ignore_case`: in ASCII, and it makes no difference here. A text of less than four bytes is always a maybe.
    pub fn may_contain(&self, text: &[u8], ignore_case: bool) -> bool {
        // Both ways of asking have the same answer: the filter is built of lower case.
        let _ = ignore_case;
        let bits = self.0.len() as u64 * 8;
        bits == 0
            || text.windows(RUN).all(|run| {
                let run = run.iter().rev().fold(0, |run, byte| run << 8 | u32::from(byte.to_ascii_lowercase()));
                is_set(&self.0, folded(place(run), bits))
            })
    }
}

fn is_set(bytes: &[u8], bit: u64) -> bool {
    let byte = usize::try_from(bit / 8).ok().and_then(|at| bytes.get(at));
    byte.is_none_or(|byte| byte >> (bit % 8) & 1 == 1)
}

/// The wide map's bit of a run, its first byte the lowest.
fn place(run: u32) -> u32 {
    run.wrapping_mul(MULTIPLIER) >> (32 - WIDE_BITS)
}

/// Where a bit of the wide map stands in a filter of `bits` bits.
fn folded(place: u32, bits: u64) -> u64 {
    (u64::from(place) * bits) >> WIDE_BITS
}

struct Wide(Vec<u64>);

impl Wide {
    fn new() -> Self {
        Self(vec![0; 1 << (WIDE_BITS - 6)])
    }

    #[inline]
    fn set(&mut self, run: u32) {
        let place = place(run);
        if let Some(word) = self.0.get_mut((place >> 6) as usize) {
            *word |= 1 << (place & 63);
        }
    }

    /// About how many different runs were set: those that met in one bit count as well.
    fn runs(&self) -> usize {
        let set: u64 = self.0.iter().map(|word| u64::from(word.count_ones())).sum();
        let total = f64::from(1u32 << WIDE_BITS);
        #[expect(clippy::cast_precision_loss, reason = "at most 2^17")]
        let free = (1.0 - set as f64 / total).max(1.0 / total);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^17 * 12")]
        let runs = (-total * free.ln()) as usize;
        runs
    }

    /// Of the size that the runs ask for, within the bounds. Empty when that would say nothing.
    fn fold(&self, bytes_max: usize) -> Vec<u8> {
        let wanted = (self.runs() * BITS_PER_TEN_RUNS / 10).div_ceil(8).max(1);
        let mut bytes = vec![0u8; wanted.min(bytes_max.clamp(BYTES_MIN, BYTES_MAX))];
        let bits = bytes.len() as u64 * 8;
        let mut base = 0u32;
        for word in &self.0 {
            let mut rest = *word;
            while rest != 0 {
                let bit = folded(base + rest.trailing_zeros(), bits);
                rest &= rest - 1;
                if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bytes.get_mut(at)) {
                    *byte |= 1 << (bit % 8);
                }
            }
            base += 64;
        }
        let set: usize = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
        if set > bytes.len() * FULL_EIGHTHS { Vec::new() } else { bytes }
    }
}

/// One stream's text on its way through.
#[derive(Default, Clone, Copy)]
struct Runs {
    /// The last three bytes, the newest the highest; of the stream's whole text when it is shorter.
    last: u32,
    /// How many there are, at most three.
    known: usize,
}

impl Runs {
    fn add(&mut self, text: &[u8], wide: &mut Wide) {
        let mut text = text;
        while self.known < RUN - 1 {
            let Some((byte, rest)) = text.split_first() else { return };
            self.last |= u32::from(byte.to_ascii_lowercase()) << (8 * self.known);
            self.known += 1;
            text = rest;
        }
        let mut last = self.last;
        let (eights, rest) = text.as_chunks::<8>();
        for eight in eights {
            let eight = lower(u64::from_le_bytes(*eight));
            // Of the eleven bytes, the eight runs.
            let near = u64::from(last) | eight << 24;
            for at in 0..5 {
                wide.set(low(near >> (8 * at)));
            }
            for at in 2..5 {
                wide.set(low(eight >> (8 * at)));
            }
            last = low(eight >> 40);
        }
        for byte in rest {
            let run = last | u32::from(byte.to_ascii_lowercase()) << 24;
            wide.set(run);
            last = run >> 8;
        }
        self.last = last;
    }
}

/// The lower half.
#[expect(clippy::cast_possible_truncation, reason = "what it is for")]
fn low(word: u64) -> u32 {
    word as u32
}

/// Eight bytes in ASCII lower case.
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let ascii = word & (0x7f * ONES);
    // The highest bit of each byte: from 'A' on, and beyond 'Z'.
    let from_a = ascii + (0x80 - b'A' as u64) * ONES;
    let behind_z = ascii + (0x80 - b'Z' as u64 - 1) * ONES;
    let upper = from_a & !behind_z & !word & (0x80 * ONES);
    word | upper >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{NewLog, NewOutput, OutputKind};

    fn record(stream: LogStream, data: &[u8], message: Option<String>) -> OutputRecord {
        let label = message.map(|message| Box::new(NewLog { message, ..NewLog::default() }));
        let data = bytes::Bytes::copy_from_slice(data);
        let entry = NewOutput { kind: OutputKind::Log, stream, time_ns: 0, sequence: 0, label, data };
        OutputRecord { ordinal: 0, entry }
    }

    fn any_pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        let byte = prop_oneof![4 => prop::sample::select(b"abAB01 -\n".to_vec()), 1 => any::<u8>()];
        prop::collection::vec((any::<bool>(), prop::collection::vec(byte, 0..40)), 1..200)
    }

    proptest! {
        #[test]
        fn what_a_job_wrote_is_never_passed_over(pieces in any_pieces(), at in any::<prop::sample::Index>(), length in 1usize..60) {
            let stream = |err: bool| if err { LogStream::Stderr } else { LogStream::Stdout };
            let records: Vec<OutputRecord> = pieces.iter().map(|(err, data)| record(stream(*err), data, None)).collect();
            let filter = TextFilter::of(&records);
            for err in [false, true] {
                let whole: Vec<u8> = pieces.iter().filter(|piece| piece.0 == err).flat_map(|piece| piece.1.clone()).collect();
                if whole.is_empty() {
                    continue;
                }
                let from = at.index(whole.len());
                let text = &whole[from..(from + length).min(whole.len())];
                prop_assert!(filter.may_contain(text, false));
                prop_assert!(filter.may_contain(&text.to_ascii_uppercase(), true));
                prop_assert!(filter.may_contain(&text.to_ascii_lowercase(), true));
            }
        }

        #[test]
        fn eight_bytes_are_lowered_as_one_by_one(bytes: [u8; 8]) {
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|byte| byte.to_ascii_lowercase()));
        }

        #[test]
        fn messages_are_found_too(message in "[a-zA-Z ]{1500,2000}", from in 0usize..1400, length in 4usize..60) {
            let filter = TextFilter::of(&[record(LogStream::Job, b"", Some(message.clone()))]);
            prop_assert!(filter.may_contain(&message.as_bytes()[from..from + length], false));
        }
    }

    #[test]
    fn a_word_that_is_not_there_lets_blocks_be_passed_over_and_the_filter_is_small() {
        let (mut seed, mut passed, mut text) = (7u64, 0, Vec::new());
        let mut step = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        while text.len() < 256 << 10 {
            let (id, ms) = (step() << 20 ^ step(), step() % 60_000);
            let (second, route, took) = (ms / 1_000, ms % 97, ms % 400);
            let line = format!(
                "12:00:{second:02}.{:03} INFO orders-api request completed GET /v1/orders/{route} status=200 id={id:012x} \
                 client=10.0.0.1 keepalive=true took={took}ms\n",
                ms % 1_000
            );
            text.extend_from_slice(line.as_bytes());
        }
        let filter = TextFilter::of(&[record(LogStream::Stdout, &text, None)]);
        assert!(filter.as_bytes().len() <= 8 << 10);
        for _ in 0..2_000 {
            let id = format!("{:08x}", (step() << 16 ^ step()) & 0xffff_ffff);
            passed += u32::from(!filter.may_contain(id.as_bytes(), false));
        }
        assert!(passed > 1_800, "{passed} of 2,000 ids that may be anywhere");
        assert!(!filter.may_contain(b"panicked at", false));
    }

    #[test]
    fn bytes_without_a_pattern_and_tiny_texts_have_no_filter() {
        let mut seed = 1u64;
        let noise: Vec<u8> = (0..256 << 10)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                u8::try_from(seed >> 56).unwrap()
            })
            .collect();
        assert_eq!(TextFilter::of(&[record(LogStream::Stdout, &noise, None)]), TextFilter::default());
        assert_eq!(TextFilter::of(&[record(LogStream::Stdout, b"short", None)]), TextFilter::default());
        assert!(TextFilter::default().may_contain(b"anything", false));
    }
}
