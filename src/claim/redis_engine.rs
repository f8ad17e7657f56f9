//! The engine that sells: batches over the Lua scripts, on one connection of its own.
//!
//! After a fault whose outcome is unknown the connection is dropped, so that no late answer can be
//! taken for another batch's; the next call connects anew.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use redis::Value;
use smallvec::SmallVec;

use super::engine::{
    Batch, BatchReply, Claim, Decision, Engine, Group, GroupReply, Held, LookupGroup, LookupGroupReply, LookupReply,
    Mismatch,
};
use crate::domain::ids::EntryId;
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::window::Millis;
use crate::grant::entry::encode_claim_record;
use crate::redis::cell::{CellMeta, Identity, be, int, read_meta, short, text};
use crate::redis::client::{Call, Link, Redis};
use crate::redis::fault::{Executed, Fault};
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;

/// One connection, made when it is needed.
pub struct RedisEngine {
    redis: Redis,
    keys: CellKeys,
    link: Option<Link>,
    /// Under which identity the link was last used. Another one means that Redis has restarted or was
    /// replaced: a batch sent into the old link would be lost, and its outcome unknown.
    served: Option<Identity>,
    /// Whether the last call was handed to the link.
    sent: bool,
    /// The records of one template's claims, one behind the other.
    records: Vec<u8>,
    seen: Seen,
}

/// Finds out whether anything stands twice in a batch, without allocating: a table of hashes, made anew
/// by a new turn. Two that are taken for one cost the script its short way, nothing else.
#[derive(Default)]
struct Seen {
    slots: Vec<(u32, u64)>,
    turn: u32,
    hasher: RandomState,
}

/// Reads the fields of a packed reply.
struct Reader<'a> {
    rest: &'a [u8],
}

// === impl RedisEngine ===

impl RedisEngine {
    pub fn new(redis: Redis, keys: CellKeys) -> Self {
        RedisEngine { redis, keys, link: None, served: None, sent: false, records: Vec::new(), seen: Seen::default() }
    }

    async fn send(&mut self, identity: &Identity, call: &Call) -> Result<Value, Fault> {
        if self.served.as_ref() != Some(identity) && self.served.replace(identity.clone()).is_some() {
            self.link = None;
        }
        // The link is out while the call is under way: a caller that gives up loses it.
        self.sent = false;
        let mut link = self.take_link().await?;
        self.sent = true;
        let result = link.call(call).await;
        self.keep(link, &result);
        result
    }

    async fn take_link(&mut self) -> Result<Link, Fault> {
        match self.link.take().filter(Link::is_current) {
            Some(link) => Ok(link),
            None => self.redis.link().await,
        }
    }

    fn keep<T>(&mut self, link: Link, result: &Result<T, Fault>) {
        let intact = match result {
            Ok(_) => true,
            // A replica stays one for longer than a claim can wait: the next link asks where the master is.
            Err(fault) => fault.executed == Executed::No && !matches!(fault.kind, "connect" | "readonly"),
        };
        if intact {
            self.link = Some(link);
        }
    }

    fn batch_call(&mut self, identity: &Identity, batch: &Batch) -> Call {
        let names = [self.keys.meta(), self.keys.queue()];
        let quotas = self.keys.quotas().iter().map(|key| &**key);
        let templates = batch.groups.iter().flat_map(|group| [group.keys.template(), group.keys.receipts()]);
        let names: Vec<&str> = names.into_iter().chain(quotas).chain(templates).collect();
        let mut call = Call::new(Script::ClaimBatch, names.into_iter());
        let under_quota: usize = batch.groups.iter().filter(|group| group.quotas).map(|group| group.claims.len()).sum();
        identity.put(&mut call);
        call.arg(batch.deadline).arg(batch.backlog_max).arg(batch.groups.len()).arg(under_quota);
        call.bytes(if self.seen.all_distinct(batch) { b"1" } else { b"0" });
        for group in &batch.groups {
            call.arg(group.keys.mark()).bytes(&group.template.0.to_be_bytes()).arg(group.claims.len());
            call.arg(group.day.start).arg(group.day.end);
            self.records.clear();
            for claim in &group.claims {
                let Claim { user, claim_key_hash, .. } = claim;
                let (ip, device) = places(group, claim);
                encode_claim_record(&mut self.records, *claim_key_hash, user.as_bytes(), ip, device);
            }
            call.bytes(&self.records);
        }
        for claim in batch.groups.iter().flat_map(|group| &group.claims) {
            call.bytes(claim.user.as_bytes());
        }
        let quota_keys: [fn(&Claim) -> Option<u64>; 2] = [|claim| claim.ip, |claim| claim.device];
        for key_of in quota_keys {
            for claim in batch.groups.iter().filter(|group| group.quotas).flat_map(|group| &group.claims) {
                match key_of(claim) {
                    Some(hash) => call.bytes(&hash.to_be_bytes()),
                    None => call.bytes(b""),
                };
            }
        }
        call
    }

    fn lookup_call(&self, identity: &Identity, groups: &[LookupGroup]) -> Call {
        let mut names = vec![self.keys.meta()];
        names.extend(groups.iter().flat_map(|group| [group.keys.template(), group.keys.receipts()]));
        let mut call = Call::new(Script::LookupBatch, names.into_iter());
        identity.put(&mut call);
        call.arg(groups.len());
        for group in groups {
            call.arg(group.claims.len());
        }
        for (user, _) in groups.iter().flat_map(|group| &group.claims) {
            call.bytes(user.as_bytes());
        }
        for (_, key) in groups.iter().flat_map(|group| &group.claims) {
            call.bytes(&key.to_be_bytes());
        }
        call
    }
}

impl Engine for RedisEngine {
    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        let mut link = self.take_link().await?;
        let meta = read_meta(&mut link, &self.keys).await;
        if meta.is_ok() {
            // Whoever serves now, this link leads there.
            self.served = None;
        }
        if meta.as_ref().is_ok_and(|meta| meta.role == "master") {
            self.keep(link, &meta);
        }
        meta
    }

    async fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        let call = self.batch_call(identity, batch);
        parse_batch_reply(self.send(identity, &call).await?, batch)
    }

    async fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
        let call = self.lookup_call(identity, groups);
        parse_lookup_reply(self.send(identity, &call).await?, groups)
    }

    fn sent(&self) -> bool {
        self.sent
    }

    fn another(&self) -> Self {
        RedisEngine::new(self.redis.clone(), self.keys.clone())
    }
}

/// Address and device as the claim's record has them: none where the template has no quotas.
fn places(group: &Group, claim: &Claim) -> (Option<u64>, Option<u64>) {
    if group.quotas { (claim.ip, claim.device) } else { (None, None) }
}

fn parse_batch_reply(reply: Value, batch: &Batch) -> Result<BatchReply, Fault> {
    let Value::Array(elements) = reply else { return Err(Fault::reply("no array")) };
    match elements.first() {
        Some(Value::Int(0)) => {
            let reason = Mismatch::of(&text(elements.get(1).ok_or_else(short)?)?);
            let now = elements.get(2).map(int).transpose()?;
            return Ok(BatchReply::NotExecuted { reason, now });
        }
        Some(Value::Int(1)) if elements.len() == 4 + batch.groups.len() => {}
        _ => return Err(short()),
    }
    let mut groups = Vec::with_capacity(batch.groups.len());
    for (group, element) in batch.groups.iter().zip(&elements[4..]) {
        let Value::BulkString(bytes) = element else { return Err(Fault::reply("no group")) };
        groups.push(parse_group(bytes, group.claims.len()).ok_or_else(|| Fault::reply("no group reply"))?);
    }
    Ok(BatchReply::Executed {
        now: int(&elements[1])?,
        last: entry_id(&elements[2])?.unwrap_or(EntryId::ZERO),
        entry: entry_id(&elements[3])?,
        groups,
    })
}

fn entry_id(value: &Value) -> Result<Option<EntryId>, Fault> {
    match text(value)?.as_str() {
        "" => Ok(None),
        id => EntryId::parse(id).map(Some).ok_or_else(|| Fault::reply("no entry id")),
    }
}

fn parse_group(bytes: &[u8], claims: usize) -> Option<GroupReply> {
    let mut reader = Reader { rest: bytes };
    let revision = reader.number(4)? as u32;
    let generation = reader.number(4)? as u32;
    let decisions = match reader.number(1)? {
        status @ (0 | 1) => {
            let runs = reader.number(2)?;
            let runs: SmallVec<[_; 2]> = (0..runs).map(|_| reader.run()).collect::<Option<_>>()?;
            let mut serials = runs.into_iter().flatten();
            let decisions = match status {
                0 => (0..claims).map(|_| reader.decision(&mut serials)).collect::<Option<Vec<_>>>()?,
                _ => serials.by_ref().map(Decision::Granted).collect(),
            };
            if decisions.len() != claims || serials.next().is_some() {
                return None;
            }
            decisions
        }
        2 => return Some(GroupReply::DayMoved),
        3 => return Some(GroupReply::NotLoaded),
        _ => return None,
    };
    reader.rest.is_empty().then_some(GroupReply::Decided { revision, generation, decisions })
}

fn parse_lookup_reply(reply: Value, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
    let Value::Array(elements) = reply else { return Err(Fault::reply("no array")) };
    match elements.first() {
        Some(Value::Int(0)) => {
            return Ok(LookupReply::NotExecuted(Mismatch::of(&text(elements.get(1).ok_or_else(short)?)?)));
        }
        Some(Value::Int(1)) if elements.len() == 3 + groups.len() => {}
        _ => return Err(short()),
    }
    let mut replies = Vec::with_capacity(groups.len());
    for (group, element) in groups.iter().zip(&elements[3..]) {
        let Value::BulkString(bytes) = element else { return Err(Fault::reply("no group")) };
        replies.push(parse_lookup_group(bytes, group.claims.len()).ok_or_else(|| Fault::reply("no group reply"))?);
    }
    Ok(LookupReply::Executed {
        now: int(&elements[1])?,
        last: entry_id(&elements[2])?.unwrap_or(EntryId::ZERO),
        groups: replies,
    })
}

fn parse_lookup_group(bytes: &[u8], claims: usize) -> Option<LookupGroupReply> {
    let mut reader = Reader { rest: bytes };
    match reader.number(1)? {
        0 => {
            let mut found = Vec::with_capacity(claims);
            for _ in 0..claims {
                found.push(if reader.number(1)? == 0 { None } else { Some(reader.held()?) });
            }
            reader.rest.is_empty().then_some(LookupGroupReply::Found(found))
        }
        3 => Some(LookupGroupReply::NotLoaded),
        9 => Some(LookupGroupReply::Freed),
        _ => None,
    }
}

// === impl Seen ===

impl Seen {
    /// Whether no user, address or device stands twice among the claims. `false` may be a mistake.
    fn all_distinct(&mut self, batch: &Batch) -> bool {
        let claims = batch.groups.iter().map(|group| group.claims.len()).sum::<usize>();
        let size = (claims * 8).next_power_of_two();
        if self.slots.len() < size {
            self.slots = vec![(0, 0); size];
            self.turn = 0;
        }
        self.turn = self.turn.checked_add(1).unwrap_or_else(|| {
            self.slots.fill((0, 0));
            1
        });
        for group in &batch.groups {
            for claim in &group.claims {
                let (ip, device) = places(group, claim);
                let user = self.hasher.hash_one(claim.user.as_bytes());
                let places = [(1u8, ip), (2, device)].into_iter().filter_map(|(kind, hash)| {
                    // An address and a device may have one hash and are not the same.
                    Some(hash?.rotate_left(kind.into()))
                });
                for hash in std::iter::once(user).chain(places) {
                    if !insert(&mut self.slots, self.turn, hash) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// Whether `hash` was not there yet. The table is never more than half full.
fn insert(slots: &mut [(u32, u64)], turn: u32, hash: u64) -> bool {
    let mask = slots.len() - 1;
    let mut at = hash as usize & mask;
    loop {
        if slots[at].0 != turn {
            slots[at] = (turn, hash);
            return true;
        }
        if slots[at].1 == hash {
            return false;
        }
        at = (at + 1) & mask;
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let (head, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(be(head))
    }

    fn held(&mut self) -> Option<Held> {
        Some(Held { serial: self.number(5)?, epoch: self.number(2)? as u16, acquired: self.number(6)? as Millis })
    }

    /// Serials that follow on each other.
    fn run(&mut self) -> Option<Range<u64>> {
        let (first, count) = (self.number(5)?, self.number(2)?);
        Some(first..first + count)
    }

    /// One claim's record. Grants take their serials in order.
    fn decision(&mut self, serials: &mut impl Iterator<Item = u64>) -> Option<Decision> {
        Some(match ClaimOutcome::from_number(self.number(1)? as u8)? {
            ClaimOutcome::Granted => Decision::Granted(serials.next()?),
            ClaimOutcome::Replayed => Decision::Replayed(self.held()?),
            ClaimOutcome::UserLimitReached => {
                let count = self.number(1)?;
                Decision::UserLimit((0..count).map(|_| self.held()).collect::<Option<Vec<_>>>()?)
            }
            ClaimOutcome::QuotaExceeded => Decision::Quota {
                scope: match self.number(1)? {
                    1 => Scope::User,
                    2 => Scope::Ip,
                    3 => Scope::Device,
                    _ => return None,
                },
                until: self.number(6)? as Millis,
            },
            other => Decision::Refused(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{CellId, TemplateId};
    use crate::domain::user::UserRef;
    use crate::domain::window::Day;

    fn batch(claims: &[(&str, Option<u64>, Option<u64>)], quotas: bool) -> Batch {
        let claim = |(user, ip, device): &(&str, _, _)| Claim {
            user: UserRef::from_store(user).unwrap(),
            claim_key_hash: 7,
            ip: *ip,
            device: *device,
        };
        let group = Group {
            template: TemplateId(1),
            keys: CellKeys::new(CellId(0)).template(TemplateId(1)),
            quotas,
            day: Day { start: 0, end: 0 },
            claims: claims.iter().map(claim).collect(),
        };
        Batch { deadline: 0, backlog_max: 0, groups: vec![group] }
    }

    #[test]
    fn what_stands_twice_is_seen() {
        let mut seen = Seen::default();
        for _ in 0..3 {
            assert!(seen.all_distinct(&batch(&[("a", Some(5), Some(6)), ("b", Some(6), Some(5))], true)));
            assert!(!seen.all_distinct(&batch(&[("a", None, None), ("b", None, None), ("a", None, None)], false)));
            assert!(!seen.all_distinct(&batch(&[("a", Some(5), None), ("b", Some(5), None)], true)));
            assert!(!seen.all_distinct(&batch(&[("a", None, Some(0)), ("b", None, Some(0))], true)));
            assert!(seen.all_distinct(&batch(&[("a", Some(5), None), ("b", Some(5), None)], false)), "no quotas");
        }
        let many: Vec<String> = (0..1000).map(|user| user.to_string()).collect();
        let claims: Vec<_> = many.iter().map(|user| (user.as_str(), None, None)).collect();
        assert!(seen.all_distinct(&batch(&claims, false)));
        seen.turn = u32::MAX;
        assert!(seen.all_distinct(&batch(&claims, false)), "turns begin anew");
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let head = [0, 0, 0, 5, 0, 0, 0, 2];
        let whole = [&head[..], &[0, 0, 1, 0, 0, 0, 0, 9, 0, 1, 1, 24]].concat();
        assert_eq!(
            parse_group(&whole, 2),
            Some(GroupReply::Decided {
                revision: 5,
                generation: 2,
                decisions: vec![Decision::Granted(9), Decision::Refused(ClaimOutcome::SoldOut)]
            })
        );
        assert_eq!(parse_group(&whole, 3), None, "a claim without a record");
        assert_eq!(parse_group(&whole, 1), None, "a record without a claim");
        let runs = [&head[..], &[1, 0, 2, 0, 0, 0, 0, 7, 0, 2, 0, 0, 0, 0, 20, 0, 1]].concat();
        let Some(GroupReply::Decided { decisions, .. }) = parse_group(&runs, 3) else { panic!() };
        assert_eq!(decisions, [7, 8, 20].map(Decision::Granted));
        assert_eq!(parse_group(&runs, 2), None, "a serial without a claim");
        assert_eq!(parse_group(&runs, 4), None, "a claim without a serial");
        assert_eq!(parse_group(&[&head[..], &[2]].concat(), 2), Some(GroupReply::DayMoved));
    }
}
