//! The call that gives a closed cell rows back.
//!
//! What can be done before is done before: a user's rows of a chunk are one value, the day's are counted,
//! and only rows that may lie in a quota's window go with what the quotas need.

use std::collections::HashMap;

use super::stores::{Quotas, StoredGrant};
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::window::{Day, Millis};
use crate::redis::cell::{Identity, RECEIPT_BYTES};
use crate::redis::client::Call;
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

/// A user's receipts of one chunk: nearly always one.
type Receipts = smallvec::SmallVec<[u8; RECEIPT_BYTES]>;

// === impl Given ===

impl Given<'_> {
    /// The call that gives grants back: at most [`crate::limits::REAPPLY_ROWS_MAX`], in ascending order of
    /// serials, none of them behind the cursor. Its answer is the cursor. `follows`: where the chunk before ends,
    /// if that has not answered yet.
    pub fn call(&self, grants: &[StoredGrant], follows: Option<Serial>) -> Call {
        // What a user has of a chunk is written as one value.
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
        let in_window = |grant: &&StoredGrant| {
            grant.user.is_some() && self.counted_since.is_some_and(|since| grant.receipt.acquired > since)
        };
        let in_window: Vec<&StoredGrant> = grants.iter().filter(in_window).collect();
        let of_day = grants.iter().filter(|grant| (self.day.start..self.day.end).contains(&grant.receipt.acquired));

        let template = self.keys.template(self.template);
        let names: Vec<&str> = [self.keys.meta(), template.template(), template.receipts()]
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
        call.arg(users.len()).arg(in_window.len()).arg(follows.unwrap_or_default());
        for (user, receipts) in users {
            call.bytes(user.as_bytes()).bytes(&receipts);
        }
        for grant in in_window {
            let hash = |hash: Option<u64>| hash.map(u64::to_be_bytes);
            call.arg(grant.receipt.acquired).arg(grant.user.as_deref().unwrap_or_default());
            call.bytes(hash(grant.ip).as_ref().map_or(&[], |bytes| bytes));
            call.bytes(hash(grant.device).as_ref().map_or(&[], |bytes| bytes));
        }
        call
    }
}
