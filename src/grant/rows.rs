//! Grants as rows of `user_coupons`.

use super::entry::{BadEntry, Grant};
use super::terms::{Terms, TermsCache};
use crate::domain::ids::{EntryId, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::pg::copy::CopyRows;

/// An entry, taken apart as far as it can be.
pub(super) struct Decoded<'a> {
    pub id: EntryId,
    pub payload: &'a [u8],
    pub grants: Result<Vec<Row<'a>>, BadEntry>,
}

/// A grant as a row of `user_coupons`, or the word for why it cannot be one.
pub struct Row<'a> {
    pub grant: Grant<'a>,
    pub span: Span,
}

/// When a coupon is valid, `[from, until)`; or the word for why its grant cannot be a row.
pub type Span = Result<(Millis, Millis), &'static str>;

/// Ten fields with their lengths, and a user reference of 20 to 107 bytes.
const ROW_BYTES: usize = 160;

/// A template's terms, and what they come to for one entry.
type Known = Result<(Terms, (Millis, Millis)), &'static str>;

/// Turns grants into rows, with the terms that were loaded.
pub(super) fn rows<'a>(grants: Vec<Grant<'a>>, terms: &TermsCache) -> Vec<Row<'a>> {
    // All grants of an entry have one time: the span is reckoned once a template.
    let mut last: Option<(TemplateId, Known)> = None;
    let mut rows = Vec::with_capacity(grants.len());
    for grant in grants {
        let known = match last {
            Some((template, known)) if template == grant.template => known,
            _ => terms.get(grant.template).map(|terms| (terms, terms.span(grant.acquired))),
        };
        last = Some((grant.template, known));
        let span = match known {
            _ if !is_user(grant.user) => Err("no_user_reference"),
            Ok((terms, ..)) if !terms.has(grant.serial) => Err("serial_beyond_stock"),
            Ok((_, span)) => Ok(span),
            Err(reason) => Err(reason),
        };
        rows.push(Row { grant, span });
    }
    rows
}

/// The rows of many entries, packed for one COPY.
pub(super) fn pack(entries: &[&[Row<'_>]]) -> CopyRows {
    let mut copy = CopyRows::with_capacity(entries.iter().map(|rows| rows.len()).sum::<usize>() * ROW_BYTES);
    entries.iter().for_each(|rows| pack_into(&mut copy, rows));
    copy
}

/// Packs the grants that can be rows, in the columns of `copy_coupons.sql`.
fn pack_into(copy: &mut CopyRows, rows: &[Row<'_>]) {
    for Row { grant, span } in rows {
        let Ok((from, until)) = *span else { continue };
        copy.row(10)
            .int4(grant.template.as_i32())
            .int8(grant.serial as i64)
            .int4(grant.epoch.into())
            .text(grant.user)
            .int8(grant.claim_key_hash as i64)
            .int8_or_null(grant.ip_hash.map(|hash| hash as i64))
            .int8_or_null(grant.device_hash.map(|hash| hash as i64))
            .time(grant.acquired)
            .time(from)
            .time(until);
    }
}

/// Whether the bytes are a user reference.
pub(super) fn is_user(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| UserRef::from_store(text).is_some())
}
