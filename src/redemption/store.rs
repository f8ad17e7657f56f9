//! Redemptions and their coupons as PostgreSQL has them.
//!
//! Amounts come with the places that PostgreSQL keeps; whoever shows them rounds nothing, they only
//! lose zeros.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;

use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Epoch, Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::ledger::operations::{Operation, Step};
use crate::ledger::settlement::Party;
use crate::pg::{Connection, PgFault, Tx};
use crate::pricing::money::Currency;

pub const FIND: &str = include_str!("../sql/redemption/find.sql");
pub const FIND_LOCKED: &str = concat!(include_str!("../sql/redemption/find.sql"), " FOR UPDATE");
pub const COUPONS: &str = include_str!("../sql/redemption/coupons.sql");
pub const COUPONS_LOCKED: &str = include_str!("../sql/redemption/coupons_lock.sql");
pub const MOVE_COUPONS: &str = include_str!("../sql/redemption/move_coupons.sql");
pub const MOVE_HELD: &str = include_str!("../sql/redemption/move_held.sql");

/// Where an order's use of its coupons stands. Words are stored: never rename one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Locked,
    Used,
    Cancelled,
    TimedOut,
    Refunded,
    PartiallyRefunded,
}

/// Where one coupon of a redemption stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldState {
    Locked,
    Used,
    /// Cancelled or timed out.
    Released,
    /// Given back by a refund.
    Returned,
}

/// An order's use of its coupons.
#[derive(Clone, Debug)]
pub struct Redemption {
    pub order_id: String,
    pub status: Status,
    /// `None`: the order was cancelled before it was ever locked.
    pub locked: Option<Locked>,
    /// The moment of the transaction that read it.
    pub now: Millis,
}

/// What a lock fixed.
#[derive(Clone, Debug)]
pub struct Locked {
    pub checkout_id: String,
    pub user: UserRef,
    pub request_sha256: Vec<u8>,
    pub currency: Currency,
    /// `{"order":{...},"facts":{...}}`, the order without its user.
    pub placed: Value,
    pub goods_total: Decimal,
    pub shipping_total: Decimal,
    pub discount_total: Decimal,
    pub payable: Decimal,
    pub reversed_total: Decimal,
    pub locked_at: Millis,
    pub lock_expires_at: Millis,
    pub used_at: Option<Millis>,
    /// When a confirm first came too late, and its coupons were gone.
    pub conflict_at: Option<Millis>,
}

/// A coupon of a redemption.
#[derive(Clone, Debug)]
pub struct Held {
    pub order_id: String,
    /// As it was at the lock.
    pub name: CouponName,
    pub state: HeldState,
    pub user: UserRef,
    pub kind: String,
    /// The template's issuer, who pays for it.
    pub bearer: Party,
    pub discount: Decimal,
    /// What its gifts are worth, all pieces.
    pub gift_value: Decimal,
    pub shares: Shares,
    /// What refunds have taken back of discount and gifts.
    pub reversed: Decimal,
    /// Its validity at the first lock.
    pub valid_from: Millis,
    pub expires: Millis,
    pub present: Present,
}

/// The coupon's row now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub status: CouponStatus,
    pub user: UserRef,
    pub gift: u8,
    pub expires: Millis,
}

/// What a coupon takes off, and adds, where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    pub lines: Vec<LineShare>,
    pub shipping: Vec<FeeShare>,
    pub gifts: Vec<GiftShare>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineShare {
    pub line_id: String,
    #[serde(with = "rust_decimal::serde::str")]
    pub share: Decimal,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeeShare {
    pub merchant_id: String,
    #[serde(with = "rust_decimal::serde::str")]
    pub share: Decimal,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GiftShare {
    pub item_id: String,
    pub name: String,
    pub quantity: u32,
    /// Of one piece.
    #[serde(with = "rust_decimal::serde::str")]
    pub value: Decimal,
}

/// A change of a coupon's row, and of nothing else.
#[derive(Clone, Debug)]
pub struct Move {
    pub name: CouponName,
    pub from: CouponStatus,
    pub to: CouponStatus,
    /// `None`: as it was.
    pub expires: Option<Millis>,
}

pub async fn find(connection: &Connection, order: &str) -> Result<Option<Redemption>, PgFault> {
    connection.row(FIND, &[&order]).await?.map(|row| Redemption::from_row(&row)).transpose()
}

/// Within a transaction that does not change it.
pub async fn look(tx: &Tx<'_>, order: &str) -> Result<Option<Redemption>, PgFault> {
    tx.row(FIND, &[&order]).await?.map(|row| Redemption::from_row(&row)).transpose()
}

/// The redemption and its coupons, all locked for a change: the order's row first, then the coupons' in
/// key order. In the order of computing.
pub async fn lock(tx: &Tx<'_>, order: &str) -> Result<Option<(Redemption, Vec<Held>)>, PgFault> {
    tx.prepare_all(&[FIND_LOCKED, COUPONS_LOCKED]).await?;
    let orders = [order];
    let (row, held) = futures_util::future::try_join(tx.row(FIND_LOCKED, &[&order]), lock_coupons(tx, &orders)).await?;
    Ok(row.map(|row| Redemption::from_row(&row)).transpose()?.map(|redemption| (redemption, held)))
}

/// The coupons of orders whose rows the caller has locked. Of each order in the order of computing.
pub async fn lock_coupons(tx: &Tx<'_>, orders: &[&str]) -> Result<Vec<Held>, PgFault> {
    let mut rows = tx.rows(COUPONS_LOCKED, &[&orders]).await?;
    rows.sort_by_key(|row| (row.get::<_, String>("order_id"), row.get::<_, i16>("position")));
    rows.iter().map(Held::from_row).collect()
}

/// In the order of computing.
pub async fn coupons(connection: &Connection, order: &str) -> Result<Vec<Held>, PgFault> {
    connection.rows(COUPONS, &[&[order].as_slice()]).await?.iter().map(Held::from_row).collect()
}

/// The same within a transaction that does not change them.
pub async fn look_at_coupons(tx: &Tx<'_>, order: &str) -> Result<Vec<Held>, PgFault> {
    tx.rows(COUPONS, &[&[order].as_slice()]).await?.iter().map(Held::from_row).collect()
}

/// Moves coupons whose rows the caller has locked. Another status than the expected one is a fault of this
/// program: nothing may be half done.
pub async fn move_coupons(tx: &Tx<'_>, moves: &[Move]) -> Result<(), PgFault> {
    if moves.is_empty() {
        return Ok(());
    }
    let templates: Vec<i32> = moves.iter().map(|step| step.name.template.as_i32()).collect();
    let serials: Vec<i64> = moves.iter().map(|step| step.name.serial as i64).collect();
    let from: Vec<i16> = moves.iter().map(|step| step.from.stored()).collect();
    let to: Vec<i16> = moves.iter().map(|step| step.to.stored()).collect();
    let expires: Vec<Option<i64>> = moves.iter().map(|step| step.expires).collect();
    let moved = tx.change(MOVE_COUPONS, &[&templates, &serials, &from, &to, &expires]).await?;
    demand(moved, moves.len())
}

/// Moves what an order holds of its coupons; how many that must be.
pub async fn move_held(
    tx: &Tx<'_>,
    order: &str,
    from: &[HeldState],
    to: HeldState,
    count: usize,
) -> Result<(), PgFault> {
    let from: Vec<&str> = from.iter().map(|state| state.word()).collect();
    demand(tx.change(MOVE_HELD, &[&order, &from, &to.word()]).await?, count)
}

/// A change under a lock that did not change what it must.
pub(super) fn demand(changed: u64, expected: usize) -> Result<(), PgFault> {
    if changed == expected as u64 {
        return Ok(());
    }
    Err(PgFault::fault(format!("{changed} rows changed where {expected} were locked for it")))
}

// === impl Status ===

impl Status {
    const ALL: [Status; 6] = [
        Status::Locked,
        Status::Used,
        Status::Cancelled,
        Status::TimedOut,
        Status::Refunded,
        Status::PartiallyRefunded,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Status::Locked => "locked",
            Status::Used => "used",
            Status::Cancelled => "cancelled",
            Status::TimedOut => "timed_out",
            Status::Refunded => "refunded",
            Status::PartiallyRefunded => "partially_refunded",
        }
    }

    fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.word() == text)
    }
}

// === impl HeldState ===

impl HeldState {
    const ALL: [HeldState; 4] = [HeldState::Locked, HeldState::Used, HeldState::Released, HeldState::Returned];

    pub fn word(self) -> &'static str {
        match self {
            HeldState::Locked => "locked",
            HeldState::Used => "used",
            HeldState::Released => "released",
            HeldState::Returned => "returned",
        }
    }

    fn parse(text: &str) -> Option<HeldState> {
        HeldState::ALL.into_iter().find(|state| state.word() == text)
    }
}

// === impl Redemption ===

impl Redemption {
    fn from_row(row: &Row) -> Result<Redemption, PgFault> {
        let wrong = || PgFault::fault("a row of redemptions cannot be read");
        let text = |name: &str| row.get::<_, Option<String>>(name).ok_or_else(wrong);
        let amount = |name: &str| row.get::<_, Option<Decimal>>(name).ok_or_else(wrong);
        let locked = match row.get::<_, Option<Millis>>("locked_at") {
            None => None,
            Some(locked_at) => Some(Locked {
                checkout_id: text("checkout_id")?,
                user: UserRef::from_store(&text("user_ref")?).ok_or_else(wrong)?,
                request_sha256: row.get::<_, Option<Vec<u8>>>("request_sha256").ok_or_else(wrong)?,
                currency: Currency::of(&text("currency")?).ok_or_else(wrong)?,
                placed: row.get::<_, Option<Value>>("placed_order").ok_or_else(wrong)?,
                goods_total: amount("goods_total")?,
                shipping_total: amount("shipping_total")?,
                discount_total: amount("discount_total")?,
                payable: amount("payable")?,
                reversed_total: amount("reversed_total")?,
                locked_at,
                lock_expires_at: row.get::<_, Option<Millis>>("lock_expires_at").ok_or_else(wrong)?,
                used_at: row.get("used_at"),
                conflict_at: row.get("conflict_at"),
            }),
        };
        Ok(Redemption {
            order_id: row.get("order_id"),
            status: Status::parse(row.get("status")).ok_or_else(wrong)?,
            locked,
            now: row.get("now"),
        })
    }
}

// === impl Held ===

impl Held {
    fn from_row(row: &Row) -> Result<Held, PgFault> {
        let wrong = || PgFault::fault("a row of redemption_coupons cannot be read");
        let user = |name: &str| UserRef::from_store(row.get(name)).ok_or_else(wrong);
        Ok(Held {
            order_id: row.get("order_id"),
            name: CouponName {
                template: TemplateId(row.get::<_, i32>("template_id") as u32),
                serial: row.get::<_, i64>("serial") as Serial,
                epoch: row.get::<_, i32>("epoch") as Epoch,
                gift: row.get::<_, i16>("gift_generation") as u8,
            },
            state: HeldState::parse(row.get("state")).ok_or_else(wrong)?,
            user: user("user_ref")?,
            kind: row.get("kind"),
            bearer: Party { kind: row.get("issuer"), id: row.get("issuer_id") },
            discount: row.get("discount"),
            gift_value: row.get("gift_value"),
            shares: serde_json::from_value(row.get("shares")).map_err(|_| wrong())?,
            reversed: row.get("reversed"),
            valid_from: row.get("valid_from"),
            expires: row.get("expires"),
            present: Present {
                // As it is stored: time is judged by whoever asks.
                status: CouponStatus::of(row.get("status"), false),
                user: user("present_user")?,
                gift: row.get::<_, i16>("present_gift") as u8,
                expires: row.get("present_expires"),
            },
        })
    }

    /// One step of this coupon, which stays with its holder.
    pub fn step(&self, operation: Operation, from: CouponStatus, to: CouponStatus) -> Step {
        Step {
            template: self.name.template,
            serial: self.name.serial,
            operation,
            from,
            to,
            user: self.present.user.clone(),
            gift: self.present.gift,
        }
    }

    pub fn to(&self, from: CouponStatus, to: CouponStatus) -> Move {
        Move { name: self.name, from, to, expires: None }
    }

    /// The status that a coupon falls back to when nothing holds it any more.
    pub fn freed(&self, now: Millis) -> CouponStatus {
        if self.present.expires <= now { CouponStatus::Expired } else { CouponStatus::Unused }
    }
}
