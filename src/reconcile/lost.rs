//! What is known to be lost, or was set aside: in no wallet until a person has dealt with it.

use tokio_postgres::{Client, Row};

use super::difference::{Difference, Kind};
use crate::domain::ids::{Epoch, TemplateId};
use crate::domain::window::{Millis, rfc3339};
use crate::grant::cells;
use crate::limits::RECONCILE_PAGE_ROWS;
use crate::pg::PgFault;

/// A lost claim's name.
pub type Lost = (i32, i64, i32);

/// Lost claims behind one, and the last of them where there may be more.
pub async fn claims(client: &Client, after: Lost) -> Result<(Vec<Difference>, Option<Lost>), PgFault> {
    let sql = include_str!("../sql/reconcile/lost.sql");
    let rows = client.query(sql, &[&after.0, &after.1, &after.2, &(RECONCILE_PAGE_ROWS as i64)]).await?;
    let claim = |row: &Row| {
        let acquired: Millis = row.get(6);
        let (at, source) = (rfc3339(chrono_tz::Tz::UTC, acquired), row.get::<_, &str>(7));
        let detail = format!("acknowledged at {at}, and in no store; a {source} knew of it");
        named(Difference::new(Kind::ClaimLost, detail), row, 0).entry(cells::entry(row, 3)).user(row.get::<_, &str>(5))
    };
    let last = rows.last().filter(|_| rows.len() == RECONCILE_PAGE_ROWS);
    Ok((rows.iter().map(claim).collect(), last.map(|row| (row.get(0), row.get(1), row.get(2)))))
}

/// What was set aside behind number `after`, and the last number where there may be more.
pub async fn asides(client: &Client, after: i64) -> Result<(Vec<Difference>, Option<i64>), PgFault> {
    let sql = include_str!("../sql/reconcile/asides.sql");
    let rows = client.query(sql, &[&after, &(RECONCILE_PAGE_ROWS as i64)]).await?;
    let aside = |row: &Row| {
        let detail = format!("set aside: {}", row.get::<_, &str>(7));
        let mut aside = named(Difference::new(Kind::SetAside, detail), row, 1).entry(cells::entry(row, 4));
        aside.place.user = row.get(6);
        aside
    };
    let last = rows.last().filter(|_| rows.len() == RECONCILE_PAGE_ROWS);
    Ok((rows.iter().map(aside).collect(), last.map(|row| row.get(0))))
}

/// With template, serial and epoch from column `at` on, where they are known.
fn named(mut difference: Difference, row: &Row, at: usize) -> Difference {
    difference.place.template = row.get::<_, Option<i32>>(at).map(|id| TemplateId(id as u32));
    difference.place.serial = row.get::<_, Option<i64>>(at + 1).map(|serial| serial as u64);
    difference.place.epoch = row.get::<_, Option<i32>>(at + 2).map(|epoch| epoch as Epoch);
    difference
}
