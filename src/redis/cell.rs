//! A cell's identity, and the calls beside the claim path that check it.

use redis::Value;

use super::client::{Call, Link, Redis};
use super::fault::Fault;
use super::keys::{CellKeys, marked_template};
use super::scripts::Script;
use crate::domain::ids::{EntryId, Epoch, TemplateId};
use crate::domain::user::UserRef;
use crate::domain::window::Millis;

/// Which history of a cell a caller believes in: arguments 1 and 2 of every script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `master_replid` of the Redis that was opened.
    pub replid: Box<str>,
    pub epoch: Epoch,
}

/// What `cell_meta.lua` tells.
#[derive(Clone, Debug, Default)]
pub struct CellMeta {
    pub role: String,
    pub live_replid: String,
    /// 0: this Redis has no cell.
    pub epoch: Epoch,
    pub open: bool,
    /// The replication id that the last opening recorded.
    pub replid: String,
    pub clock: Millis,
    pub now: Millis,
    /// The queue's last entry ever, trimmed or not.
    pub last: EntryId,
    pub backlog: u64,
    /// The first entry that is still on the queue; `None`: all are trimmed.
    pub first: Option<EntryId>,
    /// Grants on the queue.
    pub queued: u64,
    /// When the oldest of them were granted.
    pub oldest: Option<Millis>,
    /// Quota limit and window in ms of user, IP and device, as the last opening set them.
    pub quotas: [(u64, u64); 3],
    /// Which installation opened this cell; empty before the first opening.
    pub install: String,
    /// A recovery has begun to wipe this cell and has not finished.
    pub wiping: bool,
    /// A recovery has wiped this cell and has not given everything back: its cursors tell how far it came.
    pub refilling: bool,
    /// Templates whose last grant may not be flushed, with that entry.
    pub marks: Vec<(TemplateId, EntryId)>,
}

/// A template as the cell has it, and what one user holds of it: `holdings.lua`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// 0: not loaded. 1 published, 2 paused, 3 stopped, 9 freed.
    pub state: u8,
    pub revision: i64,
    pub generation: u32,
    pub starts_at: Millis,
    pub ends_at: Millis,
    pub per_user: u32,
    pub per_user_daily: u32,
    pub daily: u64,
    pub quotas: bool,
    /// Serials that the cell can still grant.
    pub remaining: u64,
    /// The highest serial that the cell was ever given.
    pub given: u64,
    /// Start of the counted day, and grants in it.
    pub day: Millis,
    pub day_count: u64,
    pub receipts: Vec<Receipt>,
}

/// What Redis keeps of one grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub serial: u64,
    pub epoch: Epoch,
    pub acquired: Millis,
    pub claim_key_hash: u64,
}

/// Bytes of a packed [`Receipt`].
pub const RECEIPT_BYTES: usize = 21;

// === impl Identity ===

impl Identity {
    pub fn of(meta: &CellMeta) -> Option<Identity> {
        let is_this = meta.open && meta.epoch > 0 && meta.role == "master" && meta.replid == meta.live_replid;
        is_this.then(|| Identity { replid: meta.replid.as_str().into(), epoch: meta.epoch })
    }

    /// Arguments 1 and 2.
    pub fn put(&self, call: &mut Call) {
        call.arg(&*self.replid).arg(self.epoch);
    }
}

// === impl Receipt ===

impl Receipt {
    pub fn pack(&self) -> [u8; RECEIPT_BYTES] {
        let mut bytes = [0; RECEIPT_BYTES];
        bytes[0..5].copy_from_slice(&self.serial.to_be_bytes()[3..]);
        bytes[5..7].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[7..13].copy_from_slice(&(self.acquired as u64).to_be_bytes()[2..]);
        bytes[13..21].copy_from_slice(&self.claim_key_hash.to_be_bytes());
        bytes
    }

    pub fn unpack(bytes: &[u8; RECEIPT_BYTES]) -> Self {
        Receipt {
            serial: be(&bytes[0..5]),
            epoch: be(&bytes[5..7]) as Epoch,
            acquired: be(&bytes[7..13]) as Millis,
            claim_key_hash: be(&bytes[13..21]),
        }
    }

    fn unpack_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (chunks, rest) = bytes.as_chunks::<RECEIPT_BYTES>();
        rest.is_empty().then(|| chunks.iter().map(Self::unpack).collect())
    }
}

/// A big-endian number of up to 8 bytes.
pub fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads a cell's identity over a link of the caller's own.
pub async fn read_meta(link: &mut Link, keys: &CellKeys) -> Result<CellMeta, Fault> {
    parse_meta(link.call(&meta_call(keys)).await?)
}

/// Reads a cell's identity over a pooled connection.
pub async fn read_meta_pooled(redis: &Redis, keys: &CellKeys) -> Result<CellMeta, Fault> {
    parse_meta(redis.pooled(&meta_call(keys)).await?)
}

/// Reads templates as the cell has them and, for a user, what they hold: one [`Holding`] for each
/// of `templates`, and the time in Redis. A refusal of the identity is a [`Fault`].
pub async fn read_holdings(
    redis: &Redis,
    keys: &CellKeys,
    identity: &Identity,
    user: Option<&UserRef>,
    templates: &[TemplateId],
) -> Result<(Millis, Vec<Holding>), Fault> {
    let template_keys: Vec<_> = templates.iter().map(|id| keys.template(*id)).collect();
    let mut names = vec![keys.meta()];
    for template in &template_keys {
        names.extend([template.template(), template.receipts()]);
    }
    let mut call = Call::new(Script::Holdings, names.into_iter());
    identity.put(&mut call);
    call.arg(user.map_or("", UserRef::as_str));
    let mut reply = accepted(redis.pooled(&call).await?)?;
    let now = int(&reply.next().ok_or_else(short)?)?;
    let holdings = reply.map(parse_holding).collect::<Result<Vec<_>, _>>()?;
    if holdings.len() != templates.len() {
        return Err(short());
    }
    Ok((now, holdings))
}

/// The elements behind the leading 1 of a script's reply; a leading 0 is a refusal with a word.
pub fn accepted(reply: Value) -> Result<std::vec::IntoIter<Value>, Fault> {
    let Value::Array(elements) = reply else { return Err(Fault::reply("no array")) };
    let mut elements = elements.into_iter();
    match elements.next() {
        Some(Value::Int(1)) => Ok(elements),
        Some(Value::Int(0)) => Err(Fault::refused(&text(&elements.next().ok_or_else(short)?)?)),
        _ => Err(Fault::reply("no status")),
    }
}

/// An element as a whole number: an integer, or decimal digits.
pub fn int(value: &Value) -> Result<i64, Fault> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Fault::reply("no number")),
        _ => Err(Fault::reply("no number")),
    }
}

/// An element as text.
pub fn text(value: &Value) -> Result<String, Fault> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).map_err(|_| Fault::reply("no text")),
        Value::SimpleString(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        _ => Err(Fault::reply("no text")),
    }
}

pub fn short() -> Fault {
    Fault::reply("too short")
}

fn meta_call(keys: &CellKeys) -> Call {
    Call::new(Script::CellMeta, [keys.meta(), keys.queue()].into_iter())
}

fn parse_meta(reply: Value) -> Result<CellMeta, Fault> {
    let Value::Array(fields) = reply else { return Err(Fault::reply("no array")) };
    let [role, live, epoch, open, replid, clock, now, last, backlog, first, oldest, Value::Array(all)] =
        fields.as_slice()
    else {
        return Err(short());
    };
    let or_zero = |value: &Value| -> Result<i64, Fault> { if text(value)?.is_empty() { Ok(0) } else { int(value) } };
    let entry = |value: &Value| match text(value)?.as_str() {
        "" => Ok(None),
        id => EntryId::parse(id).ok_or_else(|| Fault::reply("no entry id")).map(Some),
    };
    let mut marks = Vec::new();
    let mut quotas = [(0, 0); 3];
    let (mut queued, mut install, mut recovery) = (0, String::new(), String::new());
    for pair in all.chunks_exact(2) {
        let (name, value) = (text(&pair[0])?, &pair[1]);
        let mut quota = |scope: usize, limit: bool| -> Result<(), Fault> {
            *(if limit { &mut quotas[scope].0 } else { &mut quotas[scope].1 }) = int(value)? as u64;
            Ok(())
        };
        match name.as_str() {
            "ul" => quota(0, true)?,
            "uw" => quota(0, false)?,
            "il" => quota(1, true)?,
            "iw" => quota(1, false)?,
            "dl" => quota(2, true)?,
            "dw" => quota(2, false)?,
            "queued" => queued = int(value)?.max(0) as u64,
            "install" => install = text(value)?,
            "wiping" => recovery = text(value)?,
            name => {
                if let Some(template) = marked_template(name) {
                    let entry = EntryId::parse(&text(value)?).ok_or_else(|| Fault::reply("no entry id"))?;
                    marks.push((template, entry));
                }
            }
        }
    }
    Ok(CellMeta {
        role: text(role)?,
        live_replid: text(live)?,
        epoch: or_zero(epoch)? as Epoch,
        open: text(open)? == "1",
        replid: text(replid)?,
        clock: or_zero(clock)?,
        now: int(now)?,
        last: entry(last)?.unwrap_or(EntryId::ZERO),
        backlog: int(backlog)? as u64,
        first: entry(first)?,
        queued,
        oldest: Some(or_zero(oldest)?).filter(|at| *at > 0),
        quotas,
        install,
        wiping: recovery == "1",
        refilling: recovery == "2",
        marks,
    })
}

fn parse_holding(value: Value) -> Result<Holding, Fault> {
    let Value::Array(fields) = value else { return Err(Fault::reply("no array")) };
    if fields.len() != 16 {
        return Err(short());
    }
    let number = |at: usize| match &fields[at] {
        Value::Nil => Ok(0),
        value => int(value),
    };
    if fields[0] == Value::Nil {
        return Ok(Holding::default());
    }
    let Value::BulkString(receipts) = &fields[15] else { return Err(short()) };
    let more = match &fields[11] {
        Value::Nil => 0,
        value => ranges_size(&text(value)?).ok_or_else(|| Fault::reply("no ranges"))?,
    };
    // A tombstone has no open range.
    let open = if fields[10] == Value::Nil { 0 } else { (number(10)? + 1 - number(9)?).max(0) as u64 };
    Ok(Holding {
        state: number(0)? as u8,
        revision: number(1)?,
        generation: number(2)? as u32,
        starts_at: number(3)?,
        ends_at: number(4)?,
        per_user: number(5)? as u32,
        per_user_daily: number(6)? as u32,
        daily: number(7)? as u64,
        quotas: number(8)? == 1,
        remaining: open + more,
        given: number(12)? as u64,
        day: number(13)?,
        day_count: number(14)? as u64,
        receipts: Receipt::unpack_all(receipts).ok_or_else(|| Fault::reply("no receipts"))?,
    })
}

/// Serials in `first-last,first-last,`.
fn ranges_size(text: &str) -> Option<u64> {
    text.split_terminator(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-')?;
        Some(sum + last.parse::<u64>().ok()?.checked_sub(first.parse::<u64>().ok()?)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_has_21_bytes() {
        let receipt =
            Receipt { serial: 1 << 39, epoch: 513, acquired: 1_800_000_000_123, claim_key_hash: u64::MAX - 1 };
        assert_eq!(Receipt::unpack(&receipt.pack()), receipt);
        assert_eq!(Receipt::unpack_all(&[receipt.pack(), receipt.pack()].concat()).unwrap().len(), 2);
        assert!(Receipt::unpack_all(&[0; 20]).is_none());
    }

    #[test]
    fn ranges_are_counted() {
        assert_eq!(ranges_size(""), Some(0));
        assert_eq!(ranges_size("1-5,11-20,"), Some(15));
        assert_eq!(ranges_size("5-1,"), None);
    }
}
