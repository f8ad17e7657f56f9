//! Coupons given free again: the order was cancelled, or not paid in time. Exactly once.

use futures_util::future::try_join4;
use serde_json::Value;

use super::store::{self, Held, HeldState, Redemption, Status};
use super::{change, no_change, to_json};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::TemplateId;
use crate::domain::window::Millis;
use crate::http::problem::Problem;
use crate::ledger::counters::{self, Delta};
use crate::ledger::operations::{self, Cause, Operation, Step};
use crate::pg::{PgFault, Tx};

const RELEASE: &str = include_str!("../sql/redemption/release.sql");
const CANCEL_UNKNOWN: &str = include_str!("../sql/redemption/cancel_unknown.sql");

/// Why coupons are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Cancelled,
    TimedOut,
}

/// Cancels an order within `tx`. One that is not known is remembered as cancelled: a lock that comes
/// later is refused. Repeated, it answers as it stands.
pub async fn cancel(app: &App, tx: &Tx<'_>, order: &str, actor: &str) -> Result<(Value, Change), Problem> {
    // First, so that the order's row is there when its coupons' are locked: always in this order.
    if tx.change(CANCEL_UNKNOWN, &[&order]).await? == 1 {
        let marked = store::look(tx, order).await?.ok_or_else(|| PgFault::fault("a redemption is gone"))?;
        let change = change(Action::RedemptionCancel, &marked, None, &[]);
        return Ok((to_json(app, &marked, &[]), change));
    }
    let (redemption, coupons) = store::lock(tx, order).await?.ok_or_else(|| PgFault::fault("a redemption is gone"))?;
    match redemption.status {
        Status::Cancelled => {
            return Ok((to_json(app, &redemption, &coupons), no_change(Action::RedemptionCancel, order)));
        }
        Status::Used | Status::Refunded | Status::PartiallyRefunded => {
            let detail = "the order's coupons are used: refund the order instead";
            return Err(Problem::new("redemption_used", detail));
        }
        Status::Locked => {
            let deltas = release(tx, order, &coupons, redemption.now, Why::Cancelled, actor).await?;
            counters::add(tx, &deltas).await?;
        } // Its coupons are free already; from now on no confirm may take them.
        Status::TimedOut => {
            let changed = tx.change(RELEASE, &[&order, &Status::Cancelled.word()]).await?;
            store::demand(changed, 1)?;
        }
    }
    let before = Some(redemption.status);
    let redemption = Redemption { status: Status::Cancelled, ..redemption };
    let change = change(Action::RedemptionCancel, &redemption, before, &coupons);
    Ok((to_json(app, &redemption, &coupons), change))
}

/// Gives the coupons of a locked order free, as of `now`. A coupon whose time is over meanwhile is expired.
/// What that adds to the counters is the caller's to write, once and at last.
pub async fn release(
    tx: &Tx<'_>,
    order: &str,
    coupons: &[Held],
    now: Millis,
    why: Why,
    actor: &str,
) -> Result<Vec<(TemplateId, Delta)>, PgFault> {
    let (status, operation) = match why {
        Why::Cancelled => (Status::Cancelled, Operation::Cancel),
        Why::TimedOut => (Status::TimedOut, Operation::TimeOut),
    };
    let moves: Vec<store::Move> = coupons.iter().map(|held| held.to(CouponStatus::Locked, held.freed(now))).collect();
    let steps: Vec<Step> =
        coupons.iter().map(|held| held.step(operation, CouponStatus::Locked, held.freed(now))).collect();
    let deltas = coupons
        .iter()
        .map(|held| {
            let expired = i64::from(held.freed(now) == CouponStatus::Expired);
            (held.name.template, Delta { locked: -1, expired, ..Delta::default() })
        })
        .collect();
    tx.prepare_all(&[RELEASE, store::MOVE_COUPONS, store::MOVE_HELD, operations::INSERT]).await?;
    let (released, ..) = try_join4(
        tx.change(RELEASE, &[&order, &status.word()]),
        store::move_coupons(tx, &moves),
        store::move_held(tx, order, &[HeldState::Locked], HeldState::Released, coupons.len()),
        operations::trace(tx, &steps, Cause::Order(order), actor),
    )
    .await?;
    store::demand(released, 1)?;
    Ok(deltas)
}
