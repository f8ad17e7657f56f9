//! Coupons given from one user to another (转赠): offered, then accepted, declined, withdrawn or returned.
//!
//! An offer holds its coupon: meanwhile it can be neither used nor offered again. Acceptance raises the
//! coupon's gift generation, so that the giver's code dies and the receiver has a new one; validity, the
//! giver's count and what the coupon is worth stay as they are. Each step is one transaction that locks
//! the coupon's row before it looks at the offer: of steps that race, the first to lock it wins, and the
//! others are told what became of the offer. Neither side learns who the other is.
//!
//! # Layout
//! - this file: offers as they are stored and shown
//! - [`offer`]: a coupon offered
//! - [`closing`]: an offer accepted, declined or withdrawn
//! - [`returns`]: offers that nobody took in time
//! - [`passage`]: how the coupons of a wallet came to it, and which are on their way out

pub mod closing;
pub mod offer;
pub mod passage;
pub mod returns;

use std::net::IpAddr;

use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::app::App;
use crate::audit::{Action, Change, Subject};
use crate::clock::now_ms;
use crate::domain::coupon::CouponStatus;
use crate::domain::gift::{GiftId, GiftState};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::{Millis, rfc3339};
use crate::http::problem::Problem;
use crate::ledger::events::Event;
use crate::ledger::operations::{Operation, Step};
use crate::pg::{PgFault, Tx};
use crate::wallet::Coupon;

/// One offer of one coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    pub id: GiftId,
    pub template: TemplateId,
    pub serial: Serial,
    /// The coupon's gift generation while it is offered.
    pub generation: u8,
    pub giver: UserRef,
    /// Who accepted it.
    pub receiver: Option<UserRef>,
    /// By time: an offer that is over is returned, whether or not the worker has run.
    pub state: GiftState,
    pub offered: Millis,
    pub expires: Millis,
    /// When it ended.
    pub closed: Option<Millis>,
}

/// From whose side a gift is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Given,
    Received,
}

/// A user who gives or takes, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    pub user: &'a UserRef,
    pub ip: IpAddr,
    pub device: Option<&'a str>,
}

/// A coupon's row, locked, and whose it is.
struct LockedCoupon {
    coupon: Coupon,
    holder: UserRef,
}

/// The page of what a user gave or received behind the gift `before`, newest first, and the next cursor.
pub async fn page(
    app: &App,
    user: &UserRef,
    direction: Direction,
    limit: usize,
    before: Option<i64>,
) -> Result<(Vec<Gift>, Option<i64>), Problem> {
    let sql = match direction {
        Direction::Given => include_str!("sql/gifts/page_given.sql"),
        Direction::Received => include_str!("sql/gifts/page_received.sql"),
    };
    let client = app.pg.get().await?;
    let rows = client.rows(sql, &[&user.as_str(), &before, &(limit as i64 + 1)]).await?;
    let mut gifts = rows.iter().map(Gift::from_row).collect::<Result<Vec<_>, _>>()?;
    let more = gifts.len() > limit;
    gifts.truncate(limit);
    let next = gifts.last().filter(|_| more).map(|gift| gift.id.as_i64());
    Ok((gifts, next))
}

/// The offer that a token opens. A token that is none costs no query.
pub async fn of_token(app: &App, token: &str) -> Result<Gift, Problem> {
    let id = app.gift_tokens.decode(token).ok_or_else(not_found)?;
    let client = app.pg.get().await?;
    let row = client.row(include_str!("sql/gifts/find.sql"), &[&id.as_i64()]).await?;
    Ok(Gift::from_row(&row.ok_or_else(not_found)?)?)
}

/// Ends the offers of coupons that end themselves, in the transaction that ends them and has locked them:
/// `Returned` where their time is over, `Revoked` where they are revoked.
pub async fn close_ended(tx: &Tx<'_>, coupons: &[(TemplateId, Serial)], state: GiftState) -> Result<(), PgFault> {
    if coupons.is_empty() {
        return Ok(());
    }
    let templates: Vec<i32> = coupons.iter().map(|(template, _)| template.as_i32()).collect();
    let serials: Vec<i64> = coupons.iter().map(|(_, serial)| *serial as i64).collect();
    tx.change(include_str!("sql/gifts/close_ended.sql"), &[&templates, &serials, &state.word()]).await?;
    Ok(())
}

/// Locks a coupon's row for the rest of the transaction. `None`: there is none.
async fn lock_coupon(tx: &Tx<'_>, template: TemplateId, serial: Serial) -> Result<Option<LockedCoupon>, PgFault> {
    let lock = include_str!("sql/gifts/lock_coupon.sql");
    let Some(row) = tx.row(lock, &[&template.as_i32(), &(serial as i64)]).await? else { return Ok(None) };
    Ok(Some(LockedCoupon { coupon: Coupon::from_row(&row), holder: user(&row, "user_ref")? }))
}

/// The refusal of a token that is none, or of one that is not the asker's to use so.
fn not_found() -> Problem {
    Problem::new("gift_not_found", "there is no gift of this token")
}

fn user(row: &Row, column: &str) -> Result<UserRef, PgFault> {
    UserRef::from_store(row.get(column)).ok_or_else(|| PgFault::fault("a user is no reference"))
}

// === impl Party ===

impl Party<'_> {
    /// Refuses whom the blacklist blocks: gifts are the way around it that is tried first.
    pub fn refuse_blocked(&self, app: &App) -> Result<(), Problem> {
        let device = self.device.map(|device| app.hashing.device(device));
        if app.snapshot.load().blacklist.blocks(self.user, Some(self.ip), device, now_ms()) {
            return Err(Problem::new("blocked", "gifts of this user, address or device are blocked; ask support"));
        }
        Ok(())
    }
}

// === impl Direction ===

impl Direction {
    pub fn parse(text: &str) -> Option<Self> {
        [Direction::Given, Direction::Received].into_iter().find(|known| known.word().eq_ignore_ascii_case(text))
    }

    pub fn word(self) -> &'static str {
        match self {
            Direction::Given => "given",
            Direction::Received => "received",
        }
    }
}

// === impl Gift ===

impl Gift {
    fn from_row(row: &Row) -> Result<Self, PgFault> {
        let state = GiftState::parse(row.get("state")).ok_or_else(|| PgFault::fault("a gift's state is no word"))?;
        let (expires, closed): (Millis, Option<Millis>) = (row.get("expires"), row.get("closed"));
        let is_over = state == GiftState::Offered && row.get::<_, bool>("over");
        Ok(Gift {
            id: GiftId(row.get::<_, i64>("id") as u64),
            template: TemplateId(row.get::<_, i32>("template_id") as u32),
            serial: row.get::<_, i64>("serial") as Serial,
            generation: row.get::<_, i16>("gift_generation") as u8,
            giver: user(row, "giver_ref")?,
            receiver: row.get::<_, Option<&str>>("receiver_ref").and_then(UserRef::from_store),
            state: if is_over { GiftState::Returned } else { state },
            offered: row.get("offered"),
            expires,
            closed: if is_over { Some(expires) } else { closed },
        })
    }

    /// As one side sees it: without the other.
    pub fn to_json(&self, app: &App, direction: Direction) -> Value {
        let snapshot = app.snapshot.load();
        let template = snapshot.templates.get(&self.template);
        let zone = template.map_or(chrono_tz::UTC, |template| template.definition.timezone);
        let mut gift = json!({
            "id": self.id.0,
            "direction": direction.word(),
            "state": self.state.word(),
            "template_id": self.template.0,
            "serial": self.serial,
            "offered_at": rfc3339(zone, self.offered),
            "expires_at": rfc3339(zone, self.expires),
            "closed_at": self.closed.map(|at| rfc3339(zone, at)),
        });
        if let Some(template) = template {
            gift["name"] = template.definition.name.clone().into();
        }
        gift
    }

    /// The coupon's step for the trace, after which it is `user`'s.
    fn step(&self, operation: Operation, user: &UserRef) -> Step {
        let (from, to) = match operation {
            Operation::Offer => (CouponStatus::Unused, CouponStatus::Offered),
            _ => (CouponStatus::Offered, CouponStatus::Unused),
        };
        let gift = if operation == Operation::Accept { self.generation + 1 } else { self.generation };
        Step { template: self.template, serial: self.serial, operation, from, to, user: user.clone(), gift }
    }

    /// What the audit log keeps of a step: from `before`, where the offer was there before it.
    fn change(&self, action: Action, before: Option<&Gift>) -> Change {
        let before = before.map_or(Value::Null, Gift::recorded);
        Change::new(action, Subject::Gift(self.id.0.to_string()), before, self.recorded())
    }

    fn recorded(&self) -> Value {
        json!({
            "template_id": self.template.0,
            "serial": self.serial,
            "gift_generation": self.generation,
            "state": self.state.word(),
            "giver": self.giver.as_str(),
            "receiver": self.receiver.as_ref().map(UserRef::as_str),
            "expires_at": rfc3339(chrono_tz::UTC, self.expires),
        })
    }

    fn event(&self, kind: &'static str, user: &UserRef) -> Event {
        let data = json!({"gift_id": self.id.0, "expires_at": rfc3339(chrono_tz::UTC, self.expires)});
        Event { kind, template: self.template, serial: self.serial, user: user.clone(), data }
    }

    /// Whether `coupon` is still held by this offer.
    fn holds(&self, locked: &LockedCoupon) -> bool {
        let coupon = &locked.coupon;
        coupon.status == CouponStatus::Offered && coupon.gift == self.generation && locked.holder == self.giver
    }
}
