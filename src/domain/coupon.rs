//! Where a coupon stands in its life.

/// A coupon holds while `valid_from <= now < expires_at`, whether or not a sweeper has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum CouponStatus {
    Unused = 1,
    Locked = 2,
    Offered = 3,
    Used = 4,
    Expired = 5,
    Revoked = 6,
}

// === impl CouponStatus ===

impl CouponStatus {
    pub const ALL: [CouponStatus; 6] = [
        CouponStatus::Unused,
        CouponStatus::Locked,
        CouponStatus::Offered,
        CouponStatus::Used,
        CouponStatus::Expired,
        CouponStatus::Revoked,
    ];

    pub fn word(self) -> &'static str {
        match self {
            CouponStatus::Unused => "unused",
            CouponStatus::Locked => "locked",
            CouponStatus::Offered => "offered",
            CouponStatus::Used => "used",
            CouponStatus::Expired => "expired",
            CouponStatus::Revoked => "revoked",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        CouponStatus::ALL.into_iter().find(|status| status.word().eq_ignore_ascii_case(text))
    }

    /// The number in `user_coupons.status`.
    pub const fn stored(self) -> i16 {
        self as i16
    }

    /// From the stored number (1 to 6) and whether the time is over.
    pub fn of(stored: i16, over: bool) -> Self {
        match stored {
            1 if over => CouponStatus::Expired,
            1 => CouponStatus::Unused,
            2 => CouponStatus::Locked,
            3 => CouponStatus::Offered,
            4 => CouponStatus::Used,
            5 => CouponStatus::Expired,
            _ => CouponStatus::Revoked,
        }
    }
}
