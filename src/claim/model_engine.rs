//! The same decisions in plain sequential Rust: what the scripts are tested against.
//!
//! It follows the rules and not the scripts. One claim is decided after the other, every refusal
//! that applies is written down and the lowest number is given, a quota counts a list of times,
//! a day counts a list of grants. It is slow and keeps everything; nothing is sold with it.

mod kept;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use kept::{Entry, Grant, QuotaRule, Row, Terms};
use kept::{Quota, Template, hash};

use super::engine::{
    Batch, BatchReply, Claim, Decision, Engine, Group, GroupReply, Held, LookupGroup, LookupGroupReply, LookupReply,
    Mismatch,
};
use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::domain::user::UserRef;
use crate::domain::window::{Day, Millis};
use crate::redis::cell::{CellMeta, Holding, Identity, Receipt};
use crate::redis::fault::{Executed, Fault};
use crate::redis::keys::marked_template;

/// An engine on a cell that all its copies share.
#[derive(Clone)]
pub struct ModelEngine {
    cell: Arc<Mutex<ModelCell>>,
}

/// A cell, whole. A copy of it is what a Redis restored from a backup would be.
#[derive(Clone, Debug)]
pub struct ModelCell {
    /// The machine's clock.
    pub now: Millis,
    pub role: &'static str,
    pub live_replid: String,
    /// No memory is left: scripts that write are refused before their first line.
    pub starved: bool,
    /// Which installation opened it; empty before the first opening.
    pub install: String,
    /// A recovery has begun to wipe it.
    pub wiping: bool,
    /// It was wiped, and is to be given everything back.
    pub refilling: bool,
    epoch: Epoch,
    open: bool,
    replid: String,
    /// The latest time that the cell has decided by.
    clock: Millis,
    quotas: [Quota; 3],
    templates: BTreeMap<TemplateId, Template>,
    queue: Vec<Entry>,
    last: EntryId,
    marks: BTreeMap<TemplateId, EntryId>,
}

// === impl ModelEngine ===

impl ModelEngine {
    pub fn new(cell: ModelCell) -> Self {
        ModelEngine { cell: Arc::new(Mutex::new(cell)) }
    }

    pub fn cell(&self) -> MutexGuard<'_, ModelCell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for ModelEngine {
    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        Ok(self.cell().meta())
    }

    async fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        let mut cell = self.cell();
        if cell.starved {
            return Err(Fault { executed: Executed::No, kind: "oom", detail: "no memory".into() });
        }
        Ok(cell.claim(identity, batch))
    }

    async fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
        Ok(self.cell().lookup(identity, groups))
    }

    fn another(&self) -> Self {
        self.clone()
    }
}

// === impl ModelCell ===

impl ModelCell {
    /// A cell that was never opened.
    pub fn new(now: Millis, live_replid: &str) -> Self {
        ModelCell {
            now,
            role: "master",
            live_replid: live_replid.to_owned(),
            starved: false,
            install: String::new(),
            wiping: false,
            refilling: false,
            epoch: 0,
            open: false,
            replid: String::new(),
            clock: 0,
            quotas: Default::default(),
            templates: BTreeMap::new(),
            queue: Vec::new(),
            last: EntryId::ZERO,
            marks: BTreeMap::new(),
        }
    }

    /// Whether the epoch is new: it closes the cell.
    pub fn close(&mut self, epoch: Epoch) -> bool {
        if epoch <= self.epoch {
            return false;
        }
        self.epoch = epoch;
        self.open = false;
        true
    }

    /// Opens what `epoch` closed, with quotas of user, IP and device.
    pub fn open(&mut self, epoch: Epoch, rules: [QuotaRule; 3]) -> bool {
        let Some(now) = self.time().filter(|_| epoch == self.epoch && !self.open) else { return false };
        for (quota, rule) in self.quotas.iter_mut().zip(rules) {
            quota.follow(rule);
        }
        self.last = EntryId::new(epoch, 0);
        self.queue.push(Entry { id: self.last, at: 0, grants: Vec::new() });
        self.open = true;
        (self.wiping, self.refilling) = (false, false);
        self.replid = self.live_replid.clone();
        self.clock = now;
        true
    }

    /// Brings a template to a revision, unless it has it or a newer one. A freed one stays freed;
    /// state 9 frees it, whatever is there.
    pub fn put_template(&mut self, id: TemplateId, terms: Terms) {
        let template = self.templates.entry(id).or_insert_with(|| Template::new(terms));
        if terms.state == 9 && !template.freed {
            *template = Template { freed: true, ..Template::new(terms) };
        }
        if !template.freed && terms.revision > template.terms.revision {
            template.terms = terms;
        }
    }

    /// Gives a template a range that it was not given before.
    pub fn give_range(&mut self, id: TemplateId, first: Serial, last: Serial) {
        let Some(template) = self.templates.get_mut(&id).filter(|template| !template.freed) else { return };
        if first > template.given {
            template.ranges.push((first, last));
            template.given = last;
        }
    }

    /// Frees a template for good, unless its last grant lies behind the watermark.
    pub fn free(&mut self, id: TemplateId, revision: u32, watermark: EntryId) -> bool {
        if self.marks.get(&id).is_some_and(|mark| *mark > watermark) {
            return false;
        }
        self.marks.remove(&id);
        if let Some(template) = self.templates.get_mut(&id) {
            let terms = Terms { revision, ..template.terms };
            *template = Template { freed: true, ..Template::new(terms) };
        }
        true
    }

    /// Drops the queue up to the watermark. Returns how many entries that were.
    pub fn trim(&mut self, watermark: EntryId) -> usize {
        let before = self.queue.len();
        self.queue.retain(|entry| entry.id > watermark);
        self.marks.retain(|_, mark| *mark > watermark);
        before - self.queue.len()
    }

    /// Gives a closed cell back what PostgreSQL has of a template, in ascending order of serials.
    pub fn reapply(&mut self, id: TemplateId, day: Day, rules: [QuotaRule; 3], rows: &[Row]) {
        let Some(template) = self.templates.get_mut(&id).filter(|template| !template.freed) else { return };
        for row in rows {
            if !template.may_still_grant(row.receipt.serial) {
                continue;
            }
            template.ranges.retain(|range| range.1 > row.receipt.serial);
            if let Some(range) = template.ranges.first_mut() {
                range.0 = range.0.max(row.receipt.serial + 1);
            }
            template.grants.push((row.user.clone(), row.receipt));
            self.clock = self.clock.max(row.receipt.acquired);
            let Some(user) = row.user.as_ref().filter(|_| template.terms.quotas) else { continue };
            let keys = [Some(user.as_bytes().to_vec()), hash(row.ip), hash(row.device)];
            for ((quota, rule), key) in self.quotas.iter_mut().zip(rules).zip(&keys) {
                quota.follow(rule);
                quota.note(key, row.receipt.acquired);
            }
        }
        (template.day, template.day_count) = (day.start, template.granted_in(&day));
    }

    pub fn queue(&self) -> &[Entry] {
        &self.queue
    }

    pub fn holding(&self, id: TemplateId, user: Option<&UserRef>) -> Holding {
        let Some(template) = self.templates.get(&id) else { return Holding::default() };
        let Terms { state, revision, generation, starts_at, ends_at, per_user, per_user_daily, daily, quotas } =
            template.terms;
        if template.freed {
            return Holding { state: 9, revision: revision.into(), ..Holding::default() };
        }
        Holding {
            state,
            revision: revision.into(),
            generation,
            starts_at,
            ends_at,
            per_user,
            per_user_daily,
            daily,
            quotas,
            remaining: template.ranges.iter().map(|(first, last)| last - first + 1).sum(),
            given: template.given,
            day: template.day,
            day_count: template.day_count,
            receipts: user.map_or(Vec::new(), |user| template.held_by(user)),
        }
    }

    pub fn meta(&self) -> CellMeta {
        CellMeta {
            role: self.role.to_owned(),
            live_replid: self.live_replid.clone(),
            epoch: self.epoch,
            open: self.open,
            replid: self.replid.clone(),
            clock: self.clock,
            now: self.now,
            last: self.last,
            backlog: self.queue.len() as u64,
            first: self.queue.first().map(|entry| entry.id),
            queued: self.queued(),
            oldest: self.queue.iter().take(2).find(|entry| !entry.grants.is_empty()).map(|entry| entry.at),
            quotas: self.quotas.each_ref().map(|quota| (quota.rule.limit.into(), quota.rule.window as u64)),
            install: self.install.clone(),
            wiping: self.wiping,
            refilling: self.refilling,
            marks: self.marks.iter().map(|(id, entry)| (*id, *entry)).collect(),
        }
    }

    /// Whether this cell is what its caller believes: open, on a master, of this history and epoch.
    pub fn is(&self, identity: &Identity) -> bool {
        self.open
            && self.role == "master"
            && self.replid == self.live_replid
            && *identity.replid == *self.replid
            && identity.epoch == self.epoch
    }

    /// The next serial of a template that may still be granted.
    pub fn cursor(&self, id: TemplateId) -> Serial {
        self.templates.get(&id).map_or(1, |template| template.ranges.first().map_or(template.given + 1, |open| open.0))
    }

    fn queued(&self) -> u64 {
        self.queue.iter().map(|entry| entry.grants.len() as u64).sum()
    }

    /// The cell's clock never goes back; a second behind is too much.
    fn time(&self) -> Option<Millis> {
        (self.now >= self.clock - 1_000).then_some(self.now.max(self.clock))
    }

    fn refuses(&self, identity: &Identity) -> Option<Mismatch> {
        if !self.is(identity) { Some(Mismatch::Identity) } else { self.time().is_none().then_some(Mismatch::Clock) }
    }

    /// Decides a batch.
    pub fn claim(&mut self, identity: &Identity, batch: &Batch) -> BatchReply {
        if let Some(reason) = self.refuses(identity) {
            return BatchReply::NotExecuted { reason, now: None };
        }
        let now = self.now.max(self.clock);
        if now >= batch.deadline {
            return BatchReply::NotExecuted { reason: Mismatch::Deadline, now: Some(now) };
        }
        let full = self.queued() >= batch.backlog_max;
        let mut entry = Entry { id: EntryId::new(self.epoch, self.last.seq + 1), at: now, grants: Vec::new() };
        let groups = batch.groups.iter().map(|group| self.decide_group(group, full, &mut entry)).collect();
        let granted = !entry.grants.is_empty();
        let id = entry.id;
        if granted {
            self.clock = now;
            self.last = id;
            self.marks.extend(entry.grants.iter().map(|grant| (grant.template, id)));
            self.queue.push(entry);
        }
        BatchReply::Executed { now, last: self.last, entry: granted.then_some(id), groups }
    }

    fn decide_group(&mut self, group: &Group, full: bool, entry: &mut Entry) -> GroupReply {
        let Some(template) = self.templates.get(&group.template) else { return GroupReply::NotLoaded };
        let Terms { revision, generation, per_user_daily, daily, .. } = template.terms;
        if !template.freed && (per_user_daily > 0 || daily > 0) && !group.day.contains(entry.at) {
            return GroupReply::DayMoved;
        }
        let generation = if template.freed { 0 } else { generation };
        let decisions = group.claims.iter().map(|claim| self.decide(group, claim, full, entry)).collect();
        GroupReply::Decided { revision, generation, decisions }
    }

    fn decide(&mut self, group: &Group, claim: &Claim, full: bool, entry: &mut Entry) -> Decision {
        let now = entry.at;
        let template = self.templates.get_mut(&group.template).expect("it was there for the group");
        if template.freed {
            return Decision::Refused(ClaimOutcome::Ended);
        }
        let held = template.held_by(&claim.user);
        if let Some(receipt) = held.iter().find(|receipt| receipt.claim_key_hash == claim.claim_key_hash) {
            return Decision::Replayed(as_held(receipt));
        }

        let terms = template.terms;
        let today = held.iter().filter(|receipt| group.day.contains(receipt.acquired)).count();
        let mut refusals = Vec::new();
        let mut refuse = |applies: bool, outcome| {
            if applies {
                refusals.push(Decision::Refused(outcome));
            }
        };
        refuse(terms.state != 1, ClaimOutcome::TemplateInactive);
        refuse(now < terms.starts_at, ClaimOutcome::NotStarted);
        refuse(now >= terms.ends_at, ClaimOutcome::Ended);
        refuse(terms.per_user_daily > 0 && today >= terms.per_user_daily as usize, ClaimOutcome::UserDailyLimitReached);
        refuse(template.ranges.is_empty(), ClaimOutcome::SoldOut);
        refuse(terms.daily > 0 && template.granted_in(&group.day) >= terms.daily, ClaimOutcome::DailyLimitReached);
        refuse(full, ClaimOutcome::Overloaded);
        if held.len() >= terms.per_user as usize {
            refusals.push(Decision::UserLimit(held.iter().map(as_held).collect()));
        }
        let keys = [Some(claim.user.as_bytes().to_vec()), hash(claim.ip), hash(claim.device)];
        if group.quotas {
            for (scope, (quota, key)) in
                [Scope::User, Scope::Ip, Scope::Device].into_iter().zip(self.quotas.iter().zip(&keys))
            {
                refusals.extend(quota.refuses(key, now).map(|until| Decision::Quota { scope, until }));
            }
        }
        // Among quotas the first scope is named: `min_by_key` keeps the first of equals.
        if let Some(refusal) = refusals.into_iter().min_by_key(outcome_of) {
            return refusal;
        }

        let serial = template.take();
        let receipt = Receipt { serial, epoch: self.epoch, acquired: now, claim_key_hash: claim.claim_key_hash };
        template.grants.push((Some(claim.user.clone()), receipt));
        if terms.daily > 0 {
            (template.day, template.day_count) = (group.day.start, template.granted_in(&group.day));
        }
        if group.quotas {
            for (quota, key) in self.quotas.iter_mut().zip(&keys) {
                quota.note(key, now);
            }
        }
        let claim = (claim.user.clone(), claim.claim_key_hash, claim.ip, claim.device);
        entry.grants.push(Grant { template: group.template, serial, claim });
        Decision::Granted(serial)
    }

    /// Looks claim keys up.
    pub fn lookup(&self, identity: &Identity, groups: &[LookupGroup]) -> LookupReply {
        if let Some(reason) = self.refuses(identity) {
            return LookupReply::NotExecuted(reason);
        }
        let groups = groups.iter().map(|group| {
            match marked_template(group.keys.mark()).and_then(|id| self.templates.get(&id)) {
                None => LookupGroupReply::NotLoaded,
                Some(template) if template.freed => LookupGroupReply::Freed,
                Some(template) => LookupGroupReply::Found(
                    group.claims.iter().map(|(user, key)| template.receipt(user, *key).as_ref().map(as_held)).collect(),
                ),
            }
        });
        LookupReply::Executed { now: self.now.max(self.clock), last: self.last, groups: groups.collect() }
    }
}

fn as_held(receipt: &Receipt) -> Held {
    Held { serial: receipt.serial, epoch: receipt.epoch, acquired: receipt.acquired }
}

fn outcome_of(decision: &Decision) -> ClaimOutcome {
    match decision {
        Decision::Granted(_) => ClaimOutcome::Granted,
        Decision::Replayed(_) => ClaimOutcome::Replayed,
        Decision::UserLimit(_) => ClaimOutcome::UserLimitReached,
        Decision::Quota { .. } => ClaimOutcome::QuotaExceeded,
        Decision::Refused(outcome) => *outcome,
    }
}
