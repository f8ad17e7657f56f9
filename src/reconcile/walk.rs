//! The order in which all is looked at: the cell, one template after the other, what is lost.
//!
//! A step reads a bounded number of rows or receipts, so that a process which serves others may take one
//! now and then. What a step finds is looked at a second time after a pause, from the same place; only what
//! is found by both is a difference.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::difference::{Difference, Kind, Place};
use super::lost::Lost;
use super::{Blind, View, cell, lost, receipts, rows, template};
use crate::catalog::publish::{TemplateRow, load_page};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::window::{Day, Millis};
use crate::grant::cells::cell_i16;
use crate::grant::stored;
use crate::limits::{PAGE_MAX, RECONCILE_GAPS_MAX, RECONCILE_PAGE_ROWS};
use crate::redis::compare::Stand;

/// A walk over everything, and how far it has come.
#[derive(Clone, Debug)]
pub struct Walk {
    at: At,
    /// Templates of the present page, and the id behind which the next one begins.
    page: VecDeque<TemplateId>,
    after: i32,
    pub templates: usize,
    pub rows: u64,
    pub receipts: u64,
}

#[derive(Clone, Debug)]
enum At {
    Cell,
    Template,
    Rows(Box<Of>),
    Receipts(Box<Of>, u64),
    Lost(Lost),
    Asides(i64),
    Over,
}

/// A template's coupons, as far as they were looked at.
#[derive(Clone, Debug)]
struct Of {
    row: TemplateRow,
    from: Serial,
    day: Day,
    of_day: u64,
    counted_since: Millis,
    /// Serials that are no rows.
    gaps: Vec<(Serial, Serial)>,
    begun: Option<Stand>,
    settled: bool,
}

/// Between the two looks: what is in flight has landed by then.
const AGAIN_PAUSE: Duration = Duration::from_millis(1_000);

/// The clocks of PostgreSQL and Redis may be so far apart.
const CLOCKS_DIFFER_MS: Millis = 2_000;

// === impl Walk ===

impl Default for Walk {
    fn default() -> Self {
        Walk { at: At::Cell, page: VecDeque::new(), after: 0, templates: 0, rows: 0, receipts: 0 }
    }
}

impl Walk {
    pub fn is_over(&self) -> bool {
        matches!(self.at, At::Over)
    }

    /// Takes a step and tells what is surely different. After an error the step is still to be taken.
    pub async fn step(&mut self, view: &View<'_>) -> Result<Vec<Difference>, Blind> {
        let mut next = self.clone();
        let found = next.look(view).await?;
        if found.is_empty() {
            *self = next;
            return Ok(found);
        }
        tokio::time::sleep(AGAIN_PAUSE).await;
        let mut next = self.clone();
        let mut again = next.look(view).await?;
        *self = next;
        let before: BTreeSet<&Place> = found.iter().map(|difference| &difference.place).collect();
        again.retain(|difference| before.contains(&difference.place));
        Ok(again)
    }

    async fn look(&mut self, view: &View<'_>) -> Result<Vec<Difference>, Blind> {
        let at = std::mem::replace(&mut self.at, At::Over);
        let (next, found) = match at {
            At::Cell => (At::Template, cell::look(view).await?),
            At::Template => self.next_template(view).await?,
            At::Rows(of) => self.page_of_rows(view, of).await?,
            At::Receipts(of, cursor) => self.some_receipts(view, of, cursor).await?,
            At::Lost(after) => {
                let (found, more) = lost::claims(view.client, after).await?;
                (more.map_or(At::Asides(0), At::Lost), found)
            }
            At::Asides(after) => {
                let (found, more) = lost::asides(view.client, after).await?;
                (more.map_or(At::Over, At::Asides), found)
            }
            At::Over => (At::Over, Vec::new()),
        };
        self.at = next;
        Ok(found)
    }

    async fn next_template(&mut self, view: &View<'_>) -> Result<(At, Vec<Difference>), Blind> {
        if self.page.is_empty() {
            let page = load_page(view.client, self.after, PAGE_MAX).await?;
            let Some(last) = page.last() else { return Ok((At::Lost((0, 0, 0)), Vec::new())) };
            self.after = last.id.as_i32();
            self.page = page.iter().map(|row| row.id).collect();
        }
        let Some(id) = self.page.pop_front() else { return Ok((At::Template, Vec::new())) };
        self.templates += 1;
        let (found, row) = template::look(view, id).await?;
        let Some(row) = row else { return Ok((At::Template, found)) };
        let opened = include_str!("../sql/reconcile/opened.sql");
        let opened: Millis = view.client.query_one(opened, &[&cell_i16(view.app.cell)]).await?.get(0);
        let now = view.meta().await?.now;
        let of = Of {
            from: 1,
            day: Day::of(row.definition.timezone, now),
            of_day: 0,
            counted_since: opened + CLOCKS_DIFFER_MS,
            gaps: Vec::new(),
            begun: None,
            settled: true,
            row,
        };
        Ok((At::Rows(Box::new(of)), found))
    }

    async fn page_of_rows(&mut self, view: &View<'_>, mut of: Box<Of>) -> Result<(At, Vec<Difference>), Blind> {
        let page = rows::look(view, &of.row, of.day, of.counted_since, of.from).await?;
        self.rows += page.rows as u64;
        of.of_day += page.of_day;
        of.settled &= page.settled;
        let room = RECONCILE_GAPS_MAX.saturating_sub(of.gaps.len());
        of.gaps.extend(page.gaps.into_iter().take(room));
        let begun = of.begun.get_or_insert(page.before);
        let mut found = page.found;
        let next = match page.next {
            Some(from) => {
                of.from = from;
                At::Rows(of)
            }
            None => {
                let is_exact = of.settled && begun.open == page.after.open;
                found.extend(template::day_count(&of.row, of.day, of.of_day, &page.after, is_exact));
                At::Receipts(of, 0)
            }
        };
        Ok((next, found))
    }

    async fn some_receipts(
        &mut self,
        view: &View<'_>,
        mut of: Box<Of>,
        cursor: u64,
    ) -> Result<(At, Vec<Difference>), Blind> {
        let scanned = receipts::look(view, &of.row, cursor, &of.gaps).await?;
        self.receipts += scanned.receipts as u64;
        for serial in scanned.told {
            without(&mut of.gaps, serial);
        }
        let mut found = scanned.found;
        if scanned.next > 0 {
            return Ok((At::Receipts(of, scanned.next), found));
        }
        // A page that was read while its grants were being stored may have missed some.
        for (first, last) in of.gaps.clone() {
            for grant in stored::read(view.client, of.row.id, false, first, last, RECONCILE_PAGE_ROWS).await? {
                without(&mut of.gaps, grant.receipt.serial);
            }
        }
        for (first, last) in &of.gaps {
            let detail = format!("serials {first} to {last} lie behind the cursor, and nobody has them");
            found.push(Difference::new(Kind::SerialStranded, detail).template(of.row.id).serial(*first));
        }
        Ok((At::Template, found))
    }
}

/// Takes a serial out of ranges.
fn without(ranges: &mut Vec<(Serial, Serial)>, serial: Serial) {
    let Some(at) = ranges.iter().position(|(first, last)| (*first..=*last).contains(&serial)) else { return };
    let (first, last) = ranges.remove(at);
    if serial < last {
        ranges.insert(at, (serial + 1, last));
    }
    if first < serial {
        ranges.insert(at, (first, serial - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_leaves_its_range() {
        let mut ranges = vec![(1, 3), (5, 5)];
        without(&mut ranges, 2);
        without(&mut ranges, 5);
        without(&mut ranges, 9);
        assert_eq!(ranges, [(1, 1), (3, 3)]);
    }
}
