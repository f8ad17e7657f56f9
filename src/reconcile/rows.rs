//! A page of a template's rows beside the receipts, quotas and cursor that they must have in the cell.

use std::collections::HashMap;

use super::difference::{Difference, Kind, Mend};
use super::{Blind, View};
use crate::catalog::publish::TemplateRow;
use crate::domain::ids::Serial;
use crate::domain::window::{Day, Millis};
use crate::grant::stored;
use crate::grant::stores::StoredGrant;
use crate::limits::RECONCILE_PAGE_ROWS;
use crate::redis::cell::Receipt;
use crate::redis::compare::{self, Compared, Mended, QuotaKeys, Stand};

/// What one page came to.
#[derive(Debug, Default)]
pub struct Page {
    pub found: Vec<Difference>,
    /// Serials that the cell has granted and that are no rows.
    pub gaps: Vec<(Serial, Serial)>,
    /// Where the next page begins; none: this was the last.
    pub next: Option<Serial>,
    pub rows: usize,
    /// Rows of the day.
    pub of_day: u64,
    /// Whether all that was granted when the page was begun is a row.
    pub settled: bool,
    /// Before the rows were read, and after it.
    pub before: Stand,
    pub after: Stand,
}

/// Compares the rows from serial `from` on. Rows before `counted_since` need not count in quotas: an opening
/// may have begun them anew.
pub async fn look(
    view: &View<'_>,
    row: &TemplateRow,
    day: Day,
    counted_since: Millis,
    from: Serial,
) -> Result<Page, Blind> {
    let (redis, keys) = (&view.app.redis, &view.app.keys);
    let before = compare::read(redis, keys, &view.identity, row.id, &[], &[]).await?.stand;
    let settled = view.settled(before.mark).await?;
    let last = row.ranges.last().map_or(0, |(_, last)| *last);
    let grants = stored::read(view.client, row.id, row.definition.quotas, from, last, RECONCILE_PAGE_ROWS).await?;
    // Rows first, receipts after them: whatever is a row was a receipt before.
    let held: Vec<&StoredGrant> = grants.iter().filter(|grant| grant.user.is_some()).collect();
    let (users, places) = distinct(&held);
    let in_quotas = |grant: &&&StoredGrant| row.definition.quotas && grant.receipt.acquired > counted_since;
    let counted: Vec<&StoredGrant> = held.iter().filter(in_quotas).copied().collect();
    let quota_keys: Vec<QuotaKeys> = counted.iter().map(|grant| quota_keys(grant)).collect();
    let compared = compare::read(redis, keys, &view.identity, row.id, &users, &quota_keys).await?;

    let mut page = Page { rows: grants.len(), settled, before, ..Page::default() };
    if !matches!(compared.stand.state, 0 | 9) {
        let of_each = places.into_iter().map(|place| &compared.receipts[place][..]);
        receipts(row, held.iter().copied().zip(of_each), &mut page.found);
        quotas(row, &counted, &quota_keys, &compared, &mut page.found);
        cursor(&grants, &compared, &mut page.found);
        let is_full = grants.len() == RECONCILE_PAGE_ROWS;
        let last_row = grants.last().map_or(0, |grant| grant.receipt.serial);
        // What is unsettled may have no rows yet behind the last one; before it all are.
        let until = if is_full || !settled { last_row } else { last };
        page.gaps = gaps(row, &grants, from, until, &page.before);
        page.next = is_full.then_some(last_row + 1);
        page.of_day =
            grants.iter().filter(|grant| (day.start..day.end).contains(&grant.receipt.acquired)).count() as u64;
    }
    for found in &mut page.found {
        found.place.template = Some(row.id);
    }
    page.after = compared.stand;
    Ok(page)
}

fn quota_keys(grant: &StoredGrant) -> QuotaKeys {
    let hash = |hash: Option<u64>| hash.map_or_else(Vec::new, |hash| hash.to_be_bytes().to_vec());
    [grant.user.clone().unwrap_or_default().into_bytes(), hash(grant.ip), hash(grant.device)]
}

fn given_back(row: &TemplateRow, grant: &StoredGrant) -> Mend {
    let quotas = row.definition.quotas.then_some((grant.ip, grant.device));
    Mend::Give(Mended { user: grant.user.clone(), receipt: grant.receipt, quotas })
}

/// The users of grants, each once, as somebody may have thousands of receipts; and for each grant where its user is.
fn distinct<'a>(grants: &[&'a StoredGrant]) -> (Vec<&'a str>, Vec<usize>) {
    let (mut users, mut known) = (Vec::new(), HashMap::new());
    let places = grants.iter().filter_map(|grant| grant.user.as_deref()).map(|user| {
        *known.entry(user).or_insert_with(|| {
            users.push(user);
            users.len() - 1
        })
    });
    let places = places.collect();
    (users, places)
}

/// `held`: each grant, and all receipts of its user.
fn receipts<'a>(
    row: &TemplateRow,
    held: impl Iterator<Item = (&'a StoredGrant, &'a [Receipt])>,
    found: &mut Vec<Difference>,
) {
    for (grant, receipts) in held {
        let stored = &grant.receipt;
        let difference = match receipts.iter().find(|receipt| receipt.serial == stored.serial) {
            Some(receipt) if receipt == stored => continue,
            Some(receipt) => {
                let detail = format!(
                    "its receipt has epoch {}, {} ms and claim key {:016x}, its row epoch {}, {} ms and {:016x}",
                    receipt.epoch,
                    receipt.acquired,
                    receipt.claim_key_hash,
                    stored.epoch,
                    stored.acquired,
                    stored.claim_key_hash
                );
                Difference::new(Kind::ReceiptDiffers, detail)
            }
            None => {
                let missing = Difference::new(Kind::ReceiptMissing, "its row has no receipt: the user may claim again");
                missing.mend(given_back(row, grant))
            }
        };
        found.push(difference.serial(stored.serial).epoch(stored.epoch).user(grant.user.clone().unwrap_or_default()));
    }
}

fn quotas(
    row: &TemplateRow,
    counted: &[&StoredGrant],
    keys: &[QuotaKeys],
    compared: &Compared,
    found: &mut Vec<Difference>,
) {
    for (at, (grant, keys)) in counted.iter().zip(keys).enumerate() {
        let acquired = grant.receipt.acquired;
        let uncounted = (0..3).find(|scope| {
            !keys[*scope].is_empty() && !compared.quotas[*scope].counts(at, acquired, compared.stand.now)
        });
        let Some(scope) = uncounted else { continue };
        let detail = format!("the quota of its {} does not count it", ["user", "IP address", "device"][scope]);
        let low = Difference::new(Kind::QuotaLow, detail).serial(grant.receipt.serial);
        found.push(low.user(grant.user.clone().unwrap_or_default()).mend(given_back(row, grant)));
    }
}

/// Serials that are stored must lie behind the cursor; the highest that does not is told.
fn cursor(grants: &[StoredGrant], compared: &Compared, found: &mut Vec<Difference>) {
    let mut again = grants.iter().filter(|grant| compared.stand.may_grant(grant.receipt.serial));
    let Some(first) = again.next() else { return };
    let (last, count) = again.fold((first, 1), |(_, count), grant| (grant, count + 1));
    let detail = format!("the cell may grant {count} serials again that are stored, up to this one");
    let behind = Difference::new(Kind::CursorBehind, detail).serial(last.receipt.serial);
    found.push(behind.mend(Mend::Give(Mended { user: None, receipt: last.receipt, quotas: None })));
}

/// Serials of the stock from `from` to `until` that were granted at the time of `before` and are no rows.
fn gaps(
    row: &TemplateRow,
    grants: &[StoredGrant],
    from: Serial,
    until: Serial,
    before: &Stand,
) -> Vec<(Serial, Serial)> {
    // A range that is on its way to the cell was not granted by it.
    let until = until.min(before.given);
    let mut gaps = Vec::new();
    let mut grants = grants.iter().map(|grant| grant.receipt.serial).peekable();
    for (first, last) in &row.ranges {
        // What the cell may still grant of the range lies at its end.
        let open = before.open.iter().map(|(open, _)| *open).find(|open| (first..=last).contains(&open));
        let granted = open.map_or(*last, |open| open - 1).min(until);
        let mut at = (*first).max(from);
        while at <= granted {
            while grants.next_if(|serial| *serial < at).is_some() {}
            match grants.peek() {
                Some(serial) if *serial == at => at += 1,
                Some(serial) => {
                    gaps.push((at, granted.min(*serial - 1)));
                    at = *serial;
                }
                None => {
                    gaps.push((at, granted));
                    break;
                }
            }
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TemplateId;
    use crate::domain::template::{Definition, Status};

    fn row(ranges: &[(Serial, Serial)]) -> TemplateRow {
        let definition = serde_json::json!({
            "name": "ten off", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "UTC", "stock": {"total": 9},
            "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
            "validity": {"type": "relative", "days": 7},
        });
        TemplateRow {
            id: TemplateId(1),
            definition: Definition::from_store(&definition).unwrap(),
            status: Status::Published,
            revision: 1,
            redis_revision: 1,
            stock_generation: 1,
            freed: false,
            ranges: ranges.to_vec(),
        }
    }

    fn grants(serials: &[Serial]) -> Vec<StoredGrant> {
        let receipt = |serial| Receipt { serial, epoch: 1, acquired: 0, claim_key_hash: 0 };
        let grant =
            |serial: &Serial| StoredGrant { user: Some("u".into()), receipt: receipt(*serial), ip: None, device: None };
        serials.iter().map(grant).collect()
    }

    #[test]
    fn what_was_granted_and_is_no_row_is_a_gap_and_what_is_open_is_none() {
        let row = row(&[(1, 10), (21, 30)]);
        let open = |ranges: &[(Serial, Serial)]| Stand { open: ranges.to_vec(), given: 30, ..Stand::default() };
        let of = |serials: &[Serial], from, until, ranges: &[(Serial, Serial)]| {
            gaps(&row, &grants(serials), from, until, &open(ranges))
        };
        assert_eq!(of(&[1, 2, 3], 1, 30, &[(4, 10), (21, 30)]), []);
        assert_eq!(of(&[1, 3], 1, 30, &[(6, 10), (21, 30)]), [(2, 2), (4, 5)]);
        assert_eq!(of(&[1, 3], 1, 3, &[(6, 10), (21, 30)]), [(2, 2)], "behind the last row it may be in flight");
        assert_eq!(of(&[9, 10, 21, 23], 9, 30, &[(24, 30)]), [(22, 22)]);
        assert_eq!(of(&[], 1, 30, &[]), [(1, 10), (21, 30)]);
        assert_eq!(of(&[], 5, 30, &[(1, 10), (21, 30)]), []);
        let without_second = Stand { open: vec![(3, 10)], given: 10, ..Stand::default() };
        assert_eq!(gaps(&row, &grants(&[1, 2]), 1, 30, &without_second), [], "it was not given yet");
    }

    #[test]
    fn each_user_is_asked_for_once() {
        let mut grants = grants(&[1, 2, 3]);
        grants[1].user = Some("other".into());
        let (users, places) = distinct(&grants.iter().collect::<Vec<_>>());
        assert_eq!((users, places), (vec!["u", "other"], vec![0, 1, 0]));
    }

    #[test]
    fn a_cursor_that_fell_back_is_told_by_the_highest_serial() {
        let stand = Stand { open: vec![(3, 10)], ..Stand::default() };
        let mut found = Vec::new();
        cursor(&grants(&[1, 2, 3, 4]), &Compared { stand, ..Compared::default() }, &mut found);
        assert_eq!((found.len(), found[0].place.serial), (1, Some(4)));
    }
}
