//! A client's journal beside both stores: every coupon that was answered is a row, or on its way to be one,
//! or known to be set aside or lost.
//!
//! Only what was acknowledged is looked at. What became of the rest, and whether limits and stock hold, is for
//! the checker of the load client.

use std::collections::HashMap;

use super::difference::{Difference, Kind, Mend};
use super::{Blind, View};
use crate::admission::identity::parse_time;
use crate::claim::ring::{RingBatch, RingGrant};
use crate::domain::code::CouponName;
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::user::{UserId, UserRef};
use crate::domain::window::Millis;
use crate::grant::fate::{Fate, fate};
use crate::journal::{Coupon, Exchange, Outcome, Record};
use crate::limits::RECONCILE_PAGE_ROWS;
use crate::redis::compare;

/// A coupon as a client was told of it.
struct Promise<'a> {
    seq: u64,
    name: CouponName,
    user: UserRef,
    claim_key: &'a str,
    acquired: Option<Millis>,
}

/// Compares what the journal was promised; tells the differences and how many coupons it looked at.
pub async fn look(view: &View<'_>, record: &Record) -> Result<(Vec<Difference>, usize), Blind> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut promises = Vec::new();
    for exchange in &record.exchanges {
        let Some(Outcome::Coupon { coupon, claim_key, .. }) = exchange.outcome() else { continue };
        looked_at += 1;
        match promise(view, exchange, coupon, claim_key) {
            Some(promise) => promises.push(promise),
            None => {
                let detail =
                    format!("request {}: its coupon's code opens to no coupon of its template", exchange.request.seq);
                let template = TemplateId(exchange.request.template);
                found.push(Difference::new(Kind::PromiseBroken, detail).template(template).serial(coupon.serial));
            }
        }
    }
    for some in promises.chunks(RECONCILE_PAGE_ROWS) {
        let stored = stored(view, some).await?;
        for promise in some {
            let CouponName { template, serial, epoch, .. } = promise.name;
            let difference = match stored.get(&(template, serial, epoch)) {
                Some((user, acquired)) => differs(promise, user, *acquired),
                None => missing(view, promise).await?,
            };
            found.extend(
                difference.map(|one| one.template(template).serial(serial).epoch(epoch).user(promise.user.as_str())),
            );
        }
    }
    Ok((found, looked_at))
}

fn promise<'a>(view: &View<'_>, exchange: &Exchange, coupon: &Coupon, claim_key: &'a str) -> Option<Promise<'a>> {
    let name = view.app.code_key.decode(&coupon.code)?;
    let is_its = name.template.0 == exchange.request.template && name.serial == coupon.serial;
    is_its.then_some(())?;
    let user = view.app.users.seal(&UserId::parse(&exchange.request.user)?);
    Some(Promise { seq: exchange.request.seq, name, user, claim_key, acquired: parse_time(&coupon.acquired_at) })
}

type Stored = HashMap<(TemplateId, Serial, Epoch), (String, Millis)>;

async fn stored(view: &View<'_>, promises: &[Promise<'_>]) -> Result<Stored, Blind> {
    let templates: Vec<i32> = promises.iter().map(|promise| promise.name.template.as_i32()).collect();
    let serials: Vec<i64> = promises.iter().map(|promise| promise.name.serial as i64).collect();
    let epochs: Vec<i32> = promises.iter().map(|promise| i32::from(promise.name.epoch)).collect();
    let sql = include_str!("../sql/reconcile/promised.sql");
    let rows = view.client.query(sql, &[&templates, &serials, &epochs]).await?;
    let grant = |row: &tokio_postgres::Row| {
        let name = (TemplateId(row.get::<_, i32>(0) as u32), row.get::<_, i64>(1) as u64, row.get::<_, i32>(2) as u16);
        (name, (row.get(3), row.get(4)))
    };
    Ok(rows.iter().map(grant).collect())
}

fn differs(promise: &Promise<'_>, user: &str, acquired: Millis) -> Option<Difference> {
    let detail = if user != promise.user.as_str() {
        format!("request {}: the row is of user {user}", promise.seq)
    } else if promise.acquired != Some(acquired) {
        format!("request {}: it was answered as acquired at another time than {acquired} ms", promise.seq)
    } else {
        return None;
    };
    Some(Difference::new(Kind::PromiseDiffers, detail))
}

/// What is no row: in flight, set aside, lost, or gone without a trace.
async fn missing(view: &View<'_>, promise: &Promise<'_>) -> Result<Option<Difference>, Blind> {
    let (app, name) = (view.app, promise.name);
    // Redis before PostgreSQL: a grant on its way from one to the other is seen at least once.
    let held =
        compare::read(&app.redis, &app.keys, &view.identity, name.template, &[promise.user.as_str()], &[]).await?;
    let has_receipt =
        held.receipts.iter().flatten().any(|receipt| (receipt.serial, receipt.epoch) == (name.serial, name.epoch));
    let fate = fate(&*app.pg.get().await?, app.cell, name).await?;
    let detail = |what: &str| format!("request {} was answered with it, {what}", promise.seq);
    Ok(match fate {
        // Listed where set-asides are.
        Fate::Stored(_) | Fate::SetAside => None,
        Fate::Pending if has_receipt => None,
        Fate::Pending => Some(Difference::new(Kind::PromiseBroken, detail("and neither store has it"))),
        Fate::Lost => {
            let sql = include_str!("../sql/reconcile/is_lost.sql");
            let (template, serial, epoch) = (name.template.as_i32(), name.serial as i64, i32::from(name.epoch));
            let known: bool = view.client.query_one(sql, &[&template, &serial, &epoch]).await?.get(0);
            let grant = RingGrant {
                serial: name.serial,
                user: promise.user.clone(),
                claim_key_hash: app.hashing.claim_key(promise.claim_key),
                acquired: promise.acquired.unwrap_or_default(),
            };
            // Its entry is on no queue, and the journal does not know it.
            let entry = EntryId::new(name.epoch, 0);
            let batch = RingBatch { template: name.template, epoch: name.epoch, entry, grants: vec![grant] };
            let lost = Difference::new(Kind::ClaimLost, detail("and a failover lost it"));
            (!known).then(|| lost.mend(Mend::Note(Box::new(batch))))
        }
    })
}
