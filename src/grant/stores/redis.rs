//! The cell's scripts, over one connection to Redis.

use std::time::Duration;

use redis::Value;

use super::{CellLink, Quotas, StoredGrant};
use crate::catalog::publish::{Put, TemplateRow, put_answer, put_call};
use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::window::{Day, Millis};
use crate::grant::given::{Given, Holders};
use crate::grant::queue::{QueueEntry, Read};
use crate::limits;
use crate::redis::cell::{CellMeta, Identity, accepted, int, read_meta, short, text};
use crate::redis::client::{Call, Link};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;
use crate::redis::wire::Packed;

/// A link and the keys of the cell that it is used for.
pub struct RedisCell {
    link: Link,
    keys: CellKeys,
    /// Of one call.
    timeout: Duration,
    /// Redis' time when its meta was read last: it is not earlier now.
    seen: Millis,
    /// The template that is being given back, and who of it may hold something.
    holders: Option<(TemplateId, Holders)>,
}

/// Redis' clock may be set back by a second and still decide; twice that is on the safe side.
const CLOCK_CARE_MS: Millis = 2_000;

/// Entries and keys that one call reads.
const SCAN_COUNT: usize = 500;

// === impl RedisCell ===

impl RedisCell {
    pub fn new(link: Link, keys: CellKeys, timeout: Duration) -> Self {
        RedisCell { link, keys, timeout, seen: 0, holders: None }
    }

    async fn ask(&mut self, call: &Call) -> Result<Value, Fault> {
        tokio::time::timeout(self.timeout, self.link.call(call)).await.unwrap_or_else(|_| Err(Fault::timeout()))
    }

    /// Commands in one go, and the last one's answer. Over this connection alone: another one may lead to another Redis.
    async fn plain(&mut self, commands: &[&redis::Cmd]) -> Result<Value, Fault> {
        let mut packed = Packed::default();
        commands.iter().for_each(|command| packed.command(command));
        let all = tokio::time::timeout(self.timeout, self.link.send(Script::CellMeta, &packed)).await;
        all.unwrap_or_else(|_| Err(Fault::timeout()))?.pop().ok_or_else(short)
    }

    fn trim_call(&self, identity: &Identity, watermark: EntryId, templates: &[TemplateId], grants: usize) -> Call {
        let keep = EntryId::new(watermark.epoch, watermark.seq + 1);
        let mut call = Call::new(Script::QueueTrim, [self.keys.meta(), self.keys.queue()].into_iter());
        identity.put(&mut call);
        call.arg(watermark.epoch).arg(watermark.seq).arg(keep.to_string()).arg(grants);
        for template in templates {
            call.arg(self.keys.template(*template).mark());
        }
        call
    }
}

impl CellLink for RedisCell {
    fn is_current(&self) -> bool {
        self.link.is_current()
    }

    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        let read = tokio::time::timeout(self.timeout, read_meta(&mut self.link, &self.keys)).await;
        let meta = read.unwrap_or_else(|_| Err(Fault::timeout()))?;
        self.seen = meta.now;
        Ok(meta)
    }

    async fn close(&mut self, identity: &Identity) -> Result<(), Fault> {
        let mut call = Call::new(Script::CellClose, [self.keys.meta()].into_iter());
        call.arg(identity.epoch).arg(&*identity.replid);
        accepted(self.ask(&call).await?).map(drop)
    }

    async fn open(&mut self, identity: &Identity, quotas: &Quotas, install: &str) -> Result<(), Fault> {
        let mut names = vec![self.keys.meta(), self.keys.queue()];
        names.extend(self.keys.quotas().iter().map(|key| &**key));
        let mut call = Call::new(Script::CellOpen, names.into_iter());
        identity.put(&mut call);
        put_quotas(&mut call, quotas);
        call.arg(install);
        accepted(self.ask(&call).await?).map(drop)
    }

    async fn put(&mut self, identity: &Identity, row: &TemplateRow) -> Result<Put, Fault> {
        let call = put_call(&self.keys, identity, false, row);
        put_answer(self.ask(&call).await?)
    }

    async fn reapply(
        &mut self,
        identity: &Identity,
        template: &TemplateRow,
        day: Day,
        quotas: &Quotas,
        rows: &[StoredGrant],
    ) -> Result<Serial, Fault> {
        let window = quotas.iter().map(|(_, window)| *window as Millis).max().unwrap_or_default();
        // Of a template that nobody holds anything of, only those hold something who were given it here.
        let known = self.holders.take().filter(|(id, _)| *id == template.id && !rows.is_empty());
        let timeout = self.timeout * (rows.len() / limits::REAPPLY_ROWS_MAX + 1) as u32;
        let mut holders = match known {
            Some((_, holders)) => holders,
            None => {
                let keys = self.keys.template(template.id);
                let exists = self.plain(&[redis::cmd("EXISTS").arg(keys.receipts())]).await?;
                if int(&exists)? == 0 { Holders::nobody() } else { Holders::anybody() }
            }
        };
        let given = Given {
            keys: &self.keys,
            identity,
            template: template.id,
            day,
            quotas: *quotas,
            counted_since: template.definition.quotas.then_some(self.seen - window - CLOCK_CARE_MS),
        };
        let give = tokio::time::timeout(timeout, given.give(&mut self.link, rows, &mut holders));
        let cursor = give.await.unwrap_or_else(|_| Err(Fault::timeout()))?;
        self.holders = Some((template.id, holders));
        if rows.last().is_some_and(|last| cursor != last.receipt.serial + 1) {
            return Err(Fault::reply("rows that were given back were passed over"));
        }
        Ok(cursor)
    }

    async fn read(&mut self, identity: &Identity, after: EntryId, count: usize) -> Result<Read, Fault> {
        let mut call = Call::new(Script::QueueRead, [self.keys.meta(), self.keys.queue()].into_iter());
        identity.put(&mut call);
        call.arg(after.to_string()).arg(count);
        let mut reply = accepted(self.ask(&call).await?)?;
        let now = int(&reply.next().ok_or_else(short)?)?;
        let length = int(&reply.next().ok_or_else(short)?)? as u64;
        let Some(Value::Array(entries)) = reply.next() else { return Err(short()) };
        let entries = entries.into_iter().map(parse_entry).collect::<Result<_, _>>()?;
        Ok(Read { now, length, entries })
    }

    async fn queue_behind(&mut self, after: EntryId) -> Result<Vec<QueueEntry>, Fault> {
        let mut range = redis::cmd("XRANGE");
        range.arg(self.keys.queue()).arg(format!("({after}")).arg("+").arg("COUNT").arg(SCAN_COUNT);
        let Value::Array(entries) = self.plain(&[&range]).await? else { return Err(Fault::reply("no entries")) };
        entries.into_iter().map(parse_entry).collect()
    }

    async fn wipe(&mut self, identity: &Identity) -> Result<(), Fault> {
        // Marked, unless somebody else has closed it since it was looked at.
        self.plain(&[redis::cmd("WATCH").arg(self.keys.meta())]).await?;
        let meta = self.meta().await?;
        if meta.live_replid != *identity.replid || meta.epoch != identity.epoch || meta.open {
            return Err(Fault::refused("it is not the Redis that was closed"));
        }
        let marked = self
            .plain(&[
                &redis::cmd("MULTI"),
                redis::cmd("HSET").arg(self.keys.meta()).arg("wiping").arg("1"),
                &redis::cmd("EXEC"),
            ])
            .await?;
        if marked == Value::Nil {
            return Err(Fault::refused("the cell was changed while it was to be wiped"));
        }
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.keys.pattern()).arg("COUNT").arg(SCAN_COUNT);
            let Value::Array(reply) = self.plain(&[&scan]).await? else { return Err(Fault::reply("no scan")) };
            let [next, Value::Array(found)] = reply.as_slice() else { return Err(short()) };
            let names = found.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            let others: Vec<_> = names.iter().filter(|name| *name != self.keys.meta()).collect();
            if !others.is_empty() {
                int(&self.plain(&[redis::cmd("UNLINK").arg(others)]).await?)?;
            }
            cursor = text(next)?;
            if cursor == "0" {
                let (mut unlink, mut mark) = (redis::cmd("UNLINK"), redis::cmd("HSET"));
                unlink.arg(self.keys.meta());
                mark.arg(self.keys.meta()).arg("wiping").arg("2");
                let commands = [&redis::cmd("MULTI"), &unlink, &mark, &redis::cmd("EXEC")];
                return self.plain(&commands).await.map(drop);
            }
        }
    }

    async fn trim(
        &mut self,
        identity: &Identity,
        watermark: EntryId,
        templates: &[TemplateId],
        mut grants: usize,
    ) -> Result<(), Fault> {
        let mut from = 0;
        loop {
            let until = templates.len().min(from + limits::TRIM_MARKS_MAX);
            let call = self.trim_call(identity, watermark, &templates[from..until], std::mem::take(&mut grants));
            accepted(self.ask(&call).await?)?;
            if until == templates.len() {
                return Ok(());
            }
            from = until;
        }
    }
}

/// Quotas as arguments of a script.
fn put_quotas(call: &mut Call, quotas: &Quotas) {
    for (limit, window) in quotas {
        call.arg(*limit).arg(*window);
    }
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
