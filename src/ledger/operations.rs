//! The trace of coupons: which step, from where to where, for what, and by whom.

use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::pg::{PgFault, Tx};

/// The statement of [`trace`], for those who send several together.
pub const INSERT: &str = include_str!("../sql/ledger/operations.sql");

/// A kind of step. Words are stored: never rename one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reserved for an order.
    Lock,
    /// Used: the order is paid.
    Confirm,
    /// Given free because the order was cancelled.
    Cancel,
    /// Given free because the order was not paid in time.
    TimeOut,
    /// Reserved again by a confirm that came after the time-out.
    LateLock,
    /// Given back by a refund.
    Restore,
    /// Given back by a refund with new days, after it had expired.
    Extend,
    Expire,
    Revoke,
    /// Offered to another user.
    Offer,
    /// Taken by its receiver.
    Accept,
    Decline,
    /// Taken back by its giver.
    Withdraw,
    /// Back with its giver because nobody took it in time.
    Return,
}

/// One step of one coupon.
#[derive(Clone, Debug)]
pub struct Step {
    pub template: TemplateId,
    pub serial: Serial,
    pub operation: Operation,
    pub from: CouponStatus,
    pub to: CouponStatus,
    /// The holder after the step.
    pub user: UserRef,
    /// The gift generation after the step.
    pub gift: u8,
}

/// What steps were made for.
#[derive(Clone, Copy, Debug)]
pub enum Cause<'a> {
    Order(&'a str),
    Refund(&'a str),
    Gift(&'a str),
    Revocation(&'a str),
    /// The coupon's own time is over.
    Time,
}

/// Traces `steps`, which one `actor` (`key:7`, `user`, `worker:expiry`) made for one cause.
pub async fn trace(tx: &Tx<'_>, steps: &[Step], cause: Cause<'_>, actor: &str) -> Result<(), PgFault> {
    if steps.is_empty() {
        return Ok(());
    }
    let templates: Vec<i32> = steps.iter().map(|step| step.template.as_i32()).collect();
    let serials: Vec<i64> = steps.iter().map(|step| step.serial as i64).collect();
    let operations: Vec<&str> = steps.iter().map(|step| step.operation.word()).collect();
    let from: Vec<i16> = steps.iter().map(|step| step.from.stored()).collect();
    let to: Vec<i16> = steps.iter().map(|step| step.to.stored()).collect();
    let users: Vec<&str> = steps.iter().map(|step| step.user.as_str()).collect();
    let gifts: Vec<i16> = steps.iter().map(|step| i16::from(step.gift)).collect();
    let (kind, id) = cause.stored();
    tx.change(INSERT, &[&templates, &serials, &operations, &from, &to, &users, &gifts, &kind, &id, &actor]).await?;
    Ok(())
}

// === impl Operation ===

impl Operation {
    pub fn word(self) -> &'static str {
        match self {
            Operation::Lock => "lock",
            Operation::Confirm => "confirm",
            Operation::Cancel => "cancel",
            Operation::TimeOut => "time_out",
            Operation::LateLock => "late_lock",
            Operation::Restore => "restore",
            Operation::Extend => "extend",
            Operation::Expire => "expire",
            Operation::Revoke => "revoke",
            Operation::Offer => "offer",
            Operation::Accept => "accept",
            Operation::Decline => "decline",
            Operation::Withdraw => "withdraw",
            Operation::Return => "return",
        }
    }
}

// === impl Cause ===

impl<'a> Cause<'a> {
    fn stored(self) -> (&'static str, &'a str) {
        match self {
            Cause::Order(id) => ("order", id),
            Cause::Refund(id) => ("refund", id),
            Cause::Gift(id) => ("gift", id),
            Cause::Revocation(id) => ("revocation", id),
            Cause::Time => ("time", ""),
        }
    }
}
