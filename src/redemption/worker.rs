//! Locks whose time is over give their coupons free.
//!
//! Any number of processes may run this: each takes orders that no other is at, a few in one
//! transaction. One order that cannot be released does not keep the others.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::release::{Why, release};
use super::store::{self, Status};
use crate::app::App;
use crate::audit::{self, Action, Actor, Change, Origin, Subject};
use crate::domain::window::Millis;
use crate::ledger::counters;
use crate::limits::TIME_OUT_ORDERS_MAX;
use crate::pg::{PgFault, Tx};
use crate::telemetry::metrics;

const DUE: &str = include_str!("../sql/redemption/due.sql");
const OVERDUE: &str = include_str!("../sql/redemption/overdue.sql");

const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The gauge of what is overdue counts so far.
const OVERDUE_COUNTED: i64 = 10_000;

/// For as long as the process lives.
pub async fn run(app: Arc<App>) {
    let mut failing = false;
    let mut pause = PAUSE;
    loop {
        match round(&app).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("locks whose time is over are released again");
                }
                pause = PAUSE;
            }
            Err(fault) => {
                metrics().postgres_error(fault.word());
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %fault, "locks whose time is over cannot be released");
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Releases all that is due.
async fn round(app: &App) -> Result<(), PgFault> {
    let mut most = TIME_OUT_ORDERS_MAX;
    let mut stuck: Vec<String> = Vec::new();
    let mut failed = None;
    loop {
        match batch(app, most, &stuck).await {
            Ok(count) if count < most => break,
            Ok(_) => {}
            // Nothing was taken, or the store is away: nothing is known of any order.
            Err((orders, fault)) if orders.is_empty() || fault.is_passing() => return Err(fault),
            // One of them cannot be released: its neighbours go one by one, and it comes again next round.
            Err((orders, fault)) => {
                if orders.len() == 1 {
                    tracing::error!(error = %fault, order = orders[0], "a lock whose time is over cannot be released");
                    stuck.extend(orders);
                }
                if stuck.len() as i64 > TIME_OUT_ORDERS_MAX {
                    return Err(fault);
                }
                most = 1;
                failed = Some(fault);
            }
        }
    }
    let client = app.pg.get().await?;
    if let Some(row) = client.row(OVERDUE, &[&OVERDUE_COUNTED]).await? {
        metrics().locks_overdue.set(row.get::<_, i64>("locks") as f64);
        metrics().locks_overdue_seconds.set(row.get::<_, f64>("age"));
    }
    failed.map_or(Ok(()), Err)
}

/// One transaction; how many orders it released, or which it could not.
async fn batch(app: &App, most: i64, stuck: &[String]) -> Result<i64, (Vec<String>, PgFault)> {
    let nobody = |fault| (Vec::new(), fault);
    let mut client = app.pg.get().await.map_err(nobody)?;
    let tx = client.begin().await.map_err(nobody)?;
    let due = tx.rows(DUE, &[&most, &stuck]).await.map_err(nobody)?;
    let orders: Vec<String> = due.iter().map(|row| row.get("order_id")).collect();
    let Some(now) = due.first().map(|row| row.get("now")) else { return Ok(0) };
    match release_all(&tx, &orders, now).await {
        Ok(()) => tx.commit().await.map_err(nobody)?,
        Err(fault) => return Err((orders, fault)),
    }
    metrics().locks_timed_out.increment(orders.len() as u64);
    Ok(orders.len() as i64)
}

async fn release_all(tx: &Tx<'_>, orders: &[String], now: Millis) -> Result<(), PgFault> {
    let origin = Origin::inner(Actor::Worker("time_out"));
    let names: Vec<&str> = orders.iter().map(String::as_str).collect();
    let coupons = store::lock_coupons(tx, &names).await?;
    let mut deltas = Vec::new();
    for order in orders {
        let own: Vec<store::Held> = coupons.iter().filter(|held| held.order_id == *order).cloned().collect();
        deltas.extend(release(tx, order, &own, now, Why::TimedOut, &origin.actor.to_string()).await?);
        let known = json!({"status": Status::Locked.word()});
        let over = json!({"status": Status::TimedOut.word()});
        let change = Change::new(Action::RedemptionTimeOut, Subject::Redemption(order.clone()), known, over);
        audit::record(tx, &origin, &change).await?;
    }
    counters::add(tx, &deltas).await
}
