//! What happened to a coupon, for support: its present state, its grant, and every step after it.
//!
//! A code of any generation opens the history: support is shown the coupon in the hands that hold
//! it now, and which generation of its code is good. A code that does not open costs no query, and
//! neither does one of another owner's template. Nothing here decides: a replica may serve it.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::{Coupon, lost, set_aside, stored};
use crate::app::App;
use crate::catalog::store::Scope;
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::UserRef;
use crate::domain::window::{Millis, rfc3339};
use crate::grant::fate::{Fate, StoredCoupon, fate};
use crate::http::problem::Problem;
use crate::pg::{Connection, PgFault};
use crate::pricing::money::Currency;
use crate::redis::cell::read_meta_pooled;

/// A page of steps, and what they were made for.
struct Steps {
    operations: Vec<Row>,
    more: bool,
    redemptions: Vec<Row>,
}

/// The history behind the code, with the page of operations behind number `after`.
pub async fn of_code(app: &App, scope: Scope<'_>, code: &str, after: i64, limit: usize) -> Result<Value, Problem> {
    let not_found = || Problem::new("coupon_not_found", "there is no coupon of this code");
    let name = app.code_key.decode(code).ok_or_else(not_found)?;
    if !scope.sees(&app.snapshot.load(), name.template) {
        return Err(not_found());
    }
    if let Some(replica) = app.replica.lend().await {
        let read = async {
            let Some(row) = stored(&replica, app, name).await? else { return Ok(None) };
            Ok(Some((Steps::read(&replica, name, after, limit).await?, row)))
        };
        if let Some((steps, row)) = replica.settle(read.await) {
            return Ok(show(app, name, &row, &steps));
        }
    }
    let mut found = fate(&*app.pg.get().await?, app.cell, name).await?;
    if matches!(found, Fate::Pending) {
        // What is granted is on the queue until it is stored: looked at in this order, it is seen.
        let queued = read_meta_pooled(&app.redis, &app.keys).await?.backlog;
        found = fate(&*app.pg.get().await?, app.cell, name).await?;
        if matches!(found, Fate::Pending) && queued > 0 {
            let detail = "if it was granted, the coupon is not stored yet; ask again";
            return Err(Problem::of(ClaimOutcome::Unavailable, detail).retry_after_ms(1000));
        }
    }
    match found {
        Fate::Stored(row) => {
            let steps = Steps::read(&*app.pg.get().await?, name, after, limit).await?;
            Ok(show(app, name, &row, &steps))
        }
        Fate::Pending => Err(not_found()),
        Fate::Lost => Err(lost()),
        Fate::SetAside => Err(set_aside()),
    }
}

fn show(app: &App, name: CouponName, row: &StoredCoupon, steps: &Steps) -> Value {
    let zone = app.snapshot.load().templates.get(&name.template).map_or(chrono_tz::UTC, |t| t.definition.timezone);
    let time = |at: Millis| rfc3339(zone, at);
    let whose = |user: &UserRef| app.users.open(user).map(|id| id.as_str().to_owned());
    let read_user = |row: &Row, at: usize| row.get::<_, Option<&str>>(at).and_then(UserRef::from_store);
    let mut coupon = Coupon::stored(name, row).to_json(app);
    coupon["user_id"] = whose(&row.user).into();
    let operation = |row: &Row| {
        let (kind, id): (&str, &str) = (row.get(6), row.get(7));
        let status = |at: usize| CouponStatus::of(row.get(at), false).word();
        json!({
            "operation": row.get::<_, &str>(1),
            "from": status(2),
            "to": status(3),
            "user_id": read_user(row, 4).and_then(|user| whose(&user)),
            "gift_generation": row.get::<_, i16>(5),
            "cause": {"kind": kind, "id": (!id.is_empty()).then_some(id)},
            "actor": row.get::<_, &str>(8),
            "at": time(row.get(9)),
        })
    };
    let redemption = |row: &Row| {
        let currency: Option<&str> = row.get(3);
        let money = currency.and_then(Currency::of);
        let amount = |at: usize| {
            let amount: Decimal = row.get(at);
            money.map_or_else(|| amount.normalize().to_string(), |money| money.in_full(amount))
        };
        let when = |at: usize| row.get::<_, Option<i64>>(at).map(time);
        json!({
            "order_id": row.get::<_, &str>(0),
            "checkout_id": row.get::<_, Option<&str>>(1),
            "status": row.get::<_, &str>(2),
            "coupon_state": row.get::<_, &str>(4),
            "user_id": read_user(row, 5).and_then(|user| whose(&user)),
            "currency": currency,
            "discount": amount(6),
            "gift_value": amount(7),
            "reversed": amount(8),
            "locked_at": when(9),
            "lock_expires_at": when(10),
            "used_at": when(11),
            "released_at": when(12),
            "conflict_at": when(13),
        })
    };
    let next = steps.operations.last().filter(|_| steps.more).map(|last| last.get::<_, i64>(0).to_string());
    json!({
        "coupon": coupon,
        "generation": name.gift,
        "current_generation": row.gift_generation,
        "grant": {
            "user_id": whose(row.first_user.as_ref().unwrap_or(&row.user)),
            "epoch": name.epoch,
            "acquired_at": time(row.acquired),
        },
        "operations": steps.operations.iter().map(operation).collect::<Vec<_>>(),
        "redemptions": steps.redemptions.iter().map(redemption).collect::<Vec<_>>(),
        "next_cursor": next,
    })
}

// === impl Steps ===

impl Steps {
    async fn read(client: &Connection, name: CouponName, after: i64, limit: usize) -> Result<Steps, PgFault> {
        let (template, serial) = (name.template.as_i32(), name.serial as i64);
        let sql = include_str!("../sql/history/operations.sql");
        let mut operations = client.rows(sql, &[&template, &serial, &after, &(limit as i64 + 1)]).await?;
        let more = operations.len() > limit;
        operations.truncate(limit);
        let mut orders: Vec<&str> =
            operations.iter().filter(|row| row.get::<_, &str>(6) == "order").map(|row| row.get(7)).collect();
        orders.sort_unstable();
        orders.dedup();
        let redemptions = match orders.is_empty() {
            true => Vec::new(),
            false => {
                client.rows(include_str!("../sql/history/redemptions.sql"), &[&orders, &template, &serial]).await?
            }
        };
        Ok(Steps { operations, more, redemptions })
    }
}
