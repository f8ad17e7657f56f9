//! The words of the table language: what they mean, and how outcomes are said.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::DateTime;
use floodgate::claim::engine::{Decision, Mismatch};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::Millis;
use floodgate::redis::fault::{Executed, Fault};

/// The words of a line, with what `name=value` says taken out.
pub struct Words<'a> {
    pub plain: Vec<&'a str>,
    pub options: BTreeMap<&'a str, &'a str>,
}

// === impl Words ===

impl<'a> Words<'a> {
    pub fn of(line: &'a str) -> Words<'a> {
        let (options, plain): (Vec<&str>, Vec<&str>) = line.split_whitespace().partition(|word| word.contains('='));
        Words { plain, options: options.iter().filter_map(|option| option.split_once('=')).collect() }
    }
}

pub fn outcome(decision: &Decision, now: Millis) -> String {
    match decision {
        Decision::Granted(serial) => format!("granted {serial}"),
        Decision::Replayed(held) => format!("replayed {}", held.serial),
        Decision::UserLimit(held) => {
            held.iter().fold("user_limit_reached".to_owned(), |text, held| format!("{text} {}", held.serial))
        }
        Decision::Quota { scope, until } => match until - now {
            whole if whole % 1000 == 0 => format!("quota_exceeded {} {}s", scope.word(), whole / 1000),
            odd => format!("quota_exceeded {} {odd}ms", scope.word()),
        },
        Decision::Refused(outcome) => outcome.code().to_owned(),
    }
}

pub fn not_executed(reason: Mismatch) -> String {
    format!("not_executed {reason:?}").to_lowercase()
}

/// A fault as a word: its detail differs between stages.
pub fn said<T>(result: Result<T, Fault>) -> Result<T, String> {
    result.map_err(|fault| {
        let executed = if fault.executed == Executed::No { "not_executed" } else { "unknown" };
        format!("{executed} {}", fault.kind)
    })
}

pub fn user(name: &str) -> UserRef {
    UserRef::from_store(name).expect("a user")
}

pub fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

pub fn moment(text: &str) -> Millis {
    DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis()
}

/// `-90s`, `+1h`, `5ms`, `2d`.
pub fn span(text: &str) -> Millis {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    let number: Millis = text[..text.len() - unit.len()].parse().unwrap_or_else(|_| panic!("{text} is no time"));
    number
        * match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => panic!("{text} has no unit"),
        }
}
