//! What was asked and what was answered: the truth about what was promised. Its lines are those of
//! `floodgate::journal`, which reads them.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use floodgate::journal::Line;
pub use floodgate::journal::{Answer, Coupon, Exchange, Held, Outcome, Record, Request, SET_ASIDE};

/// All exchanges of a run, in memory and, if wished, in a file of NDJSON.
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    exchanges: Vec<Exchange>,
    file: Option<File>,
    line: Vec<u8>,
}

// === impl Journal ===

impl Journal {
    pub fn in_memory() -> Journal {
        Journal { inner: Mutex::default() }
    }

    /// Also written to a new file at `path`.
    pub fn to_file(path: &Path) -> Result<Journal, String> {
        let file = File::create_new(path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Journal { inner: Mutex::new(Inner { file: Some(file), ..Inner::default() }) })
    }

    /// Notes a request, numbers it, and only then returns: now it may be sent. `Err`: the file
    /// cannot be written, so nothing more may be sent.
    pub fn request(&self, request: Request) -> Result<u64, String> {
        let mut inner = self.inner();
        let seq = inner.exchanges.len() as u64 + 1;
        let request = Request { seq, ..request };
        inner.write(&Line::Request(&request))?;
        inner.exchanges.push(Exchange { request, answer: None });
        Ok(seq)
    }

    /// Notes the answer to a request of this journal.
    pub fn answer(&self, answer: Answer) -> Result<(), String> {
        let mut inner = self.inner();
        inner.write(&Line::Answer(&answer))?;
        let at = answer.seq as usize - 1;
        inner.exchanges[at].answer = Some(answer);
        Ok(())
    }

    /// As if the answer to a request had been lost: for tests of who asks again.
    pub fn forget_answer(&self, seq: u64) {
        self.inner().exchanges[seq as usize - 1].answer = None;
    }

    /// What it holds by now.
    pub fn record(&self) -> Record {
        Record { exchanges: self.inner().exchanges.clone(), orphans: Vec::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }
}

// === impl Inner ===

impl Inner {
    /// One write a line, past every buffer of the process: it survives the client's death.
    fn write(&mut self, line: &Line<'_>) -> Result<(), String> {
        let Some(file) = &mut self.file else { return Ok(()) };
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).expect("a line is plain data");
        self.line.push(b'\n');
        file.write_all(&self.line).map_err(|error| format!("cannot write the journal: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(user: &str) -> Request {
        Request {
            seq: 0,
            at: 1,
            gateway: "127.0.0.1:8080".into(),
            template: 7,
            user: user.into(),
            claim_key: Some("k".into()),
            ip: None,
            device: None,
        }
    }

    #[test]
    fn a_file_reads_as_it_was_written_and_each_request_is_there_before_its_answer() {
        let path = std::env::temp_dir().join(format!("floodgate-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journal = Journal::to_file(&path).unwrap();
        assert_eq!(journal.request(request("u-1")), Ok(1));
        assert_eq!(Record::read(&path).unwrap().exchanges.len(), 1, "it is written before it is sent");
        assert_eq!(journal.request(request("u-2")), Ok(2));
        let outcome = Outcome::Refused { status: 410, code: "sold_out".into(), claim_key: None, held: Vec::new() };
        journal.answer(Answer { seq: 2, at: 3, outcome }).unwrap();
        let read = Record::read(&path).unwrap();
        assert_eq!(read.exchanges, journal.record().exchanges);
        assert!(read.exchanges[0].is_unknown() && !read.exchanges[1].is_unknown());

        let text = std::fs::read_to_string(&path).unwrap();
        let without: String =
            text.lines().filter(|line| !line.contains("u-2")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, without + "{\"request\":{\"se").unwrap();
        let read = Record::read(&path).unwrap();
        assert_eq!((read.exchanges.len(), read.orphans.len()), (1, 1));
        std::fs::remove_file(&path).unwrap();
    }
}
