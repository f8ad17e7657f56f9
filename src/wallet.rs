//! What a user holds, and what they may claim.
//!
//! An acknowledged claim shows at once: what Redis has granted and the flusher has not stored yet
//! is read first, PostgreSQL's rows after it, so that a grant on its way from one to the other is
//! seen at least once; each is shown once.
//!
//! # Layout
//! - this file: a user's coupons
//! - [`center`]: templates with what this user may do
//! - [`settle`]: a grant waited for until it is a row

pub mod center;
pub mod settle;

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::app::App;
use crate::claim::engine::Held;
use crate::clock::now_ms;
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Epoch, Serial, TemplateId};
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::UserRef;
use crate::domain::window::{Millis, rfc3339};
use crate::grant::fate::{Fate, StoredCoupon, fate};
use crate::http::problem::Problem;
use crate::limits::HOLDINGS_TEMPLATES_MAX;
use crate::pg::PgFault;
use crate::pricing::money::Currency;
use crate::redis::cell::{Identity, read_holdings, read_meta_pooled};

/// A coupon in a user's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupon {
    pub template: TemplateId,
    pub serial: Serial,
    pub epoch: Epoch,
    pub gift: u8,
    pub status: CouponStatus,
    pub acquired: Millis,
    pub valid_from: Millis,
    pub expires: Millis,
    /// What it is worth, where that is not what its template says: a red packet's share.
    pub amount: Option<Decimal>,
}

/// A place in a wallet's order: newest first.
type Place = (Millis, u32, Serial);

/// The page of a user's coupons behind `cursor`, newest first, and the next cursor.
pub async fn page(
    app: &App,
    user: &UserRef,
    status: Option<CouponStatus>,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(Vec<Coupon>, Option<String>), Problem> {
    let behind = cursor.map(parse_cursor).transpose()?;
    let mut coupons = unflushed(app, user).await?;
    coupons.retain(|coupon| status.is_none_or(|status| coupon.status == status));
    coupons.retain(|coupon| behind.is_none_or(|behind| coupon.place() < behind));
    let client = app.pg.get().await?;
    let (acquired, template, serial) = behind
        .map_or((None, None, None), |(at, template, serial)| (Some(at), Some(template as i32), Some(serial as i64)));
    let rows = client
        .query(
            include_str!("sql/wallet/page.sql"),
            &[&user.as_str(), &acquired, &template, &serial, &(limit as i64 + 1), &status.map(CouponStatus::word)],
        )
        .await
        .map_err(PgFault::from)?;
    let stored: Vec<Coupon> = rows.iter().map(Coupon::from_row).collect();
    // What was stored between the two looks was seen by both.
    coupons.retain(|pending| !stored.iter().any(|row| row.grant() == pending.grant()));
    coupons.extend(stored);
    coupons.sort_by_key(|coupon| std::cmp::Reverse(coupon.place()));
    let more = coupons.len() > limit;
    coupons.truncate(limit);
    let next = coupons.last().filter(|_| more).map(|last| write_cursor(last.place()));
    Ok((coupons, next))
}

/// One coupon of this user by its code. A code that is none, or another's, is not found, and costs
/// no query where it does not open.
pub async fn by_code(app: &App, user: &UserRef, code: &str) -> Result<Coupon, Problem> {
    let not_found = || Problem::new("coupon_not_found", "there is no coupon of this code in the wallet");
    let name = app.code_key.decode(code).ok_or_else(not_found)?;
    let asked = || fate(&app.pg, app.cell, name.template, name.serial, name.epoch);
    let mut found = asked().await?;
    if matches!(found, Fate::Pending) {
        if let Some(coupon) = unflushed(app, user).await?.into_iter().find(|coupon| coupon.name() == name) {
            return Ok(coupon);
        }
        // Stored between the two looks, or another's.
        found = asked().await?;
    }
    match found {
        Fate::Stored(row) if row.user == *user && row.gift_generation == i16::from(name.gift) => {
            Ok(Coupon::stored(name, &row))
        }
        Fate::Stored(_) | Fate::Pending => Err(not_found()),
        Fate::Lost => Err(Problem::of(
            ClaimOutcome::ClaimLost,
            "this coupon was granted, but a failover lost it before it was stored; claim again",
        )),
        Fate::SetAside => {
            Err(Problem::of(ClaimOutcome::SetAside, "the coupon's row was refused and is set aside for an operator"))
        }
    }
}

/// What a user has at hand for an order at `now`: all coupons that are not used up, those that hold
/// then first, the first to expire first. At most `most`, and whether there are more that hold.
pub async fn at_hand(app: &App, user: &UserRef, now: Millis, most: usize) -> Result<(Vec<Coupon>, bool), Problem> {
    let mut coupons = unflushed(app, user).await?;
    let client = app.pg.get().await?;
    let rows = client
        .query(include_str!("sql/wallet/at_hand.sql"), &[&user.as_str(), &now, &(most as i64 + 1)])
        .await
        .map_err(PgFault::from)?;
    coupons.extend(rows.iter().map(Coupon::from_row));
    coupons.sort_by_key(|coupon| (coupon.expires <= now, coupon.expires.abs_diff(now), coupon.place()));
    let more = coupons.get(most).is_some_and(|coupon| coupon.expires > now);
    coupons.truncate(most);
    Ok((coupons, more))
}

/// The user's coupons of these names, in their order. One that is none, or another's, is refused as
/// `coupon_not_yours`: nobody learns which codes exist.
pub async fn by_names(app: &App, user: &UserRef, names: &[CouponName]) -> Result<Vec<Coupon>, Problem> {
    let mut found = stored_by_names(app, user, names).await?;
    if names.iter().any(|name| !found.contains_key(name)) {
        // What is no row yet is read before the rows, which are therefore read anew.
        let fresh = unflushed(app, user).await?;
        found = stored_by_names(app, user, names).await?;
        for coupon in fresh {
            found.entry(coupon.name()).or_insert(coupon);
        }
    }
    let mut coupons = Vec::with_capacity(names.len());
    for name in names {
        coupons.push(match found.remove(name) {
            Some(coupon) => coupon,
            None => return Err(absent(app, user, *name).await),
        });
    }
    Ok(coupons)
}

/// The refusal of a code that is not the user's.
pub fn not_yours(code: &str) -> Problem {
    let detail = "the coupon is none of the user's: the code is unknown, or its coupon is in other hands";
    Problem::new("coupon_not_yours", detail).with("coupon", code)
}

/// Why a coupon is not there: lost or set aside, or simply none of the user's.
async fn absent(app: &App, user: &UserRef, name: CouponName) -> Problem {
    let code = app.code_key.encode(name);
    match by_code(app, user, &code).await {
        Err(problem) if problem.code != "coupon_not_found" => problem.with("coupon", code),
        _ => not_yours(&code),
    }
}

async fn stored_by_names(
    app: &App,
    user: &UserRef,
    names: &[CouponName],
) -> Result<HashMap<CouponName, Coupon>, Problem> {
    let templates: Vec<i32> = names.iter().map(|name| name.template.as_i32()).collect();
    let serials: Vec<i64> = names.iter().map(|name| name.serial as i64).collect();
    let epochs: Vec<i32> = names.iter().map(|name| i32::from(name.epoch)).collect();
    let gifts: Vec<i16> = names.iter().map(|name| i16::from(name.gift)).collect();
    let client = app.pg.get().await?;
    let rows = client
        .query(include_str!("sql/wallet/named.sql"), &[&user.as_str(), &templates, &serials, &epochs, &gifts])
        .await
        .map_err(PgFault::from)?;
    Ok(rows.iter().map(Coupon::from_row).map(|coupon| (coupon.name(), coupon)).collect())
}

/// What the user was granted and what is no row yet.
async fn unflushed(app: &App, user: &UserRef) -> Result<Vec<Coupon>, Problem> {
    let meta = read_meta_pooled(&app.redis, &app.keys).await?;
    let identity = Identity::of(&meta).ok_or_else(cell_closed)?;
    let templates: Vec<TemplateId> = meta.marks.iter().map(|(template, _)| *template).collect();
    let mut granted: Vec<(TemplateId, Held)> = Vec::new();
    for page in templates.chunks(HOLDINGS_TEMPLATES_MAX) {
        let (_, holdings) = read_holdings(&app.redis, &app.keys, &identity, Some(user), page).await?;
        for (template, holding) in page.iter().zip(holdings) {
            granted.extend(holding.receipts.iter().map(|receipt| {
                (*template, Held { serial: receipt.serial, epoch: receipt.epoch, acquired: receipt.acquired })
            }));
        }
    }
    if granted.is_empty() {
        return Ok(Vec::new());
    }
    let templates: Vec<i32> = granted.iter().map(|(template, _)| template.as_i32()).collect();
    let serials: Vec<i64> = granted.iter().map(|(_, held)| held.serial as i64).collect();
    let epochs: Vec<i32> = granted.iter().map(|(_, held)| i32::from(held.epoch)).collect();
    let client = app.pg.get().await?;
    let rows = client
        .query(include_str!("sql/wallet/stored.sql"), &[&templates, &serials, &epochs])
        .await
        .map_err(PgFault::from)?;
    let stored: std::collections::HashSet<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    granted.retain(|(template, held)| !stored.contains(&(template.as_i32(), held.serial as i64)));
    let snapshot = app.snapshot.load();
    Ok(granted
        .into_iter()
        .filter_map(|(id, held)| {
            let definition = &snapshot.templates.get(&id)?.definition;
            let (valid_from, expires) = definition.validity.span(definition.timezone, held.acquired);
            Some(Coupon {
                template: id,
                serial: held.serial,
                epoch: held.epoch,
                gift: 0,
                status: CouponStatus::of(1, expires <= meta.now),
                acquired: held.acquired,
                valid_from,
                expires,
                amount: None,
            })
        })
        .collect())
}

/// The refusal of a read that must not miss a grant while the cell cannot tell.
pub(crate) fn cell_closed() -> Problem {
    Problem::of(ClaimOutcome::Unavailable, "the cell is not open; ask again").retry_after_ms(1000)
}

/// An amount with all the places of its currency.
fn in_full(amount: Decimal, currency: &str) -> String {
    let minor = Currency::of(currency).and_then(|currency| Some(currency.decimal(currency.minor(amount).ok()?)));
    minor.unwrap_or(amount.normalize()).to_string()
}

fn write_cursor((at, template, serial): Place) -> String {
    URL_SAFE_NO_PAD.encode(format!("{at}.{template}.{serial}"))
}

fn parse_cursor(cursor: &str) -> Result<Place, Problem> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.split('.');
        let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (parts.next().is_none() && place.0 >= 0 && place.0 < 1 << 48).then_some(place)
    };
    read().ok_or_else(|| Problem::of(ClaimOutcome::InvalidRequest, "cursor is none that this list gave"))
}

// === impl Coupon ===

impl Coupon {
    fn stored(name: CouponName, row: &StoredCoupon) -> Self {
        Coupon {
            template: name.template,
            serial: name.serial,
            epoch: name.epoch,
            gift: name.gift,
            status: CouponStatus::of(row.status, row.expires <= now_ms()),
            acquired: row.acquired,
            valid_from: row.valid_from,
            expires: row.expires,
            amount: row.amount,
        }
    }

    /// Template, serial, epoch, status, gift generation, acquired, valid from, expires, whether it is over, amount.
    fn from_row(row: &Row) -> Self {
        Coupon {
            template: TemplateId(row.get::<_, i32>(0) as u32),
            serial: row.get::<_, i64>(1) as Serial,
            epoch: row.get::<_, i32>(2) as Epoch,
            gift: row.get::<_, i16>(4) as u8,
            status: CouponStatus::of(row.get(3), row.get(8)),
            acquired: row.get(5),
            valid_from: row.get(6),
            expires: row.get(7),
            amount: row.get(9),
        }
    }

    fn place(&self) -> Place {
        (self.acquired, self.template.0, self.serial)
    }

    /// What a grant and its row have in common, whoever holds the coupon now.
    fn grant(&self) -> (TemplateId, Serial, Epoch) {
        (self.template, self.serial, self.epoch)
    }

    pub fn name(&self) -> CouponName {
        CouponName { template: self.template, serial: self.serial, epoch: self.epoch, gift: self.gift }
    }

    /// As wallets show it: the coupon, and what its template says it is worth.
    pub fn to_json(&self, app: &App) -> Value {
        let snapshot = app.snapshot.load();
        let template = snapshot.templates.get(&self.template);
        let zone = template.map_or(chrono_tz::UTC, |template| template.definition.timezone);
        let mut coupon = json!({
            "code": app.code_key.encode(self.name()),
            "template_id": self.template.0,
            "serial": self.serial,
            "status": self.status.word(),
            "acquired_at": rfc3339(zone, self.acquired),
            "valid_from": rfc3339(zone, self.valid_from),
            "expires_at": rfc3339(zone, self.expires),
        });
        if let Some(template) = template {
            let definition = &template.definition;
            coupon["name"] = definition.name.clone().into();
            coupon["kind"] = definition.kind.word().into();
            coupon["value"] = match self.amount {
                Some(amount) => json!({"amount": in_full(amount, &definition.currency)}),
                None => definition.value.clone(),
            };
            coupon["currency"] = definition.currency.clone().into();
        }
        coupon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_made_up_ones_refused() {
        let place = (1_800_000_000_123, 7, 42);
        assert_eq!(parse_cursor(&write_cursor(place)).unwrap(), place);
        for bad in ["", "x", "MS4y", &URL_SAFE_NO_PAD.encode("1.2.3.4"), &URL_SAFE_NO_PAD.encode("-1.2.3")] {
            assert_eq!(parse_cursor(bad).unwrap_err().code, "invalid_request", "{bad}");
        }
    }

    #[test]
    fn a_coupon_that_is_over_is_expired_though_nobody_swept() {
        assert_eq!(CouponStatus::of(1, true), CouponStatus::Expired);
        assert_eq!(CouponStatus::of(2, true), CouponStatus::Locked);
        for (number, status) in (1..=6).zip(CouponStatus::ALL) {
            assert_eq!(CouponStatus::of(number, false), status);
        }
    }
}
