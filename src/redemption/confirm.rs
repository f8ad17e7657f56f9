//! The order is paid: its coupons are used.
//!
//! Usage, settlement entries, events and counters are one transaction. A confirm that comes after the
//! lock's time is no fault of the customer, who has paid: coupons that are still free are locked again
//! and used, judged by their validity at the first lock. Where one went elsewhere, the conflict is
//! recorded for the shop to absorb or refund.

use futures_util::future::{try_join3, try_join5};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::store::{self, Held, HeldState, Locked, Redemption, Status};
use super::{change, no_change, not_found, places, to_json};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::TemplateId;
use crate::http::problem::Problem;
use crate::ledger::counters::{self, Delta};
use crate::ledger::events::{self, Event};
use crate::ledger::operations::{self, Cause, Operation, Step};
use crate::ledger::settlement::{self, Entry, Party, Subject};
use crate::pg::{PgFault, Tx};
use crate::pricing::Order;

const CONFIRM: &str = include_str!("../sql/redemption/confirm.sql");
const CONFLICT: &str = include_str!("../sql/redemption/conflict.sql");

/// What a confirm came to. Refusals are problems; nothing has changed then.
pub enum Confirmed {
    /// Now or before: as it stands. To be committed.
    Done(Value, Change),
    /// Too late. What is kept of it is to be committed, and the problem answered.
    Conflict(Problem, Change),
}

/// Uses the coupons of `order` within `tx`.
pub async fn confirm(app: &App, tx: &Tx<'_>, order: &str, actor: &str) -> Result<Confirmed, Problem> {
    let (redemption, coupons) = store::lock(tx, order).await?.ok_or_else(|| not_found(order))?;
    let Some(locked) = &redemption.locked else { return Err(cancelled()) };
    let mut steps = Vec::with_capacity(2 * coupons.len());
    let mut moves: Vec<store::Move> =
        coupons.iter().map(|held| held.to(CouponStatus::Locked, CouponStatus::Used)).collect();
    match redemption.status {
        Status::Used | Status::Refunded | Status::PartiallyRefunded => {
            let done = no_change(Action::RedemptionConfirm, order);
            return Ok(Confirmed::Done(to_json(app, &redemption, &coupons), done));
        }
        Status::Cancelled => return Err(cancelled()),
        // Its time may be over; as long as nobody has released it, its coupons are its own.
        Status::Locked => {}
        Status::TimedOut => {
            let gone: Vec<&Held> = coupons.iter().filter(|held| !held.is_free()).collect();
            if !gone.is_empty() {
                let change = keep_conflict(tx, &redemption, &gone).await?;
                return Ok(Confirmed::Conflict(conflict(app, &gone), change));
            }
            let again = |held: &Held| held.step(Operation::LateLock, held.present.status, CouponStatus::Locked);
            steps.extend(coupons.iter().map(again));
            moves = coupons.iter().map(|held| held.to(held.present.status, CouponStatus::Used)).collect();
        }
    }
    steps.extend(coupons.iter().map(|held| held.step(Operation::Confirm, CouponStatus::Locked, CouponStatus::Used)));
    let used = write(tx, order, locked, &coupons, &moves, &steps, actor).await?;
    let before = Some(redemption.status);
    let redemption = Redemption {
        status: Status::Used,
        locked: Some(Locked { used_at: Some(used), ..locked.clone() }),
        ..redemption.clone()
    };
    let change = change(Action::RedemptionConfirm, &redemption, before, &coupons);
    Ok(Confirmed::Done(to_json(app, &redemption, &coupons), change))
}

/// Keeps that the order was paid in vain: once, whoever asks how often.
async fn keep_conflict(tx: &Tx<'_>, redemption: &Redemption, gone: &[&Held]) -> Result<Change, PgFault> {
    let order = &redemption.order_id;
    if tx.change(CONFLICT, &[order]).await? == 0 {
        return Ok(no_change(Action::RedemptionConflict, order));
    }
    tracing::warn!(order, "an order was confirmed after its coupons had gone elsewhere");
    let told: Vec<Event> =
        gone.iter().map(|held| event(held, "redemption.late_confirm_conflict", json!({"order_id": order}))).collect();
    events::write(tx, &told).await?;
    let gone: Vec<Held> = gone.iter().map(|held| (*held).clone()).collect();
    Ok(change(Action::RedemptionConflict, redemption, None, &gone))
}

/// Returns when it was used.
async fn write(
    tx: &Tx<'_>,
    order: &str,
    locked: &Locked,
    coupons: &[Held],
    moves: &[store::Move],
    steps: &[Step],
    actor: &str,
) -> Result<i64, Problem> {
    let entries = entries(locked, coupons)?;
    let told: Vec<Event> = coupons
        .iter()
        .map(|held| {
            let discount = places(locked.currency, held.discount).to_string();
            event(
                held,
                "coupon.used",
                json!({"order_id": order, "discount": discount, "currency": locked.currency.code()}),
            )
        })
        .collect();
    tx.prepare_all(&[
        CONFIRM,
        store::MOVE_COUPONS,
        store::MOVE_HELD,
        operations::INSERT,
        settlement::INSERT,
        events::INSERT,
        counters::UPSERT,
    ])
    .await?;
    let states = [HeldState::Locked, HeldState::Released];
    let (row, ..) = try_join5(
        tx.row(CONFIRM, &[&order]),
        store::move_coupons(tx, moves),
        store::move_held(tx, order, &states, HeldState::Used, coupons.len()),
        operations::trace(tx, steps, Cause::Order(order), actor),
        try_join3(
            settlement::book(tx, order, None, locked.currency.code(), &entries),
            events::write(tx, &told),
            counters::add(tx, &deltas(locked, coupons)),
        ),
    )
    .await?;
    let row = row.ok_or_else(|| PgFault::fault("a locked redemption was not confirmed"))?;
    Ok(row.get("used_at"))
}

/// Each coupon's bearer owes the merchants what it took off their lines and fees, and its gifts.
fn entries(locked: &Locked, coupons: &[Held]) -> Result<Vec<Entry>, PgFault> {
    let order = placed_order(locked)?;
    let merchant = |id: &str| Party { kind: "merchant".into(), id: id.to_owned() };
    let mut entries = Vec::new();
    for held in coupons {
        let mut owe = |beneficiary: Party, subject: Subject, amount: Decimal| {
            entries.push(Entry {
                template: held.name.template,
                serial: held.name.serial,
                bearer: held.bearer.clone(),
                beneficiary,
                subject,
                amount,
            });
        };
        for share in &held.shares.lines {
            let line = order.lines.iter().find(|line| line.line_id == share.line_id);
            let line = line.ok_or_else(|| PgFault::fault("a share falls on a line that the order does not have"))?;
            owe(merchant(&line.merchant_id), Subject::Line(share.line_id.clone()), share.share);
        }
        for share in &held.shares.shipping {
            owe(merchant(&share.merchant_id), Subject::Shipping(share.merchant_id.clone()), share.share);
        }
        for gift in &held.shares.gifts {
            // Who sells the item in this order gives it away; else the issuer supplies it.
            let seller = order.lines.iter().find(|line| line.item_id == gift.item_id);
            let giver = seller.map_or_else(|| held.bearer.clone(), |line| merchant(&line.merchant_id));
            owe(giver, Subject::Gift(gift.item_id.clone()), gift.value * Decimal::from(gift.quantity));
        }
    }
    Ok(entries)
}

/// The order as it was priced, its user left out.
pub(super) fn placed_order(locked: &Locked) -> Result<Order, PgFault> {
    let mut order = locked.placed["order"].clone();
    order["user_id"] = "-".into();
    Order::parse(&order, "").map_err(|errors| PgFault::fault(format!("a placed order cannot be read: {errors:?}")))
}

fn deltas(locked: &Locked, coupons: &[Held]) -> Vec<(TemplateId, Delta)> {
    let mut deltas: Vec<(TemplateId, Delta)> = Vec::new();
    for held in coupons {
        let is_first = !deltas.iter().any(|(template, _)| *template == held.name.template);
        deltas.push((
            held.name.template,
            Delta {
                locked: if held.present.status == CouponStatus::Locked { -1 } else { 0 },
                expired: if held.present.status == CouponStatus::Expired { -1 } else { 0 },
                used: 1,
                orders: i64::from(is_first),
                discount_total: held.discount,
                gift_total: held.gift_value,
                revenue: if is_first { locked.payable } else { Decimal::ZERO },
                ..Delta::default()
            },
        ));
    }
    deltas
}

/// Told of whose order it is: the coupon may be in other hands by now.
pub(super) fn event(held: &Held, kind: &'static str, data: Value) -> Event {
    Event { kind, template: held.name.template, serial: held.name.serial, user: held.user.clone(), data }
}

fn cancelled() -> Problem {
    Problem::new("redemption_cancelled", "the order was cancelled before: refund what was paid, or place another order")
}

fn conflict(app: &App, gone: &[&Held]) -> Problem {
    let codes: Vec<String> = gone.iter().map(|held| app.code_key.encode(held.name)).collect();
    let detail =
        "the lock's time was over, and coupons have gone elsewhere since: absorb the discount, or refund the order";
    Problem::new("late_confirm_conflict", detail).with("coupons", codes)
}

// === impl Held ===

impl Held {
    /// Whether a coupon that was released is as the first lock found it: its holder's, and in nobody's use.
    /// That its time is over does not count.
    fn is_free(&self) -> bool {
        matches!(self.present.status, CouponStatus::Unused | CouponStatus::Expired)
            && self.present.user == self.user
            && self.present.gift == self.name.gift
    }
}
