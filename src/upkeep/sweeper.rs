//! Coupons whose time is over become `expired`.
//!
//! They are refused from that moment on by their times alone; the sweeper brings rows, trace and counters
//! after it. It walks each template by its primary key behind a cursor (`coupon_sweeps`), which stops at the
//! first coupon that still holds: coupons of a template expire in the order of their serials. Those whose time
//! was extended, perhaps behind the cursor, are listed apart (`coupon_extensions`).
//!
//! A locked coupon is not touched: its lock outlives its time, and the cancel makes it expired. An offered one
//! is waited for: its offer ends with its time, and the worker of gifts gives it back.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::app::App;
use crate::audit::{self, Action, Actor, Change, Origin, Subject};
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Serial, TemplateId};
use crate::limits::{SWEEP_GATHER_S, SWEEP_LOOK_S, UPKEEP_ROWS_MAX};
use crate::pg::{PgFault, Tx};
use crate::telemetry::metrics;

use super::ending::{self, End, Held};

const ADD: &str = include_str!("../sql/upkeep/sweeps_add.sql");
const NEXT: &str = include_str!("../sql/upkeep/sweeps_next.sql");
const PAGE: &str = include_str!("../sql/upkeep/sweeps_page.sql");
const ADVANCE: &str = include_str!("../sql/upkeep/sweeps_advance.sql");
const EXTENDED: &str = include_str!("../sql/upkeep/extensions_due.sql");
const EXTENDED_DONE: &str = include_str!("../sql/upkeep/extensions_done.sql");
const LAG: &str = include_str!("../sql/upkeep/sweeps_lag.sql");

const ACTOR: &str = "worker:expiry";

/// One transaction of the sweep. Whether there may be more to do at once.
pub async fn step(app: &App) -> Result<bool, PgFault> {
    let mut client = app.pg.get().await?;
    let tx = client.begin().await?;
    let (swept, more) = match sweep_template(&tx).await? {
        Some(page) => page,
        None => {
            let extended = sweep_extended(&tx).await?;
            let more = !extended.is_empty();
            if !more {
                tx.change(ADD, &[]).await?;
            }
            (extended, more)
        }
    };
    record(&tx, &swept).await?;
    ending::end(&tx, &swept, End::Expired, ACTOR).await?;
    tx.commit().await?;
    ending::count(&swept, End::Expired);
    let lag: Option<f64> = client.row(LAG, &[]).await?.and_then(|row| row.get(0));
    metrics().expiry_lag_seconds.set(lag.unwrap_or(0.0).max(0.0));
    Ok(more)
}

/// One audit record a template and step; each coupon is in coupon_operations.
async fn record(tx: &Tx<'_>, swept: &[Held]) -> Result<(), PgFault> {
    let origin = Origin::inner(Actor::Worker("expiry"));
    for coupons in swept.chunk_by(|one, next| one.template == next.template) {
        let (first, last) = (coupons[0].serial, coupons[coupons.len() - 1].serial);
        let after = json!({"expired": coupons.len(), "first_serial": first, "last_serial": last});
        let subject = Subject::Template(coupons[0].template);
        audit::record(tx, &origin, &Change::new(Action::CouponExpire, subject, Value::Null, after)).await?;
    }
    Ok(())
}

/// The due coupons among the next rows of the template that is due longest; `None`: no template is due.
async fn sweep_template(tx: &Tx<'_>) -> Result<Option<(Vec<Held>, bool)>, PgFault> {
    let Some(sweep) = tx.row(NEXT, &[]).await? else { return Ok(None) };
    let (template, cursor): (i32, i64) = (sweep.get("template_id"), sweep.get("serial"));
    let rows = tx.rows(PAGE, &[&template, &cursor, &(UPKEEP_ROWS_MAX as i64)]).await?;
    let (mut due, mut passed, mut holds) = (Vec::new(), cursor, false);
    for row in &rows {
        let serial: i64 = row.get("serial");
        let status = CouponStatus::of(row.get("status"), false);
        match row.get("over") {
            true if status == CouponStatus::Unused => due.push((TemplateId(template as u32), serial as Serial)),
            true => holds |= status == CouponStatus::Offered,
            false => holds |= !matches!(status, CouponStatus::Expired | CouponStatus::Revoked),
        }
        if !holds {
            passed = serial;
        }
    }
    let more = !holds && rows.len() == UPKEEP_ROWS_MAX;
    let pause = match (holds, more) {
        (true, _) => SWEEP_GATHER_S,
        (_, true) => 0,
        (_, false) => SWEEP_LOOK_S,
    };
    tx.change(ADVANCE, &[&template, &passed, &holds, &pause]).await?;
    Ok(Some((still_due(ending::hold(tx, &due).await?), true)))
}

/// The due coupons among those that were extended. Their entries of the list go last: whoever extends a
/// coupon has its row before its entry, too.
async fn sweep_extended(tx: &Tx<'_>) -> Result<Vec<Held>, PgFault> {
    let rows = tx.rows(EXTENDED, &[&(UPKEEP_ROWS_MAX as i64)]).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let key = |row: &Row| (TemplateId(row.get::<_, i32>("template_id") as u32), row.get::<_, i64>("serial") as Serial);
    let mut keys: Vec<(TemplateId, Serial)> = rows.iter().map(key).collect();
    let held = ending::hold(tx, &keys).await?;
    // What is offered stays on the list until it is back.
    let is_offered = |coupon: &Held| coupon.over && coupon.status == CouponStatus::Offered;
    let offered: HashSet<_> = held.iter().filter(|c| is_offered(c)).map(|c| (c.template, c.serial)).collect();
    keys.retain(|key| !offered.contains(key));
    let templates: Vec<i32> = keys.iter().map(|(template, _)| template.as_i32()).collect();
    let serials: Vec<i64> = keys.iter().map(|(_, serial)| *serial as i64).collect();
    tx.change(EXTENDED_DONE, &[&templates, &serials]).await?;
    Ok(still_due(held))
}

/// What others have locked, used or extended meanwhile stays.
fn still_due(mut held: Vec<Held>) -> Vec<Held> {
    held.retain(|coupon| coupon.over && coupon.status == CouponStatus::Unused);
    held
}
