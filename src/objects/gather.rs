//! Pieces of a body as they come, until they are sent or written.
//!
//! Owns: that an origin which sends a byte at a time costs no more memory than one which does not. Pure.

use bytes::{Bytes, BytesMut};

/// Pieces smaller than this are copied together: each piece kept apart costs its own handle, and may hold on to a whole read
/// buffer.
const SMALL_BYTES: usize = 4 * 1024;
/// Of what is copied together.
const JOINED_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Gathered {
    pieces: Vec<Bytes>,
    /// A small piece that came behind a large one, or first: kept as it is until another follows.
    lone: Bytes,
    /// Small pieces that came last.
    tail: BytesMut,
    bytes: u64,
}

impl Gathered {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        if piece.len() >= SMALL_BYTES {
            self.join();
            self.pieces.push(piece);
            return;
        }
        if self.tail.is_empty() && self.lone.is_empty() {
            self.lone = piece;
            return;
        }
        if self.lone.len() + self.tail.len() + piece.len() > JOINED_BYTES {
            self.join();
        }
        if self.tail.capacity() == 0 {
            self.tail.reserve(JOINED_BYTES);
        }
        self.tail.extend_from_slice(&std::mem::take(&mut self.lone));
        self.tail.extend_from_slice(&piece);
    }

    fn join(&mut self) {
        if !self.lone.is_empty() {
            self.pieces.push(std::mem::take(&mut self.lone));
        }
        if !self.tail.is_empty() {
            self.pieces.push(std::mem::take(&mut self.tail).freeze());
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.join();
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_drips_is_kept_in_few_pieces_and_in_order() {
        let mut gathered = Gathered::default();
        let body: Vec<u8> = (0..200_000u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let whole = Bytes::from(body.clone());
        for at in 0..100_000 {
            gathered.push(whole.slice(at..at + 1));
        }
        gathered.push(whole.slice(100_000..190_000));
        gathered.push(whole.slice(190_000..190_000));
        gathered.push(whole.slice(190_000..));
        assert_eq!(gathered.bytes(), 200_000);
        let pieces = gathered.take();
        assert!(pieces.len() < 6, "{} pieces", pieces.len());
        assert_eq!(pieces.concat(), body);
        assert!(gathered.take().is_empty() && gathered.bytes() == 0);
    }

    #[test]
    fn a_small_body_is_not_copied() {
        let body = Bytes::from(vec![7; 100]);
        let mut gathered = Gathered::default();
        gathered.push(Bytes::new());
        gathered.push(body.clone());
        let pieces = gathered.take();
        assert_eq!(pieces.iter().map(|piece| piece.as_ptr()).collect::<Vec<_>>(), [body.as_ptr()]);
    }
}
