//! A client's journal: what was asked and what was answered, a line of NDJSON each.
//!
//! A request has its line before it is sent, an answer its line when it has arrived. A request
//! without an answer, whatever became of the client, is one whose outcome is unknown.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::window::Millis;

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

/// A journal that is over.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub exchanges: Vec<Exchange>,
    /// Answers to requests that the journal does not hold.
    pub orphans: Vec<Answer>,
}

/// The code of a grant whose row was refused: no coupon, and no refusal either.
pub const SET_ASIDE: &str = "set_aside";

/// A line as it is written.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<'a> {
    Request(&'a Request),
    Answer(&'a Answer),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OwnedLine {
    Request(Request),
    Answer(Answer),
}

// === impl Record ===

impl Record {
    /// The templates that were claimed, ascending.
    pub fn templates(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.exchanges.iter().map(|exchange| exchange.request.template).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

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
