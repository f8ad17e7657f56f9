//! Revocations carried out, a bounded step a transaction.
//!
//! A revocation begins when the grants before it are rows. It walks its scope behind a cursor that is kept
//! in its own row, which is locked for the time of a step: a crash costs the step under way, and other
//! processes carry other revocations out.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::ending::{self, End, Held, is_open, stands};
use super::revocation::write_row;
use crate::app::App;
use crate::audit::{self, Action, Actor, Change, Origin, Subject};
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Serial, TemplateId};
use crate::limits::UPKEEP_ROWS_MAX;
use crate::pg::{PgFault, Tx};
use crate::telemetry::metrics;

const NEXT: &str = include_str!("../sql/upkeep/revocation_next.sql");
const OF_TEMPLATE: &str = include_str!("../sql/upkeep/revocation_of_template.sql");
const OF_USER: &str = include_str!("../sql/upkeep/revocation_of_user.sql");
const OF_ISSUANCE: &str = include_str!("../sql/upkeep/revocation_of_issuance.sql");
const ADVANCE: &str = include_str!("../sql/upkeep/revocation_advance.sql");
const OPEN: &str = include_str!("../sql/upkeep/revocation_open.sql");

/// What becomes of the coupons of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    locked: i64,
    used: i64,
    expired: i64,
    revoked_before: i64,
}

/// The next step of the oldest revocation that can go on. Whether there was one.
pub async fn step(app: &App) -> Result<bool, PgFault> {
    let mut client = app.pg.get().await?;
    let tx = client.begin().await?;
    let Some(revocation) = tx.row(NEXT, &[]).await? else {
        let open: i64 = tx.row(OPEN, &[]).await?.map_or(0, |row| row.get(0));
        metrics().revocations_open.set(open as f64);
        return Ok(false);
    };
    let id: i64 = revocation.get("id");
    let page = page(&tx, &revocation).await?;
    let mut tally = Tally::default();
    let mut keys = Vec::new();
    for row in page.iter().filter(|row| row.get("mine")) {
        let stored: i16 = row.get("status");
        match is_open(CouponStatus::of(stored, false)) {
            true => {
                keys.push((TemplateId(row.get::<_, i32>("template_id") as u32), row.get::<_, i64>("serial") as Serial))
            }
            false => tally.leave(stands(stored, row.get("over"))),
        }
    }
    // Only what may change is locked, and looked at again under the lock.
    keys.sort();
    let (revoked, left): (Vec<Held>, Vec<Held>) =
        ending::hold(&tx, &keys).await?.into_iter().partition(|coupon| is_open(coupon.stands()));
    left.iter().for_each(|coupon| tally.leave(coupon.stands()));

    let done = page.len() < UPKEEP_ROWS_MAX;
    let at: DateTime<Utc> = page.last().map_or_else(|| revocation.get("cursor_acquired"), |row| row.get("acquired_at"));
    let template: i32 = page.last().map_or_else(|| revocation.get("cursor_template"), |row| row.get("template_id"));
    let serial: i64 = page.last().map_or_else(|| revocation.get("cursor_serial"), |row| row.get("serial"));
    let Tally { locked, used, expired, revoked_before } = tally;
    let count = revoked.len() as i64;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 10] =
        [&id, &at, &template, &serial, &count, &locked, &used, &expired, &revoked_before, &done];
    let after = tx.row(ADVANCE, &params).await?.ok_or_else(|| PgFault::fault("a locked revocation is gone"))?;
    if done {
        // Each coupon is in coupon_operations; here is what it came to in all.
        let (before, after) = (write_row(&revocation), write_row(&after));
        let change = Change::new(Action::CouponRevoke, Subject::Revocation(id.to_string()), before, after);
        audit::record(&tx, &Origin::inner(Actor::Worker("revocation")), &change).await?;
    }
    let (name, author) = (id.to_string(), revocation.get::<_, i32>("author_key_id"));
    ending::end(&tx, &revoked, End::Revoked(&name), &format!("key:{author}")).await?;
    tx.commit().await?;
    ending::count(&revoked, End::Revoked(&name));
    if done {
        tracing::info!(revocation = id, "a revocation is carried out");
    }
    Ok(true)
}

/// The next rows of a revocation's scope.
async fn page(tx: &Tx<'_>, revocation: &Row) -> Result<Vec<Row>, PgFault> {
    let most = UPKEEP_ROWS_MAX as i64;
    let template: Option<i32> = revocation.get("template_id");
    let (last, serial): (i32, i64) = (revocation.get("cursor_template"), revocation.get("cursor_serial"));
    let (issuer, issuer_id): (Option<&str>, Option<&str>) = (revocation.get("issuer"), revocation.get("issuer_id"));
    if let Some(issuance) = revocation.get::<_, Option<i64>>("issuance_id") {
        return tx.rows(OF_ISSUANCE, &[&issuance, &last, &serial, &issuer, &issuer_id, &most]).await;
    }
    match revocation.get::<_, Option<&str>>("user_ref") {
        None => tx.rows(OF_TEMPLATE, &[&template, &serial, &most]).await,
        Some(user) => {
            let at: DateTime<Utc> = revocation.get("cursor_acquired");
            let until: DateTime<Utc> = revocation.get("granted_until");
            tx.rows(OF_USER, &[&user, &at, &last, &serial, &until, &template, &issuer, &issuer_id, &most]).await
        }
    }
}

// === impl Tally ===

impl Tally {
    fn leave(&mut self, status: CouponStatus) {
        match status {
            CouponStatus::Locked => self.locked += 1,
            CouponStatus::Used => self.used += 1,
            CouponStatus::Expired => self.expired += 1,
            CouponStatus::Revoked => self.revoked_before += 1,
            // What is open is revoked, not left.
            CouponStatus::Unused | CouponStatus::Offered => {}
        }
    }
}
