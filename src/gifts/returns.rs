//! Offers that nobody took in time go back to their givers.
//!
//! An offer that is over is refused by time at once; this only moves its coupon. Steps are bounded, and
//! skip what somebody else has locked, so any number of processes may run it.

use std::sync::Arc;
use std::time::Duration;

use super::Gift;
use crate::app::App;
use crate::audit::{self, Action, Actor, Origin};
use crate::domain::gift::GiftState;
use crate::ledger::events::{self, Event};
use crate::ledger::operations::{self, Cause, Operation};
use crate::limits::GIFT_RETURNS_MAX;
use crate::pg::PgFault;
use crate::telemetry::metrics;

const PAUSE: Duration = Duration::from_secs(1);
/// This worker, in traces and records.
const NAME: &str = "gifts";

/// Returns what is due, for as long as the process lives.
pub async fn run(app: Arc<App>) {
    let mut failing = false;
    loop {
        match return_due(&app).await {
            Ok(returned) => {
                failing = false;
                if returned == GIFT_RETURNS_MAX as usize {
                    continue;
                }
            }
            Err(fault) => {
                metrics().postgres_error(fault.word());
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %fault, "offers that are over cannot be returned");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One step: how many went back.
pub async fn return_due(app: &App) -> Result<usize, PgFault> {
    let mut client = app.pg.get().await?;
    let tx = client.begin().await?;
    let due = tx.rows(include_str!("../sql/gifts/due.sql"), &[&GIFT_RETURNS_MAX]).await?;
    let due: Vec<i64> = due.iter().map(|row| row.get(0)).collect();
    if !due.is_empty() {
        let give_back = include_str!("../sql/gifts/give_back.sql");
        let rows = tx.rows(give_back, &[&due, &GiftState::Returned.word()]).await?;
        let gifts = rows.iter().map(Gift::from_row).collect::<Result<Vec<_>, _>>()?;
        let origin = Origin::inner(Actor::Worker(NAME));
        for gift in &gifts {
            let step = gift.step(Operation::Return, &gift.giver);
            operations::trace(&tx, &[step], Cause::Gift(&gift.id.0.to_string()), &origin.actor.to_string()).await?;
            let before = Gift { state: GiftState::Offered, ..gift.clone() };
            audit::record(&tx, &origin, &gift.change(Action::GiftReturn, Some(&before))).await?;
        }
        let told: Vec<Event> = gifts.iter().map(|gift| gift.event("coupon.gift_returned", &gift.giver)).collect();
        events::write(&tx, &told).await?;
    }
    let overdue = tx.row(include_str!("../sql/gifts/overdue.sql"), &[]).await?;
    tx.commit().await?;
    metrics().gifts_overdue_seconds.set(overdue.map_or(0.0, |row| row.get(0)));
    metrics().gifts_returned.increment(due.len() as u64);
    Ok(due.len())
}
