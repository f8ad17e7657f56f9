//! Points, bugs and the other build as the environment asks for them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Bug, Point};

/// The point that is armed, and what happens at which pass of it.
struct Armed {
    point: Point,
    signal: i32,
    /// Passes until it happens; wraps around afterwards, which no process lives to see.
    left: AtomicU32,
}

const FAILPOINT: &str = "FAILPOINT";
const BUG: &str = "BUG";
const OTHER_BUILD: &str = "OTHER_BUILD";

/// A place at which a test may strike this process.
pub fn point(here: Point) {
    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(format!("FLOODGATE_{FAILPOINT}")).ok()?;
        Some(Armed::parse(&text).unwrap_or_else(|| panic!("FLOODGATE_{FAILPOINT}={text} is no failpoint")))
    });
    let Some(armed) = &*ARMED else { return };
    if armed.point == here && armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // To this very thread: a process' signal may reach another one first, while this one goes on.
        // SAFETY: raise takes a plain number, and returns when the signal was delivered.
        unsafe { libc::raise(armed.signal) };
    }
}

/// Whether this process was told to be wrong in this way.
pub fn bug(which: Bug) -> bool {
    asked_for() == Some(which)
}

pub(super) fn asked_for() -> Option<Bug> {
    static BUG_ASKED_FOR: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let text = std::env::var(format!("FLOODGATE_{BUG}")).ok()?;
        let known = Bug::ALL.iter().copied().find(|bug| bug.word() == text);
        Some(known.unwrap_or_else(|| panic!("FLOODGATE_{BUG}={text} is no bug")))
    });
    *BUG_ASKED_FOR
}

/// The word of the other build that this process is to be.
pub(super) fn other_build() -> Option<&'static str> {
    static WORD: LazyLock<Option<String>> = LazyLock::new(|| {
        let word = std::env::var(format!("FLOODGATE_{OTHER_BUILD}")).ok()?;
        let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        assert!(is_word, "FLOODGATE_{OTHER_BUILD}={word} is no word");
        Some(word)
    });
    WORD.as_deref()
}

/// The version that this process says it is of.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| match other_build() {
        Some(word) => format!("{} {word}", crate::VERSION),
        None => crate::VERSION.to_owned(),
    });
    &VERSION
}

/// Whether the environment may have a variable of that name, without its prefix.
pub fn is_variable(name: &str) -> bool {
    [FAILPOINT, BUG, OTHER_BUILD].contains(&name)
}

// === impl Armed ===

impl Armed {
    /// Reads `point=kill@3`, or `point=stop`, the first time.
    fn parse(text: &str) -> Option<Armed> {
        let (word, action) = text.split_once('=')?;
        let (action, pass) = action.split_once('@').unwrap_or((action, "1"));
        let point = Point::ALL.iter().copied().find(|point| point.word() == word)?;
        let signal = match action {
            "kill" => libc::SIGKILL,
            "stop" => libc::SIGSTOP,
            _ => return None,
        };
        let pass: u32 = pass.parse().ok().filter(|pass| *pass > 0)?;
        Some(Armed { point, signal, left: AtomicU32::new(pass) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_read_whole_or_not_at_all() {
        let armed = Armed::parse("flush_in_transaction=kill@3").unwrap();
        assert_eq!((armed.point, armed.signal, armed.left.into_inner()), (Point::FlushInTransaction, libc::SIGKILL, 3));
        assert_eq!(Armed::parse("claim_before_ack=stop").unwrap().left.into_inner(), 1);
        for wrong in ["", "flush_in_transaction", "nowhere=kill", "claim_before_ack=wait", "claim_before_ack=kill@0"] {
            assert!(Armed::parse(wrong).is_none(), "{wrong}");
        }
    }
}
