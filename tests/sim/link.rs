//! A flusher's connection to the model Redis.

use floodgate::catalog::publish::{Put, TemplateRow};
use floodgate::claim::model_engine::{ModelCell, QuotaRule, Row, Terms};
use floodgate::domain::ids::{EntryId, Serial, TemplateId};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::Day;
use floodgate::grant::entry::{self, Grant};
use floodgate::grant::queue::{QueueEntry, Read};
use floodgate::grant::stores::{CellLink, Quotas, StoredGrant};
use floodgate::redis::cell::{CellMeta, Identity};
use floodgate::redis::fault::Fault;

use crate::redis::Wire;
use crate::stores::SimStores;
use crate::world::State;

pub struct SimLink {
    stores: SimStores,
    wire: Wire,
}

// === impl SimLink ===

impl SimLink {
    pub fn new(stores: SimStores, wire: Wire) -> Self {
        SimLink { stores, wire }
    }

    /// One script on the cell; a refusal is its word.
    async fn on_cell<T: Send + 'static>(
        &mut self,
        writes: bool,
        run: impl FnOnce(&mut ModelCell) -> Result<T, &'static str> + Send + 'static,
    ) -> Result<T, Fault> {
        let run = move |state: &mut State, machine: usize| {
            run(&mut state.redis.machines[machine].cell).map_err(Fault::refused)
        };
        self.stores.script(self.wire, writes, run).await
    }
}

impl CellLink for SimLink {
    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        self.on_cell(false, |cell| Ok(cell.meta())).await
    }

    async fn close(&mut self, identity: &Identity) -> Result<(), Fault> {
        let identity = identity.clone();
        self.stores
            .script(self.wire, true, move |state, machine| {
                let cell = &mut state.redis.machines[machine].cell;
                let closed = *cell.live_replid == *identity.replid && cell.close(identity.epoch);
                state.note(format_args!("close {}: {closed}", identity.epoch));
                if closed { Ok(()) } else { Err(Fault::refused("epoch")) }
            })
            .await
    }

    async fn open(&mut self, identity: &Identity, quotas: &Quotas, install: &str) -> Result<(), Fault> {
        let (identity, rules, install) = (identity.clone(), rules(quotas), install.to_owned());
        self.stores
            .script(self.wire, true, move |state, machine| {
                let cell = &mut state.redis.machines[machine].cell;
                let opened = *cell.live_replid == *identity.replid && cell.open(identity.epoch, rules);
                if opened {
                    cell.install = install;
                }
                let last = cell.meta().last;
                state.note(format_args!("open {}: {opened}, {last}", identity.epoch));
                if opened { Ok(()) } else { Err(Fault::refused("epoch")) }
            })
            .await
    }

    async fn put(&mut self, identity: &Identity, row: &TemplateRow) -> Result<Put, Fault> {
        let (identity, row) = (identity.clone(), row.clone());
        self.on_cell(true, move |cell| {
            held_closed(cell, &identity)?;
            put(cell, &row);
            Ok(Put::Holds(row.revision))
        })
        .await
    }

    async fn reapply(
        &mut self,
        identity: &Identity,
        template: &TemplateRow,
        day: Day,
        quotas: &Quotas,
        rows: &[StoredGrant],
    ) -> Result<Serial, Fault> {
        let (identity, id, rules) = (identity.clone(), template.id, rules(quotas));
        let daily = template.definition.stock.daily.is_some();
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| Row {
                user: row.user.as_deref().and_then(UserRef::from_store),
                receipt: row.receipt,
                ip: row.ip,
                device: row.device,
            })
            .collect();
        self.on_cell(true, move |cell| {
            let meta = held_closed(cell, &identity)?;
            let latest = rows.iter().map(|row| row.receipt.acquired).fold(meta.clock, i64::max);
            if cell.now < latest - 1_000 {
                return Err("clock");
            }
            if daily && !day.contains(cell.now.max(latest)) {
                return Err("day");
            }
            cell.reapply(id, day, rules, &rows);
            Ok(cell.cursor(id))
        })
        .await
    }

    async fn read(&mut self, identity: &Identity, after: EntryId, count: usize) -> Result<Read, Fault> {
        let identity = identity.clone();
        self.on_cell(false, move |cell| {
            if !cell.is(&identity) {
                return Err("epoch");
            }
            Ok(Read { now: cell.now, length: cell.queue().len() as u64, entries: packed(cell, after, count) })
        })
        .await
    }

    async fn queue_behind(&mut self, after: EntryId) -> Result<Vec<QueueEntry>, Fault> {
        self.on_cell(false, move |cell| Ok(packed(cell, after, 3))).await
    }

    async fn wipe(&mut self, identity: &Identity) -> Result<(), Fault> {
        let identity = identity.clone();
        self.on_cell(true, move |cell| {
            held_closed(cell, &identity)?;
            cell.wiping = true;
            Ok(())
        })
        .await?;
        self.stores
            .script(self.wire, true, |state, machine| {
                state.note(format_args!("wiped"));
                let cell = &mut state.redis.machines[machine].cell;
                let (now, role) = (cell.now, cell.role);
                *cell = ModelCell::new(now, &cell.live_replid);
                (cell.role, cell.refilling) = (role, true);
                Ok(())
            })
            .await
    }

    async fn trim(
        &mut self,
        identity: &Identity,
        watermark: EntryId,
        _templates: &[TemplateId],
        _grants: usize,
    ) -> Result<(), Fault> {
        let identity = identity.clone();
        self.stores
            .script(self.wire, true, move |state, machine| {
                let cell = &mut state.redis.machines[machine].cell;
                if !cell.is(&identity) {
                    return Err(Fault::refused("epoch"));
                }
                let trimmed = cell.trim(watermark);
                let stored = state.postgres.watermark;
                state.note(format_args!("trim {watermark}: {trimmed}"));
                state.promise(watermark <= stored, || format!("trimmed to {watermark}, stored is {stored}"));
                Ok(())
            })
            .await
    }
}

/// Brings a cell to a template's row, as the put script does.
pub fn put(cell: &mut ModelCell, row: &TemplateRow) {
    let definition = &row.definition;
    let terms = Terms {
        state: row.state(),
        revision: row.revision as u32,
        generation: row.stock_generation,
        starts_at: definition.claim_window.0,
        ends_at: definition.claim_window.1,
        per_user: definition.limits.per_user,
        per_user_daily: definition.limits.per_user_daily.unwrap_or(0),
        daily: definition.stock.daily.unwrap_or(0),
        quotas: definition.quotas,
    };
    cell.put_template(row.id, terms);
    for (first, last) in &row.ranges {
        cell.give_range(row.id, *first, *last);
    }
}

/// Entries behind `after` as the queue has them.
fn packed(cell: &ModelCell, after: EntryId, count: usize) -> Vec<QueueEntry> {
    let behind = cell.queue().iter().filter(|entry| entry.id > after).take(count);
    behind
        .map(|entry| {
            let grants: Vec<Grant<'_>> =
                entry.grants.iter().map(|grant| as_packed(entry.id, entry.at, grant)).collect();
            let payload = if grants.is_empty() { Vec::new() } else { entry::encode(entry.at, &grants) };
            QueueEntry { id: entry.id, payload }
        })
        .collect()
}

fn held_closed(cell: &ModelCell, identity: &Identity) -> Result<CellMeta, &'static str> {
    let meta = cell.meta();
    match () {
        () if meta.live_replid != *identity.replid => Err("replid"),
        () if meta.epoch != identity.epoch => Err("epoch"),
        () if meta.open => Err("open"),
        () => Ok(meta),
    }
}

fn rules(quotas: &Quotas) -> [QuotaRule; 3] {
    quotas.map(|(limit, window)| QuotaRule { limit: limit as u32, window: window as i64 })
}

fn as_packed(id: EntryId, at: i64, grant: &floodgate::claim::model_engine::Grant) -> Grant<'_> {
    let (user, key, ip, device) = &grant.claim;
    Grant {
        template: grant.template,
        serial: grant.serial,
        epoch: id.epoch,
        acquired: at,
        claim_key_hash: *key,
        user: user.as_bytes(),
        ip_hash: *ip,
        device_hash: *device,
    }
}
