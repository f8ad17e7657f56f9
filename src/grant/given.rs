//! A chunk of rows that a closed cell is given back.
//!
//! Receipts are what there is most of. They are written by one plain HSET, the rest by `cell_reapply.lua` in the same
//! MULTI. What would stand against it is asked before, with meta and template watched: whoever closes the cell
//! anew, or moves the cursor, meanwhile, makes EXEC do nothing. A chunk is one value for each user; what
//! they hold already stays, and a receipt that is there is not written again.

use std::collections::HashMap;

use redis::{Cmd, Value};

use super::stores::{Quotas, StoredGrant};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::window::{Day, Millis};
use crate::faults::{self, Bug};
use crate::redis::cell::{Identity, RECEIPT_BYTES, accepted, int, short};
use crate::redis::client::{Call, Link};
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;
use crate::redis::scripts::Script;

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

/// What a look at the cell came to.
pub enum Look {
    /// The cursor stands behind the first of the grants: nothing is to be done.
    Stands(Serial),
    /// Nothing stands against it.
    Free(Write),
}

/// Grants to be written, if nobody has written to the cell since it was looked at.
pub struct Write {
    /// None where no grant has a user.
    receipts: Option<Cmd>,
    call: Call,
}

/// A user's receipts of one chunk: nearly always one.
type Receipts = smallvec::SmallVec<[u8; RECEIPT_BYTES]>;

// === impl Given ===

impl Given<'_> {
    /// Where the cell's cursor stands. The day that it counts is this one from now on.
    pub async fn cursor(&self, link: &mut Link) -> Result<Serial, Fault> {
        cursor(link.call(&self.call(&[], true)).await?)
    }

    /// Gives grants back, in ascending order of serials. Returns the cursor: behind the last of them, or where
    /// it stood if they begin before it; then nothing was done.
    pub async fn give(&self, link: &mut Link, grants: &[StoredGrant]) -> Result<Serial, Fault> {
        match self.look(link, grants).await? {
            Look::Stands(cursor) => Ok(cursor),
            Look::Free(write) => write.carry_out(link).await,
        }
    }

    /// Whether grants can be given back. From now on `link` notices who else writes to the cell.
    pub async fn look(&self, link: &mut Link, grants: &[StoredGrant]) -> Result<Look, Fault> {
        let Some(first) = grants.first() else { return Ok(Look::Stands(self.cursor(link).await?)) };
        let users = by_user(grants);
        let keys = self.keys.template(self.template);
        let (mut watch, mut held) = (redis::cmd("WATCH"), redis::cmd("HMGET"));
        watch.arg(self.keys.meta()).arg(keys.template());
        held.arg(keys.receipts());
        for (user, _) in &users {
            held.arg(user.as_bytes());
        }
        let look = self.call(grants, false);
        let mut commands = vec![&watch, look.command()];
        if !users.is_empty() {
            commands.push(&held);
        }
        // While Redis looks, what it will most likely be told is written down.
        let likely = async { (receipts(keys.receipts(), &users, &[]), self.call(grants, true)) };
        let (looked, (mut receipts_of, call)) = tokio::join!(link.send_all(Script::CellReapply, &commands), likely);
        let mut looked = looked?.into_iter().skip(1);
        let stands = cursor(looked.next().ok_or_else(short)?)?;
        if stands > first.receipt.serial {
            link.send_all(Script::CellReapply, &[&redis::cmd("UNWATCH")]).await?;
            return Ok(Look::Stands(stands));
        }
        if let Some(Value::Array(held)) = looked.next()
            && held.iter().any(|value| !matches!(value, Value::Nil))
        {
            receipts_of = receipts(keys.receipts(), &users, &held);
        }
        let write = !users.is_empty() && !faults::bug(Bug::ReceiptsNotReapplied);
        Ok(Look::Free(Write { receipts: write.then_some(receipts_of), call }))
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

impl Write {
    pub async fn carry_out(self, link: &mut Link) -> Result<Serial, Fault> {
        let (multi, exec) = (redis::cmd("MULTI"), redis::cmd("EXEC"));
        let commands: Vec<&Cmd> =
            [&multi].into_iter().chain(&self.receipts).chain([self.call.command(), &exec]).collect();
        match link.send_all(Script::CellReapply, &commands).await?.pop() {
            Some(Value::Array(mut done)) => cursor(done.pop().ok_or_else(short)?),
            // A watched key was written to.
            _ => Err(Fault::refused("the cell was changed while rows were given back")),
        }
    }
}

/// What each user has of a chunk, as one value, in the order in which they come.
fn by_user(grants: &[StoredGrant]) -> Vec<(&str, Receipts)> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(grants.len());
    let mut users: Vec<(&str, Receipts)> = Vec::with_capacity(grants.len());
    for grant in grants {
        let Some(user) = grant.user.as_deref() else { continue };
        let place = *places.entry(user).or_insert(users.len());
        if place == users.len() {
            users.push((user, Receipts::new()));
        }
        users[place].1.extend_from_slice(&grant.receipt.pack());
    }
    users
}

/// The HSET of all users' receipts, behind those that they hold.
fn receipts(key: &str, users: &[(&str, Receipts)], held: &[Value]) -> Cmd {
    let mut set = Cmd::with_capacity(2 + 2 * users.len(), users.len() * (RECEIPT_BYTES + 16));
    set.arg("HSET").arg(key);
    for (at, (user, new)) in users.iter().enumerate() {
        set.arg(user.as_bytes());
        match held.get(at) {
            Some(Value::BulkString(held)) => set.arg(put_together(held, new)),
            _ => set.arg(&new[..]),
        };
    }
    set
}

/// What is held, and what of the new is not among it.
fn put_together(held: &[u8], new: &[u8]) -> Vec<u8> {
    let mut all = held.to_vec();
    for receipt in new.chunks_exact(RECEIPT_BYTES) {
        if !held.chunks_exact(RECEIPT_BYTES).any(|known| known == receipt) {
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

    #[test]
    fn a_receipt_that_is_held_is_not_held_twice() {
        let receipt = |number: u8| [number; RECEIPT_BYTES];
        let held = [receipt(1), receipt(2)].concat();
        assert_eq!(put_together(&held, &[receipt(2), receipt(3)].concat()), [held, receipt(3).to_vec()].concat());
    }
}
