//! A chunk of rows that a closed cell is given back.
//!
//! Receipts are what there is most of. They are written by one plain HSET, the rest by `cell_reapply.lua` in the same
//! MULTI. What would stand against it is asked before, with meta and template watched: whoever closes the cell
//! anew, or moves the cursor, meanwhile, makes EXEC do nothing. A chunk is one value for each user; what
//! they hold already stays, and a receipt that is there is not written again. Users who cannot hold anything
//! are not asked for.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use redis::Value;

use super::stores::{Quotas, StoredGrant};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::window::{Day, Millis};
use crate::faults::{self, Bug};
use crate::limits::{REAPPLY_ROWS_MAX, REAPPLY_USERS_MAX};
use crate::redis::cell::{Identity, RECEIPT_BYTES, accepted, int, short};
use crate::redis::client::{Call, Link};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;
use crate::redis::wire::Packed;

/// What every chunk of one template goes with.
pub struct Given<'a> {
    pub keys: &'a CellKeys,
    pub identity: &'a Identity,
    pub template: TemplateId,
    /// The template's local day.
    pub day: Day,
    pub quotas: Quotas,
    /// Rows up to it lie in no quota's window; `None`: the template counts in no quota.
    pub counted_since: Option<Millis>,
}

/// Who may hold receipts of the template that is given back.
pub struct Holders {
    /// Hashes of those who were given something; none: anybody may hold something.
    known: Option<HashSet<u64, ByHash>>,
    keys: RandomState,
}

/// Grants on their way: at most [`REAPPLY_ROWS_MAX`].
pub struct Chunk<'a> {
    first: Serial,
    receipts: String,
    /// Of those who hold nothing else, one each.
    alone: Vec<&'a StoredGrant>,
    /// What those have who may hold something, or come twice.
    asked: Vec<(&'a str, Receipts)>,
    look: Packed,
    /// What writes them, where nobody holds anything.
    likely: Packed,
    call: Call,
}

/// What a look at the cell came to.
pub enum Look {
    /// The cursor stands behind the first of the grants: nothing is to be done.
    Stands(Serial),
    /// Nothing stands against it.
    Free(Write),
}

/// Grants to be written, if nobody has written to the cell since it was looked at.
pub struct Write(Packed);

/// A user with their hash.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hashed<'a> {
    hash: u64,
    user: &'a str,
}

/// A hash that is one already.
#[derive(Default)]
pub struct AsItIs(u64);

type ByHash = BuildHasherDefault<AsItIs>;

/// Up to so many are compared one by one.
const RECEIPTS_FEW: usize = 16;

/// A user's receipts of one chunk: nearly always one.
type Receipts = smallvec::SmallVec<[u8; RECEIPT_BYTES]>;

// === impl Given ===

impl Given<'_> {
    /// Where the cell's cursor stands. The day that it counts is this one from now on.
    pub async fn cursor(&self, link: &mut Link) -> Result<Serial, Fault> {
        cursor(link.call(&self.call(&[], true)).await?)
    }

    /// Gives grants back, in ascending order of serials and in chunks. Returns the cursor: behind the last of them, or
    /// where it stood if a chunk begins before it; then nothing more was done. Redis does not wait: each chunk goes
    /// with the look for the next one, which is made ready meanwhile.
    pub async fn give(&self, link: &mut Link, grants: &[StoredGrant], holders: &mut Holders) -> Result<Serial, Fault> {
        let mut chunks = grants.chunks(REAPPLY_ROWS_MAX).map(|grants| self.chunk(grants, holders));
        let Some(chunk) = chunks.next() else { return self.cursor(link).await };
        let (look, mut next) = chunk.look(link, || chunks.next()).await;
        let mut look = look?;
        loop {
            let write = match look {
                Look::Free(write) => write,
                Look::Stands(cursor) => {
                    let mut unwatch = Packed::default();
                    unwatch.command(&redis::cmd("UNWATCH"));
                    return link.send(Script::CellReapply, &unwatch).await.map(|_| cursor);
                }
            };
            let (written, after) = write.carry_out(link, next.as_ref(), || chunks.next()).await;
            let (cursor, answers) = written?;
            let Some(chunk) = next else { return Ok(cursor) };
            (look, next) = (chunk.judge(answers)?, after);
        }
    }

    /// Makes a chunk ready. `holders`: who has been given something before, and these as well from now on.
    pub fn chunk<'a>(&self, grants: &'a [StoredGrant], holders: &mut Holders) -> Chunk<'a> {
        let (alone, asked) = apart(grants, holders);
        let template = self.keys.template(self.template);
        let mut look = Packed::default();
        look.command(redis::cmd("WATCH").arg(self.keys.meta()).arg(template.template()));
        look.command(self.call(grants, false).command());
        if !asked.is_empty() {
            look.begin(2 + asked.len());
            [&b"HMGET"[..], template.receipts().as_bytes()].into_iter().for_each(|part| look.part(part));
            asked.iter().for_each(|(user, _)| look.part(user.as_bytes()));
        }
        let mut chunk = Chunk {
            first: grants.first().map_or(0, |first| first.receipt.serial),
            receipts: template.receipts().to_owned(),
            alone,
            asked,
            look,
            likely: Packed::default(),
            call: self.call(grants, true),
        };
        if chunk.asked.is_empty() {
            chunk.likely = chunk.write();
        }
        chunk
    }

    fn call(&self, grants: &[StoredGrant], write: bool) -> Call {
        let in_window = |grant: &&StoredGrant| {
            write && grant.user.is_some() && self.counted_since.is_some_and(|since| grant.receipt.acquired > since)
        };
        let in_window: Vec<&StoredGrant> = grants.iter().filter(in_window).collect();
        let of_day = grants.iter().filter(|grant| (self.day.start..self.day.end).contains(&grant.receipt.acquired));
        let template = self.keys.template(self.template);
        let names: Vec<&str> = [self.keys.meta(), template.template()]
            .into_iter()
            .chain(self.keys.quotas().iter().map(|key| &**key))
            .collect();
        let mut call = Call::new(Script::CellReapply, names.into_iter());
        self.identity.put(&mut call);
        call.arg(self.day.start).arg(self.day.end);
        call.arg(grants.first().map_or(0, |grant| grant.receipt.serial));
        call.arg(grants.last().map_or(0, |grant| grant.receipt.serial));
        call.arg(of_day.count());
        call.arg(grants.iter().map(|grant| grant.receipt.acquired).max().unwrap_or_default());
        for (limit, window) in self.quotas {
            call.arg(limit).arg(window);
        }
        call.arg(if write { "1" } else { "0" }).arg(in_window.len());
        for grant in in_window {
            let hash = |hash: Option<u64>| hash.map(u64::to_be_bytes);
            call.arg(grant.receipt.acquired).arg(grant.user.as_deref().unwrap_or_default());
            call.bytes(hash(grant.ip).as_ref().map_or(&[], |bytes| bytes));
            call.bytes(hash(grant.device).as_ref().map_or(&[], |bytes| bytes));
        }
        call
    }
}

// === impl Chunk ===

impl Chunk<'_> {
    /// Whether it can be given back; and what came of `work`, which is done meanwhile. From now on `link` notices who else
    /// writes to the cell.
    pub async fn look<T>(self, link: &mut Link, work: impl FnOnce() -> T) -> (Result<Look, Fault>, T) {
        let (answers, worked) = link.send_meanwhile(Script::CellReapply, &self.look, work).await;
        (answers.and_then(|answers| self.judge(answers)), worked)
    }

    fn judge(mut self, answers: Vec<Value>) -> Result<Look, Fault> {
        let mut answers = answers.into_iter().skip(1);
        let stands = cursor(answers.next().ok_or_else(short)?)?;
        if stands > self.first {
            return Ok(Look::Stands(stands));
        }
        if self.asked.is_empty() {
            return Ok(Look::Free(Write(self.likely)));
        }
        let Some(Value::Array(held)) = answers.next() else { return Err(short()) };
        for ((_, receipts), held) in self.asked.iter_mut().zip(held) {
            if let Value::BulkString(held) = held {
                *receipts = put_together(&held, receipts);
            }
        }
        Ok(Look::Free(Write(self.write())))
    }

    fn write(&self) -> Packed {
        let mut packed = Packed::default();
        packed.command(&redis::cmd("MULTI"));
        let users = self.alone.len() + self.asked.len();
        if users > 0 && !faults::bug(Bug::ReceiptsNotReapplied) {
            let alone = self.alone.iter().filter_map(|grant| grant.user.as_deref()).map(|user| (user, RECEIPT_BYTES));
            let asked = self.asked.iter().map(|(user, receipts)| (*user, receipts.len()));
            packed.reserve(2 * users, alone.chain(asked).map(|(user, receipts)| user.len() + receipts).sum());
            packed.begin(2 + 2 * users);
            [&b"HSET"[..], self.receipts.as_bytes()].into_iter().for_each(|part| packed.part(part));
            for grant in &self.alone {
                packed.part(grant.user.as_deref().unwrap_or_default().as_bytes());
                packed.part(&grant.receipt.pack());
            }
            for (user, receipts) in &self.asked {
                packed.part(user.as_bytes());
                packed.part(receipts);
            }
        }
        packed.command(self.call.command());
        packed.command(&redis::cmd("EXEC"));
        packed
    }
}

// === impl Write ===

impl Write {
    /// The cursor behind it, and the answers to the look for `next`, which goes along; and what came of `work`, which is
    /// done meanwhile.
    pub async fn carry_out<T>(
        self,
        link: &mut Link,
        next: Option<&Chunk<'_>>,
        work: impl FnOnce() -> T,
    ) -> (Result<(Serial, Vec<Value>), Fault>, T) {
        let Write(mut packed) = self;
        let own = packed.commands();
        if let Some(next) = next {
            packed.append(&next.look);
        }
        let (answers, worked) = link.send_meanwhile(Script::CellReapply, &packed, work).await;
        (answers.and_then(|answers| Write::done(answers, own)), worked)
    }

    /// `own`: how many of the answers are its own.
    fn done(mut answers: Vec<Value>, own: usize) -> Result<(Serial, Vec<Value>), Fault> {
        let looked = answers.split_off(own.min(answers.len()));
        match answers.pop() {
            Some(Value::Array(mut done)) => Ok((cursor(done.pop().ok_or_else(short)?)?, looked)),
            // A watched key was written to.
            _ => Err(Fault::refused("the cell was changed while rows were given back")),
        }
    }
}

// === impl Holders ===

impl Holders {
    /// Nobody holds anything, but those who are given it from now on.
    pub fn nobody() -> Self {
        Holders { known: Some(HashSet::default()), keys: RandomState::new() }
    }

    /// Redis is to be asked for everyone.
    pub fn anybody() -> Self {
        Holders { known: None, keys: RandomState::new() }
    }

    /// Whether a user may hold something; they do from now on. Two users may have one hash: then both are asked for.
    fn may_hold(&mut self, hash: u64) -> bool {
        if self.known.as_ref().is_some_and(|known| known.len() >= REAPPLY_USERS_MAX) {
            self.known = None;
        }
        self.known.as_mut().is_none_or(|known| !known.insert(hash))
    }

    fn hashed<'a>(&self, user: &'a str) -> Hashed<'a> {
        Hashed { hash: self.keys.hash_one(user), user }
    }
}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The grants of users who have nothing else, and what the others have, as one value each.
fn apart<'a>(grants: &'a [StoredGrant], holders: &mut Holders) -> (Vec<&'a StoredGrant>, Vec<(&'a str, Receipts)>) {
    let of_users = || grants.iter().filter_map(|grant| Some((grant, grant.user.as_deref()?)));
    let users: Vec<Hashed<'_>> = of_users().map(|(_, user)| holders.hashed(user)).collect();
    // Who comes a second time is among them.
    let mut places: HashMap<Hashed<'_>, usize, ByHash> = HashMap::default();
    let mut asked: Vec<(&str, Receipts)> = Vec::new();
    for user in &users {
        if holders.may_hold(user.hash) {
            places.entry(*user).or_insert_with(|| {
                asked.push((user.user, Receipts::new()));
                asked.len() - 1
            });
        }
    }
    let mut alone = Vec::with_capacity(users.len());
    for ((grant, _), user) in of_users().zip(&users) {
        match places.get(user) {
            Some(place) => asked[*place].1.extend_from_slice(&grant.receipt.pack()),
            None => alone.push(grant),
        }
    }
    (alone, asked)
}

/// What is held, and what of the new is not among it. Somebody may hold thousands.
fn put_together(held: &[u8], new: &[u8]) -> Receipts {
    let mut all = Receipts::from_slice(held);
    let (held, new) = (held.as_chunks::<RECEIPT_BYTES>().0, new.as_chunks::<RECEIPT_BYTES>().0);
    let known = (held.len() > RECEIPTS_FEW).then(|| held.iter().collect::<HashSet<_>>());
    for receipt in new {
        if !known.as_ref().map_or_else(|| held.contains(receipt), |known| known.contains(receipt)) {
            all.extend_from_slice(receipt);
        }
    }
    all
}

fn cursor(reply: Value) -> Result<Serial, Fault> {
    Ok(int(&accepted(reply)?.next().ok_or_else(short)?)? as Serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::cell::Receipt;

    #[test]
    fn a_receipt_that_is_held_is_not_held_twice() {
        let receipt = |number: u8| [number; RECEIPT_BYTES];
        let held = [receipt(1), receipt(2)].concat();
        let both = put_together(&held, &[receipt(2), receipt(3)].concat());
        assert_eq!(both[..], [&held[..], &receipt(3)].concat());
    }

    #[test]
    fn who_was_given_something_may_hold_it() {
        let grant = |serial, user: &str| StoredGrant {
            user: Some(user.to_owned()),
            receipt: Receipt { serial, epoch: 1, acquired: 0, claim_key_hash: serial },
            ip: None,
            device: None,
        };
        let told = |holders: &mut Holders, grants: &[StoredGrant]| {
            let (alone, asked) = apart(grants, holders);
            let alone: Vec<Serial> = alone.iter().map(|grant| grant.receipt.serial).collect();
            let asked: Vec<(String, usize)> =
                asked.iter().map(|(user, receipts)| ((*user).to_owned(), receipts.len() / RECEIPT_BYTES)).collect();
            (alone, asked)
        };
        let mut holders = Holders::nobody();
        let first = [grant(1, "ann"), grant(2, "ben"), grant(3, "ann"), grant(4, "carl")];
        assert_eq!(told(&mut holders, &first), (vec![2, 4], vec![("ann".into(), 2)]));
        let second = [grant(5, "ben"), grant(6, "dora")];
        assert_eq!(told(&mut holders, &second), (vec![6], vec![("ben".into(), 1)]));
        assert_eq!(told(&mut Holders::anybody(), &second), (vec![], vec![("ben".into(), 1), ("dora".into(), 1)]));
        // Two of one hash are two all the same.
        let [one, other] = ["ann", "ben"].map(|user| Hashed { hash: 7, user });
        assert!(HashSet::<_, ByHash>::from_iter([one, other, one]).len() == 2);
    }
}
