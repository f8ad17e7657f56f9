//! A template as the cell has it, to be compared with PostgreSQL; and single grants given back.

use redis::Value;

use super::cell::{Identity, RECEIPT_BYTES, Receipt, accepted, be, int, short, text};
use super::client::{Call, Redis};
use super::fault::Fault;
use super::keys::{CellKeys, TemplateKeys};
use super::scripts::Script;
use crate::domain::ids::{EntryId, Serial, TemplateId};
use crate::domain::window::Millis;

/// Where a template's stock stands in the cell, of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    pub now: Millis,
    /// The template's last entry, while it may be unflushed.
    pub mark: Option<EntryId>,
    /// 0: not loaded. 1 published, 2 paused, 3 stopped, 9 freed.
    pub state: u8,
    pub revision: i64,
    /// Serials that the cell can still grant, ascending.
    pub open: Vec<(Serial, Serial)>,
    /// The highest serial that the cell was ever given.
    pub given: Serial,
    /// Start of the counted day, and grants in it.
    pub day: Millis,
    pub day_count: u64,
}

/// What users hold, in the order in which they were asked for, and what quotas count of some rows.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    pub stand: Stand,
    pub receipts: Vec<Vec<Receipt>>,
    /// Of user, IP and device.
    pub quotas: [QuotaStamps; 3],
}

/// A quota's stamps for each row that was asked for.
#[derive(Clone, Debug, Default)]
pub struct QuotaStamps {
    pub limit: u64,
    pub window: Millis,
    pub period: i64,
    this: Vec<Vec<u8>>,
    before: Vec<Vec<u8>>,
}

/// The keys that a row counts for, in the order of the quotas; empty: none.
pub type QuotaKeys = [Vec<u8>; 3];

/// A grant that is given back to an open cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// None: it moves the cursor alone.
    pub user: Option<String>,
    pub receipt: Receipt,
    /// IP and device, where it counts in quotas.
    pub quotas: Option<(Option<u64>, Option<u64>)>,
}

/// Reads where a template stands, what `users` hold of it, and what quotas count for `rows`.
pub async fn read(
    redis: &Redis,
    keys: &CellKeys,
    identity: &Identity,
    template: TemplateId,
    users: &[&str],
    rows: &[QuotaKeys],
) -> Result<Compared, Fault> {
    let of = keys.template(template);
    let mut call = Call::new(Script::CompareRead, names(keys, &of).into_iter());
    identity.put(&mut call);
    call.arg(of.mark()).arg(users.len()).arg(rows.len());
    for user in users {
        call.arg(*user);
    }
    for scope in 0..3 {
        for row in rows {
            call.bytes(&row[scope]);
        }
    }
    let compared = parse(accepted(redis.pooled(&call).await?)?.collect())?;
    if compared.receipts.len() == users.len() { Ok(compared) } else { Err(short()) }
}

/// Gives grants back to an open cell, in ascending order of serials, and sees that the count of the day that
/// begins at `day` is not below `day_count`. Returns how many receipts were missing.
pub async fn mend(
    redis: &Redis,
    keys: &CellKeys,
    identity: &Identity,
    template: TemplateId,
    (day, day_count): (Millis, u64),
    grants: &[Mended],
) -> Result<u64, Fault> {
    let of = keys.template(template);
    let mut call = Call::new(Script::CellMend, names(keys, &of).into_iter());
    identity.put(&mut call);
    call.arg(day).arg(day_count).arg(grants.len());
    for grant in grants {
        let (ip, device) = grant.quotas.unwrap_or_default();
        let hash = |hash: Option<u64>| hash.map(u64::to_be_bytes);
        call.arg(grant.user.as_deref().unwrap_or_default()).bytes(&grant.receipt.pack());
        call.arg(u8::from(grant.quotas.is_some()));
        call.bytes(hash(ip).as_ref().map_or(&[], |bytes| bytes));
        call.bytes(hash(device).as_ref().map_or(&[], |bytes| bytes));
    }
    let reply = accepted(redis.pooled(&call).await?)?.next().ok_or_else(short)?;
    Ok(int(&reply)? as u64)
}

/// One step over everybody's receipts of a template: the next cursor (0: that was all), and what was found.
/// It checks no identity: whoever asks makes sure before and after.
pub async fn scan_receipts(
    redis: &Redis,
    keys: &CellKeys,
    template: TemplateId,
    cursor: u64,
    count: usize,
) -> Result<(u64, Vec<(String, Receipt)>), Fault> {
    let of = keys.template(template);
    let mut scan = redis::cmd("HSCAN");
    scan.arg(of.receipts()).arg(cursor).arg("COUNT").arg(count);
    let Value::Array(reply) = redis.command(&scan).await? else { return Err(Fault::reply("no scan")) };
    let [next, Value::Array(flat)] = reply.as_slice() else { return Err(short()) };
    let mut found = Vec::with_capacity(flat.len() / 2);
    for pair in flat.chunks_exact(2) {
        let user = text(&pair[0])?;
        found.extend(receipts(&pair[1])?.into_iter().map(|receipt| (user.clone(), receipt)));
    }
    Ok((int(next)? as u64, found))
}

fn names<'a>(keys: &'a CellKeys, template: &'a TemplateKeys) -> Vec<&'a str> {
    let quotas = keys.quotas().iter().map(|key| &**key);
    [keys.meta(), template.template(), template.receipts()].into_iter().chain(quotas).collect()
}

fn parse(reply: Vec<Value>) -> Result<Compared, Fault> {
    let [now, mark, Value::Array(fields), Value::Array(held), user, ip, device] = reply.as_slice() else {
        return Err(short());
    };
    let mark = text(mark)?;
    let mut stand = Stand { now: int(now)?, mark: EntryId::parse(&mark), ..Stand::default() };
    if mark.is_empty() == stand.mark.is_some() {
        return Err(Fault::reply("no entry id"));
    }
    let [state, revision, next, last, more, given, day, day_count] = fields.as_slice() else { return Err(short()) };
    let or_zero = |value: &Value| if *value == Value::Nil { Ok(0) } else { int(value) };
    stand.state = or_zero(state)? as u8;
    stand.revision = or_zero(revision)?;
    let open = (or_zero(next)? as u64, or_zero(last)? as u64);
    if *last != Value::Nil && open.0 <= open.1 {
        stand.open.push(open);
    }
    if *more != Value::Nil {
        for range in text(more)?.split_terminator(',') {
            let range = range.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
            stand.open.push(range.ok_or_else(|| Fault::reply("no ranges"))?);
        }
    }
    stand.given = or_zero(given)? as u64;
    stand.day = or_zero(day)?;
    stand.day_count = or_zero(day_count)? as u64;
    let held = held.iter().map(|value| if *value == Value::Nil { Ok(Vec::new()) } else { receipts(value) });
    let receipts = held.collect::<Result<_, _>>()?;
    Ok(Compared { stand, receipts, quotas: [stamps(user)?, stamps(ip)?, stamps(device)?] })
}

fn receipts(value: &Value) -> Result<Vec<Receipt>, Fault> {
    let Value::BulkString(bytes) = value else { return Err(Fault::reply("no receipts")) };
    let (chunks, rest) = bytes.as_chunks::<RECEIPT_BYTES>();
    if rest.is_empty() { Ok(chunks.iter().map(Receipt::unpack).collect()) } else { Err(Fault::reply("a torn receipt")) }
}

fn stamps(value: &Value) -> Result<QuotaStamps, Fault> {
    let Value::Array(parts) = value else { return Err(short()) };
    let [limit, window, period, Value::Array(this), Value::Array(before)] = parts.as_slice() else {
        return Err(short());
    };
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => Ok(bytes.clone()),
        _ => Err(Fault::reply("no stamps")),
    };
    Ok(QuotaStamps {
        limit: int(limit)? as u64,
        window: int(window)?,
        period: int(period)?,
        this: this.iter().map(bytes).collect::<Result<_, _>>()?,
        before: before.iter().map(bytes).collect::<Result<_, _>>()?,
    })
}

// === impl Stand ===

impl Stand {
    /// Whether the cell may grant this serial again.
    pub fn may_grant(&self, serial: Serial) -> bool {
        self.open.iter().any(|(first, last)| (*first..=*last).contains(&serial))
    }
}

// === impl QuotaStamps ===

impl QuotaStamps {
    /// Whether the quota counts a grant at `at` for the row; a grant outside of its window need not count.
    pub fn counts(&self, row: usize, at: Millis, now: Millis) -> bool {
        if self.limit == 0 || self.window == 0 || at <= now - self.window || at > now {
            return true;
        }
        let period = at.div_euclid(self.window);
        let stamps = match self.period - period {
            0 => self.this.get(row),
            1 => self.before.get(row),
            _ => return true,
        };
        let stamp = (at - period * self.window) as u64;
        stamps.is_some_and(|stamps| stamps.chunks_exact(4).any(|bytes| be(bytes) == stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_counts_what_is_stamped_in_its_period_and_nothing_is_asked_outside_of_the_window() {
        let stamp = |at: u32| at.to_be_bytes().to_vec();
        let quota = QuotaStamps {
            limit: 2,
            window: 1_000,
            period: 7,
            this: vec![[stamp(10), stamp(20)].concat(), Vec::new()],
            before: vec![stamp(900), Vec::new()],
        };
        assert!(quota.counts(0, 7_020, 7_100) && !quota.counts(1, 7_020, 7_100) && !quota.counts(0, 7_021, 7_100));
        assert!(quota.counts(0, 6_900, 7_100) && !quota.counts(0, 6_901, 7_100));
        assert!(quota.counts(1, 6_050, 7_100), "its window is over");
    }
}
