//! zstd in and out, in parts that a row can hold.
//!
//! Owns: cutting what is large while it is compressed, so that no second copy of it is made. Must not know: what is packed.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, ResetDirective, get_error_name};

use super::PART_BYTES;
use crate::model::{Refusal, RefusalCode};
use crate::priority::{GIVE_WAY_BYTES, give_way};

/// Up to here the pieces are joined before they are compressed.
const JOINED_BYTES_MAX: u64 = GIVE_WAY_BYTES as u64;

/// Contexts that nobody uses. Each has its tables and its window, a megabyte or more that the system would have to give anew, page by
/// page, for every batch and every block.
static IDLE: Mutex<Vec<CCtx<'static>>> = Mutex::new(Vec::new());
/// As many as ever pack at once: the writer, the sealer, and one in between.
const IDLE_MAX: usize = 3;
/// What a large record or a high level needed is given back: an idle daemon stays small.
const IDLE_BYTES_MAX: usize = 4 << 20;

/// Runs `work` with a context at this level.
fn with_context<T>(level: i32, work: impl FnOnce(&mut CCtx<'static>) -> io::Result<T>) -> io::Result<T> {
    let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = idle().pop();
    let mut context = taken.or_else(CCtx::try_create).ok_or(io::ErrorKind::OutOfMemory)?;
    context.reset(ResetDirective::SessionAndParameters).map_err(as_io)?;
    context.set_parameter(CParameter::CompressionLevel(level)).map_err(as_io)?;
    let done = work(&mut context);
    let mut idle = idle();
    if idle.len() < IDLE_MAX && context.sizeof() <= IDLE_BYTES_MAX {
        idle.push(context);
    }
    done
}

fn as_io(code: usize) -> io::Error {
    io::Error::other(get_error_name(code))
}

/// Compressed bytes, in parts of at most [`PART_BYTES`].
struct Parts(Vec<Vec<u8>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.last_mut() {
            Some(last) if last.len() < PART_BYTES => {
                let taken = bytes.len().min(PART_BYTES - last.len());
                last.extend_from_slice(bytes.get(..taken).unwrap_or_default());
                Ok(taken)
            }
            _ => {
                self.0.push(Vec::new());
                if bytes.is_empty() { Ok(0) } else { self.write(bytes) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs the pieces as one, behind `head` in the first part. An error is one of memory: trying again helps.
pub fn pack<'a>(
    head: Vec<u8>,
    pieces: impl Iterator<Item = &'a [u8]> + Clone,
    level: i32,
) -> Result<Vec<Vec<u8>>, Refusal> {
    let bytes: u64 = pieces.clone().map(|piece| piece.len() as u64).sum();
    if bytes <= JOINED_BYTES_MAX {
        return pack_joined(head, pieces, level).map_err(|error| failed(bytes, &error));
    }
    let packed = with_context(level, |context| {
        let mut encoder = zstd::stream::write::Encoder::with_context(Parts(vec![head]), context);
        encoder.set_pledged_src_size(Some(bytes))?;
        encoder.include_contentsize(true)?;
        for bytes in pieces.flat_map(|piece| piece.chunks(GIVE_WAY_BYTES)) {
            encoder.write_all(bytes)?;
            give_way(bytes.len());
        }
        Ok(encoder.finish()?.0)
    });
    packed.map_err(|error| failed(bytes, &error))
}

/// The same of less, in one go: it is not copied into the encoder's own buffer, and no part is full.
fn pack_joined<'a>(
    mut head: Vec<u8>,
    mut pieces: impl Iterator<Item = &'a [u8]>,
    level: i32,
) -> io::Result<Vec<Vec<u8>>> {
    let first = pieces.next().unwrap_or_default();
    let joined = pieces.next().map(|second| {
        let mut joined = [first, second].concat();
        pieces.for_each(|piece| joined.extend_from_slice(piece));
        joined
    });
    let source = joined.as_deref().unwrap_or(first);
    with_context(level, |context| {
        let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(source.len()));
        context.compress2(&mut packed, source).map_err(as_io)?;
        head.append(&mut packed);
        Ok(vec![head])
    })
}

fn failed(bytes: u64, error: &io::Error) -> Refusal {
    let message = format!("{bytes} bytes of output could not be compressed: {error}; trying again may help");
    Refusal::new(RefusalCode::Internal, message)
}

/// Exactly `bytes` bytes, or None.
pub fn unpack(packed: &[u8], bytes: u64) -> Option<Bytes> {
    // What is allocated is what a damaged row says, unless the frame itself says otherwise.
    let said = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten()?;
    let bytes = usize::try_from(bytes).ok().filter(|_| said == bytes)?;
    let unpacked = zstd::bulk::decompress(packed, bytes).ok()?;
    (unpacked.len() == bytes).then(|| unpacked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_record_is_cut_into_parts_and_joined_again() {
        let mut seed = 1u64;
        let noise: Vec<u8> = (0..PART_BYTES + (3 << 20))
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_be_bytes()[0]
            })
            .collect();
        let parts = pack(vec![1, 2, 3], noise.chunks(1 << 20), 1).unwrap();
        assert_eq!(parts.len(), 2);
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
        let joined = parts.concat();
        assert_eq!(joined[..3], [1, 2, 3]);
        assert_eq!(unpack(&joined[3..], noise.len() as u64).unwrap(), noise);
        assert_eq!(unpack(&joined[3..], noise.len() as u64 - 1), None);
        assert_eq!(unpack(&joined[4..], noise.len() as u64), None);
    }

    #[test]
    fn nothing_is_packed_and_read_back() {
        let parts = pack(Vec::new(), std::iter::empty(), 1).unwrap();
        assert_eq!(unpack(&parts.concat(), 0).unwrap(), Bytes::new());
    }
}
