//! A template's state, limits, stock and day count in the cell beside its row.

use super::difference::{Difference, Kind, Mend};
use super::{Blind, View};
use crate::catalog::publish::{TemplateRow, load_row};
use crate::domain::ids::TemplateId;
use crate::domain::window::Day;
use crate::redis::cell::{Holding, read_holdings};
use crate::redis::compare::Stand;

/// Compares the template, and tells its row where its coupons are to be compared, too.
pub async fn look(view: &View<'_>, id: TemplateId) -> Result<(Vec<Difference>, Option<TemplateRow>), Blind> {
    let Some(row) = load_row(view.client, id).await? else { return Ok((Vec::new(), None)) };
    let (_, held) = read_holdings(&view.app.redis, &view.app.keys, &view.identity, None, &[id]).await?;
    let held = held.into_iter().next().unwrap_or_default();
    let again = load_row(view.client, id).await?;
    if again.is_none_or(|again| again.revision != row.revision || again.freed != row.freed) {
        // A change is on its way: it is looked at by the next walk.
        return Ok((Vec::new(), None));
    }
    let found: Vec<Difference> = difference(&row, &held).map(|found| found.template(id)).into_iter().collect();
    let comparable = !row.freed && !matches!(held.state, 0 | 9);
    Ok((found, comparable.then_some(row)))
}

fn difference(row: &TemplateRow, held: &Holding) -> Option<Difference> {
    let of = |kind, detail: String| Some(Difference::new(kind, detail));
    let revisions = format!("Redis is at revision {}, PostgreSQL at {}", held.revision, row.revision);
    if row.freed {
        let detail = "it is to be freed, and Redis has its keys".to_owned();
        return of(Kind::TemplateStale, detail).filter(|_| held.state != 9).map(|found| found.mend(Mend::Put));
    }
    let given = row.ranges.last().map_or(0, |(_, last)| *last);
    // Ranges are put whole: a cell that has one in part would be given what it has granted.
    let has_whole_ranges = row.ranges.iter().any(|(_, last)| *last == held.given);
    match held.state {
        // Nothing was ever granted of what was never brought to Redis.
        0 if row.redis_revision == 0 => of(Kind::TemplateStale, revisions).map(|found| found.mend(Mend::Put)),
        0 => of(Kind::TemplateMissing, "Redis does not have it: claims of it are refused".into()),
        9 => of(Kind::TemplateFreed, "Redis has a tombstone of it, and it is not freed".into()),
        _ if held.revision > row.revision => of(Kind::TemplateAhead, revisions),
        _ if held.given < given && !has_whole_ranges => {
            let detail = format!("Redis has stock up to serial {}, where no range of PostgreSQL ends", held.given);
            of(Kind::TemplateDiffers, detail)
        }
        _ if held.revision < row.revision => of(Kind::TemplateStale, revisions).map(|found| found.mend(Mend::Put)),
        _ if held.given > given => {
            of(Kind::StockBeyond, format!("Redis has stock up to serial {}, PostgreSQL up to {given}", held.given))
        }
        _ if held.given < given => {
            let detail = format!("Redis has stock up to serial {}, PostgreSQL up to {given}", held.given);
            of(Kind::StockMissing, detail).map(|found| found.mend(Mend::Put))
        }
        _ => {
            let field = row.difference(held)?;
            let detail = format!("at revision {}, the {field} is another in Redis", row.revision);
            of(Kind::TemplateDiffers, detail).map(|found| found.mend(Mend::PutAgain(Box::new(row.clone()))))
        }
    }
}

/// Compares the count of a day's grants with the `rows` of that day, all of which were read before `stand`.
/// `exact`: nothing was granted meanwhile and nothing is in flight.
pub fn day_count(row: &TemplateRow, day: Day, rows: u64, stand: &Stand, exact: bool) -> Option<Difference> {
    if row.definition.stock.daily.is_none() || !(day.start..day.end).contains(&stand.now) {
        return None;
    }
    let counted = if stand.day == day.start { stand.day_count } else { 0 };
    let detail = format!("Redis counts {counted} grants of the day, PostgreSQL has {rows}");
    if counted < rows {
        let low = Difference::new(Kind::DayCountLow, detail).template(row.id);
        Some(low.mend(Mend::DayCount(day.start, rows)))
    } else if exact && counted > rows {
        Some(Difference::new(Kind::DayCountHigh, detail).template(row.id))
    } else {
        None
    }
}
