//! Waits until what a user was granted is in PostgreSQL.
//!
//! A claim is acknowledged before its row is there. Whoever is about to change a coupon by its name
//! (a lock, a gift) and does not find its row calls [`settled`] first, outside of any transaction,
//! and looks again. It waits for nothing that the user was not granted: whose a coupon is, and
//! whether it exists, is the caller's to judge by the row.

use tokio::time::Instant;

use super::{cell_closed, lost, set_aside, stored_of};
use crate::app::App;
use crate::config::ms;
use crate::domain::code::CouponName;
use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::UserRef;
use crate::grant::watermark::{Ack, Awaited};
use crate::http::problem::Problem;
use crate::redis::cell::{Identity, Receipt, read_holdings, read_meta_pooled};

/// A template with grants on the queue, the last of their entries, and what one user was granted of it.
struct Marked {
    template: TemplateId,
    entry: EntryId,
    receipts: Vec<Receipt>,
}

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
            Ack::SetAside => set_aside(),
            Ack::BeyondFinal => lost(),
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
    let mut unflushed = Vec::new();
    for marked in marked(app, user, |template| names.iter().any(|name| name.template == template)).await? {
        let granted = |name: &CouponName| {
            let receipts = &marked.receipts;
            name.template == marked.template
                && receipts.iter().any(|r| (r.serial, r.epoch) == (name.serial, name.epoch))
        };
        unflushed.extend(names.iter().filter(|name| granted(name)).map(|name| (marked.entry, *name)));
    }
    Ok(unflushed)
}

/// Serials of a template that `user` was granted, where some of them may be no rows yet; else none.
pub async fn granted_lately(app: &App, user: &UserRef, template: TemplateId) -> Result<Vec<Serial>, Problem> {
    let marked = marked(app, user, |other| other == template).await?;
    Ok(marked.iter().flat_map(|marked| &marked.receipts).map(|receipt| receipt.serial).collect())
}

/// What `user` was granted of the `wanted` templates that have grants on the queue.
async fn marked(app: &App, user: &UserRef, wanted: impl Fn(TemplateId) -> bool) -> Result<Vec<Marked>, Problem> {
    let meta = read_meta_pooled(&app.redis, &app.keys).await?;
    let identity = Identity::of(&meta).ok_or_else(cell_closed)?;
    let marks: Vec<(TemplateId, EntryId)> = meta.marks.into_iter().filter(|(template, _)| wanted(*template)).collect();
    if marks.is_empty() {
        return Ok(Vec::new());
    }
    let templates: Vec<TemplateId> = marks.iter().map(|(template, _)| *template).collect();
    let (_, holdings) = read_holdings(&app.redis, &app.keys, &identity, Some(user), &templates).await?;
    let marked = marks.into_iter().zip(holdings);
    Ok(marked.map(|((template, entry), held)| Marked { template, entry, receipts: held.receipts }).collect())
}
