//! Coupons reserved for an order, and the order priced with them.
//!
//! All coupons of an order lock together, or none. The same order again is a replay; a coupon locks
//! for one order only. Validity and state go by PostgreSQL's clock and rows, the rules by the time
//! at which the order was placed, and the price is what a quote of the same coupons would say.

use std::collections::HashMap;

use futures_util::future::{try_join4, try_join5};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::request::LockRequest;
use super::store::{
    self, FeeShare, GiftShare, Held, HeldState, LineShare, Locked, Present, Redemption, Shares, Status,
};
use super::{change, no_change, to_json};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::TemplateId;
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::http::problem::{FieldError, Problem};
use crate::ledger::counters::{self, Delta};
use crate::ledger::operations::{self, Cause, Operation, Step};
use crate::ledger::settlement::Party;
use crate::limits::PLACED_AT_TRUST_MS;
use crate::pg::{PgFault, Tx};
use crate::pricing::quote::{Applied, Priced};
use crate::pricing::{self, Case, Coupon, Order};
use crate::{quotes, wallet};

const USER_LOCK: &str = include_str!("../sql/redemption/user_lock.sql");
const CHECKOUTS: &str = include_str!("../sql/redemption/checkouts.sql");
const USES: &str = include_str!("../sql/redemption/uses.sql");
const CANDIDATES: &str = include_str!("../sql/redemption/candidates.sql");
const INSERT: &str = include_str!("../sql/redemption/insert.sql");
const INSERT_COUPONS: &str = include_str!("../sql/redemption/insert_coupons.sql");
const TAKE: &str = include_str!("../sql/redemption/take.sql");

/// What an attempt came to. Refusals are problems; nothing has changed then.
pub enum Attempt {
    /// Locked now: to be committed.
    New(Value, Change),
    /// It was locked before: as it stands now.
    Repeat(Value, Change),
    /// Coupons that are no rows yet, or none of the user's.
    Missing(Vec<CouponName>),
    /// Another call made a redemption of the order at the same time: look again.
    Again,
}

/// The coupons that a request names.
pub struct Named {
    names: Vec<CouponName>,
    /// What is no code. It is refused where another's coupon is, so that nothing tells the two apart.
    stranger: Option<String>,
}

/// A coupon's row, locked.
struct Candidate {
    coupon: wallet::Coupon,
    user: UserRef,
}

/// What the transaction has read and locked.
struct Scene {
    known: Option<Redemption>,
    candidates: Vec<Candidate>,
    now: Millis,
}

/// The coupons that a request names, in its order.
pub fn names(app: &App, request: &LockRequest) -> Result<Named, Problem> {
    let mut names: Vec<CouponName> = Vec::with_capacity(request.codes.len());
    let mut stranger = None;
    for (at, code) in request.codes.iter().enumerate() {
        let Some(name) = app.code_key.decode(code) else {
            stranger.get_or_insert_with(|| code.clone());
            continue;
        };
        if names.contains(&name) {
            let detail = "names a coupon that was named before".to_owned();
            let field = format!("coupons[{at}]");
            return Err(Problem::invalid(vec![FieldError { field, code: "repeated", detail }]));
        }
        names.push(name);
    }
    Ok(Named { names, stranger })
}

/// Locks the coupons that `request` names, within `tx`.
pub async fn attempt(
    app: &App,
    tx: &Tx<'_>,
    request: &LockRequest,
    named: &Named,
    actor: &str,
) -> Result<Attempt, Problem> {
    let names = &named.names;
    let user = app.users.seal(&request.order.user_id);
    let checkout = request.order.checkout_id.as_deref().unwrap_or(&request.order.order_id);
    let scene = set(app, tx, request, names, &user, checkout).await?;
    if let Some(known) = scene.known {
        return repeat(app, tx, known, request).await;
    }
    if let Some(code) = &named.stranger {
        return Err(wallet::not_yours(code));
    }
    let find = |name: &CouponName| scene.candidates.iter().find(|row| row.coupon.name() == *name && row.user == user);
    let missing: Vec<CouponName> = names.iter().filter(|name| find(name).is_none()).copied().collect();
    if !missing.is_empty() {
        return Ok(Attempt::Missing(missing));
    }
    let candidates: Vec<&Candidate> = names.iter().filter_map(find).collect();
    for candidate in &candidates {
        candidate.refuse(app)?;
    }
    let order = believed(&request.order, scene.now);
    let coupons: Vec<Coupon> = candidates
        .iter()
        .map(|candidate| candidate.priceable(app, scene.now, order.placed_at))
        .collect::<Result<_, _>>()?;
    let settings = &app.config.pricing;
    let case = Case { order: &order, user: &request.user, now: order.placed_at, settings };
    let priced = pricing::price(&case, &coupons).map_err(|refused| not_applicable(&refused, &coupons))?;
    if let Some(expected) = request.expected_discount
        && expected != priced.discount_total
    {
        let detail = format!("the coupons take off {}, not {expected}: show the new price", priced.discount_total);
        return Err(Problem::new("price_changed", detail)
            .with("discount_total", priced.discount_total.to_string())
            .with("payable", priced.payable.to_string()));
    }
    let held = hold(&request.order.order_id, &user, &candidates, &coupons, &priced);
    write(app, tx, request, &order, &user, checkout, &priced, held, actor).await
}

/// Reads and locks what the decision needs, in one go, and refuses a user who locks too often.
async fn set(
    app: &App,
    tx: &Tx<'_>,
    request: &LockRequest,
    names: &[CouponName],
    user: &UserRef,
    checkout: &str,
) -> Result<Scene, Problem> {
    let settings = &app.config.redemption;
    let limits = use_limits(app, names);
    tx.prepare_all(&[USER_LOCK, store::FIND, CHECKOUTS, CANDIDATES, USES]).await?;
    let templates: Vec<i32> = names.iter().map(|name| name.template.as_i32()).collect();
    let serials: Vec<i64> = names.iter().map(|name| name.serial as i64).collect();
    let seconds = settings.checkouts_window_s as i32;
    let user = user.as_str();
    // Sent together, carried out in this order: counts are read once the user's other locks are done.
    let (_, known, checkouts, rows) = try_join4(
        tx.rows(USER_LOCK, &[&user]),
        store::look(tx, &request.order.order_id),
        tx.rows(CHECKOUTS, &[&user, &checkout, &seconds]),
        tx.rows(CANDIDATES, &[&templates, &serials]),
    )
    .await?;
    let counted = checkouts.first().ok_or_else(|| PgFault::fault("a count gave no row"))?;
    let now: Millis = counted.get("now");
    let candidates = rows.iter().map(Candidate::from_row).collect::<Result<Vec<_>, PgFault>>()?;
    if known.is_none() {
        let before: i64 = counted.get("checkouts");
        if settings.checkouts_limit > 0 && before >= i64::from(settings.checkouts_limit) {
            let first: Option<Millis> = counted.get("first_at");
            let wait = first.map_or(0, |first| first + 1000 * Millis::from(seconds) - now).max(1);
            let detail = format!(
                "the user has locked coupons for {before} other checkouts in the last {seconds} seconds; the limit is {}",
                settings.checkouts_limit
            );
            return Err(Problem::new("use_limit_reached", detail).retry_after_ms(wait as u64));
        }
        if !limits.is_empty() {
            let limited: Vec<i32> = limits.keys().map(|template| template.as_i32()).collect();
            let rows = tx.rows(USES, &[&user, &limited]).await?;
            if let Some(refusal) = over_used(&rows, &limits, names) {
                return Err(refusal);
            }
        }
    }
    Ok(Scene { known, candidates, now })
}

/// Templates of the coupons that limit how many of them a user may use.
fn use_limits(app: &App, names: &[CouponName]) -> HashMap<TemplateId, u32> {
    let snapshot = app.snapshot.load();
    let limit = |name: &CouponName| snapshot.templates.get(&name.template)?.definition.limits.use_per_user;
    names.iter().filter_map(|name| Some((name.template, limit(name)?))).collect()
}

fn over_used(rows: &[Row], limits: &HashMap<TemplateId, u32>, names: &[CouponName]) -> Option<Problem> {
    limits.iter().find_map(|(template, limit)| {
        let used = rows.iter().find(|row| row.get::<_, i32>(0) == template.as_i32()).map_or(0, |row| row.get(1));
        let asked = names.iter().filter(|name| name.template == *template).count() as i64;
        (used + asked > i64::from(*limit)).then(|| {
            let detail = format!("a user may use {limit} coupons of template {template}, and has used {used}");
            Problem::new("use_limit_reached", detail).with("template_id", template.0)
        })
    })
}

/// A redemption that the order has already.
async fn repeat(app: &App, tx: &Tx<'_>, known: Redemption, request: &LockRequest) -> Result<Attempt, Problem> {
    if known.status == Status::Cancelled {
        let detail = "the order was cancelled: lock coupons for another order";
        return Err(Problem::new("redemption_cancelled", detail));
    }
    if known.locked.as_ref().is_none_or(|locked| locked.request_sha256 != request.sha256) {
        let detail = "the order has a redemption of another request: an order is locked once, with the same body";
        return Err(Problem::new("idempotency_mismatch", detail));
    }
    let coupons = store::look_at_coupons(tx, &known.order_id).await?;
    let done = no_change(Action::RedemptionLock, &known.order_id);
    Ok(Attempt::Repeat(to_json(app, &known, &coupons), done))
}

/// Beyond the time in which clocks may differ, nobody knows when it was placed.
fn believed(order: &Order, now: Millis) -> Order {
    let mut order = order.clone();
    if order.placed_at.abs_diff(now) > PLACED_AT_TRUST_MS {
        order.placed_at = now;
    }
    order
}

fn not_applicable(refused: &pricing::Refused, coupons: &[Coupon]) -> Problem {
    let unusable: Value = refused.0.iter().map(|one| one.to_json(coupons)).collect();
    let detail = "the coupons cannot be used on this order; unusable says which, and why";
    Problem::new("not_applicable", detail).with("unusable", unusable)
}

/// The coupons as the redemption holds them, in the order of computing.
fn hold(order: &str, user: &UserRef, candidates: &[&Candidate], coupons: &[Coupon], priced: &Priced) -> Vec<Held> {
    let held = |applied: &Applied| {
        let (row, coupon) = (&candidates[applied.coupon].coupon, &coupons[applied.coupon]);
        let gifts = priced.gifts.iter().filter(|gift| gift.coupon == applied.coupon);
        let shares = Shares {
            lines: applied
                .lines
                .iter()
                .map(|line| LineShare { line_id: line.line_id.clone(), share: line.share })
                .collect(),
            shipping: applied
                .shipping
                .iter()
                .map(|fee| FeeShare { merchant_id: fee.merchant_id.clone(), share: fee.share })
                .collect(),
            gifts: gifts
                .map(|gift| GiftShare {
                    item_id: gift.item_id.clone(),
                    name: gift.name.clone(),
                    quantity: gift.quantity,
                    value: gift.value,
                })
                .collect(),
        };
        Held {
            order_id: order.to_owned(),
            name: row.name(),
            state: HeldState::Locked,
            user: user.clone(),
            kind: coupon.terms.kind.word().to_owned(),
            bearer: Party { kind: coupon.terms.issuer.word().to_owned(), id: coupon.terms.issuer_id.clone() },
            discount: applied.discount,
            gift_value: shares.gifts.iter().map(|gift| gift.value * Decimal::from(gift.quantity)).sum(),
            shares,
            reversed: Decimal::ZERO,
            valid_from: row.valid_from,
            expires: row.expires,
            present: Present { status: CouponStatus::Locked, user: user.clone(), gift: row.gift, expires: row.expires },
        }
    };
    priced.coupons.iter().map(held).collect()
}

#[allow(clippy::too_many_arguments)]
async fn write(
    app: &App,
    tx: &Tx<'_>,
    request: &LockRequest,
    order: &Order,
    user: &UserRef,
    checkout: &str,
    priced: &Priced,
    held: Vec<Held>,
    actor: &str,
) -> Result<Attempt, Problem> {
    let id = &order.order_id;
    let mut placed = request.placed.clone();
    placed["order"]["placed_at"] = json!(crate::domain::window::rfc3339(chrono_tz::UTC, order.placed_at));
    let (currency, user_text, sha256) = (priced.currency.code(), user.as_str(), &request.sha256[..]);
    let steps: Vec<Step> =
        held.iter().map(|held| held.step(Operation::Lock, CouponStatus::Unused, CouponStatus::Locked)).collect();
    let deltas: Vec<(TemplateId, Delta)> =
        held.iter().map(|held| (held.name.template, Delta { locked: 1, ..Delta::default() })).collect();
    tx.prepare_all(&[INSERT, INSERT_COUPONS, TAKE, operations::INSERT, counters::UPSERT]).await?;
    let (row, taken, ..) = try_join5(
        tx.row(
            INSERT,
            &[
                id,
                &checkout,
                &user_text,
                &sha256,
                &currency,
                &placed,
                &priced.goods_total,
                &priced.shipping_total,
                &priced.discount_total,
                &priced.payable,
                &request.lock_seconds,
            ],
        ),
        take(tx, &held, user_text),
        insert_coupons(tx, id, user_text, &held),
        operations::trace(tx, &steps, Cause::Order(id), actor),
        counters::add(tx, &deltas),
    )
    .await
    .or_else(|fault| match fault.constraint.as_deref() {
        // Another call has made the order's redemption, with coupons of the same.
        Some("redemption_coupons_pkey") => Ok((None, 0, (), (), ())),
        _ => Err(fault),
    })?;
    let Some(row) = row else { return Ok(Attempt::Again) };
    if taken != held.len() as u64 {
        // Their rows are locked and were unused: only time can have passed.
        return Err(Problem::new("coupon_expired", "a coupon expired while it was being locked"));
    }
    let redemption = Redemption {
        order_id: id.clone(),
        status: Status::Locked,
        now: row.get("locked_at"),
        locked: Some(Locked {
            checkout_id: checkout.to_owned(),
            user: user.clone(),
            request_sha256: sha256.to_vec(),
            currency: priced.currency,
            placed,
            goods_total: priced.goods_total,
            shipping_total: priced.shipping_total,
            discount_total: priced.discount_total,
            payable: priced.payable,
            reversed_total: Decimal::ZERO,
            locked_at: row.get("locked_at"),
            lock_expires_at: row.get("lock_expires_at"),
            used_at: None,
            conflict_at: None,
        }),
    };
    let change = change(Action::RedemptionLock, &redemption, None, &held);
    Ok(Attempt::New(to_json(app, &redemption, &held), change))
}

async fn take(tx: &Tx<'_>, held: &[Held], user: &str) -> Result<u64, PgFault> {
    let templates: Vec<i32> = held.iter().map(|held| held.name.template.as_i32()).collect();
    let serials: Vec<i64> = held.iter().map(|held| held.name.serial as i64).collect();
    tx.change(TAKE, &[&templates, &serials, &user]).await
}

async fn insert_coupons(tx: &Tx<'_>, order: &str, user: &str, held: &[Held]) -> Result<(), PgFault> {
    let templates: Vec<i32> = held.iter().map(|held| held.name.template.as_i32()).collect();
    let serials: Vec<i64> = held.iter().map(|held| held.name.serial as i64).collect();
    let epochs: Vec<i32> = held.iter().map(|held| i32::from(held.name.epoch)).collect();
    let gifts: Vec<i16> = held.iter().map(|held| i16::from(held.name.gift)).collect();
    let kinds: Vec<&str> = held.iter().map(|held| held.kind.as_str()).collect();
    let issuers: Vec<&str> = held.iter().map(|held| held.bearer.kind.as_str()).collect();
    let issuer_ids: Vec<&str> = held.iter().map(|held| held.bearer.id.as_str()).collect();
    let discounts: Vec<Decimal> = held.iter().map(|held| held.discount).collect();
    let gift_values: Vec<Decimal> = held.iter().map(|held| held.gift_value).collect();
    let shares: Vec<Value> = held.iter().map(|held| json!(held.shares)).collect();
    let valid_from: Vec<i64> = held.iter().map(|held| held.valid_from).collect();
    let expires: Vec<i64> = held.iter().map(|held| held.expires).collect();
    tx.change(
        INSERT_COUPONS,
        &[
            &order,
            &user,
            &templates,
            &serials,
            &epochs,
            &gifts,
            &kinds,
            &issuers,
            &issuer_ids,
            &discounts,
            &gift_values,
            &shares,
            &valid_from,
            &expires,
        ],
    )
    .await?;
    Ok(())
}

// === impl Candidate ===

impl Candidate {
    fn from_row(row: &Row) -> Result<Candidate, PgFault> {
        let user = UserRef::from_store(row.get("user_ref"));
        Ok(Candidate {
            coupon: wallet::Coupon::from_row(row),
            user: user.ok_or_else(|| PgFault::fault("a coupon's user is no reference"))?,
        })
    }

    /// What the coupon's state alone refuses. Time refuses whether or not a sweeper has run.
    fn refuse(&self, app: &App) -> Result<(), Problem> {
        let (code, detail) = match self.coupon.status {
            CouponStatus::Locked => ("coupon_locked", "the coupon is locked for another order"),
            CouponStatus::Used => ("coupon_used", "the coupon is used"),
            CouponStatus::Revoked => ("coupon_revoked", "the coupon was revoked"),
            CouponStatus::Expired => ("coupon_expired", "the coupon has expired"),
            // Offered: pricing refuses it by that reason.
            CouponStatus::Unused | CouponStatus::Offered => return Ok(()),
        };
        Err(Problem::new(code, detail).with("coupon", app.code_key.encode(self.coupon.name())))
    }

    /// As pricing sees it. Whether it holds is settled by PostgreSQL's clock, so the moment at which the
    /// order was placed, minutes off perhaps, does not judge it again.
    fn priceable(&self, app: &App, now: Millis, placed_at: Millis) -> Result<Coupon, Problem> {
        let mut coupon = self.coupon.clone();
        coupon.expires = coupon.expires.max(placed_at + 1);
        if coupon.valid_from > now {
            coupon.valid_from = coupon.valid_from.max(placed_at + 1);
        }
        let unreadable = || Problem::new("internal", "the rules of the coupon's template cannot be read");
        quotes::priceable(app, &coupon, placed_at, now)?.ok_or_else(unreadable)
    }
}
