//! A flusher's connection to the model PostgreSQL.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use floodgate::catalog::publish::TemplateRow;
use floodgate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use floodgate::grant::cells::{CellRow, Position, Raised};
use floodgate::grant::entry::{BadEntry, Grant};
use floodgate::grant::queue::QueueEntry;
use floodgate::grant::rows::Row;
use floodgate::grant::stores::{Archive, Extent, StoredGrant};
use floodgate::grant::terms::Terms;
use floodgate::ledger::counters::Issued;
use floodgate::pg::PgFault;
use floodgate::redis::cell::Receipt;

use crate::postgres::{Committed, Coupon, Database, cut};
use crate::stores::SimStores;
use crate::world::State;

pub struct SimArchive {
    stores: SimStores,
    session: u64,
    closed: AtomicBool,
}

/// Between two looks at a row that another transaction has.
const ROW_PAUSE: Duration = Duration::from_millis(20);
/// Looks until the statement times out.
const ROW_LOOKS: usize = 150;

// === impl SimArchive ===

impl SimArchive {
    pub async fn connect(stores: SimStores) -> Result<Self, PgFault> {
        let session = stores.world.call(&stores.process, |_, state| state.postgres.connect()).await;
        let session = session.ok().flatten().ok_or_else(cut)?;
        Ok(SimArchive { stores, session, closed: AtomicBool::new(false) })
    }

    /// One statement of this session.
    async fn ask<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut State, u64) -> Result<T, PgFault> + Send + 'static,
    ) -> Result<T, PgFault> {
        let session = self.session;
        let answer = self.stores.world.call(&self.stores.process, move |_, state| {
            if state.postgres.lives(session) { run(state, session) } else { Err(cut()) }
        });
        match answer.await {
            Ok(result) if self.stores.world.state().postgres.lives(session) => result,
            _ => {
                self.closed.store(true, Ordering::Relaxed);
                Err(cut())
            }
        }
    }

    /// One statement that changes the cell's row: it waits for whoever has it.
    async fn on_row<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Database, u64) -> Result<T, PgFault> + Clone + Send + 'static,
    ) -> Result<T, PgFault> {
        for _ in 0..ROW_LOOKS {
            let run = run.clone();
            let answer = self.ask(move |state, session| match state.postgres.row_taken(session) {
                true => Ok(None),
                false => run(&mut state.postgres, session).map(Some),
            });
            if let Some(result) = answer.await? {
                return Ok(result);
            }
            tokio::time::sleep(ROW_PAUSE).await;
        }
        Err(PgFault::transient("canceling statement due to statement timeout"))
    }
}

impl Drop for SimArchive {
    /// The server hears of it a little later; what is on its way until then still arrives.
    fn drop(&mut self) {
        let (world, session) = (self.stores.world.clone(), self.session);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let pause = {
            let mut state = world.state();
            if state.chance.one_in(8) { state.chance.between(30, 2_000) } else { state.chance.below(30) }
        };
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.state().postgres.end(session);
        });
    }
}

impl Archive for SimArchive {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    async fn try_lock(&self) -> Result<bool, PgFault> {
        self.ask(|state, session| {
            let locked = state.postgres.try_lock(session);
            if locked {
                state.note(format_args!("session {session} owns the cell"));
            }
            Ok(locked)
        })
        .await
    }

    async fn cell(&self) -> Result<CellRow, PgFault> {
        self.ask(|state, _| {
            let Database { epoch, watermark, opened, .. } = state.postgres;
            Ok(CellRow { position: Position { epoch, watermark }, opened })
        })
        .await
    }

    async fn final_before(&self, epoch: Epoch) -> Result<Option<EntryId>, PgFault> {
        self.ask(move |state, _| Ok(state.postgres.finals.get(&epoch).copied())).await
    }

    async fn diverged(&self, id: EntryId) -> Result<Option<(Epoch, EntryId)>, PgFault> {
        self.ask(move |state, _| Ok(state.postgres.diverged(id))).await
    }

    async fn raise_epoch(&self, redis: Epoch) -> Result<Raised, PgFault> {
        self.on_row(move |db, session| Ok(db.raise_epoch(session, redis))).await
    }

    async fn record_final(&self, mine: Epoch, redis_last: EntryId) -> Result<Option<EntryId>, PgFault> {
        self.on_row(move |db, _| Ok(db.record_final(mine, redis_last))).await
    }

    async fn mark_opened(&self, mine: Epoch) -> Result<bool, PgFault> {
        self.on_row(move |db, _| Ok(db.mark_opened(mine))).await
    }

    async fn templates(&self, after: i32, limit: usize) -> Result<Vec<TemplateRow>, PgFault> {
        self.ask(move |state, _| {
            let rows = state.postgres.templates.values().filter(|row| row.id.as_i32() > after);
            Ok(rows.take(limit).cloned().collect())
        })
        .await
    }

    async fn extents(&self, from: &[(TemplateId, Serial)]) -> Result<Vec<(TemplateId, Extent)>, PgFault> {
        let from = from.to_vec();
        self.ask(move |state, _| {
            let extent = |(id, first): &(TemplateId, Serial)| (*id, state.postgres.extent(*id, *first));
            Ok(from.iter().map(extent).collect())
        })
        .await
    }

    async fn grants_within(
        &self,
        template: &TemplateRow,
        first: Serial,
        last: Serial,
        any_asides: bool,
    ) -> Result<Vec<StoredGrant>, PgFault> {
        let id = template.id;
        let found = self.ask(move |state, _| Ok(state.postgres.grants_within(id, first, last, any_asides))).await?;
        Ok(found.into_iter().map(as_stored).collect())
    }

    async fn next_serial(&self, template: TemplateId, first: Serial, last: Serial) -> Result<Option<Serial>, PgFault> {
        self.ask(move |state, _| {
            let grants = state.postgres.grants_within(template, first, last, true);
            Ok(grants.first().map(|coupon| coupon.serial))
        })
        .await
    }

    async fn rows_in_all(&self) -> Result<u64, PgFault> {
        self.ask(|state, _| Ok(state.postgres.coupons.len() as u64)).await
    }

    async fn terms(&self, templates: &[TemplateId]) -> Result<Vec<(TemplateId, Option<Terms>)>, PgFault> {
        let templates = templates.to_vec();
        self.ask(move |state, _| {
            let known = templates.iter().filter_map(|id| state.postgres.templates.get(id));
            Ok(known
                .map(|row| (row.id, Some(Terms::of(&row.definition, state.postgres.last_serial(row.id)))))
                .collect())
        })
        .await
    }

    async fn begin(&self) -> Result<(), PgFault> {
        self.ask(|state, session| state.postgres.begin(session)).await
    }

    async fn advance(&self, epoch: Epoch, expected: EntryId, last: EntryId) -> Result<bool, PgFault> {
        self.on_row(move |db, session| db.advance(session, epoch, expected, last)).await
    }

    async fn copy(&self, rows: &[&[Row<'_>]]) -> Result<usize, PgFault> {
        let rows: Vec<Coupon> =
            rows.iter().copied().flatten().filter(|row| row.span.is_ok()).map(|row| as_coupon(&row.grant)).collect();
        if rows.is_empty() {
            return Ok(0);
        }
        self.ask(move |state, session| state.postgres.copy(session, rows)).await
    }

    async fn savepoint(&self) -> Result<(), PgFault> {
        self.ask(|state, session| state.postgres.savepoint(session)).await
    }

    async fn release(&self, keep: bool) -> Result<(), PgFault> {
        self.ask(move |state, session| state.postgres.release(session, keep)).await
    }

    async fn stored(&self, template: TemplateId, serial: Serial) -> Result<Option<(Epoch, u64, String)>, PgFault> {
        self.ask(move |state, _| {
            let stored = state.postgres.coupons.get(&(template, serial));
            Ok(stored.map(|coupon| (coupon.epoch, coupon.key, coupon.user.clone())))
        })
        .await
    }

    async fn set_grant_aside(
        &self,
        id: EntryId,
        grant: &Grant<'_>,
        _sqlstate: Option<&str>,
        reason: &str,
    ) -> Result<(), PgFault> {
        let (coupon, reason) = (as_coupon(grant), reason.to_owned());
        self.ask(move |state, session| {
            state.note(format_args!("set aside {id}: serial {} for {reason}", coupon.serial));
            state.postgres.set_aside(session, id, coupon, &reason)
        })
        .await
    }

    async fn set_entry_aside(&self, id: EntryId, _payload: &[u8], bad: &BadEntry) -> Result<(), PgFault> {
        let reason = bad.to_string();
        self.ask(move |state, _| {
            state.promise(false, || format!("entry {id} cannot be read: {reason}"));
            Ok(())
        })
        .await
    }

    async fn keep_lost(&self, entry: &QueueEntry, grant: Option<&Grant<'_>>, reason: &str) -> Result<bool, PgFault> {
        let (id, grant, reason) = (entry.id, grant.map(as_coupon), reason.to_owned());
        self.ask(move |state, session| {
            let Some(coupon) = grant else {
                state.promise(false, || format!("entry {id} cannot be read"));
                return Ok(false);
            };
            let kept = state.postgres.keep_lost(session, id, coupon, &reason)?;
            state.note(format_args!("kept {id} for {reason}: {kept}"));
            Ok(kept)
        })
        .await
    }

    async fn count_set_aside(&self, _rows: usize) -> Result<(), PgFault> {
        self.ask(|state, session| state.postgres.carry_on(session)).await
    }

    async fn count_issued(&self, _issued: &Issued) -> Result<(), PgFault> {
        self.ask(|state, session| state.postgres.carry_on(session)).await
    }

    async fn commit(&self) -> Result<(), PgFault> {
        self.ask(|state, session| {
            let committed = state.postgres.commit(session)?;
            state.committed(&committed);
            Ok(())
        })
        .await
    }

    async fn roll_back(&self) -> Result<(), PgFault> {
        self.ask(|state, session| state.postgres.roll_back(session)).await
    }
}

impl State {
    /// A transaction has committed: its rows were asked for, once each, and pass no limit.
    fn committed(&mut self, committed: &Committed) {
        let Committed { coupons, watermark } = committed;
        self.note(format_args!("commit: {watermark:?}, {} rows", coupons.len()));
        if let Some((before, after)) = watermark {
            self.promise(before < after, || format!("the watermark went from {before} to {after}"));
        }
        self.promise(coupons.is_empty() || watermark.is_some(), || "rows without a watermark".into());
        for coupon in coupons {
            let asked = self.journal.asked(coupon);
            self.promise(asked, || format!("nobody asked for {coupon:?}"));
            let last = self.postgres.last_serial(coupon.template);
            self.promise((1..=last).contains(&coupon.serial), || format!("beyond the stock: {coupon:?}"));
            let broken = self.postgres.limit_passed(coupon);
            self.promise(broken.is_none(), || format!("{}: {coupon:?}", broken.unwrap_or_default()));
        }
    }
}

fn as_coupon(grant: &Grant<'_>) -> Coupon {
    Coupon {
        template: grant.template,
        serial: grant.serial,
        epoch: grant.epoch,
        user: String::from_utf8_lossy(grant.user).into_owned(),
        key: grant.claim_key_hash,
        ip: grant.ip_hash,
        device: grant.device_hash,
        acquired: grant.acquired,
    }
}

fn as_stored(coupon: Coupon) -> StoredGrant {
    StoredGrant {
        user: Some(coupon.user),
        receipt: Receipt {
            serial: coupon.serial,
            epoch: coupon.epoch,
            acquired: coupon.acquired,
            claim_key_hash: coupon.key,
        },
        ip: coupon.ip,
        device: coupon.device,
    }
}
