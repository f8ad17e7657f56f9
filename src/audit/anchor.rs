//! Where the chain ended and when, kept outside of the database.
//!
//! Cutting the tail of log, chain and head leaves a shorter chain that is sound. An anchor that names
//! a position which is gone, or has another hash now, shows it. A line an anchor:
//! `2026-11-11T00:00:00.000Z 12345 <64 hexadecimal digits>`, appended and synced.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use chrono_tz::Tz;

use super::seal::{Hash, hex};
use crate::domain::window::{Millis, rfc3339};

/// Longer than any line of ours: what is longer is none.
const LINE_BYTES_MAX: usize = 200;

/// Where the chain ended once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// As it was written.
    pub at: String,
    pub position: i64,
    pub hash: Hash,
}

/// A file of anchors that grows.
pub struct AnchorFile {
    file: File,
    /// It may not end with a whole line: a crash, or a full disk.
    torn: bool,
}

/// Reads the anchors that a file had when it was opened, one after the other.
pub struct Anchors {
    lines: io::Take<BufReader<File>>,
    /// Lines that are no anchors: torn by a crash, or something else.
    pub strange: u64,
}

// === impl AnchorFile ===

impl AnchorFile {
    /// Opens or makes the file, and returns its last anchor.
    pub fn open(path: &Path) -> io::Result<(AnchorFile, Option<Anchor>)> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        let tail = length.saturating_sub(4 * LINE_BYTES_MAX as u64);
        file.seek(SeekFrom::Start(tail))?;
        let mut text = Vec::new();
        (&file).take(length - tail).read_to_end(&mut text)?;
        let torn = text.last().is_some_and(|byte| *byte != b'\n');
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok((AnchorFile { file, torn }, text.lines().rev().find_map(Anchor::parse)))
    }

    /// On disk when it returns.
    pub fn append(&mut self, at: Millis, position: i64, hash: &Hash) -> io::Result<()> {
        let begin = if std::mem::replace(&mut self.torn, true) { "\n" } else { "" };
        let line = format!("{begin}{} {position} {}\n", rfc3339(Tz::UTC, at), hex(hash));
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }
}

// === impl Anchors ===

impl Anchors {
    pub fn open(path: &Path) -> io::Result<Anchors> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Anchors { lines: BufReader::new(file).take(length), strange: 0 })
    }

    /// The next anchor; `None` at the end.
    pub fn read_next(&mut self) -> io::Result<Option<Anchor>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line of any length is read in pieces of at most this many bytes.
            let read = (&mut self.lines).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&line);
            match Anchor::parse(text.trim_end_matches('\n')) {
                Some(anchor) => return Ok(Some(anchor)),
                None if text.trim().is_empty() => {}
                None => self.strange += 1,
            }
        }
    }
}

// === impl Anchor ===

impl Anchor {
    fn parse(line: &str) -> Option<Anchor> {
        let mut words = line.split(' ');
        let (at, position, digits) = (words.next()?, words.next()?, words.next()?);
        let whole = words.next().is_none() && digits.len() == 64 && digits.is_ascii();
        let mut hash = Hash::default();
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let position = position.parse().ok().filter(|position| *position > 0)?;
        whole.then(|| Anchor { at: at.to_owned(), position, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_read_as_they_were_written_and_torn_lines_passed_over() {
        let path = std::env::temp_dir().join(format!("floodgate-anchors-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut file, none) = AnchorFile::open(&path).unwrap();
        assert_eq!(none, None);
        file.append(0, 7, &[7; 32]).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"1970-01-01T00:00:01.0").unwrap();
        let (mut file, last) = AnchorFile::open(&path).unwrap();
        assert_eq!(last.as_ref().map(|anchor| (anchor.position, anchor.hash)), Some((7, [7; 32])));
        file.append(2_000, 9, &[9; 32]).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[b'x'; 1000]).unwrap();

        let mut anchors = Anchors::open(&path).unwrap();
        // What comes after the opening is not read: the chain is, at this moment.
        file.append(3_000, 10, &[10; 32]).unwrap();
        let mut found = Vec::new();
        while let Some(anchor) = anchors.read_next().unwrap() {
            found.push((anchor.position, anchor.hash));
        }
        assert_eq!(found, [(7, [7; 32]), (9, [9; 32])]);
        assert!(anchors.strange >= 2);
        let _ = std::fs::remove_file(&path);
    }
}
