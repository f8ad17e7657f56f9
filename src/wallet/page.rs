//! A wallet, page by page, newest first.
//!
//! One read looks at a bounded number of coupons, so that a filter which few of a hundred thousand
//! coupons pass costs no more than another: the page may then be short, or empty, and its cursor
//! leads on. Only a page without a cursor is the last.
//!
//! A replica may serve it. What was granted and is no row *there* must be on the queue still, where
//! Redis' marks lead to it: a replica whose watermark lies behind what the queue was trimmed to
//! misses grants that nobody would add, and is not believed (see `covers`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_postgres::types::ToSql;

use super::{Coupon, Granted, Place};
use crate::app::App;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::EntryId;
use crate::domain::outcome::ClaimOutcome;
use crate::domain::user::UserRef;
use crate::grant::cells;
use crate::http::problem::Problem;
use crate::limits::WALLET_LOOK_MAX;
use crate::pg::{Connection, PgFault};
use crate::redis::cell::CellMeta;

/// What is asked for.
pub struct Asked<'a> {
    pub user: &'a UserRef,
    pub status: Option<CouponStatus>,
    /// Only coupons of these templates; `None`: of all.
    pub templates: Option<Vec<i32>>,
    pub limit: usize,
    /// As the page before gave it.
    pub cursor: Option<&'a str>,
}

/// What is not a row yet, what is, and where the look ended if it did before the last coupon.
struct Found {
    pending: Vec<Coupon>,
    stored: Vec<Coupon>,
    end: Option<Place>,
}

/// The page, and the next cursor.
pub async fn page(app: &App, asked: &Asked<'_>) -> Result<(Vec<Coupon>, Option<String>), Problem> {
    let behind = asked.cursor.map(parse_cursor).transpose()?;
    // Redis first, the rows after it: a grant on its way from one to the other is seen at least once.
    let granted = Granted::read(app, asked.user).await?;
    let from_replica = match app.replica.lend().await {
        Some(replica) => replica.settle(look_at_replica(&replica, app, asked, behind, &granted).await),
        None => None,
    };
    let found = match from_replica {
        Some(found) => found,
        None => look(&*app.pg.get().await?, asked, behind, &granted).await?,
    };
    Ok(found.merge(asked, behind))
}

/// `None`: the replica may miss grants that Redis does not lead to any more.
async fn look_at_replica(
    replica: &Connection,
    app: &App,
    asked: &Asked<'_>,
    behind: Option<Place>,
    granted: &Granted,
) -> Result<Option<Found>, PgFault> {
    // Before the rows: what they show is at least as new.
    let watermark = cells::watermark(replica, app.cell).await?;
    if !covers(watermark, &granted.meta) {
        return Ok(None);
    }
    Ok(Some(look(replica, asked, behind, granted).await?))
}

/// Whether rows up to `watermark` and the queue as `meta` saw it hold every grant up to that moment. An
/// entry that is on the queue has its templates' marks: both go in one script, the mark not before.
fn covers(watermark: EntryId, meta: &CellMeta) -> bool {
    match meta.first {
        // All is trimmed.
        None => watermark >= meta.last,
        Some(first) => watermark >= first || EntryId::new(watermark.epoch, watermark.seq + 1) == first,
    }
}

async fn look(
    client: &Connection,
    asked: &Asked<'_>,
    behind: Option<Place>,
    granted: &Granted,
) -> Result<Found, PgFault> {
    let pending = granted.without_stored(client).await?;
    let (acquired, template, serial) = match behind {
        Some((acquired, template, serial)) => (Some(acquired), Some(template as i32), Some(serial as i64)),
        None => (None, None, None),
    };
    let params: [&(dyn ToSql + Sync); 8] = [
        &asked.user.as_str(),
        &acquired,
        &template,
        &serial,
        &(asked.limit as i64 + 1),
        &asked.status.map(CouponStatus::word),
        &asked.templates,
        &(WALLET_LOOK_MAX as i64),
    ];
    let rows = client.rows(include_str!("../sql/wallet/page.sql"), &params).await?;
    let (stored, end) = Coupon::from_looked(&rows);
    Ok(Found { pending, stored, end })
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

// === impl Found ===

impl Found {
    fn merge(self, asked: &Asked<'_>, behind: Option<Place>) -> (Vec<Coupon>, Option<String>) {
        let Found { mut pending, stored, end } = self;
        pending.retain(|coupon| {
            let place = coupon.place();
            asked.status.is_none_or(|status| coupon.status == status)
                && asked.templates.as_ref().is_none_or(|templates| templates.contains(&coupon.template.as_i32()))
                && behind.is_none_or(|behind| place < behind)
                && end.is_none_or(|end| place >= end)
                // What was stored between the two looks was seen by both.
                && !stored.iter().any(|row| row.grant() == coupon.grant())
        });
        let mut coupons = pending;
        coupons.extend(stored);
        coupons.sort_by_key(|coupon| std::cmp::Reverse(coupon.place()));
        let next = if coupons.len() > asked.limit {
            coupons.truncate(asked.limit);
            coupons.last().map(Coupon::place)
        } else {
            end
        };
        (coupons, next.map(write_cursor))
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
    fn a_replica_is_believed_where_the_queue_goes_on_from_its_watermark() {
        let id = |text: &str| EntryId::parse(text).unwrap();
        let meta =
            |first: &str, last: &str| CellMeta { first: EntryId::parse(first), last: id(last), ..CellMeta::default() };
        // Entries 2-7 to 2-9 are on the queue: the rows must reach 2-6.
        let queued = meta("2-7", "2-9");
        assert!(covers(id("2-6"), &queued) && covers(id("2-8"), &queued) && covers(id("3-0"), &queued));
        assert!(!covers(id("2-5"), &queued) && !covers(id("1-9"), &queued));
        // Nothing is queued: they must reach the last that ever was.
        let empty = meta("", "2-9");
        assert!(covers(id("2-9"), &empty) && !covers(id("2-8"), &empty));
        // A marker follows on what only PostgreSQL knows: the rows must have reached it.
        assert!(covers(id("3-0"), &meta("3-0", "3-1")) && !covers(id("2-9"), &meta("3-0", "3-1")));
        assert!(covers(EntryId::ZERO, &meta("", "0-0")));
    }
}
