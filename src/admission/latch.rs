//! Sold out, and for how long that may be believed.
//!
//! After Redis has said "sold out" for a stock generation, the gateway says so itself for the next
//! [`LATCH_TRUST_MS`]; a probe asks Redis again before that time is over. A newer generation (a
//! restock) clears the latch at once. A latch may be late; it never grants.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::faults::{self, Bug};
use crate::limits::LATCH_TRUST_MS;

/// One template's latch. Times are milliseconds of the process' monotonic clock, from 1.
#[derive(Debug, Default)]
pub struct Latch {
    /// Sold out is believed before this time. 0: not latched.
    until: AtomicU64,
    /// The lowest stock generation that may set the latch.
    generation: AtomicU32,
    /// When a claim was last refused as sold out.
    used: AtomicU64,
}

/// A latch that has answered no claim for this long is not probed any more, and ends.
const IDLE_MS: u64 = 5_000;

// === impl Latch ===

impl Latch {
    /// Whether "sold out" may be said at `now` without asking.
    pub fn is_set(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Acquire);
        now < until || until > 0 && faults::bug(Bug::LatchNeverEnds)
    }

    /// A claim was refused as sold out at `now`: the latch is worth its probes.
    pub fn touch(&self, now: u64) {
        if self.used.load(Ordering::Relaxed) < now {
            self.used.store(now, Ordering::Relaxed);
        }
    }

    /// Whether the latch is worth a probe: it was set, has not been cleared, and claims come.
    pub fn is_watched(&self, now: u64) -> bool {
        self.until.load(Ordering::Acquire) != 0 && now < self.used.load(Ordering::Relaxed) + IDLE_MS
    }

    /// Redis said "sold out" for `generation`, in answer to a question asked at `asked`.
    pub fn set(&self, generation: u32, asked: u64) {
        if generation >= self.generation.load(Ordering::Acquire) {
            self.until.fetch_max(asked + LATCH_TRUST_MS, Ordering::AcqRel);
            // A restock between the check and the store wins: it clears after it has raised.
            if generation < self.generation.load(Ordering::Acquire) {
                self.until.store(0, Ordering::Release);
            }
        }
    }

    /// There is stock again, of `generation`; answers of older generations no longer count.
    pub fn clear(&self, generation: u32) {
        if faults::bug(Bug::LatchNeverEnds) {
            return;
        }
        self.generation.fetch_max(generation, Ordering::AcqRel);
        self.until.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_is_believed_for_its_time_only() {
        let latch = Latch::default();
        assert!(!latch.is_set(1));
        latch.set(1, 1000);
        assert!(latch.is_set(1000 + LATCH_TRUST_MS - 1));
        assert!(!latch.is_set(1000 + LATCH_TRUST_MS));
        latch.touch(1000);
        assert!(latch.is_watched(1000 + IDLE_MS - 1) && !latch.is_watched(1000 + IDLE_MS));
    }

    #[test]
    fn a_restock_clears_and_answers_from_before_it_do_not_count() {
        let latch = Latch::default();
        latch.set(1, 1000);
        latch.clear(2);
        assert!(!latch.is_set(1001));
        latch.set(1, 1001);
        assert!(!latch.is_set(1002), "an old generation set the latch");
        latch.set(2, 1001);
        assert!(latch.is_set(1002));
    }
}
