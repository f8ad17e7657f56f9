//! What can become of a claim: one closed list, shared with the Lua scripts by number.
//!
//! The numbers are the order of precedence: where several refusals apply, the lowest is given.
//! Numbers are never used again for something else. The Lua side is checked against this list
//! by a test that reads `lua/lib/outcomes.lua`.

/// The outcome of one claim.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimOutcome {
    /// The claim was given a serial.
    Granted = 1,
    /// The same claim key was granted before; the answer is the same.
    Replayed = 2,
    Unauthenticated = 11,
    InvalidRequest = 12,
    TemplateNotFound = 13,
    Throttled = 14,
    TemplateInactive = 15,
    NotStarted = 16,
    Ended = 17,
    Blocked = 18,
    DeviceRequired = 19,
    NotEligible = 20,
    UserLimitReached = 21,
    UserDailyLimitReached = 22,
    QuotaExceeded = 23,
    SoldOut = 24,
    DailyLimitReached = 25,
    /// The cell cannot decide at this moment; certainly nothing was granted.
    Unavailable = 26,
    /// Too much waits already; certainly nothing was granted.
    Overloaded = 27,
    /// The gateway cannot know whether the claim was granted; the same claim key will tell.
    OutcomeUnknown = 28,
    /// The grant was acknowledged at a level that a failover lost.
    ClaimLost = 29,
    /// The grant's row was refused by PostgreSQL and set aside for an operator.
    SetAside = 30,
}

use ClaimOutcome::*;

impl ClaimOutcome {
    pub const ALL: [ClaimOutcome; 22] = [
        Granted,
        Replayed,
        Unauthenticated,
        InvalidRequest,
        TemplateNotFound,
        Throttled,
        TemplateInactive,
        NotStarted,
        Ended,
        Blocked,
        DeviceRequired,
        NotEligible,
        UserLimitReached,
        UserDailyLimitReached,
        QuotaExceeded,
        SoldOut,
        DailyLimitReached,
        Unavailable,
        Overloaded,
        OutcomeUnknown,
        ClaimLost,
        SetAside,
    ];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| *outcome as u8 == number)
    }

    /// The stable word for it in answers, metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Granted => "granted",
            Replayed => "replayed",
            Unauthenticated => "unauthenticated",
            InvalidRequest => "invalid_request",
            TemplateNotFound => "template_not_found",
            Throttled => "throttled",
            TemplateInactive => "template_inactive",
            NotStarted => "not_started",
            Ended => "ended",
            Blocked => "blocked",
            DeviceRequired => "device_required",
            NotEligible => "not_eligible",
            UserLimitReached => "user_limit_reached",
            UserDailyLimitReached => "user_daily_limit_reached",
            QuotaExceeded => "quota_exceeded",
            SoldOut => "sold_out",
            DailyLimitReached => "daily_limit_reached",
            Unavailable => "unavailable",
            Overloaded => "overloaded",
            OutcomeUnknown => "outcome_unknown",
            ClaimLost => "claim_lost",
            SetAside => "set_aside",
        }
    }

    /// Whether the same request may succeed later without anything else changing but time.
    pub fn retryable(self) -> bool {
        match self {
            Throttled
            | NotStarted
            | UserDailyLimitReached
            | QuotaExceeded
            | DailyLimitReached
            | Unavailable
            | Overloaded
            | OutcomeUnknown => true,
            Granted | Replayed | Unauthenticated | InvalidRequest | TemplateNotFound | TemplateInactive | Ended
            | Blocked | DeviceRequired | NotEligible | UserLimitReached | SoldOut | ClaimLost | SetAside => false,
        }
    }
}

/// Whose limit it was: one value gives message, label and header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole deployment's request throttle.
    All,
    User,
    Ip,
    Device,
}

impl Scope {
    pub fn word(self) -> &'static str {
        match self {
            Scope::All => "all",
            Scope::User => "user",
            Scope::Ip => "ip",
            Scope::Device => "device",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_in_order_of_precedence() {
        for pair in ClaimOutcome::ALL.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for outcome in ClaimOutcome::ALL {
            assert_eq!(ClaimOutcome::from_number(outcome as u8), Some(outcome));
        }
        assert_eq!(ClaimOutcome::from_number(0), None);
    }

    #[test]
    fn lua_and_rust_agree_on_the_numbers() {
        let lua = include_str!("../../lua/lib/outcomes.lua");
        let mut seen = 0;
        for line in lua.lines() {
            let Some((name, number)) = line.strip_prefix("local ").and_then(|rest| rest.split_once('=')) else {
                continue;
            };
            let number: u8 = number.trim().trim_start_matches("'\\").trim_end_matches('\'').parse().unwrap();
            let outcome = ClaimOutcome::from_number(number).unwrap_or_else(|| panic!("{line}: no such outcome"));
            assert_eq!(outcome.code().to_uppercase(), name.trim(), "{line}");
            seen += 1;
        }
        assert!(seen >= 10, "read only {seen} outcomes from lua/lib/outcomes.lua");
    }
}
