//! Received bytes of one sender, cut where frames end.
//!
//! Owns: where a frame ends, which lengths are refused, how the buffer grows: with what has arrived, never with what was announced.
//! Must not know: sockets, messages.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};

/// Bytes of the length in front of each message.
pub const HEADER_BYTES: usize = 4;
/// What is read at a time from a sender that has much to say: some 1,500 lines.
const EAGER_BYTES: usize = 256 << 10;
/// The same from one that says little.
const CALM_BYTES: usize = 16 << 10;
/// Up to here a connection buffers a frame on its own account; what is larger needs leave.
const OWN_BYTES: usize = 1 << 20;

/// The sender's next frame is larger than any may be: where the one after it begins will not be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {announced} bytes: the limit is {max}")]
pub struct TooLarge {
    pub announced: usize,
    pub max: usize,
}

#[derive(Debug)]
pub struct Input {
    bytes: BytesMut,
    frame_bytes_max: usize,
    /// Bytes of the unfinished frame with its header, as far as that is known.
    wanted: usize,
    eager: bool,
}

impl Input {
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { bytes: BytesMut::new(), frame_bytes_max, wanted: HEADER_BYTES, eager: false }
    }

    /// Takes every whole frame that has arrived, with their headers; empty if there is none. A frame that is too large is told of when all
    /// before it are taken.
    pub fn whole(&mut self) -> Result<Bytes, TooLarge> {
        let mut end = 0;
        loop {
            let rest = self.bytes.get(end..).unwrap_or_default();
            let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
                self.wanted = HEADER_BYTES;
                break;
            };
            let announced = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
            if announced > self.frame_bytes_max {
                if end == 0 {
                    return Err(TooLarge { announced, max: self.frame_bytes_max });
                }
                break;
            }
            self.wanted = HEADER_BYTES + announced;
            if rest.len() < self.wanted {
                break;
            }
            end += self.wanted;
        }
        Ok(if end == 0 { Bytes::new() } else { self.bytes.split_to(end).freeze() })
    }

    /// A frame was begun and is not finished.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Bytes that the unfinished frame will occupy, where that is more than a connection may have on its own account.
    pub fn needs_leave(&self) -> Option<usize> {
        (self.wanted > OWN_BYTES && self.bytes.len() >= OWN_BYTES / 2).then_some(self.wanted)
    }

    /// Room for the next read.
    pub fn room(&mut self) -> impl BufMut + '_ {
        let len = self.bytes.len();
        let usual = if self.eager { EAGER_BYTES } else { CALM_BYTES };
        let spare = self.bytes.capacity() - len;
        if spare < usual / 4 {
            // A large frame doubles its buffer as it comes.
            let rest = self.wanted.saturating_sub(len);
            self.bytes.reserve(rest.min(len).max(usual));
        }
        &mut self.bytes
    }

    /// Tells how much was read, so that a fast sender is read in larger pieces.
    pub fn filled(&mut self, read: usize) {
        self.eager = read >= CALM_BYTES / 2;
    }

    /// Gives the memory back while nothing comes.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && !self.eager {
            self.bytes = BytesMut::new();
        }
    }
}

/// The bodies of whole frames, one after the other.
pub fn bodies(mut frames: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if frames.len() < HEADER_BYTES {
            return None;
        }
        let length = usize::try_from(frames.get_u32()).ok().filter(|length| *length <= frames.len())?;
        Some(frames.split_to(length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn feed(input: &mut Input, mut bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let mut room = input.room();
            let read = step.min(bytes.len()).min(room.chunk_mut().len());
            assert!(read > 0, "no room");
            room.put_slice(&bytes[..read]);
            drop(room);
            input.filled(read);
            bytes = &bytes[read..];
            out.extend(bodies(input.whole()?).map(|body| body.to_vec()));
        }
        Ok(out)
    }

    #[test]
    fn messages_survive_being_cut_at_any_byte_and_empty_ones_are_seen() {
        let sent = [vec![1; 300], Vec::new(), vec![2; 2 << 20], vec![3], vec![4; 5_000]];
        let bytes: Vec<u8> = sent.iter().flat_map(|body| frame(body)).collect();
        for step in [1_001, 4_096, 300_000, usize::MAX] {
            let mut input = Input::new(4 << 20);
            assert!(feed(&mut input, &bytes, step).unwrap() == sent, "in steps of {step}");
            assert!(!input.is_partial());
        }
        let small: Vec<u8> = [vec![1; 3], vec![2; 2]].iter().flat_map(|body| frame(body)).collect();
        assert_eq!(feed(&mut Input::new(10), &small, 1).unwrap(), [vec![1; 3], vec![2; 2]]);
    }

    #[test]
    fn what_came_before_a_frame_that_is_too_large_is_kept() {
        let mut bytes = frame(b"fine");
        bytes.extend_from_slice(&[0xff; 4]);
        let mut input = Input::new(10);
        let mut room = input.room();
        room.put_slice(&bytes);
        drop(room);
        assert_eq!(bodies(input.whole().unwrap()).count(), 1);
        assert_eq!(input.whole(), Err(TooLarge { announced: u32::MAX as usize, max: 10 }));
    }

    #[test]
    fn an_announced_length_costs_no_memory_until_the_bytes_come() {
        let mut input = Input::new(128 << 20);
        feed(&mut input, &(100u32 << 20).to_be_bytes(), 4).unwrap();
        assert!(input.bytes.capacity() <= CALM_BYTES && input.needs_leave().is_none());
        feed(&mut input, &vec![0; 600 << 10], 100_000).unwrap();
        assert_eq!(input.needs_leave(), Some((100 << 20) + 4));
        assert!(input.bytes.capacity() <= 2 << 20, "{}", input.bytes.capacity());
    }
}
