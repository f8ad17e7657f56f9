//! Money taken back, and what becomes of the coupons.
//!
//! What a refund reverses is computed from what the settlement entries still hold, in whole minor
//! units, so that parts add up to the whole to the last one, in whatever order they come. The
//! accounts reverse always; whether a coupon returns is its template's word.
//!
//! # Layout
//! - [`request`]: what the shop says it refunds
//! - [`plan`]: what that reverses and which coupons it frees; pure
//! - this file: the transaction

pub mod plan;
pub mod request;

use std::collections::HashMap;

use futures_util::future::{try_join, try_join3, try_join4, try_join5};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use self::plan::{Basis, Part, Plan};
use self::request::RefundRequest;
use super::confirm::{event, placed_order};
use super::store::{self, Held, Locked, Move, Redemption, Status, demand};
use super::{change, no_change, not_found};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::fields::{Complaints, Object};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::template::Refund;
use crate::domain::window::{Millis, Validity, rfc3339};
use crate::http::problem::Problem;
use crate::ledger::counters::{self, Delta};
use crate::ledger::events::{self, Event};
use crate::ledger::operations::{self, Cause, Operation, Step};
use crate::ledger::settlement::{self, Entry, Party};
use crate::pg::{PgFault, Tx};
use crate::quotes::request::read_facts;

const KNOWN: &str = include_str!("../sql/redemption/refund_known.sql");
const UNITS: &str = include_str!("../sql/redemption/refund_units.sql");
const LEFT: &str = include_str!("../sql/redemption/refund_left.sql");
const INSERT: &str = include_str!("../sql/redemption/refund_insert.sql");
const INSERT_LINES: &str = include_str!("../sql/redemption/refund_insert_lines.sql");
const UPDATE: &str = include_str!("../sql/redemption/refund_update.sql");
const UPDATE_COUPONS: &str = include_str!("../sql/redemption/refund_update_coupons.sql");

/// What a refund came to. Refusals are problems; nothing has changed then.
pub enum Refunded {
    /// To be committed.
    Now(Value, Change),
    /// The same refund was made before: its answer.
    Before(Value, Change),
    /// Another call makes a refund of this id at the same time: look again.
    Again,
}

/// What became of one coupon.
struct Fate {
    status: CouponStatus,
    expires: Millis,
    /// The step, where it was given back.
    operation: Option<Operation>,
}

/// Who owes a thing to whom, for how much still.
struct Open {
    template: TemplateId,
    serial: Serial,
    subject: String,
    subject_id: String,
    beneficiary: Party,
    amount: Decimal,
}

/// Refunds within `tx`.
pub async fn refund(app: &App, tx: &Tx<'_>, request: &RefundRequest, actor: &str) -> Result<Refunded, Problem> {
    let (redemption, coupons) =
        store::lock(tx, &request.order_id).await?.ok_or_else(|| not_found(&request.order_id))?;
    // The order's row is locked: nobody else refunds it now.
    tx.prepare_all(&[KNOWN, UNITS, LEFT]).await?;
    let (known, units, open) = try_join3(
        tx.row(KNOWN, &[&request.refund_id]),
        tx.rows(UNITS, &[&request.order_id]),
        tx.rows(LEFT, &[&request.order_id]),
    )
    .await?;
    if let Some(known) = known {
        if known.get::<_, &[u8]>("request_sha256") != request.sha256 {
            let detail = "the refund_id belongs to another refund: name each refund anew";
            return Err(Problem::new("idempotency_mismatch", detail));
        }
        let done = no_change(Action::RedemptionRefund, &request.order_id);
        return Ok(Refunded::Before(answer(app, known.get("outcome")), done));
    }
    let locked = refundable(&redemption)?;
    let open: Vec<Open> = open.iter().map(Open::from_row).collect();
    let order = placed_order(locked)?;
    let user = {
        let mut wrong = Complaints::default();
        read_facts(&mut Object::body(&locked.placed, &mut wrong), &mut wrong)
    };
    let refunds: Vec<Refund> = coupons.iter().map(|held| policy(app, held)).collect();
    let parts = coupons.iter().zip(&refunds).map(|(held, refund)| part(app, held, *refund, &open, locked));
    let basis = Basis {
        order: &order,
        user: &user,
        settings: &app.config.pricing,
        parts: parts.collect::<Result<_, Problem>>()?,
        // A refund of fees alone has no line.
        units_before: units
            .iter()
            .filter_map(|row| Some((row.get::<_, Option<String>>("line_id")?, row.get::<_, i64>("quantity") as u32)))
            .collect(),
        fee_before: units.iter().any(|row| row.get("shipping_refunded")),
    };
    let plan = plan::plan(&basis, request).map_err(|refused| match refused {
        plan::Refused::Fields(errors) => Problem::invalid(errors),
        plan::Refused::Nothing => Problem::new("conflict", "everything that this refund names is refunded already"),
    })?;
    let fates: Vec<Fate> = coupons
        .iter()
        .zip(&refunds)
        .zip(&plan.returns)
        .map(|((held, refund), returns)| Fate::of(app, &redemption, locked, held, refund, *returns))
        .collect();
    let outcome = outcome(request, locked, &coupons, &plan, &fates, app);
    let written = write(tx, request, &redemption, locked, &coupons, &open, &plan, &fates, &outcome, actor).await;
    match written {
        Ok(()) => {}
        Err(fault) if fault.violates("refunds_pkey") => return Ok(Refunded::Again),
        Err(fault) => return Err(fault.into()),
    }
    let after = Redemption {
        status: if plan.is_whole { Status::Refunded } else { Status::PartiallyRefunded },
        locked: Some(Locked {
            reversed_total: locked.reversed_total + locked.currency.decimal(plan.reversed_total()),
            ..locked.clone()
        }),
        ..redemption.clone()
    };
    let mut change = change(Action::RedemptionRefund, &after, Some(redemption.status), &coupons);
    change.after["refund"] = json!({"refund_id": request.refund_id, "reason": request.reason, "outcome": outcome});
    Ok(Refunded::Now(answer(app, outcome), change))
}

fn refundable(redemption: &Redemption) -> Result<&Locked, Problem> {
    let wrong = |detail| Problem::new("conflict", detail).with("redemption_status", redemption.status.word());
    match (redemption.status, &redemption.locked) {
        (Status::Used | Status::Refunded | Status::PartiallyRefunded, Some(locked)) => Ok(locked),
        (Status::Locked, _) => Err(wrong("the order's coupons are locked, not used: confirm or cancel it first")),
        _ => Err(wrong("the order's coupons were given free: there is nothing to refund")),
    }
}

/// What the template says of refunds. One that this process does not know has the defaults.
fn policy(app: &App, held: &Held) -> Refund {
    let snapshot = app.snapshot.load();
    snapshot.templates.get(&held.name.template).map(|template| template.definition.refund).unwrap_or_default()
}

/// A coupon as the plan sees it: what its entries still hold.
fn part(app: &App, held: &Held, refund: Refund, open: &[Open], locked: &Locked) -> Result<Part, Problem> {
    let snapshot = app.snapshot.load();
    let template = snapshot.templates.get(&held.name.template).ok_or_else(|| {
        Problem::new("unavailable", "the coupon's template is not known to this process yet").retry_after_ms(1000)
    })?;
    let minor = |amount: Decimal| {
        let whole = locked.currency.minor(amount);
        whole.map_err(|_| PgFault::fault(format!("{amount} is no amount of {}", locked.currency.code())))
    };
    let mut part = Part {
        terms: template.terms.clone(),
        amount: matches!(template.definition.kind, crate::domain::template::Kind::RedPacket).then_some(held.discount),
        policy: refund.partial,
        is_used: held.state == store::HeldState::Used,
        granted: HashMap::new(),
        lines: HashMap::new(),
        fees: HashMap::new(),
        gifts: HashMap::new(),
    };
    for share in &held.shares.lines {
        part.granted.insert(share.line_id.clone(), minor(share.share)?);
    }
    for entry in open.iter().filter(|entry| entry.is_of(held)) {
        let place = match entry.subject.as_str() {
            "line" => &mut part.lines,
            "shipping" => &mut part.fees,
            _ => &mut part.gifts,
        };
        place.insert(entry.subject_id.clone(), minor(entry.amount)?);
    }
    Ok(part)
}

#[allow(clippy::too_many_arguments)]
async fn write(
    tx: &Tx<'_>,
    request: &RefundRequest,
    redemption: &Redemption,
    locked: &Locked,
    coupons: &[Held],
    open: &[Open],
    plan: &Plan,
    fates: &[Fate],
    outcome: &Value,
    actor: &str,
) -> Result<(), PgFault> {
    let (id, order) = (&request.refund_id, &redemption.order_id);
    let money = |minor| locked.currency.decimal(minor);
    let reversed = money(plan.reversed_total());
    let status = if plan.is_whole { Status::Refunded } else { Status::PartiallyRefunded };
    let entries = entries(coupons, open, plan, locked)?;
    let refunded: Vec<&plan::LineOutcome> = plan.lines.iter().filter(|line| line.quantity > 0).collect();
    let lines: Vec<&str> = refunded.iter().map(|line| line.line_id.as_str()).collect();
    let quantities: Vec<i32> = refunded.iter().map(|line| line.quantity as i32).collect();
    let reversals: Vec<Decimal> = refunded.iter().map(|line| money(line.reversed)).collect();
    let templates: Vec<i32> = coupons.iter().map(|held| held.name.template.as_i32()).collect();
    let serials: Vec<i64> = coupons.iter().map(|held| held.name.serial as i64).collect();
    let of_coupons: Vec<Decimal> = (0..coupons.len()).map(|at| money(plan.reversed_of(at, true))).collect();
    let returned: Vec<bool> = fates.iter().map(|fate| fate.operation.is_some()).collect();
    let given_back = || coupons.iter().zip(fates).filter_map(|(held, fate)| Some((held, fate, fate.operation?)));
    let moves: Vec<Move> = given_back()
        .map(|(held, fate, _)| Move { expires: Some(fate.expires), ..held.to(CouponStatus::Used, fate.status) })
        .collect();
    let steps: Vec<Step> =
        given_back().map(|(held, fate, operation)| held.step(operation, CouponStatus::Used, fate.status)).collect();
    let told: Vec<Event> = coupons
        .iter()
        .enumerate()
        .filter(|(at, _)| plan.reversed_of(*at, true) > 0 || fates[*at].operation.is_some())
        .map(|(at, held)| {
            let reversed = money(plan.reversed_of(at, true)).to_string();
            let data =
                json!({"order_id": order, "refund_id": id, "reversed": reversed, "status": fates[at].status.word()});
            event(held, "coupon.refunded", data)
        })
        .collect();
    let deltas = deltas(coupons, plan, fates, locked);
    tx.prepare_all(&[
        INSERT,
        INSERT_LINES,
        UPDATE,
        UPDATE_COUPONS,
        store::MOVE_COUPONS,
        settlement::INSERT,
        operations::INSERT,
        events::INSERT,
        counters::UPSERT,
    ])
    .await?;
    let (_, _, (updated, _), ..) = try_join5(
        tx.change(INSERT, &[id, order, &&request.sha256[..], &request.reason, &plan.fee_now, &reversed, outcome]),
        tx.change(INSERT_LINES, &[id, &lines, &quantities, &reversals]),
        try_join(
            tx.change(UPDATE, &[order, &status.word(), &reversed]),
            tx.change(UPDATE_COUPONS, &[order, &templates, &serials, &of_coupons, &returned]),
        ),
        store::move_coupons(tx, &moves),
        try_join4(
            settlement::book(tx, order, Some(id), locked.currency.code(), &entries),
            operations::trace(tx, &steps, Cause::Refund(id), actor),
            events::write(tx, &told),
            counters::add(tx, &deltas),
        ),
    )
    .await?;
    demand(updated, 1)
}

/// The opposite of what was booked.
fn entries(coupons: &[Held], open: &[Open], plan: &Plan, locked: &Locked) -> Result<Vec<Entry>, PgFault> {
    let mut entries = Vec::with_capacity(plan.reversals.len());
    for reversal in &plan.reversals {
        let held = &coupons[reversal.coupon];
        let (subject, subject_id) = reversal.subject.stored();
        let was = open
            .iter()
            .find(|entry| entry.is_of(held) && entry.subject == subject && entry.subject_id == subject_id)
            .ok_or_else(|| PgFault::fault("a reversal of what was never booked"))?;
        entries.push(Entry {
            template: held.name.template,
            serial: held.name.serial,
            bearer: held.bearer.clone(),
            beneficiary: was.beneficiary.clone(),
            subject: reversal.subject.clone(),
            amount: -locked.currency.decimal(reversal.amount),
        });
    }
    Ok(entries)
}

fn deltas(coupons: &[Held], plan: &Plan, fates: &[Fate], locked: &Locked) -> Vec<(TemplateId, Delta)> {
    let money = |minor| locked.currency.decimal(minor);
    let mut deltas: Vec<(TemplateId, Delta)> = Vec::new();
    for (at, (held, fate)) in coupons.iter().zip(fates).enumerate() {
        let is_first = !deltas.iter().any(|(template, _)| *template == held.name.template);
        let discount = plan.reversed_of(at, false);
        deltas.push((
            held.name.template,
            Delta {
                restored: i64::from(fate.operation.is_some()),
                expired: i64::from(fate.operation.is_some() && fate.status == CouponStatus::Expired),
                discount_reversed: money(discount),
                gift_reversed: money(plan.reversed_of(at, true) - discount),
                revenue_refunded: if is_first { money(plan.paid_back()) } else { Decimal::ZERO },
                ..Delta::default()
            },
        ));
    }
    deltas
}

/// The answer as it is kept: its coupons by their numbers, codes are never stored.
fn outcome(
    request: &RefundRequest,
    locked: &Locked,
    coupons: &[Held],
    plan: &Plan,
    fates: &[Fate],
    app: &App,
) -> Value {
    let money = |minor| locked.currency.decimal(minor).to_string();
    let lines: Vec<Value> = plan
        .lines
        .iter()
        .map(|line| json!({"line_id": line.line_id, "quantity": line.quantity, "reversed": money(line.reversed)}))
        .collect();
    let snapshot = app.snapshot.load();
    let zone = |held: &Held| {
        snapshot.templates.get(&held.name.template).map_or(chrono_tz::UTC, |template| template.definition.timezone)
    };
    let coupons: Vec<Value> = coupons
        .iter()
        .zip(fates)
        .map(|(held, fate)| {
            json!({
                "template_id": held.name.template.0,
                "serial": held.name.serial,
                "epoch": held.name.epoch,
                "gift": held.name.gift,
                "status": fate.status.word(),
                "expires_at": rfc3339(zone(held), fate.expires),
            })
        })
        .collect();
    json!({
        "refund_id": request.refund_id,
        "order_id": request.order_id,
        "reversed_total": money(plan.reversed_total()),
        "shipping_reversed": money(plan.fees_reversed()),
        "gift_value_recovered": money(plan.gifts_reversed()),
        "lines": lines,
        "coupons": coupons,
    })
}

/// What was kept, as the HTTP contract shows it.
fn answer(app: &App, mut outcome: Value) -> Value {
    for coupon in outcome["coupons"].as_array_mut().into_iter().flatten() {
        let number = |name: &str| coupon[name].as_u64().unwrap_or_default();
        let name = CouponName {
            template: TemplateId(number("template_id") as u32),
            serial: number("serial"),
            epoch: number("epoch") as u16,
            gift: number("gift") as u8,
        };
        *coupon = json!({
            "code": app.code_key.encode(name),
            "status": coupon["status"],
            "expires_at": coupon["expires_at"],
        });
    }
    outcome
}

// === impl Fate ===

impl Fate {
    /// What becomes of a coupon. `returns`: nothing of its benefit is left, and the refund gives it back.
    fn of(app: &App, redemption: &Redemption, locked: &Locked, held: &Held, refund: &Refund, returns: bool) -> Fate {
        let (now, expires) = (redemption.now, held.present.expires);
        let snapshot = app.snapshot.load();
        let zone =
            snapshot.templates.get(&held.name.template).map_or(chrono_tz::UTC, |template| template.definition.timezone);
        let later =
            |at: Millis, days: u32| Validity::Relative { days, delay_days: 0, end_of_day: false }.span(zone, at).1;
        let used_at = locked.used_at.unwrap_or(locked.locked_at);
        let in_window = refund.returnable && now <= later(used_at, refund.window_days);
        if !returns || !in_window || held.present.status != CouponStatus::Used {
            return Fate { status: held.present.status, expires, operation: None };
        }
        if expires > now {
            let elapsed = if refund.restore_elapsed { now - locked.locked_at } else { 0 };
            let operation = Some(Operation::Restore);
            return Fate { status: CouponStatus::Unused, expires: expires + elapsed, operation };
        }
        if refund.extend_days > 0 {
            let expires = later(now, refund.extend_days);
            return Fate { status: CouponStatus::Unused, expires, operation: Some(Operation::Extend) };
        }
        Fate { status: CouponStatus::Expired, expires, operation: Some(Operation::Restore) }
    }
}

// === impl Open ===

impl Open {
    fn from_row(row: &tokio_postgres::Row) -> Open {
        Open {
            template: TemplateId(row.get::<_, i32>("template_id") as u32),
            serial: row.get::<_, i64>("serial") as Serial,
            subject: row.get("subject"),
            subject_id: row.get("subject_id"),
            beneficiary: Party { kind: row.get("party"), id: row.get("party_id") },
            amount: row.get("amount"),
        }
    }

    fn is_of(&self, held: &Held) -> bool {
        self.template == held.name.template && self.serial == held.name.serial
    }
}
