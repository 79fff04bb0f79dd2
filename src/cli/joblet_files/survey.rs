//! Where a member ends, and whether its lines can be trusted, before any of them is handed out.
//!
//! Owns: checksums, finding the next member behind a tear, which bytes are a torn member's own. Must not know: lines, but for their length.
//!
//! A decoder that reaches a tear inflates the next member's bytes as if they went on with the torn one, and finds out some thousand bytes
//! later at best: lines come out that nobody wrote. So a member is inflated to its end first, and nothing is kept. If its checksum is
//! right, all of it is what was written, whatever stands in it. If not, it is inflated again up to the next header: where its bytes just
//! end there, they are taken for the beginning of what was written. Everything else has a wrong byte somewhere, and nothing says where.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::ops::Range;

use flate2::bufread::GzDecoder;

/// Inflated, or looked through, at a time.
pub const STEP_BYTES: usize = 64 * 1024;
/// Identification, method, flags, four bytes of time, what the packer did, the system.
const HEADER_BYTES: usize = 10;
/// So many zeros at a tear are no member's: a stream that goes on for so long with nothing else only repeats what stands before.
const ZEROS_MIN: u64 = 16;

#[derive(Debug)]
pub struct Member {
    /// It holds something that was not written so. None: whatever inflates was, up to its end or to where it was cut off.
    pub broken: Option<io::Error>,
    /// Behind the last of its own bytes.
    pub end: u64,
    /// Where reading goes on. None: nowhere.
    pub next: Option<u64>,
}

/// Of the member at `start`. `held`: bytes of a line that the member before left open.
pub fn survey(reader: &mut BufReader<File>, start: u64, held: usize, line_bytes_max: usize) -> io::Result<Member> {
    if inflate(reader, start..u64::MAX, held, line_bytes_max)?.is_ok() {
        let end = reader.stream_position()?;
        return Ok(Member { broken: None, end, next: Some(end) });
    }
    let next = next_header(reader, start + 1)?;
    let until = next.map_or_else(|| reader.stream_position(), Ok)?;
    let end = own_end(reader, start..until)?;
    let error = inflate(reader, start..end, held, line_bytes_max)?.err();
    let broken = error.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
    Ok(Member { broken, end, next })
}

/// Without losing what is buffered: members are often smaller than the buffer.
pub fn go_to(reader: &mut BufReader<File>, at: u64) -> io::Result<()> {
    let here = reader.stream_position()?;
    reader.seek_relative(at.wrapping_sub(here).cast_signed())
}

pub fn too_long(line_bytes_max: usize) -> io::Error {
    io::Error::other(format!("a line of more than {line_bytes_max} bytes"))
}

/// Whether a whole member stands there. The inner error: why not.
fn inflate(
    reader: &mut BufReader<File>,
    span: Range<u64>,
    held: usize,
    line_bytes_max: usize,
) -> io::Result<io::Result<()>> {
    go_to(reader, span.start)?;
    let mut decoder = GzDecoder::new(reader.take(span.end - span.start));
    let mut step = vec![0; STEP_BYTES];
    let mut open = held;
    loop {
        let inflated = match decoder.read(&mut step) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => step.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(error)),
        };
        let is_end = |byte: &u8| *byte == b'\n';
        let line = open + inflated.iter().position(is_end).unwrap_or(inflated.len());
        if line > line_bytes_max {
            return Ok(Err(too_long(line_bytes_max)));
        }
        open = inflated.iter().rposition(is_end).map_or(line, |at| inflated.len() - at - 1);
    }
}

/// Where a member begins, at `from` or behind it. None: the reader stands at the end of the file.
///
/// Each place that looks like a header ends the torn member before it, also where nothing good follows: that may be a torn member too.
/// In a stream of no meaning, such a place comes once in some 200 GB.
fn next_header(reader: &mut BufReader<File>, from: u64) -> io::Result<Option<u64>> {
    go_to(reader, from)?;
    let mut at = from;
    let mut window: Vec<u8> = Vec::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let read = bytes.len();
        window.extend_from_slice(bytes);
        reader.consume(read);
        if let Some(found) = window.windows(HEADER_BYTES).position(is_header) {
            return Ok(Some(at + found as u64));
        }
        let done = window.len().saturating_sub(HEADER_BYTES - 1);
        window.drain(..done);
        at += done as u64;
    }
}

/// The flags that exist, the levels that packers tell, the systems that have a number.
fn is_header(bytes: &[u8]) -> bool {
    matches!(bytes, [0x1f, 0x8b, 8, 0..=0x1f, _, _, _, _, 0 | 2 | 4, 0..=13 | 255])
}

/// A header that was torn itself. One byte of it says nothing.
fn begins_header(bytes: &[u8]) -> bool {
    matches!(bytes, [0x1f, 0x8b] | [0x1f, 0x8b, 8] | [0x1f, 0x8b, 8, 0..=0x1f, ..])
}

/// Behind the last byte that can be the torn member's own. What is left of a header, where the next one was torn at once, is not, nor
/// are the zeros that fill a file up when the power fails.
fn own_end(reader: &mut BufReader<File>, span: Range<u64>) -> io::Result<u64> {
    let behind = |end: u64, bytes: usize| end.saturating_sub(bytes as u64).max(span.start);
    let from = behind(span.end, HEADER_BYTES - 1);
    let tail = bytes_at(reader, from..span.end)?;
    let torn = (0..tail.len()).find(|at| tail.get(*at..).is_some_and(begins_header));
    let end = torn.map_or(span.end, |at| from + at as u64);
    let mut solid = end;
    while solid > span.start {
        let from = behind(solid, STEP_BYTES);
        let bytes = bytes_at(reader, from..solid)?;
        let last = bytes.iter().rposition(|byte| *byte != 0);
        solid = last.map_or(from, |at| from + at as u64 + 1);
        if last.is_some() {
            break;
        }
    }
    Ok(if end - solid < ZEROS_MIN { end } else { solid })
}

fn bytes_at(reader: &mut BufReader<File>, span: Range<u64>) -> io::Result<Vec<u8>> {
    go_to(reader, span.start)?;
    let mut bytes = Vec::new();
    reader.take(span.end - span.start).read_to_end(&mut bytes)?;
    Ok(bytes)
}
