//! PostgreSQL as the simulation has it: one cell's row, its openings, templates, coupons, what was set
//! aside; and sessions, each with at most one transaction.
//!
//! A transaction's changes are staged and applied by its commit. Whoever has moved the cell's row holds it
//! until their transaction ends; a session that ends takes its transaction and its advisory lock with it.

use std::collections::BTreeMap;

use floodgate::catalog::publish::TemplateRow;
use floodgate::claim::engine::Held;
use floodgate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use floodgate::domain::window::{Day, Millis};
use floodgate::grant::cells::Raised;
use floodgate::grant::stores::{Extent, Quotas};
use floodgate::pg::{PgFault, PgKind};

use crate::journal::Key;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupon {
    pub template: TemplateId,
    pub serial: Serial,
    pub epoch: Epoch,
    pub user: String,
    pub key: u64,
    pub ip: Option<u64>,
    pub device: Option<u64>,
    pub acquired: Millis,
}

#[derive(Default)]
pub struct Database {
    pub up: bool,
    pub epoch: Epoch,
    pub watermark: EntryId,
    pub opened: bool,
    /// Where the history before an epoch ended.
    pub finals: BTreeMap<Epoch, EntryId>,
    pub templates: BTreeMap<TemplateId, TemplateRow>,
    pub coupons: BTreeMap<(TemplateId, Serial), Coupon>,
    /// With the entry that held it, and the reason.
    pub set_aside: Vec<(EntryId, Coupon, String)>,
    /// A user whose rows a constraint refuses.
    pub refused_user: Option<String>,
    /// The quotas that the cell is opened with.
    pub quotas: Quotas,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// The session that has the advisory lock.
    lock: Option<u64>,
}

#[derive(Default)]
struct Session {
    tx: Option<Tx>,
}

#[derive(Default)]
struct Tx {
    /// A statement failed: nothing but a rollback is taken.
    aborted: bool,
    watermark: Option<EntryId>,
    coupons: Vec<Coupon>,
    set_aside: Vec<(EntryId, Coupon, String)>,
    /// Of a history that is given up: kept once.
    lost: Vec<(EntryId, Coupon, String)>,
    /// Lengths of the two lists above at the savepoint.
    savepoint: Option<(usize, usize)>,
}

/// Which coupons a quota counts together.
type Like<'a> = &'a dyn Fn(&Coupon) -> bool;

/// What a commit changed.
#[derive(Default)]
pub struct Committed {
    pub coupons: Vec<Coupon>,
    pub watermark: Option<(EntryId, EntryId)>,
}

// === impl Database ===

impl Database {
    pub fn new(templates: &[TemplateRow], refused_user: Option<String>, quotas: Quotas) -> Self {
        let templates = templates.iter().map(|row| (row.id, row.clone())).collect();
        Database { up: true, templates, refused_user, quotas, ..Database::default() }
    }

    pub fn connect(&mut self) -> Option<u64> {
        if !self.up {
            return None;
        }
        self.next_session += 1;
        self.sessions.insert(self.next_session, Session::default());
        Some(self.next_session)
    }

    pub fn lives(&self, session: u64) -> bool {
        self.up && self.sessions.contains_key(&session)
    }

    /// Ends a session, and whatever it had begun.
    pub fn end(&mut self, session: u64) {
        self.sessions.remove(&session);
        if self.lock == Some(session) {
            self.lock = None;
        }
    }

    /// The server goes away: what is committed stays.
    pub fn crash(&mut self) {
        self.up = false;
        self.sessions.clear();
        self.lock = None;
    }

    pub fn cut_all(&mut self) {
        self.sessions.clear();
        self.lock = None;
    }

    /// The lock is gone though its owner's connection lives: a pooler between them, or an operator.
    pub fn slip_lock(&mut self) {
        self.lock = None;
    }

    pub fn try_lock(&mut self, session: u64) -> bool {
        *self.lock.get_or_insert(session) == session
    }

    /// Whether another transaction has the cell's row: whoever would change it waits.
    pub fn row_taken(&self, session: u64) -> bool {
        self.sessions.iter().any(|(id, other)| {
            // An abort lets go of what was taken since the savepoint, or, without one, of everything.
            let holds = |tx: &Tx| tx.watermark.is_some() && (!tx.aborted || tx.savepoint.is_some());
            *id != session && other.tx.as_ref().is_some_and(holds)
        })
    }

    pub fn last_serial(&self, template: TemplateId) -> Serial {
        self.templates.get(&template).and_then(|row| row.ranges.last()).map_or(0, |range| range.1)
    }

    pub fn raise_epoch(&mut self, session: u64, redis: Epoch) -> Raised {
        if !self.try_lock(session) {
            return Raised::NotMine;
        }
        let Some(epoch) = self.epoch.max(redis).checked_add(1) else { return Raised::Exhausted };
        self.epoch = epoch;
        Raised::To(epoch)
    }

    pub fn record_final(&mut self, mine: Epoch, redis_last: EntryId) -> Option<EntryId> {
        let ended = self.watermark.max(redis_last);
        (mine == self.epoch).then(|| *self.finals.entry(mine).or_insert(ended))
    }

    pub fn mark_opened(&mut self, mine: Epoch) -> bool {
        let mine = mine == self.epoch;
        self.opened |= mine;
        mine
    }

    pub fn diverged(&self, id: EntryId) -> Option<(Epoch, EntryId)> {
        let beyond = self.finals.iter().find(|(epoch, ended)| **epoch > id.epoch && **ended < id);
        beyond.map(|(epoch, ended)| (*epoch, *ended))
    }

    /// Whether a coupon is a row, with all that was told of it.
    pub fn has(&self, key: &Key, held: Held) -> bool {
        self.coupons.get(&(key.template, held.serial)).is_some_and(|row| {
            (row.epoch, row.acquired, row.key) == (held.epoch, held.acquired, key.key) && row.user == key.user
        })
    }

    /// Coupons of a template that somebody has, rows or set aside.
    pub fn given(&self, template: TemplateId) -> usize {
        self.coupons.keys().filter(|(id, _)| *id == template).count() + self.kept_of(template).count()
    }

    /// The highest serials from `first` on of a template's rows and of its set-asides.
    pub fn extent(&self, template: TemplateId, first: Serial) -> Extent {
        let rows = self.coupons.range((template, first)..=(template, Serial::MAX)).map(|((_, serial), _)| *serial);
        let asides = self.kept_of(template).map(|coupon| coupon.serial).filter(|serial| *serial >= first);
        Extent { rows: rows.max().unwrap_or(0), asides: asides.max().unwrap_or(0) }
    }

    /// Of one serial, the row before what was set aside.
    pub fn grants_within(&self, template: TemplateId, first: Serial, last: Serial, asides: bool) -> Vec<Coupon> {
        if first > last {
            return Vec::new();
        }
        let rows = self.coupons.range((template, first)..=(template, last)).map(|(_, coupon)| coupon);
        let kept = self.kept_of(template).filter(|coupon| asides && (first..=last).contains(&coupon.serial));
        let mut all: Vec<Coupon> = rows.chain(kept).cloned().collect();
        all.sort_by_key(|coupon| coupon.serial);
        all.dedup_by_key(|coupon| coupon.serial);
        all
    }

    /// What was set aside of this history.
    fn kept_of(&self, template: TemplateId) -> impl Iterator<Item = &Coupon> {
        let of_template = move |coupon: &Coupon| coupon.template == template;
        let kept = self.set_aside.iter().filter(move |(_, coupon, reason)| of_template(coupon) && !is_lost(reason));
        kept.map(|(_, coupon, _)| coupon)
    }

    /// The limit that the rows of a coupon's user, day, address or device pass, if one does.
    pub fn limit_passed(&self, new: &Coupon) -> Option<&'static str> {
        let definition = &self.templates.get(&new.template)?.definition;
        let count = |is: &dyn Fn(&Coupon) -> bool| self.coupons.values().filter(|coupon| is(coupon)).count() as u64;
        let here = |coupon: &Coupon| coupon.template == new.template;
        let mine = |coupon: &Coupon| here(coupon) && coupon.user == new.user;
        let day = Day::of(definition.timezone, new.acquired);
        let limits = &definition.limits;
        let checks = [
            ("one claim, two rows", count(&|coupon| mine(coupon) && coupon.key == new.key), Some(1)),
            ("the limit per user", count(&mine), Some(limits.per_user.into())),
            (
                "the limit per user and day",
                count(&|coupon| mine(coupon) && day.contains(coupon.acquired)),
                limits.per_user_daily.map(u64::from),
            ),
            (
                "the total per day",
                count(&|coupon| here(coupon) && day.contains(coupon.acquired)),
                definition.stock.daily,
            ),
        ];
        let passed = checks.into_iter().find(|(_, count, limit)| limit.is_some_and(|limit| *count > limit));
        passed.map(|(what, ..)| what).or_else(|| self.quota_passed(new).filter(|_| definition.quotas))
    }

    fn quota_passed(&self, new: &Coupon) -> Option<&'static str> {
        let counts = |coupon: &Coupon| self.templates.get(&coupon.template).is_some_and(|row| row.definition.quotas);
        let same: [(&'static str, Like<'_>); 3] = [
            ("the quota of a user", &|coupon| coupon.user == new.user),
            ("the quota of an address", &|coupon| new.ip.is_some() && coupon.ip == new.ip),
            ("the quota of a device", &|coupon| new.device.is_some() && coupon.device == new.device),
        ];
        same.into_iter().zip(self.quotas).find_map(|((what, same), (limit, window))| {
            let from = new.acquired - window as Millis;
            let within = |coupon: &&Coupon| coupon.acquired > from && coupon.acquired <= new.acquired;
            let count = self.coupons.values().filter(|coupon| counts(coupon) && same(coupon)).filter(within).count();
            (limit > 0 && count as u64 > limit).then_some(what)
        })
    }

    pub fn begin(&mut self, session: u64) -> Result<(), PgFault> {
        let session = self.session(session)?;
        if session.tx.is_some() {
            return Err(PgFault::fault("BEGIN within a transaction"));
        }
        session.tx = Some(Tx::default());
        Ok(())
    }

    pub fn advance(&mut self, session: u64, epoch: Epoch, expected: EntryId, last: EntryId) -> Result<bool, PgFault> {
        let stands = self.epoch == epoch && self.watermark == expected;
        let tx = self.tx(session)?;
        if stands {
            tx.watermark = Some(last);
        }
        Ok(stands)
    }

    /// Stores rows, all or none: a refusal aborts the transaction.
    pub fn copy(&mut self, session: u64, rows: Vec<Coupon>) -> Result<usize, PgFault> {
        self.tx(session)?;
        let refused = rows.iter().enumerate().find_map(|(at, row)| {
            let taken = self.coupons.contains_key(&(row.template, row.serial))
                || rows[..at]
                    .iter()
                    .chain(self.staged(session))
                    .any(|other| (other.template, other.serial) == (row.template, row.serial));
            if taken {
                return Some(data_fault("23505", "user_coupons_pkey"));
            }
            (self.refused_user.as_ref() == Some(&row.user)).then(|| data_fault("23514", "user_coupons_refused"))
        });
        let tx = self.tx(session)?;
        if let Some(fault) = refused {
            tx.aborted = true;
            return Err(fault);
        }
        let count = rows.len();
        tx.coupons.extend(rows);
        Ok(count)
    }

    pub fn savepoint(&mut self, session: u64) -> Result<(), PgFault> {
        let tx = self.tx(session)?;
        tx.savepoint = Some((tx.coupons.len(), tx.set_aside.len()));
        Ok(())
    }

    pub fn release(&mut self, session: u64, keep: bool) -> Result<(), PgFault> {
        let tx = self.session(session)?.tx.as_mut().ok_or_else(|| PgFault::fault("no transaction"))?;
        let Some((coupons, set_aside)) = tx.savepoint.take() else { return Err(PgFault::fault("no savepoint")) };
        if keep && tx.aborted {
            return Err(aborted());
        }
        if !keep {
            tx.coupons.truncate(coupons);
            tx.set_aside.truncate(set_aside);
            tx.aborted = false;
        }
        Ok(())
    }

    pub fn set_aside(&mut self, session: u64, id: EntryId, grant: Coupon, reason: &str) -> Result<(), PgFault> {
        self.tx(session)?.set_aside.push((id, grant, reason.to_owned()));
        Ok(())
    }

    /// Keeps a grant of a history that is given up, unless it is a row or kept already.
    pub fn keep_lost(&mut self, session: u64, id: EntryId, grant: Coupon, reason: &str) -> Result<bool, PgFault> {
        let row = self.coupons.get(&(grant.template, grant.serial));
        let is_row = row.is_some_and(|row| (row.epoch, row.key) == (grant.epoch, grant.key));
        let tx = self.tx(session)?;
        if is_row {
            return Ok(false);
        }
        tx.lost.push((id, grant, reason.to_owned()));
        Ok(true)
    }

    /// Whether the session may go on within its transaction.
    pub fn carry_on(&mut self, session: u64) -> Result<(), PgFault> {
        self.tx(session).map(drop)
    }

    pub fn commit(&mut self, session: u64) -> Result<Committed, PgFault> {
        let tx = self.session(session)?.tx.take().ok_or_else(|| PgFault::fault("no transaction"))?;
        if tx.aborted {
            // COMMIT of an aborted transaction rolls it back, and says so as success.
            return Ok(Committed::default());
        }
        let watermark = tx.watermark.map(|last| (std::mem::replace(&mut self.watermark, last), last));
        for coupon in &tx.coupons {
            self.coupons.insert((coupon.template, coupon.serial), coupon.clone());
        }
        self.set_aside.extend(tx.set_aside);
        for lost in tx.lost {
            let known = |kept: &(EntryId, Coupon, String)| (kept.0, &kept.1) == (lost.0, &lost.1);
            if !self.set_aside.iter().any(known) {
                self.set_aside.push(lost);
            }
        }
        Ok(Committed { coupons: tx.coupons, watermark })
    }

    pub fn roll_back(&mut self, session: u64) -> Result<(), PgFault> {
        self.session(session)?.tx = None;
        Ok(())
    }

    fn staged(&self, session: u64) -> &[Coupon] {
        let tx = self.sessions.get(&session).and_then(|session| session.tx.as_ref());
        tx.map_or(&[], |tx| &tx.coupons)
    }

    fn session(&mut self, session: u64) -> Result<&mut Session, PgFault> {
        self.sessions.get_mut(&session).ok_or_else(cut)
    }

    fn tx(&mut self, session: u64) -> Result<&mut Tx, PgFault> {
        let tx = self.session(session)?.tx.as_mut().ok_or_else(|| PgFault::fault("no transaction"))?;
        if tx.aborted { Err(aborted()) } else { Ok(tx) }
    }
}

/// Whether a grant was set aside with a history that was given up: its serial is free again.
pub fn is_lost(reason: &str) -> bool {
    matches!(reason, "diverged" | "wiped")
}

/// The connection broke: whether the statement took effect is not known.
pub fn cut() -> PgFault {
    PgFault { kind: PgKind::Unknown, constraint: None, sqlstate: None, detail: "connection closed".into() }
}

fn aborted() -> PgFault {
    PgFault {
        kind: PgKind::Fault,
        constraint: None,
        sqlstate: Some("25P02".into()),
        detail: "current transaction is aborted".into(),
    }
}

fn data_fault(sqlstate: &str, constraint: &str) -> PgFault {
    PgFault {
        kind: PgKind::Data,
        constraint: Some(constraint.into()),
        sqlstate: Some(sqlstate.into()),
        detail: "a row was refused".into(),
    }
}
