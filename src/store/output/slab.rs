//! Where the small pieces of one job's tail lie: side by side in a few pieces of memory.
//!
//! Owns: how large those are. Must not know: what the bytes say.
//!
//! A batch of many jobs brings hundreds of small pieces, and another thread than took memory for them gives it back. One by one that is
//! dear: the allocator hands them back through lists which the thread that took them walks at its next need, 20 ms at once.

use bytes::{Bytes, BytesMut};

/// A piece of so much has memory of its own from the start. A slab is as large: some dozen small pieces, and small beside a block.
pub const SLAB_BYTES: usize = 16 << 10;
/// What is larger is not put into a slab: no more than a quarter of one is left empty at its end.
const SMALL_BYTES: usize = SLAB_BYTES / 4;

#[derive(Default)]
pub struct Slab {
    room: BytesMut,
}

impl Slab {
    /// The same bytes, where they keep nothing alive but the job's own. `held`: how much the job has here; its slabs grow with it.
    pub fn keep(&mut self, body: Bytes, held: usize) -> Bytes {
        if body.len() >= SLAB_BYTES {
            return body;
        }
        if body.len() > SMALL_BYTES {
            return Bytes::copy_from_slice(&body);
        }
        if self.room.capacity() < body.len() {
            self.room = BytesMut::with_capacity(held.min(SLAB_BYTES).max(body.len()));
        }
        self.room.extend_from_slice(&body);
        self.room.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_share_memory_that_grows_with_them_and_large_ones_are_not_copied() {
        let mut slab = Slab::default();
        let (mut held, mut kept) = (0, Vec::new());
        let mut ends = Vec::new();
        for n in 0..200u8 {
            let body = Bytes::from(vec![n; 700]);
            let mine = slab.keep(body.clone(), held);
            assert_eq!(mine, body);
            assert_ne!(mine.as_ptr(), body.as_ptr());
            held += mine.len();
            if ends.last() != Some(&mine.as_ptr()) {
                kept.push(mine.as_ptr());
            }
            ends.push(mine.as_ptr().wrapping_add(mine.len()));
            assert!(slab.room.capacity() <= held, "{n}: {}", slab.room.capacity());
        }
        assert!(kept.len() < 20, "{}", kept.len());
        let large = Bytes::from(vec![1; SLAB_BYTES]);
        assert_eq!(slab.keep(large.clone(), held).as_ptr(), large.as_ptr());
    }
}
