//! The lines of a file made of gzip members, as far as they can be read.
//!
//! Owns: members, tears and how reading goes on behind one, how long a line may be. Must not know: what a line says.
//!
//! A process that is killed leaves its last member without an end, and the next one appends behind it. A member is surveyed before any of
//! its lines is handed out: whole ones have them all, torn ones those before the tear, broken ones none. Then the tear is told, and
//! reading goes on at the next member's header. The same bytes always read the same way: an import that is run again counts on it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Take};
use std::ops::Range;
use std::path::Path;

use flate2::bufread::GzDecoder;
use rustix::fs::{Mode, OFlags};

use super::survey::{Member, STEP_BYTES, go_to, survey, too_long};

/// joblet's largest record, 128 MiB of any bytes, is 171 MiB as base64. Without a bound a few KiB of gzip could fill the memory.
const LINE_BYTES_MAX: usize = 192 * 1024 * 1024;
/// Each tear costs a second look at the bytes behind it: a file that is nothing but tears must end.
const BREAKS_MAX: u64 = 1_000;

/// Where a file cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// Counted from 1.
    pub member: u64,
    /// The last line of the file that was read whole, counted from 1.
    pub line: u64,
    pub why: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Without its end. Never empty.
    Line(&'a [u8]),
    Break(Break),
}

/// A file in pieces.
pub struct Pieces {
    state: State,
    member: u64,
    line: u64,
    breaks: u64,
    buffer: Vec<u8>,
    /// Of `buffer`: what was handed out.
    used: usize,
    /// Of `buffer`: what is known to hold no line's end.
    looked: usize,
    line_bytes_max: usize,
}

enum State {
    Within(Box<Within>),
    Between(BufReader<File>),
    /// At a tear: reading goes on there, if anywhere.
    Torn(BufReader<File>, Option<u64>),
    Ended,
}

/// A member whose lines can be trusted.
struct Within {
    decoder: GzDecoder<Take<BufReader<File>>>,
    next: Option<u64>,
}

impl Within {
    fn into_reader(self) -> BufReader<File> {
        self.decoder.into_inner().into_inner()
    }
}

impl Pieces {
    /// # Errors
    /// The file cannot be opened, or has become a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self::of(file.into(), LINE_BYTES_MAX))
    }

    fn of(file: File, line_bytes_max: usize) -> Self {
        Self {
            state: State::Between(BufReader::with_capacity(STEP_BYTES, file)),
            member: 0,
            line: 0,
            breaks: 0,
            buffer: Vec::new(),
            used: 0,
            looked: 0,
            line_bytes_max,
        }
    }

    /// The number of the last line that was handed out.
    pub fn line(&self) -> u64 {
        self.line
    }

    pub fn member(&self) -> u64 {
        self.member
    }

    /// None: the end.
    pub fn next(&mut self) -> Option<Piece<'_>> {
        let line = loop {
            if let Some(line) = self.whole_line() {
                break line;
            }
            if let Err(error) = self.more() {
                return Some(Piece::Break(self.tear(&error)));
            }
            if matches!(self.state, State::Ended) {
                let rest = self.used..self.buffer.len();
                self.used = rest.end;
                self.looked = rest.end;
                if rest.is_empty() {
                    return None;
                }
                self.line += 1;
                break rest;
            }
        };
        Some(Piece::Line(self.buffer.get(line).unwrap_or_default()))
    }

    fn whole_line(&mut self) -> Option<Range<usize>> {
        loop {
            let found = self.buffer.get(self.looked..)?.iter().position(|byte| *byte == b'\n');
            let Some(at) = found.map(|at| self.looked + at) else {
                self.looked = self.buffer.len();
                return None;
            };
            let line = self.used..at;
            self.used = at + 1;
            self.looked = at + 1;
            self.line += 1;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    /// One step on: more bytes, the next member, or the end.
    fn more(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(()),
            State::Between(mut reader) => {
                if reader.fill_buf()?.is_empty() {
                    return Ok(());
                }
                self.member += 1;
                let start = reader.stream_position()?;
                let Member { broken, end, next } =
                    survey(&mut reader, start, self.buffer.len() - self.used, self.line_bytes_max)?;
                if let Some(error) = broken {
                    self.state = State::Torn(reader, next);
                    return Err(io::Error::other(format!("{error}; none of its lines can be trusted")));
                }
                go_to(&mut reader, start)?;
                let decoder = GzDecoder::new(reader.take(end - start));
                self.state = State::Within(Box::new(Within { decoder, next }));
                Ok(())
            }
            State::Torn(mut reader, next) => {
                let Some(next) = next else { return Ok(()) };
                if self.breaks >= BREAKS_MAX {
                    let why = format!("torn in more than {BREAKS_MAX} places: what follows is not looked at");
                    return Err(io::Error::other(why));
                }
                go_to(&mut reader, next)?;
                self.state = State::Between(reader);
                Ok(())
            }
            State::Within(mut within) => {
                self.buffer.drain(..self.used);
                self.looked -= self.used;
                self.used = 0;
                // A long line is not kept in memory behind it.
                if self.buffer.is_empty() && self.buffer.capacity() > 16 * STEP_BYTES {
                    self.buffer = Vec::new();
                }
                let held = self.buffer.len();
                // The survey has seen to that, unless somebody writes to the file meanwhile.
                if held > self.line_bytes_max {
                    let next = within.next;
                    self.state = State::Torn(within.into_reader(), next);
                    return Err(too_long(self.line_bytes_max));
                }
                self.buffer.resize(held + STEP_BYTES, 0);
                let read = within.decoder.read(self.buffer.get_mut(held..).unwrap_or_default());
                self.buffer.truncate(held + read.as_ref().map_or(0, |read| *read));
                match read {
                    Ok(0) => self.state = State::Between(within.into_reader()),
                    Ok(_) => self.state = State::Within(within),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => self.state = State::Within(within),
                    Err(error) => {
                        let next = within.next;
                        self.state = State::Torn(within.into_reader(), next);
                        return Err(error);
                    }
                }
                Ok(())
            }
        }
    }

    /// Drops the line that was being read.
    fn tear(&mut self, error: &io::Error) -> Break {
        self.breaks += 1;
        let lost = self.buffer.len().saturating_sub(self.used);
        self.buffer = Vec::new();
        self.used = 0;
        self.looked = 0;
        let behind = if lost > 0 { format!("; {lost} bytes of a line are lost") } else { String::new() };
        Break { member: self.member, line: self.line, why: format!("{error}{behind}") }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn member(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    /// Lines as they are, tears as `!member/line`.
    fn read(bytes: &[u8], line_bytes_max: usize) -> Vec<String> {
        let mut pieces = Pieces::of(file(bytes), line_bytes_max);
        let mut seen = Vec::new();
        while let Some(piece) = pieces.next() {
            seen.push(match piece {
                Piece::Line(line) => String::from_utf8_lossy(line).into_owned(),
                Piece::Break(torn) => format!("!{}/{}", torn.member, torn.line),
            });
        }
        assert!(pieces.next().is_none(), "the end stays the end");
        seen
    }

    #[test]
    fn members_read_like_one_file() {
        let bytes = [member("a\nb\n"), member(""), member("\n\nc\nd"), member("e\n")].concat();
        assert_eq!(read(&bytes, 100), ["a", "b", "c", "de"]);
        assert!(read(b"", 100).is_empty());
    }

    #[test]
    fn a_torn_tail_costs_the_line_it_tore_and_says_where() {
        let text: String =
            (0..200).map(|n| format!("line {n} of some length to fill the member {}\n", n * 7919)).collect();
        let whole = [member("first\n"), member(&text)].concat();
        for cut in [1, 5, 8, 9, 40, 200] {
            let seen = read(&whole[..whole.len() - cut], 1000);
            let (torn, lines) = seen.split_last().unwrap();
            assert_eq!(*torn, format!("!2/{}", lines.len()), "cut {cut}");
            assert_eq!(lines[0], "first");
            for (at, line) in lines[1..].iter().enumerate() {
                assert!(line.starts_with(&format!("line {at} of")), "cut {cut}: {line}");
            }
            if cut <= 8 {
                assert_eq!(lines.len(), 201, "only the checksum is gone, {cut} bytes");
            }
        }
    }

    #[test]
    fn what_was_appended_behind_a_tear_is_read_too() {
        let mut bytes = member("a\nb\n");
        bytes.truncate(bytes.len() - 5);
        bytes.extend(member("c\n"));
        let mut middle = member(&"some words that are packed\n".repeat(50));
        middle.truncate(middle.len() / 2);
        bytes.extend(middle);
        bytes.extend(member("d\n"));
        bytes.extend(member("e\n"));
        let seen: Vec<_> = read(&bytes, 100).into_iter().filter(|line| line.len() < 8).collect();
        let readable: Vec<_> = seen.iter().filter(|line| !line.starts_with('!')).collect();
        assert_eq!(readable, ["a", "b", "c", "d", "e"]);
        assert_eq!(seen.iter().filter(|line| line.starts_with('!')).count(), 2, "{seen:?}");
    }

    fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
        range
            .map(|n| format!("{{\"sequence\":{n},\"content\":\"request {n} done in {} ms\"}}", n * 7_919 % 997))
            .collect()
    }

    fn member_of(lines: &[String]) -> Vec<u8> {
        member(&(lines.join("\n") + "\n"))
    }

    /// What any decoder gets out of the bytes before they end: whole lines only.
    fn before_the_end(bytes: &[u8]) -> Vec<String> {
        let mut text = Vec::new();
        let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut text);
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        String::from_utf8(text[..whole].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    fn without_tears(seen: Vec<String>) -> Vec<String> {
        seen.into_iter().filter(|line| !line.starts_with('!')).collect()
    }

    #[test]
    fn wherever_a_member_is_torn_no_line_is_made_of_the_next_ones_bytes() {
        let (first, second) = (numbered(0..60), numbered(60..90));
        let (one, two) = (member_of(&first), member_of(&second));
        for cut in 1..one.len() {
            let torn = &one[..one.len() - cut];
            let expected = [before_the_end(torn), second.clone()].concat();
            let seen = read(&[torn, &two].concat(), 1_000);
            assert_eq!(seen.iter().filter(|line| line.starts_with('!')).count(), 1, "cut {cut}");
            assert_eq!(without_tears(seen), expected, "cut {cut}");
        }
    }

    #[test]
    fn a_member_torn_in_its_own_header_is_no_part_of_the_torn_one_before_it() {
        let (first, second) = (numbered(0..60), numbered(60..90));
        let (one, two) = (member_of(&first), member_of(&second));
        for cut in [20, 33, 47, 61, 90, 130] {
            let torn = &one[..one.len() - cut];
            let before = before_the_end(torn);
            for left in 2..40 {
                for behind in [&two[..], b""] {
                    let seen = without_tears(read(&[torn, &two[..left], behind].concat(), 1_000));
                    assert_eq!(seen[..before.len()], before, "cut {cut}, {left} left");
                    let rest = &seen[before.len()..];
                    let expected = if behind.is_empty() { &[][..] } else { &second[..] };
                    assert!(
                        rest.ends_with(expected) && rest.len() <= expected.len() + 1,
                        "cut {cut}, {left} left: {rest:?}"
                    );
                    assert!(rest.iter().all(|line| second.contains(line)), "cut {cut}, {left} left: {rest:?}");
                }
            }
        }
    }

    #[test]
    fn zeros_of_a_power_cut_are_no_lines() {
        let (first, second) = (numbered(0..60), numbered(60..90));
        let (one, two) = (member_of(&first), member_of(&second));
        for cut in (9..one.len()).step_by(3) {
            let torn = &one[..one.len() - cut];
            for zeros in [16, 4_096, 70_000] {
                let seen = without_tears(read(&[torn, &vec![0; zeros], &two].concat(), 1_000));
                assert_eq!(seen, [before_the_end(torn), second.clone()].concat(), "cut {cut}, {zeros} zeros");
            }
        }
    }

    #[test]
    fn a_member_with_a_wrong_byte_gives_no_line_at_all() {
        let (first, second) = (numbered(0..60), numbered(60..90));
        let mut one = GzEncoder::new(Vec::new(), Compression::none());
        one.write_all((first.join("\n") + "\n").as_bytes()).unwrap();
        let (one, two) = (one.finish().unwrap(), member_of(&second));
        // Behind the header and that of the one block, which is not packed: text and checksum.
        for at in 15..one.len() {
            let mut bytes = [&one[..], &two].concat();
            bytes[at] ^= 1 << (at % 8);
            let seen = read(&bytes, 10_000);
            assert_eq!(seen[0], "!1/0", "byte {at}");
            assert_eq!(seen[1..], second, "byte {at}");
        }
    }

    #[test]
    fn what_looks_like_a_header_inside_a_whole_member_ends_nothing() {
        let inner = member("x\n");
        let mut outer = GzEncoder::new(Vec::new(), Compression::none());
        outer.write_all(b"before\n").unwrap();
        outer.write_all(&inner).unwrap();
        outer.write_all(b"\nbehind\n").unwrap();
        let seen = read(&[outer.finish().unwrap(), member("next\n")].concat(), 1_000);
        assert_eq!(
            (seen[0].as_str(), &seen[seen.len() - 2..]),
            ("before", &["behind".to_owned(), "next".to_owned()][..])
        );
    }

    #[test]
    fn a_member_that_carries_its_files_name_is_found_behind_a_tear() {
        let mut named =
            flate2::GzBuilder::new().filename("stdout.log").mtime(77).write(Vec::new(), Compression::best());
        named.write_all(b"c\n").unwrap();
        let mut bytes = member("a\nb\n");
        bytes.truncate(bytes.len() - 5);
        bytes.extend(named.finish().unwrap());
        assert_eq!(read(&bytes, 100), ["a", "b", "!1/2", "c"]);
    }

    #[test]
    fn noise_is_one_tear_and_no_line() {
        assert_eq!(read(b"{\"content\":\"plain text\"}\n", 100), ["!1/0"]);
        assert_eq!(read(&[member("a\n"), vec![0; 5000]].concat(), 100), ["a", "!2/1"]);
    }

    #[test]
    fn a_line_that_would_fill_the_memory_is_not_read() {
        let bomb = member(&"x".repeat(50_000_000));
        assert!(bomb.len() < 100_000);
        let bytes = [member("a\n"), bomb, member("b\n")].concat();
        let mut pieces = Pieces::of(file(&bytes), 1_000_000);
        let mut seen = Vec::new();
        while let Some(piece) = pieces.next() {
            seen.push(format!("{piece:?}"));
            assert!(pieces.buffer.capacity() < 4_000_000);
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen[1].contains("more than 1000000 bytes") && seen[1].contains("member: 2"), "{seen:?}");
    }

    #[test]
    fn a_file_of_nothing_but_tears_ends() {
        let mut head = member("a\n");
        head.truncate(12);
        let bytes = head.repeat(3_000);
        let seen = read(&bytes, 100);
        assert!(seen.len() as u64 <= 2 * BREAKS_MAX, "{}", seen.len());
    }
}
