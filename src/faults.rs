//! Faults on purpose, for tests alone: points at which a process dies or halts, and bugs that it can be
//! told to have.
//!
//! Without the feature `faults` every function here is empty and the binary knows none of the names
//! below. The feature is off by default, and the crate's own dev-dependency turns it on: whatever is
//! built together with tests has it, in one build for all of them; what `cargo build` makes has not.
//!
//! `FLOODGATE_FAILPOINT=flush_in_transaction=kill@3` kills the process when it comes by that point for
//! the third time; `stop` instead of `kill` halts it until SIGCONT. `FLOODGATE_BUG=latch_never_ends` makes it
//! wrong in that way. `tests/it/bites.rs` demands that a test notices each bug. `FLOODGATE_OTHER_BUILD=older` makes it
//! one of another version, as far as its neighbours can tell: it says so, and its scripts have names of their own.

#[cfg(feature = "faults")]
mod on;
#[cfg(feature = "faults")]
mod scripts;

#[cfg(feature = "faults")]
pub use on::{bug, is_variable, point, version};
#[cfg(feature = "faults")]
pub use scripts::{of_build, patched};

/// A closed list whose names exist only where they can be used.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "faults", derive(Debug))]
        pub enum $name { $($(#[$about])* $variant,)+ }

        #[cfg(feature = "faults")]
        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// As the environment names it.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }
    };
}

named! {
    /// Where a process can be struck.
    Point {
        /// A batch of claims is about to be sent to Redis.
        ClaimBeforeScript = "claim_before_script",
        /// Redis has decided a batch, and nobody was answered yet.
        ClaimAfterScript = "claim_after_script",
        /// A grant of level `postgres` is about to wait for its row.
        ClaimBeforeAck = "claim_before_ack",
        /// Entries were read, and their transaction has not begun.
        FlushBeforeTransaction = "flush_before_transaction",
        /// All is written, and COMMIT is about to be sent.
        FlushInTransaction = "flush_in_transaction",
        /// It is committed, and the queue not trimmed.
        FlushBeforeTrim = "flush_before_trim",
        /// An opener has looked at the cell, and not closed it.
        OpenBeforeClose = "open_before_close",
        /// The cell is closed under a new epoch, and where its history ended is not recorded.
        OpenAfterClose = "open_after_close",
        /// All is given back, and the marker not written.
        OpenBeforeMarker = "open_before_marker",
    }
}

named! {
    /// What a process can be told to do wrong: mistakes that somebody could make.
    Bug {
        // In the scripts.
        ReplayNotChecked = "replay_not_checked",
        ReplayAfterRefusal = "replay_after_refusal",
        LimitOffByOne = "limit_off_by_one",
        DailyLimitOffByOne = "daily_limit_off_by_one",
        QuotaNotCounted = "quota_not_counted",
        StockOffByOne = "stock_off_by_one",
        DeadlineIgnored = "deadline_ignored",
        IdentityNotChecked = "identity_not_checked",
        ClockMayGoBack = "clock_may_go_back",
        BacklogIgnored = "backlog_ignored",
        ReceiptsNotReapplied = "receipts_not_reapplied",
        CursorNotReapplied = "cursor_not_reapplied",
        TombstoneReadAsNew = "tombstone_read_as_new",
        // In the gateway.
        AnswerBeforeScript = "answer_before_script",
        UnknownIsRefusal = "unknown_is_refusal",
        DoubtNotNoted = "doubt_not_noted",
        DayHas24Hours = "day_has_24_hours",
        LatchHidesReplay = "latch_hides_replay",
        LatchNeverEnds = "latch_never_ends",
        AckNotWaited = "ack_not_waited",
        // Between the queue and PostgreSQL.
        TrimBeforeCommit = "trim_before_commit",
        WatermarkNotCompared = "watermark_not_compared",
        GapIgnored = "gap_ignored",
        SetAsideDropped = "set_aside_dropped",
        ConflictIsRepeat = "conflict_is_repeat",
        EndingsIgnored = "endings_ignored",
        // In the opening of a cell.
        EmptyIsNew = "empty_is_new",
        DivergedIsOpened = "diverged_is_opened",
        EpochNotRaised = "epoch_not_raised",
        FinalNotRecorded = "final_not_recorded",
    }
}

/// A place at which a test may strike this process.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_: Point) {}

/// Whether this process was told to be wrong in this way.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn bug(_: Bug) -> bool {
    false
}

/// Whether the environment may have a variable of that name, without its prefix.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn is_variable(_: &str) -> bool {
    false
}

/// The version that this process says it is of.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn version() -> &'static str {
    crate::VERSION
}

/// A script's source, with the bug that was asked for, or as the other build has it.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn patched(source: String) -> String {
    source
}
