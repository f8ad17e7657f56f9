//! Waits until what a user was granted is in PostgreSQL.
//!
//! A claim is acknowledged before its row is there. Whoever is about to change a coupon by its name
//! (a lock, a gift) and does not find its row calls [`settled`] first, outside of any transaction,
//! and looks again. It waits for nothing that the user was not granted: whose a coupon is, and
//! whether it exists, is the caller's to judge by the row.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{cell_closed, stored_of};
use crate::app::App;
use crate::config::ms;
use crate::domain::code::CouponName;
use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::UserRef;
use crate::grant::watermark::{Ack, Awaited};
use crate::http::problem::Problem;
use crate::redis::cell::{Identity, read_holdings, read_meta_pooled};

/// Returns when all of `names` that `user` was granted are rows: at once, by one statement, where they
/// are already. The error: it took longer than `claim.postgres_wait_ms`, a row was refused, a failover
/// lost a grant, or nobody can tell at this moment.
pub async fn settled(app: &App, user: &UserRef, names: &[CouponName]) -> Result<(), Problem> {
    let missing = not_stored(app, names).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + ms(app.config.claim.postgres_wait_ms);
    for (entry, name) in unflushed_of(app, user, &missing).await? {
        let awaited = Awaited { entry, template: name.template, serial: name.serial, epoch: name.epoch };
        let refusal = match app.acks.wait(awaited, deadline).await {
            Ack::Committed => continue,
            Ack::SetAside => Problem::of(ClaimOutcome::SetAside, "the coupon's row was refused: ask an operator"),
            Ack::BeyondFinal => Problem::of(ClaimOutcome::ClaimLost, "a failover lost the coupon before it was stored"),
            Ack::Unknown => {
                let detail = "the coupon was granted a moment ago and is not stored yet; ask again";
                Problem::of(ClaimOutcome::Unavailable, detail).retry_after_ms(1000)
            }
        };
        return Err(refusal.with("coupon", app.code_key.encode(name)));
    }
    Ok(())
}

/// The names whose grant is neither a row nor set aside. One that was given away was a row before.
async fn not_stored(app: &App, names: &[CouponName]) -> Result<Vec<CouponName>, Problem> {
    let stored = stored_of(&*app.pg.get().await?, names).await?;
    let is_stored = |name: &CouponName| stored.contains(&(name.template, name.serial, name.epoch));
    Ok(names.iter().filter(|name| name.gift == 0 && !is_stored(name)).copied().collect())
}

/// Those that the user was granted and that may be on the queue, each with an entry behind which it
/// is stored: its template's last.
async fn unflushed_of(app: &App, user: &UserRef, names: &[CouponName]) -> Result<Vec<(EntryId, CouponName)>, Problem> {
    let meta = read_meta_pooled(&app.redis, &app.keys).await?;
    let identity = Identity::of(&meta).ok_or_else(cell_closed)?;
    let wanted: HashSet<TemplateId> = names.iter().map(|name| name.template).collect();
    let marks: Vec<(TemplateId, EntryId)> =
        meta.marks.into_iter().filter(|(template, _)| wanted.contains(template)).collect();
    if marks.is_empty() {
        return Ok(Vec::new());
    }
    let templates: Vec<TemplateId> = marks.iter().map(|(template, _)| *template).collect();
    let (_, holdings) = read_holdings(&app.redis, &app.keys, &identity, Some(user), &templates).await?;
    let mut unflushed = Vec::new();
    for ((template, entry), holding) in marks.into_iter().zip(holdings) {
        let granted = |serial: Serial, epoch| holding.receipts.iter().any(|r| (r.serial, r.epoch) == (serial, epoch));
        let these = names.iter().filter(|name| name.template == template && granted(name.serial, name.epoch));
        unflushed.extend(these.map(|name| (entry, *name)));
    }
    Ok(unflushed)
}
