//! What was asked and what was answered: the truth about what was promised.
//!
//! A request has its line before it is sent, an answer its line when it has arrived. A request
//! without an answer, whatever became of the client, is one whose outcome is unknown.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use floodgate::domain::window::Millis;
use serde::{Deserialize, Serialize};

/// A request as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// From 1 on, without a gap.
    pub seq: u64,
    pub at: Millis,
    pub gateway: Box<str>,
    pub template: u32,
    pub user: Box<str>,
    /// None: the gateway made one.
    pub claim_key: Option<Box<str>>,
    pub ip: Option<Box<str>>,
    pub device: Option<Box<str>>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's.
    pub seq: u64,
    pub at: Millis,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 201, or 200 for the same claim key again.
    Coupon { replayed: bool, claim_key: Box<str>, coupon: Coupon },
    /// A refusal by its code, with the coupons that a user's limit lists.
    Refused {
        status: u16,
        code: Box<str>,
        claim_key: Option<Box<str>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<Held>,
    },
    /// No answer: why the connection failed, or that the time was up.
    Unknown { why: Box<str> },
}

/// A coupon as it was answered; times as the gateway wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coupon {
    pub serial: u64,
    pub code: Box<str>,
    pub acquired_at: Box<str>,
    pub valid_from: Box<str>,
    pub expires_at: Box<str>,
}

/// A coupon in the list of `user_limit_reached`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub serial: u64,
    pub code: Box<str>,
}

/// A request and its answer, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    pub request: Request,
    pub answer: Option<Answer>,
}

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

/// A journal that is over.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub exchanges: Vec<Exchange>,
    /// Answers to requests that the journal does not hold.
    pub orphans: Vec<Answer>,
}

/// The code of a grant whose row was refused: no coupon, and no refusal either.
pub const SET_ASIDE: &str = "set_aside";

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Request(&'a Request),
    Answer(&'a Answer),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwnedLine {
    Request(Request),
    Answer(Answer),
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

// === impl Record ===

impl Record {
    /// Reads a journal file. A torn last line, of a client that was killed, is passed over.
    pub fn read(path: &Path) -> Result<Record, String> {
        let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut reader = BufReader::new(file);
        let (mut record, mut answers) = (Record::default(), HashMap::new());
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            let length = reader.read_until(b'\n', &mut line).map_err(|error| format!("{}: {error}", path.display()))?;
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(OwnedLine::Request(request)) => record.exchanges.push(Exchange { request, answer: None }),
                Ok(OwnedLine::Answer(answer)) => drop(answers.insert(answer.seq, answer)),
                Err(error) => return Err(format!("{}, line {number}, is no journal line: {error}", path.display())),
            }
        }
        for exchange in &mut record.exchanges {
            exchange.answer = answers.remove(&exchange.request.seq);
        }
        record.orphans = answers.into_values().collect();
        record.orphans.sort_by_key(|answer| answer.seq);
        Ok(record)
    }
}

// === impl Outcome ===

impl Outcome {
    /// A word to count by.
    pub fn word(&self) -> &str {
        match self {
            Outcome::Coupon { replayed: false, .. } => "granted",
            Outcome::Coupon { replayed: true, .. } => "replayed",
            Outcome::Refused { code, .. } => code,
            Outcome::Unknown { .. } => "no_answer",
        }
    }

    /// Whether the claim may have been granted without the client being told.
    pub fn is_unknown(&self) -> bool {
        match self {
            Outcome::Coupon { .. } => false,
            Outcome::Refused { code, status, .. } => {
                // An error that is not in the contract says nothing of the grant.
                &**code == "outcome_unknown" || (*status >= 500 && !matches!(&**code, "unavailable" | "overloaded"))
            }
            Outcome::Unknown { .. } => true,
        }
    }

    /// Whether the same claim should be sent again: nothing is decided.
    pub fn is_open(&self) -> bool {
        match self {
            Outcome::Coupon { .. } => false,
            // Granted, and an operator has the row: asking again changes nothing.
            Outcome::Refused { code, .. } if &**code == SET_ASIDE => false,
            Outcome::Refused { code, .. } => self.is_unknown() || matches!(&**code, "unavailable" | "overloaded"),
            Outcome::Unknown { .. } => true,
        }
    }
}

// === impl Exchange ===

impl Exchange {
    /// The answer's outcome; none: unknown.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.answer.as_ref().map(|answer| &answer.outcome)
    }

    pub fn is_unknown(&self) -> bool {
        self.outcome().is_none_or(Outcome::is_unknown)
    }

    /// The claim key: the request's, or the one that the gateway made and told.
    pub fn claim_key(&self) -> Option<&str> {
        if let Some(key) = &self.request.claim_key {
            return Some(key);
        }
        match self.outcome()? {
            Outcome::Coupon { claim_key, .. } => Some(claim_key),
            Outcome::Refused { claim_key, .. } => claim_key.as_deref(),
            Outcome::Unknown { .. } => None,
        }
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

    #[test]
    fn what_is_not_in_the_contract_is_unknown() {
        let refused =
            |status, code: &str| Outcome::Refused { status, code: code.into(), claim_key: None, held: vec![] };
        assert!(refused(504, "outcome_unknown").is_unknown() && refused(500, "internal").is_unknown());
        assert!(refused(502, "").is_unknown());
        assert!(!refused(503, "unavailable").is_unknown() && refused(503, "unavailable").is_open());
        assert!(!refused(410, "sold_out").is_open());
        assert!(refused(500, "set_aside").is_unknown() && !refused(500, "set_aside").is_open());
    }
}
