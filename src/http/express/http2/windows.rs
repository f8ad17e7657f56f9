//! How much may be sent, and by whom.

use crate::http::express::frame::{self, Frame};

/// The connection's window for what is sent, divided; in octets.
///
/// The library cannot be told of less than the protocol's default, so claims have what the client gives beyond it. Each
/// claim under way has put aside what its answer may need; where the library runs short, it gets of the rest.
#[derive(Debug)]
pub struct Windows {
    /// Free for further claims.
    claims: i64,
    /// What the library believes it may send.
    library: i64,
    /// Of each stream: the least that the client ever said. More than a claim needs is never looked at.
    stream: i64,
}

/// No answer to a claim is longer: ten coupons in a refusal are less than half of it.
const ANSWER_BYTES_MAX: i64 = 4096;

// === impl Windows ===

impl Windows {
    pub fn new() -> Self {
        Windows { claims: 0, library: frame::WINDOW_DEFAULT, stream: frame::WINDOW_DEFAULT }
    }

    /// The client's settings.
    pub fn see(&mut self, frame: &Frame<'_>) {
        for (name, value) in frame.settings() {
            if name == frame::INITIAL_WINDOW_SIZE {
                self.stream = self.stream.min(value.into());
            }
        }
    }

    /// Puts aside what the answer to a claim may need, if there is so much.
    pub fn reserve(&mut self) -> bool {
        let is_enough = self.claims.min(self.stream) >= ANSWER_BYTES_MAX;
        if is_enough {
            self.claims -= ANSWER_BYTES_MAX;
        }
        is_enough
    }

    /// Gives back what an answer does not need. `false`: it may not be sent, and nothing was.
    pub fn spend(&mut self, octets: usize) -> bool {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        let may = octets <= self.stream.min(ANSWER_BYTES_MAX);
        self.claims += ANSWER_BYTES_MAX - if may { octets } else { 0 };
        may
    }

    /// The library has sent so much.
    pub fn library_sent(&mut self, octets: usize) {
        self.library -= octets as i64;
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

    /// What the library gets of the claims' window: nothing, unless it runs short.
    pub fn lend(&mut self) -> u32 {
        if self.library >= frame::WINDOW_DEFAULT / 2 || self.claims <= 0 {
            return 0;
        }
        let more = self.claims.min(frame::WINDOW_DEFAULT - self.library);
        self.library += more;
        self.claims -= more;
        u32::try_from(more).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client allows is never less than what both may send, whatever is under way, and nobody starves while
    /// there is something.
    #[test]
    fn the_window_is_divided_and_nothing_of_it_twice() {
        let mut windows = Windows::new();
        assert!(!windows.reserve(), "the protocol's default is the library's");
        let (mut allowed, mut under_way, mut random) = (frame::WINDOW_DEFAULT, 0, 7u64);
        for turn in 0..100_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random % 5 {
                0 => {
                    let more = (random >> 8) as u32 % 50_000 + 1;
                    if windows.grow(more).is_some() {
                        allowed += i64::from(more);
                    }
                }
                1 if windows.reserve() => under_way += 1,
                2 if under_way > 0 => {
                    under_way -= 1;
                    let octets = (random >> 8) as usize % 600;
                    assert!(windows.spend(octets), "turn {turn}: what was put aside is there");
                    allowed -= octets as i64;
                }
                3 => {
                    let sent = windows.library.min(16_384);
                    windows.library_sent(sent as usize);
                    allowed -= sent;
                }
                _ => drop(windows.lend()),
            }
            assert_eq!(windows.claims + windows.library + under_way * ANSWER_BYTES_MAX, allowed, "turn {turn}");
            assert!(windows.claims >= 0 && windows.library >= 0, "turn {turn}: {windows:?}");
            windows.lend();
            assert!(windows.claims == 0 || windows.library >= frame::WINDOW_DEFAULT / 2, "turn {turn}: {windows:?}");
        }
    }

    #[test]
    fn no_answer_is_longer_than_what_the_client_takes() {
        let mut windows = Windows::new();
        windows.grow(1 << 20);
        assert_eq!((0..1000).filter(|_| windows.reserve()).count(), 256);
        assert!(windows.spend(0) && windows.reserve());
        assert!(!windows.spend(ANSWER_BYTES_MAX as usize + 1));
        windows.stream = 300;
        assert!(!windows.reserve() && !windows.spend(301) && windows.spend(300));
        assert_eq!(windows.grow(u32::MAX >> 1), None);
    }
}
