//! Frames of the native socket: a u32 big-endian length, then that many bytes.
//!
//! Owns: where a frame ends, which lengths are refused, and how the read buffer grows and shrinks: with what has arrived, never
//! with what was announced. Must not know: sockets, messages, time.

use bytes::{Buf as _, BufMut, BytesMut};

/// Bytes of the length in front of each frame.
pub const HEADER_BYTES: usize = 4;
/// Body bytes a frame may have unless configured otherwise: a 5 MB manifest fits with room to spare.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A connection's first buffer. Most requests are far smaller, and idle connections have none.
const FIRST_BYTES: usize = 8 * 1024;
/// Up to here a connection buffers on its own account: 4,096 connections stay below 128 MiB. What is larger needs leave.
const SMALL_BYTES: usize = 32 * 1024;

/// Why a connection cannot go on: the next frame's start is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of zero bytes: each frame holds one message")]
    Empty,
    #[error("a frame of {announced} bytes: the limit is {max}")]
    TooLarge { announced: usize, max: usize },
}

/// What stands at the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A whole frame with a body of this many bytes.
    Frame(usize),
    /// Not yet; with the header it will be `total` bytes, [`HEADER_BYTES`] while even the length is missing.
    Partial { total: usize },
}

/// Received bytes, frame by frame.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    frame_bytes_max: usize,
    /// The sender fills whatever it is given: read more at a time.
    eager: bool,
    /// The buffer was grown for one large frame and goes with it.
    large: bool,
}

impl FrameBuffer {
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { bytes: BytesMut::new(), frame_bytes_max, eager: false, large: false }
    }

    /// Checks the length as soon as its four bytes are there.
    pub fn next(&self) -> Result<Next, FrameError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Next::Partial { total: HEADER_BYTES });
        };
        let announced = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if announced == 0 {
            return Err(FrameError::Empty);
        }
        if announced > self.frame_bytes_max {
            return Err(FrameError::TooLarge { announced, max: self.frame_bytes_max });
        }
        let total = HEADER_BYTES + announced;
        Ok(if self.bytes.len() >= total { Next::Frame(announced) } else { Next::Partial { total } })
    }

    /// The body of the frame that [`FrameBuffer::next`] found.
    pub fn body(&self, len: usize) -> &[u8] {
        self.bytes.get(HEADER_BYTES..HEADER_BYTES + len).unwrap_or_default()
    }

    /// Forgets that frame.
    pub fn consume(&mut self, len: usize) {
        if self.large {
            // Nothing was read past a large frame's end, so nothing is lost with its buffer.
            self.bytes = BytesMut::new();
            self.large = false;
        } else {
            self.bytes.advance((HEADER_BYTES + len).min(self.bytes.len()));
        }
    }

    /// The rest of a frame of `total` bytes does not fit into what a connection buffers on its own account.
    pub fn needs_leave(&self, total: usize) -> bool {
        total > SMALL_BYTES && self.bytes.len() >= SMALL_BYTES
    }

    /// Room for the next read while waiting for a frame of `total` bytes.
    pub fn room(&mut self, total: usize) -> impl BufMut + '_ {
        let len = self.bytes.len();
        let limit = if total > SMALL_BYTES && len >= SMALL_BYTES {
            self.large = true;
            let rest = total.saturating_sub(len);
            if self.bytes.capacity() == len {
                self.bytes.reserve(len.min(rest));
            }
            rest.min(self.bytes.capacity() - len)
        } else {
            if self.bytes.capacity() == len {
                let size = if self.eager || len >= FIRST_BYTES { SMALL_BYTES } else { FIRST_BYTES };
                self.bytes.reserve(size.saturating_sub(len).max(1));
            }
            // A reserve may give more than asked for; what is buffered without leave stays exact.
            SMALL_BYTES.saturating_sub(len).min(self.bytes.capacity() - len)
        };
        (&mut self.bytes).limit(limit)
    }

    /// Tells how much of the room was filled, so that a fast sender is read in larger pieces.
    pub fn filled(&mut self, read: usize) {
        self.eager = read >= FIRST_BYTES / 2;
    }

    /// Nothing received is waiting here.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives the memory back while the connection is idle.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.eager = false;
        }
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Appends one frame around `message`.
pub fn put_frame(into: &mut Vec<u8>, message: &impl prost::Message) {
    let len = message.encoded_len();
    into.reserve(HEADER_BYTES + len);
    into.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(into);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` as a socket would, in reads of at most `step`, and returns the bodies.
    fn read_all(buffer: &mut FrameBuffer, mut bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut bodies = Vec::new();
        loop {
            match buffer.next()? {
                Next::Frame(len) => {
                    bodies.push(buffer.body(len).to_vec());
                    buffer.consume(len);
                }
                Next::Partial { total } => {
                    if bytes.is_empty() {
                        return Ok(bodies);
                    }
                    let mut room = buffer.room(total);
                    let read = step.min(bytes.len()).min(room.remaining_mut());
                    assert!(read > 0, "no room to read into");
                    room.put_slice(&bytes[..read]);
                    drop(room);
                    buffer.filled(read);
                    bytes = &bytes[read..];
                }
            }
        }
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_request_survives_being_cut_at_any_byte() {
        let bodies = [b"first".to_vec(), vec![7; 300], b"x".to_vec()];
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        for cut in 0..=bytes.len() {
            let mut buffer = FrameBuffer::new(1_000);
            let mut read = read_all(&mut buffer, &bytes[..cut], 1_000).unwrap();
            read.extend(read_all(&mut buffer, &bytes[cut..], 1_000).unwrap());
            assert_eq!(read, bodies, "cut at {cut}");
        }
        for step in 1..20 {
            assert_eq!(read_all(&mut FrameBuffer::new(1_000), &bytes, step).unwrap(), bodies, "in steps of {step}");
        }
    }

    #[test]
    fn large_and_small_requests_follow_each_other_whole() {
        let sizes = [1, SMALL_BYTES - 4, SMALL_BYTES - 3, 3, SMALL_BYTES, 700_000, 5, 5, 1 << 20, 2];
        let bodies: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(at, size)| vec![u8::try_from(at).unwrap() + 1; *size]).collect();
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        for step in [777, 8_192, 65_536, usize::MAX] {
            let mut buffer = FrameBuffer::new(1 << 20);
            assert!(read_all(&mut buffer, &bytes, step).unwrap() == bodies, "in steps of {step}");
            assert!(buffer.capacity() <= 2 * SMALL_BYTES, "{} bytes kept after a large frame", buffer.capacity());
        }
    }

    #[test]
    fn a_frame_of_nothing_is_refused() {
        assert_eq!(read_all(&mut FrameBuffer::new(10), &[0, 0, 0, 0], 4), Err(FrameError::Empty));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        for header in [[0xff; 4], [0x80, 0, 0, 0], [0, 0, 0, 11]] {
            let announced = u32::from_be_bytes(header) as usize;
            let mut buffer = FrameBuffer::new(10);
            assert_eq!(read_all(&mut buffer, &header, 4), Err(FrameError::TooLarge { announced, max: 10 }));
            assert!(buffer.capacity() <= SMALL_BYTES);
        }
    }

    #[test]
    fn an_announced_length_costs_no_memory_until_the_bytes_come() {
        let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
        let header = u32::try_from(FRAME_BYTES_MAX).unwrap().to_be_bytes();
        read_all(&mut buffer, &header, 4).unwrap();
        assert!(buffer.capacity() <= FIRST_BYTES);
        read_all(&mut buffer, &vec![1; SMALL_BYTES * 3], 8_192).unwrap();
        assert!(buffer.capacity() <= SMALL_BYTES * 8, "{}", buffer.capacity());
    }

    #[test]
    fn leave_is_asked_for_only_when_a_frame_outgrows_its_connection() {
        let mut buffer = FrameBuffer::new(FRAME_BYTES_MAX);
        read_all(&mut buffer, &100_000_u32.to_be_bytes(), 4).unwrap();
        assert!(!buffer.needs_leave(100_004), "nothing has arrived");
        read_all(&mut buffer, &vec![1; SMALL_BYTES - 4], 8_192).unwrap();
        assert!(buffer.needs_leave(100_004));
        assert!(!buffer.needs_leave(SMALL_BYTES));
    }

    #[test]
    fn an_idle_connection_keeps_no_buffer() {
        let mut buffer = FrameBuffer::new(100);
        read_all(&mut buffer, &frame(b"hello"), 100).unwrap();
        buffer.rest();
        assert_eq!(buffer.capacity(), 0);
    }
}
