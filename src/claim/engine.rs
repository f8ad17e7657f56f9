//! What a batch of claims is, and what can become of it.

use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::user::UserRef;
use crate::domain::window::{Day, Millis};
use crate::redis::cell::{CellMeta, Identity};
use crate::redis::fault::Fault;
use crate::redis::keys::TemplateKeys;

/// One claim as the script sees it.
#[derive(Clone, Debug)]
pub struct Claim {
    pub user: UserRef,
    pub claim_key_hash: u64,
    /// Hashes for quotas, and for the row; none for a template without quotas.
    pub ip: Option<u64>,
    pub device: Option<u64>,
}

/// The claims of one template within a batch.
#[derive(Clone, Debug)]
pub struct Group {
    pub template: TemplateId,
    pub keys: TemplateKeys,
    /// Whether the template counts in quotas.
    pub quotas: bool,
    /// The template's local day as the gateway sees it; the script refuses outside of it.
    pub day: Day,
    pub claims: Vec<Claim>,
}

/// What one call of the script decides, all or nothing.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In Redis' time: from then on nothing is executed.
    pub deadline: Millis,
    /// Grants on the queue from which claims are refused as `overloaded`.
    pub backlog_max: u64,
    pub groups: Vec<Group>,
}

/// A coupon as a receipt has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub serial: Serial,
    pub epoch: Epoch,
    pub acquired: Millis,
}

/// What became of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Granted(Serial),
    Replayed(Held),
    /// The user has all they may have: these.
    UserLimit(Vec<Held>),
    Quota {
        scope: Scope,
        /// When the next grant is possible.
        until: Millis,
    },
    /// Any other refusal.
    Refused(ClaimOutcome),
}

/// What became of one template's claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupReply {
    Decided {
        /// The template's revision in Redis: newer than the snapshot's means a change is on its way.
        revision: u32,
        /// The stock generation to which a `sold_out` belongs.
        generation: u32,
        decisions: Vec<Decision>,
    },
    /// The local day is another one by now: nothing executed, ask again with the new day.
    DayMoved,
    /// The cell does not have the template.
    NotLoaded,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchReply {
    /// Certainly nothing was executed.
    NotExecuted {
        reason: Mismatch,
        /// Redis' time where the script had read it.
        now: Option<Millis>,
    },
    Executed {
        now: Millis,
        /// The queue's last entry, whoever wrote it.
        last: EntryId,
        /// The entry that holds this batch's grants.
        entry: Option<EntryId>,
        groups: Vec<GroupReply>,
    },
}

/// Why a script executed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Not a master, another history, another epoch, or closed: read the cell's meta again.
    Identity,
    /// Redis' clock is more than a second behind.
    Clock,
    Deadline,
}

/// Claim keys to look up before a refusal.
#[derive(Clone, Debug)]
pub struct LookupGroup {
    pub keys: TemplateKeys,
    /// User and claim-key hash.
    pub claims: Vec<(UserRef, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupReply {
    NotExecuted(Mismatch),
    Executed { now: Millis, last: EntryId, groups: Vec<LookupGroupReply> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupGroupReply {
    /// For each claim its receipt, or none.
    Found(Vec<Option<Held>>),
    NotLoaded,
    /// The template's receipts are gone for good.
    Freed,
}

/// What decides batches. One engine is one connection: calls do not overlap, and a call that is
/// given up leaves its outcome unknown.
pub trait Engine: Send + 'static {
    /// The cell's identity as it is now.
    fn meta(&mut self) -> impl Future<Output = Result<CellMeta, Fault>> + Send;

    fn claim(&mut self, identity: &Identity, batch: &Batch) -> impl Future<Output = Result<BatchReply, Fault>> + Send;

    fn lookup(
        &mut self,
        identity: &Identity,
        groups: &[LookupGroup],
    ) -> impl Future<Output = Result<LookupReply, Fault>> + Send;

    /// Whether the last call was handed to a connection: one that was given up before certainly
    /// executed nothing.
    fn sent(&self) -> bool {
        true
    }

    /// Another engine on the same cell, with a connection of its own.
    fn another(&self) -> Self;
}

// === impl Mismatch ===

impl Mismatch {
    pub fn of(word: &str) -> Self {
        match word {
            "clock" => Mismatch::Clock,
            "deadline" => Mismatch::Deadline,
            _ => Mismatch::Identity,
        }
    }
}
