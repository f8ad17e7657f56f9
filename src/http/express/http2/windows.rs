//! How much may be sent, and by whom.

use crate::http::express::frame::{self, Frame};

/// The connection's window for what is sent, divided; in octets.
///
/// The library cannot be told of less than the protocol's default, so claims have what the client gives beyond it. Where
/// the library runs short, it gets of theirs.
#[derive(Debug)]
pub struct Windows {
    claims: i64,
    pub library: i64,
    /// Of each new stream.
    initial: i64,
}

/// No answer to a claim is longer: ten coupons in a refusal are less than half of it.
const ANSWER_BYTES_MAX: i64 = 4096;

// === impl Windows ===

impl Windows {
    pub fn new() -> Self {
        Windows { claims: 0, library: frame::WINDOW_DEFAULT, initial: frame::WINDOW_DEFAULT }
    }

    /// The client's settings.
    pub fn see(&mut self, frame: &Frame<'_>) {
        let (settings, _) = frame.payload.as_chunks::<6>();
        for [a, b, value @ ..] in settings {
            if u16::from_be_bytes([*a, *b]) == frame::INITIAL_WINDOW_SIZE {
                self.initial = u32::from_be_bytes(*value).into();
            }
        }
    }

    /// Whether so many claims could be answered.
    pub fn hold(&self, claims: i64) -> bool {
        self.claims >= claims * ANSWER_BYTES_MAX && self.initial >= ANSWER_BYTES_MAX
    }

    /// Sends an answer, if it may be sent.
    pub fn spend(&mut self, octets: i64) -> bool {
        let may = octets <= self.claims.min(self.initial).min(ANSWER_BYTES_MAX);
        if may {
            self.claims -= octets;
        }
        may
    }

    /// The client takes more: so much of it is the library's. `None`: more than the protocol allows.
    pub fn grow(&mut self, octets: u32) -> Option<u32> {
        if self.claims + self.library + i64::from(octets) > frame::WINDOW_MAX {
            return None;
        }
        let more = i64::from(octets).min((frame::WINDOW_DEFAULT - self.library).max(0));
        self.library += more;
        self.claims += i64::from(octets) - more;
        u32::try_from(more).ok()
    }

    /// What the library gets of the claims' window, when it runs short.
    pub fn lend(&mut self) -> Option<u32> {
        if self.library >= frame::WINDOW_DEFAULT / 2 || self.claims <= 0 {
            return None;
        }
        let more = self.claims.min(frame::WINDOW_DEFAULT - self.library);
        self.library += more;
        self.claims -= more;
        u32::try_from(more).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client allows is never less than what both may send, and nobody starves while there is something.
    #[test]
    fn the_window_is_divided_and_nothing_of_it_twice() {
        let mut windows = Windows::new();
        assert!(!windows.hold(1), "the protocol's default is the library's");
        let mut allowed = frame::WINDOW_DEFAULT;
        let mut random = 7u64;
        for turn in 0..100_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random % 4 {
                0 => {
                    let more = (random >> 8) as u32 % 50_000 + 1;
                    if windows.grow(more).is_some() {
                        allowed += i64::from(more);
                    }
                }
                1 if windows.hold(1) => {
                    assert!(windows.spend(400));
                    allowed -= 400;
                }
                2 => {
                    let sent = windows.library.min(16_384);
                    windows.library -= sent;
                    allowed -= sent;
                }
                _ => drop(windows.lend()),
            }
            assert_eq!(windows.claims + windows.library, allowed, "turn {turn}");
            assert!(windows.claims >= 0 && windows.library >= 0, "turn {turn}: {windows:?}");
            assert!(windows.lend().is_none() || windows.library > 0);
            assert!(windows.claims == 0 || windows.library >= frame::WINDOW_DEFAULT / 2, "turn {turn}: {windows:?}");
        }
    }

    #[test]
    fn no_answer_is_longer_than_what_the_client_takes() {
        let mut windows = Windows::new();
        windows.grow(1 << 20);
        assert!(windows.hold(256) && !windows.hold(257));
        assert!(!windows.spend(ANSWER_BYTES_MAX + 1));
        windows.initial = 300;
        assert!(!windows.hold(1) && !windows.spend(301) && windows.spend(300));
        assert_eq!(windows.grow(u32::MAX >> 1), None);
    }
}
