//! Pieces of a body as they come, until they are sent or written.
//!
//! Owns: that what is gathered takes the memory that it says, whatever pieces it comes in. Pure.
//!
//! A piece holds on to the whole buffer that its connection read it into, which may be several times as large. A short body is
//! gone before that matters and is not copied; a longer one is gathered in one buffer of exactly the size that is wanted, and the
//! connection reads the next piece into memory that is still warm. Uploads leave these buffers to each other: to get eight
//! mebibytes from the system anew costs two thousand page faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// A body up to this long stays as it came …
const AS_IT_CAME_BYTES: u64 = 128 * 1024;
/// … in so few pieces.
const AS_IT_CAME_PIECES: usize = 32;

/// Buffers of one size. As many wait for the next upload as others are in use, so that a quiet store holds none.
#[derive(Clone)]
pub(super) struct Buffers {
    size: usize,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    idle: Vec<BytesMut>,
    in_use: usize,
}

impl Buffers {
    pub(super) fn of(size_bytes: u64) -> Self {
        Self { size: usize::try_from(size_bytes).unwrap_or(usize::MAX), shelf: Arc::default() }
    }

    fn lend(&self) -> BytesMut {
        let mut shelf = self.shelf();
        shelf.in_use += 1;
        let idle = shelf.idle.pop();
        drop(shelf);
        idle.unwrap_or_default()
    }

    /// Without capacity: somebody else has it still, or it was lost.
    fn give_back(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut shelf = self.shelf();
        shelf.in_use = shelf.in_use.saturating_sub(1);
        if buffer.capacity() == self.size {
            shelf.idle.push(buffer);
        }
        let most = shelf.in_use.min(shelf.idle.len());
        let surplus = shelf.idle.split_off(most);
        drop(shelf);
        drop(surplus);
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Gathered {
    /// The most that is gathered before it is taken.
    capacity: usize,
    pieces: Vec<Bytes>,
    buffers: Buffers,
    is_lent: bool,
    /// Not empty: everything is here.
    buffer: BytesMut,
    bytes: u64,
}

impl Drop for Gathered {
    fn drop(&mut self) {
        if self.is_lent {
            self.buffers.give_back(std::mem::take(&mut self.buffer));
        }
    }
}

impl Gathered {
    pub(super) fn new(buffers: &Buffers, bytes_max: u64) -> Self {
        let capacity = usize::try_from(bytes_max).unwrap_or(usize::MAX).max(buffers.size);
        let buffers = buffers.clone();
        Self { capacity, pieces: Vec::new(), buffers, is_lent: false, buffer: BytesMut::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        let is_short = self.bytes <= AS_IT_CAME_BYTES && self.pieces.len() < AS_IT_CAME_PIECES;
        if is_short && self.buffer.is_empty() {
            self.pieces.push(piece);
            return;
        }
        if !self.is_lent {
            (self.buffer, self.is_lent) = (self.buffers.lend(), true);
        }
        if self.buffer.is_empty() {
            // All at once: growing would copy what is there again and again, and memory that is not used yet costs nothing.
            self.buffer.reserve(self.capacity);
        }
        for piece in self.pieces.drain(..).chain([piece]) {
            self.buffer.extend_from_slice(&piece);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        match self.buffer.is_empty() {
            true => std::mem::take(&mut self.pieces),
            false => vec![std::mem::take(&mut self.buffer).freeze()],
        }
    }

    /// The memory of what was taken, for the next part or the next upload, if nobody else needs it any more.
    pub(super) fn reuse(&mut self, taken: Bytes) {
        if self.bytes == 0
            && self.is_lent
            && let Ok(mut buffer) = taken.try_into_mut()
        {
            buffer.clear();
            self.buffer = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(buffers: &Buffers, body: &Bytes, piece_bytes: usize) -> Gathered {
        let mut gathered = Gathered::new(buffers, 1 << 20);
        let mut left = body.clone();
        while !left.is_empty() {
            gathered.push(left.split_to(piece_bytes.min(left.len())));
        }
        gathered
    }

    #[test]
    fn a_body_is_gathered_in_order_whatever_pieces_it_comes_in() {
        let body: Bytes = (0..300_000u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for piece_bytes in [1, 7_919, 100_000, 300_000] {
            let mut gathered = gathered(&Buffers::of(1 << 20), &body, piece_bytes);
            assert_eq!(gathered.bytes(), 300_000);
            let pieces = gathered.take();
            assert!(pieces.len() == 1 && pieces.concat() == body, "{} pieces", pieces.len());
            assert!(gathered.take().is_empty() && gathered.bytes() == 0);
        }
    }

    #[test]
    fn a_short_body_is_not_copied_unless_it_drips() {
        let (buffers, body) = (Buffers::of(1 << 20), Bytes::from(vec![7; 128 * 1024]));
        let pieces = gathered(&buffers, &body, 8 * 1024).take();
        assert_eq!((pieces.len(), pieces[0].as_ptr()), (16, body.as_ptr()));
        assert_eq!(gathered(&buffers, &body, 100).take().len(), 1);
    }

    #[test]
    fn one_part_is_gathered_in_the_memory_of_the_one_before() {
        let (buffers, body) = (Buffers::of(1 << 20), Bytes::from(vec![7; 1 << 20]));
        let mut gathered = gathered(&buffers, &body, 64 * 1024);
        let first = gathered.take().remove(0);
        let memory = first.as_ptr();
        gathered.reuse(first);
        assert_eq!(gathered.buffer.capacity(), 1 << 20);
        for _ in 0..1_024 {
            gathered.push(Bytes::from_static(&[9; 1_024]));
        }
        let second = gathered.take().remove(0);
        assert_eq!((second.as_ptr(), second.len()), (memory, 1 << 20));
        let held = second.clone();
        gathered.reuse(second);
        gathered.push(body);
        assert!(held.iter().all(|byte| *byte == 9), "somebody reads it still");
    }

    /// Else a daemon keeps the memory of its busiest moment for ever.
    #[test]
    fn as_many_buffers_wait_as_are_in_use_and_none_of_a_quiet_store() {
        let (buffers, body) = (Buffers::of(1 << 20), Bytes::from(vec![7; 1 << 19]));
        let idle = |buffers: &Buffers| buffers.shelf().idle.len();
        let mut many: Vec<Gathered> = (0..4).map(|_| gathered(&buffers, &body, 8 * 1024)).collect();
        let memory = many[0].buffer.as_ptr();
        drop(many.remove(0));
        assert_eq!(idle(&buffers), 1);
        let next = gathered(&buffers, &body, 8 * 1024);
        assert_eq!((next.buffer.as_ptr(), idle(&buffers)), (memory, 0));
        // One that is sent still when its upload is dropped is lost, and counts no longer.
        let sent = many[0].take();
        drop(many.remove(0));
        drop(sent);
        drop((many, next));
        assert_eq!((idle(&buffers), buffers.shelf().in_use), (0, 0));
    }
}
