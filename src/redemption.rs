//! An order's use of coupons: try, confirm, cancel; and refunds.
//!
//! A lock reserves coupons for an order that is not paid, and prices it: the numbers that are locked
//! are the numbers that are confirmed. Every step is one transaction that changes the coupons, their
//! trace, the settlement entries and the counters together. Rows are locked in key order, and each
//! change has the state that it expects in its WHERE, so any number of processes may do the same
//! at once, and a repeat changes nothing.
//!
//! # Layout
//! - [`request`]: what an order service asks, read whole
//! - [`store`]: redemptions and their coupons as PostgreSQL has them
//! - [`lock`]: coupons reserved for an order
//! - [`confirm`]: the order is paid; also later than its lock
//! - [`release`]: cancelled, or not paid in time
//! - [`refund`]: money taken back, coupons given back
//! - [`worker`]: locks whose time is over

pub mod confirm;
pub mod lock;
pub mod refund;
pub mod release;
pub mod request;
pub mod store;
pub mod worker;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::app::App;
use crate::audit::{Action, Change, Subject};
use crate::domain::window::rfc3339;
use crate::http::problem::Problem;
use crate::pricing::money::Currency;

use store::{Held, Redemption, Status};

/// A redemption as the HTTP contract shows it.
pub fn to_json(app: &App, redemption: &Redemption, coupons: &[Held]) -> Value {
    let mut answer = json!({
        "order_id": redemption.order_id,
        "status": redemption.status.word(),
        "checkout_id": null,
        "user_id": null,
        "lock_expires_at": null,
        "used_at": null,
        "conflict_at": null,
    });
    // Cancelled before it was ever locked: nothing else is known of it.
    let Some(locked) = &redemption.locked else { return answer };
    let time = |at| rfc3339(chrono_tz::UTC, at);
    let money = |amount: Decimal| places(locked.currency, amount).to_string();
    answer["checkout_id"] = locked.checkout_id.clone().into();
    answer["user_id"] = app.users.open(&locked.user).map(|id| id.as_str().to_owned()).into();
    answer["lock_expires_at"] = time(locked.lock_expires_at).into();
    answer["used_at"] = locked.used_at.map(time).into();
    answer["conflict_at"] = locked.conflict_at.map(time).into();
    answer["currency"] = locked.currency.code().into();
    answer["goods_total"] = money(locked.goods_total).into();
    answer["shipping_total"] = money(locked.shipping_total).into();
    answer["discount_total"] = money(locked.discount_total).into();
    answer["payable"] = money(locked.payable).into();
    answer["reversed_total"] = money(locked.reversed_total).into();
    answer["coupons"] = coupons
        .iter()
        .map(|held| {
            json!({
                "code": app.code_key.encode(held.name),
                "template_id": held.name.template.0,
                "kind": held.kind,
                "discount": money(held.discount),
                "lines": held.shares.lines,
                "shipping": held.shares.shipping,
            })
        })
        .collect();
    answer["gifts"] = coupons
        .iter()
        .flat_map(|held| held.shares.gifts.iter().map(move |gift| (held, gift)))
        .map(|(held, gift)| {
            json!({
                "code": app.code_key.encode(held.name),
                "item_id": gift.item_id,
                "name": gift.name,
                "quantity": gift.quantity,
                "value": gift.value.to_string(),
            })
        })
        .collect();
    answer
}

/// The redemption of an order.
pub async fn read(app: &App, order: &str) -> Result<Value, Problem> {
    let client = app.pg.get().await?;
    let redemption = store::find(&client, order).await?.ok_or_else(|| not_found(order))?;
    let coupons = store::coupons(&client, order).await?;
    Ok(to_json(app, &redemption, &coupons))
}

/// What a step did to the redemption of an order, for the audit. `None`: there was none.
fn change(action: Action, redemption: &Redemption, before: Option<Status>, coupons: &[Held]) -> Change {
    let mut after = json!({"status": redemption.status.word()});
    if let Some(locked) = &redemption.locked {
        let coupons = coupons.iter().map(|held| format!("{}/{}", held.name.template, held.name.serial));
        after["coupons"] = coupons.collect();
        after["currency"] = locked.currency.code().into();
        after["discount_total"] = places(locked.currency, locked.discount_total).to_string().into();
        after["payable"] = places(locked.currency, locked.payable).to_string().into();
        after["reversed_total"] = places(locked.currency, locked.reversed_total).to_string().into();
    }
    let before = before.map_or(Value::Null, |status| json!({"status": status.word()}));
    Change::new(action, Subject::Redemption(redemption.order_id.clone()), before, after)
}

/// The change of a call that found everything done.
fn no_change(action: Action, order: &str) -> Change {
    Change::new(action, Subject::Redemption(order.to_owned()), Value::Null, Value::Null)
}

fn not_found(order: &str) -> Problem {
    Problem::new("redemption_not_found", "no coupons were locked for this order").with("order_id", order)
}

/// An amount as PostgreSQL keeps it, with as many places as its currency has.
fn places(currency: Currency, mut amount: Decimal) -> Decimal {
    amount.rescale(currency.scale());
    amount
}
