//! Entries read behind the watermark, and trimmed up to it.
//!
//! An entry may be read many times and is stored once. It is trimmed after the commit that stores
//! it, never before, so a crash at any line costs a repeat, not a coupon.

use std::time::Duration;

use redis::Value;
use tokio_postgres::Client;

use super::cells;
use crate::domain::ids::{CellId, EntryId, Epoch, TemplateId};
use crate::domain::window::Millis;
use crate::limits;
use crate::pg::PgFault;
use crate::redis::cell::{Identity, accepted, int, short, text};
use crate::redis::client::{Call, Link};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;

/// One entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    pub id: EntryId,
    /// The packed grants. A marker has none; what is no entry of ours shows as empty.
    pub payload: Vec<u8>,
}

/// What one read found.
#[derive(Debug)]
pub struct Read {
    pub now: Millis,
    /// Entries on the queue in all, trimmed or not yet.
    pub length: u64,
    pub entries: Vec<QueueEntry>,
}

/// Calls a script and gives up after `timeout`; the link is broken after any fault but a refusal.
pub async fn ask(link: &mut Link, call: &Call, timeout: Duration) -> Result<Value, Fault> {
    tokio::time::timeout(timeout, link.call(call)).await.unwrap_or_else(|_| Err(Fault::timeout()))
}

/// Reads at most `count` entries behind `after`.
pub async fn read(
    link: &mut Link,
    keys: &CellKeys,
    identity: &Identity,
    after: EntryId,
    count: usize,
    timeout: Duration,
) -> Result<Read, Fault> {
    let mut call = Call::new(Script::QueueRead, [keys.meta(), keys.queue()].into_iter());
    identity.put(&mut call);
    call.arg(after.to_string()).arg(count);
    let mut reply = accepted(ask(link, &call, timeout).await?)?;
    let now = int(&reply.next().ok_or_else(short)?)?;
    let length = int(&reply.next().ok_or_else(short)?)? as u64;
    let Some(Value::Array(entries)) = reply.next() else { return Err(short()) };
    let entries = entries.into_iter().map(parse_entry).collect::<Result<_, _>>()?;
    Ok(Read { now, length, entries })
}

/// Trims the queue to `watermark`, which holds `grants` grants, and clears the marks of `templates`
/// that it covers.
pub async fn trim(
    link: &mut Link,
    keys: &CellKeys,
    identity: &Identity,
    watermark: EntryId,
    templates: &[TemplateId],
    mut grants: usize,
    timeout: Duration,
) -> Result<(), Fault> {
    let mut from = 0;
    loop {
        let until = templates.len().min(from + limits::TRIM_MARKS_MAX);
        let call = trim_call(keys, identity, watermark, &templates[from..until], std::mem::take(&mut grants));
        accepted(ask(link, &call, timeout).await?)?;
        if until == templates.len() {
            return Ok(());
        }
        from = until;
    }
}

fn trim_call(
    keys: &CellKeys,
    identity: &Identity,
    watermark: EntryId,
    templates: &[TemplateId],
    grants: usize,
) -> Call {
    let keep = EntryId::new(watermark.epoch, watermark.seq + 1);
    let mut call = Call::new(Script::QueueTrim, [keys.meta(), keys.queue()].into_iter());
    identity.put(&mut call);
    call.arg(watermark.epoch).arg(watermark.seq).arg(keep.to_string()).arg(grants);
    for template in templates {
        call.arg(keys.template(*template).mark());
    }
    call
}

/// How many of `entries` follow on `after` without a gap, as [`contiguous`] says. Asks PostgreSQL
/// only where a marker is among them.
pub async fn follow(client: &Client, cell: CellId, after: EntryId, entries: &[QueueEntry]) -> Result<usize, PgFault> {
    let mut finals = Vec::new();
    for entry in entries.iter().filter(|entry| entry.id.is_marker()) {
        let ended = cells::final_before(client, cell, entry.id.epoch).await?;
        finals.extend(ended.map(|ended| (entry.id.epoch, ended)));
    }
    Ok(contiguous(after, entries, |epoch| finals.iter().find(|(known, _)| *known == epoch).map(|(_, ended)| *ended)))
}

/// How many of `entries` follow on `after` without a gap.
///
/// An entry follows with the next sequence of the same epoch, or as the marker of a later epoch
/// before which the history ended exactly here; `final_before` tells where it ended.
pub fn contiguous(after: EntryId, entries: &[QueueEntry], final_before: impl Fn(Epoch) -> Option<EntryId>) -> usize {
    let mut at = after;
    for (position, entry) in entries.iter().enumerate() {
        let follows = if entry.id.is_marker() {
            entry.id.epoch > at.epoch && final_before(entry.id.epoch) == Some(at)
        } else {
            entry.id.epoch == at.epoch && Some(entry.id.seq) == at.seq.checked_add(1)
        };
        if !follows {
            return position;
        }
        at = entry.id;
    }
    entries.len()
}

/// Reads one element of an XRANGE reply: an id and a flat list of fields.
pub fn parse_entry(value: Value) -> Result<QueueEntry, Fault> {
    let Value::Array(pair) = value else { return Err(Fault::reply("no entry")) };
    let mut pair = pair.into_iter();
    let (Some(id), Some(Value::Array(fields))) = (pair.next(), pair.next()) else { return Err(short()) };
    let id = EntryId::parse(&text(&id)?).ok_or_else(|| Fault::reply("no entry id"))?;
    let mut fields = fields.into_iter();
    let payload = match (fields.next(), fields.next()) {
        (Some(Value::BulkString(name)), Some(Value::BulkString(payload))) if name == b"g" => payload,
        _ => Vec::new(),
    };
    Ok(QueueEntry { id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(ids: &[&str]) -> Vec<QueueEntry> {
        ids.iter().map(|id| QueueEntry { id: EntryId::parse(id).unwrap(), payload: Vec::new() }).collect()
    }

    #[test]
    fn a_gap_and_a_foreign_marker_stop_the_reader() {
        let id = |text| EntryId::parse(text).unwrap();
        // Epoch 2 began after 1-3; epoch 4 after 2-1; epoch 3 was never opened.
        let final_before = |epoch| match epoch {
            2 => Some(id("1-3")),
            4 => Some(id("2-1")),
            _ => None,
        };
        let run = |after, ids: &[&str]| contiguous(id(after), &entries(ids), final_before);
        assert_eq!(run("1-1", &["1-2", "1-3", "2-0", "2-1", "4-0", "4-1"]), 6);
        assert_eq!(run("1-1", &["1-3"]), 0);
        assert_eq!(run("1-1", &["1-2", "2-0"]), 1);
        assert_eq!(run("1-3", &["2-1"]), 0);
        assert_eq!(run("2-1", &["3-0"]), 0);
        assert_eq!(run("2-1", &["2-0"]), 0);
        assert_eq!(run("0-0", &[]), 0);
    }
}
