//! Pieces of output put together to lines.
//!
//! Owns: what stands between a piece's end and its line's end. Must not know: where lines are printed.

/// A line without an end is cut here: a job may write megabytes without one.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The lines of one stream.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Hands `line` every line that `piece` completes, without its end.
    pub fn feed<E>(&mut self, piece: &[u8], mut line: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = rest.split_at(at);
            if self.held.is_empty() {
                line(head)?;
            } else {
                self.held.extend_from_slice(head);
                line(&std::mem::take(&mut self.held))?;
            }
            rest = tail.get(1..).unwrap_or_default();
        }
        for part in rest.chunks(LINE_BYTES_MAX) {
            if self.held.len() + part.len() > LINE_BYTES_MAX {
                line(&std::mem::take(&mut self.held))?;
            }
            self.held.extend_from_slice(part);
        }
        Ok(())
    }

    /// What no line's end has followed.
    pub fn end<E>(&mut self, mut line: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.held.is_empty() { Ok(()) } else { line(&std::mem::take(&mut self.held)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut take = |line: &[u8]| {
            seen.push(String::from_utf8_lossy(line).into_owned());
            Ok::<(), ()>(())
        };
        let mut lines = Lines::default();
        for piece in pieces {
            lines.feed(piece, &mut take).unwrap();
        }
        lines.end(&mut take).unwrap();
        seen
    }

    #[test]
    fn a_line_in_pieces_is_one_line() {
        assert_eq!(lines(&[b"one\ntw", b"o\n\nthr", b"ee"]), ["one", "two", "", "three"]);
        assert!(lines(&[b"", b""]).is_empty());
    }

    #[test]
    fn output_without_lines_is_cut_not_kept() {
        let seen = lines(&[&vec![b'x'; 200_000], &[b'y'; 10]]);
        assert_eq!(seen.iter().map(String::len).sum::<usize>(), 200_010);
        assert!(seen.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    }
}
