//! Writing one file: whole under its name, or not at all.
//!
//! Owns: members, the temporary name, syncing. Must not know: what a line says.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// So much text goes into one member: if the file is torn, no more than this is in doubt.
const MEMBER_BYTES: usize = 1024 * 1024;

/// Same lines, same bytes.
pub struct FileWriter {
    place: PathBuf,
    part: PathBuf,
    /// None: finished, or failed.
    encoder: Option<GzEncoder<BufWriter<File>>>,
    in_member: usize,
}

impl FileWriter {
    /// Makes the folder too.
    pub fn create(place: &Path) -> io::Result<Self> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file's place", place.display()));
        let folder = place.parent().ok_or_else(missing)?;
        let name = place.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
        std::fs::create_dir_all(folder)?;
        let part = folder.join(format!(".{name}.part"));
        // What a broken export left; never written through, should it be a link.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&part)?;
        let encoder = GzEncoder::new(BufWriter::new(file), Compression::default());
        Ok(Self { place: place.to_owned(), part, encoder: Some(encoder), in_member: 0 })
    }

    /// `line` with its end.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        // Only when a line comes: no file ends with a member that has none.
        if self.in_member >= MEMBER_BYTES
            && let Some(full) = self.encoder.take()
        {
            self.encoder = Some(GzEncoder::new(full.finish()?, Compression::default()));
            self.in_member = 0;
        }
        let Some(encoder) = &mut self.encoder else { return Err(finished()) };
        encoder.write_all(line)?;
        self.in_member += line.len();
        Ok(())
    }

    /// Synced, then under its own name. Returns its size.
    pub fn finish(mut self) -> io::Result<u64> {
        let Some(encoder) = self.encoder.take() else { return Err(finished()) };
        let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let size = file.metadata()?.len();
        std::fs::rename(&self.part, &self.place)?;
        if let Some(folder) = self.place.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(size)
    }
}

fn finished() -> io::Error {
    io::Error::other("the file is finished")
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // Finished files have moved away: nothing is found then.
        drop(self.encoder.take());
        let _ = std::fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn write(place: &Path, lines: usize) -> Vec<u8> {
        let mut writer = FileWriter::create(place).unwrap();
        for number in 0..lines {
            writer.write(format!("{{\"sequence\":{number}}}\n").as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        std::fs::read(place).unwrap()
    }

    #[test]
    fn the_same_lines_make_the_same_bytes_and_any_reader_of_gzip_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("a/x.gz"), dir.path().join("b/x.gz"));
        let bytes = write(&one, 200_000);
        assert_eq!(bytes, write(&other, 200_000));
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        assert!(text.len() > 2 * MEMBER_BYTES, "several members");
        assert_eq!(text.lines().count(), 200_000);
        assert_eq!(text.lines().last(), Some("{\"sequence\":199999}"));
    }

    #[test]
    fn a_broken_export_leaves_the_old_file_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("x.gz");
        let old = write(&place, 3);
        let mut broken = FileWriter::create(&place).unwrap();
        broken.write(b"{}\n").unwrap();
        drop(broken);
        assert_eq!(std::fs::read(&place).unwrap(), old);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_through_a_link_that_lies_in_wait() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "data").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join(".x.gz.part")).unwrap();
        write(&dir.path().join("x.gz"), 3);
        assert_eq!(std::fs::read(&precious).unwrap(), b"data");
    }
}
