//! What a user holds, and what they may claim.
//!
//! An acknowledged claim shows at once: what Redis has granted and the flusher has not stored yet
//! is read first, PostgreSQL's rows after it, so that a grant on its way from one to the other is
//! seen at least once; each is shown once.
//!
//! # Layout
//! - this file: a user's coupons by their names, and all at once for an order
//! - [`page`]: a wallet, page by page
//! - [`history`]: what happened to a coupon, for support
//! - [`center`]: templates with what this user may do
//! - [`settle`]: a grant waited for until it is a row

pub mod center;
pub mod history;
pub mod page;
pub mod settle;

use std::collections::{HashMap, HashSet};

use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::app::App;
use crate::clock::now_ms;
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::{Epoch, Serial, TemplateId};
use crate::domain::outcome::ClaimOutcome;
use crate::domain::template::Definition;
use crate::domain::user::UserRef;
use crate::domain::window::{Millis, rfc3339};
use crate::grant::fate::{Fate, StoredCoupon, fate};
use crate::http::problem::Problem;
use crate::limits::{HOLDINGS_TEMPLATES_MAX, WALLET_LOOK_MAX};
use crate::pg::{Connection, PgFault};
use crate::pricing::money::Currency;
use crate::redis::cell::{CellMeta, Identity, Receipt, read_holdings, read_meta_pooled};

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

/// What Redis holds of a user's grants of the templates that may have unflushed ones.
struct Granted {
    /// Unflushed or not: receipts stay.
    coupons: Vec<Coupon>,
    /// As it was before the receipts were read.
    meta: CellMeta,
}

/// What names a grant, whatever became of its coupon.
type Grant = (TemplateId, Serial, Epoch);

/// A place in a wallet's order: newest first.
type Place = (Millis, u32, Serial);

/// One coupon of this user by its code. A code that is none, or another's, is not found, and costs
/// no query where it does not open.
pub async fn by_code(app: &App, user: &UserRef, code: &str) -> Result<Coupon, Problem> {
    let not_found = || Problem::new("coupon_not_found", "there is no coupon of this code in the wallet");
    let name = app.code_key.decode(code).ok_or_else(not_found)?;
    // A row on the replica proves the coupon; that none is there proves nothing.
    if let Some(replica) = app.replica.lend().await
        && let Some(row) = replica.settle(stored(&replica, app, name).await)
        && let Some(coupon) = Coupon::of_holder(name, &row, user)
    {
        return Ok(coupon);
    }
    let asked = async || Ok::<_, PgFault>(fate(&*app.pg.get().await?, app.cell, name).await?);
    let mut found = asked().await?;
    if matches!(found, Fate::Pending) {
        if let Some(coupon) = unflushed(app, user).await?.into_iter().find(|coupon| coupon.name() == name) {
            return Ok(coupon);
        }
        // Stored between the two looks, or another's.
        found = asked().await?;
    }
    match found {
        Fate::Stored(row) => Coupon::of_holder(name, &row, user).ok_or_else(not_found),
        Fate::Pending => Err(not_found()),
        Fate::Lost => Err(lost()),
        Fate::SetAside => Err(set_aside()),
    }
}

/// What a user has at hand for an order at `now`: their coupons that are not used up, those that
/// hold then first, the first to expire first. At most `most`, and whether that may not be all: more
/// hold, or the user has more coupons than are looked at, of which those that are newest are.
pub async fn at_hand(app: &App, user: &UserRef, now: Millis, most: usize) -> Result<(Vec<Coupon>, bool), Problem> {
    let mut coupons = unflushed(app, user).await?;
    let params: [&(dyn ToSql + Sync); 4] = [&user.as_str(), &now, &(most as i64 + 1), &(WALLET_LOOK_MAX as i64)];
    let rows = app.pg.get().await?.rows(include_str!("sql/wallet/at_hand.sql"), &params).await?;
    let (stored, end) = Coupon::from_looked(&rows);
    coupons.extend(stored);
    coupons.sort_by_key(|coupon| (coupon.expires <= now, coupon.expires.abs_diff(now), coupon.place()));
    let more = end.is_some() || coupons.get(most).is_some_and(|coupon| coupon.expires > now);
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
    let params: [&(dyn ToSql + Sync); 5] = [&user.as_str(), &templates, &serials, &epochs, &gifts];
    let rows = app.pg.get().await?.rows(include_str!("sql/wallet/named.sql"), &params).await?;
    Ok(rows.iter().map(Coupon::from_row).map(|coupon| (coupon.name(), coupon)).collect())
}

/// What the user was granted and what is no row yet.
async fn unflushed(app: &App, user: &UserRef) -> Result<Vec<Coupon>, Problem> {
    let granted = Granted::read(app, user).await?;
    if granted.coupons.is_empty() {
        return Ok(Vec::new());
    }
    Ok(granted.without_stored(&*app.pg.get().await?).await?)
}

/// The row of a name, where it is one of that epoch.
async fn stored(client: &Connection, app: &App, name: CouponName) -> Result<Option<StoredCoupon>, PgFault> {
    Ok(match fate(client, app.cell, name).await? {
        Fate::Stored(row) => Some(row),
        Fate::Pending | Fate::Lost | Fate::SetAside => None,
    })
}

/// Those of these grants that are rows already, or were set aside.
async fn stored_of(client: &Connection, names: &[CouponName]) -> Result<HashSet<Grant>, PgFault> {
    let templates: Vec<i32> = names.iter().map(|name| name.template.as_i32()).collect();
    let serials: Vec<i64> = names.iter().map(|name| name.serial as i64).collect();
    let epochs: Vec<i32> = names.iter().map(|name| i32::from(name.epoch)).collect();
    let rows = client.rows(include_str!("sql/wallet/stored.sql"), &[&templates, &serials, &epochs]).await?;
    let grant = |row: &Row| -> Grant {
        (TemplateId(row.get::<_, i32>(0) as u32), row.get::<_, i64>(1) as Serial, row.get::<_, i32>(2) as Epoch)
    };
    Ok(rows.iter().map(grant).collect())
}

fn lost() -> Problem {
    let detail = "this coupon was granted, but a failover lost it before it was stored; claim again";
    Problem::of(ClaimOutcome::ClaimLost, detail)
}

fn set_aside() -> Problem {
    Problem::of(ClaimOutcome::SetAside, "the coupon's row was refused and is set aside for an operator")
}

/// The refusal of a read that must not miss a grant while the cell cannot tell.
pub(crate) fn cell_closed() -> Problem {
    Problem::of(ClaimOutcome::Unavailable, "the cell is not open; ask again").retry_after_ms(1000)
}

// === impl Granted ===

impl Granted {
    /// Asks Redis: first which templates have grants that may be unflushed, then for the user's.
    async fn read(app: &App, user: &UserRef) -> Result<Granted, Problem> {
        let meta = read_meta_pooled(&app.redis, &app.keys).await?;
        let identity = Identity::of(&meta).ok_or_else(cell_closed)?;
        let templates: Vec<TemplateId> = meta.marks.iter().map(|(template, _)| *template).collect();
        let mut coupons = Vec::new();
        for page in templates.chunks(HOLDINGS_TEMPLATES_MAX) {
            let (_, holdings) = read_holdings(&app.redis, &app.keys, &identity, Some(user), page).await?;
            let snapshot = app.snapshot.load();
            for (template, holding) in page.iter().zip(holdings) {
                let Some(live) = snapshot.templates.get(template) else { continue };
                let granted = |receipt| Coupon::granted(*template, &live.definition, receipt, meta.now);
                coupons.extend(holding.receipts.iter().map(granted));
            }
        }
        Ok(Granted { coupons, meta })
    }

    /// The coupons that are neither rows nor set aside.
    async fn without_stored(&self, client: &Connection) -> Result<Vec<Coupon>, PgFault> {
        if self.coupons.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<CouponName> = self.coupons.iter().map(Coupon::name).collect();
        let stored = stored_of(client, &names).await?;
        Ok(self.coupons.iter().filter(|coupon| !stored.contains(&coupon.grant())).cloned().collect())
    }
}

// === impl Coupon ===

impl Coupon {
    /// As Redis' receipt has it. Its times follow from its template's terms.
    fn granted(template: TemplateId, definition: &Definition, receipt: &Receipt, now: Millis) -> Self {
        let (valid_from, expires) = definition.validity.span(definition.timezone, receipt.acquired);
        Coupon {
            template,
            serial: receipt.serial,
            epoch: receipt.epoch,
            gift: 0,
            status: CouponStatus::of(1, expires <= now),
            acquired: receipt.acquired,
            valid_from,
            expires,
            amount: None,
        }
    }

    /// The row as its holder's: `None` for anybody else, and for a code that a passage has ended.
    fn of_holder(name: CouponName, row: &StoredCoupon, user: &UserRef) -> Option<Self> {
        (row.user == *user && row.gift_generation == i16::from(name.gift)).then(|| Coupon::stored(name, row))
    }

    fn stored(name: CouponName, row: &StoredCoupon) -> Self {
        Coupon {
            template: name.template,
            serial: name.serial,
            epoch: name.epoch,
            gift: row.gift_generation as u8,
            status: CouponStatus::of(row.status, row.expires <= now_ms()),
            acquired: row.acquired,
            valid_from: row.valid_from,
            expires: row.expires,
            amount: row.amount,
        }
    }

    /// Template, serial, epoch, status, gift generation, acquired, valid from, expires, whether it is over, amount.
    pub(crate) fn from_row(row: &Row) -> Self {
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

    /// What a bounded look at a wallet gave, and the place where it ended, if it did before the last coupon.
    fn from_looked(rows: &[Row]) -> (Vec<Coupon>, Option<Place>) {
        let (end, coupons): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get(10));
        let end = end.first().map(|row| Coupon::from_row(row).place());
        (coupons.into_iter().map(Coupon::from_row).collect(), end)
    }

    fn place(&self) -> Place {
        (self.acquired, self.template.0, self.serial)
    }

    /// What a grant and its row have in common, whoever holds the coupon now.
    fn grant(&self) -> Grant {
        (self.template, self.serial, self.epoch)
    }

    pub fn name(&self) -> CouponName {
        CouponName { template: self.template, serial: self.serial, epoch: self.epoch, gift: self.gift }
    }

    /// As wallets show it: the coupon, what it is worth and what it demands.
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
            let currency = Currency::of(&definition.currency);
            coupon["value"] = match self.amount.zip(currency) {
                Some((amount, currency)) => json!({"amount": currency.in_full(amount)}),
                None => definition.value.clone(),
            };
            coupon["terms"] = template.terms.as_ref().map_or(Vec::new(), |terms| terms.explain(self.amount)).into();
            coupon["currency"] = definition.currency.clone().into();
        }
        coupon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coupon_that_is_over_is_expired_though_nobody_swept() {
        assert_eq!(CouponStatus::of(1, true), CouponStatus::Expired);
        assert_eq!(CouponStatus::of(2, true), CouponStatus::Locked);
        for (number, status) in (1..=6).zip(CouponStatus::ALL) {
            assert_eq!(CouponStatus::of(number, false), status);
        }
    }
}
