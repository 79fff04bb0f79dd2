//! Gzip, bounded while it inflates.
//!
//! Owns: that a small body cannot become a large one in memory. Must not know: what is inside.

use std::io::Read as _;

use flate2::bufread::MultiGzDecoder;

/// Grown in steps so that a bomb costs at most the limit and one step.
const STEP_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GzipFault {
    TooLarge,
    /// Truncated, damaged, or followed by something that is no gzip.
    Broken(String),
}

/// Inflates all members of `body`. Never holds more than `limit` bytes and one step.
pub fn inflate(body: &[u8], limit: usize) -> Result<Vec<u8>, GzipFault> {
    let mut decoder = MultiGzDecoder::new(body);
    let mut out = Vec::new();
    let mut filled = 0;
    loop {
        if filled == out.len() {
            // Doubling, but never past the limit: one byte more is enough to see that it is broken.
            let grown = (out.len() * 2).max(STEP_BYTES).min(limit + 1);
            if grown == out.len() {
                return Err(GzipFault::TooLarge);
            }
            out.reserve_exact(grown - out.len());
            out.resize(grown, 0);
        }
        match decoder.read(out.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(GzipFault::Broken(error.to_string())),
        }
    }
    if filled > limit {
        return Err(GzipFault::TooLarge);
    }
    out.truncate(filled);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = packed(&vec![b' '; 200_000_000]);
        assert!(bomb.len() < 300_000);
        assert_eq!(inflate(&bomb, 5_000_000), Err(GzipFault::TooLarge));
    }

    #[test]
    fn the_limit_itself_still_passes() {
        let plain: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(inflate(&packed(&plain), 1_000_000).unwrap(), plain);
        assert_eq!(inflate(&packed(&plain), 999_999), Err(GzipFault::TooLarge));
        assert_eq!(inflate(&packed(b""), 0).unwrap(), b"");
    }

    #[test]
    fn members_in_a_row_are_one_body() {
        let mut two = packed(b"{\"a\":");
        two.extend(packed(b"1}"));
        assert_eq!(inflate(&two, 100).unwrap(), b"{\"a\":1}");
    }

    #[test]
    fn a_damaged_body_is_never_taken_for_a_short_one() {
        let whole = packed(b"{\"manifest_version\":\"v1\",\"resources\":[]}");
        for cut in 0..whole.len() {
            let fault = inflate(&whole[..cut], 100).unwrap_err();
            assert!(matches!(fault, GzipFault::Broken(_)), "cut at {cut}");
        }
        let mut trailing = whole.clone();
        trailing.extend(b"garbage");
        assert!(inflate(&trailing, 100).is_err());
        let mut flipped = whole;
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(inflate(&flipped, 100).is_err());
        assert!(inflate(b"{}", 100).is_err());
    }
}
