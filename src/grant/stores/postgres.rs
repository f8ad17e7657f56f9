//! A cell's statements, over one connection to PostgreSQL; and where both stores are found.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, Row, Statement};

use super::redis::RedisCell;
use super::{Archive, Extent, Reached, RowsSeen, StoredGrant, Stores};
use crate::catalog::publish::{TemplateRow, load_page};
use crate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
use crate::domain::template::Definition;
use crate::grant::aside::SetAside;
use crate::grant::cells::{self, CellRow, Raised, cell_i16};
use crate::grant::entry::{BadEntry, Grant};
use crate::grant::queue::QueueEntry;
use crate::grant::rows::{self, Row as GrantRow};
use crate::grant::stored;
use crate::grant::terms::Terms;
use crate::grant::watermark::Awaited;
use crate::ledger::counters::{Issued, IssuedCounter};
use crate::pg::{Pg, PgFault};
use crate::redis::client::Redis;
use crate::redis::fault::Fault;
use crate::redis::keys::CellKeys;

/// Both stores as they are configured.
pub struct LiveStores {
    pub pg: Pg,
    pub redis: Redis,
    pub cell: CellId,
    /// Of one call to Redis.
    pub redis_timeout: Duration,
}

/// Rows as any process sees them, over pooled connections that nobody else can take away.
pub struct PgRows {
    pub pg: Pg,
    pub cell: CellId,
}

/// A connection of the cell's own, and what it has prepared.
pub struct PgArchive {
    client: Client,
    cell: CellId,
    advance: Statement,
    copy: Statement,
    set_aside: SetAside,
    counter: IssuedCounter,
}

// === impl LiveStores ===

impl Stores for LiveStores {
    type Link = RedisCell;
    type Archive = PgArchive;

    async fn link(&self) -> Result<RedisCell, Fault> {
        Ok(RedisCell::new(self.redis.link().await?, CellKeys::new(self.cell), self.redis_timeout))
    }

    async fn archive(&self) -> Result<PgArchive, PgFault> {
        let client = self.pg.own().await?;
        // A flusher whose machine vanished must not hold the lock for hours.
        client
            .batch_execute("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3")
            .await?;
        PgArchive::new(client, self.cell).await
    }
}

// === impl PgRows ===

impl RowsSeen for PgRows {
    async fn reached(&self, lowest: Epoch) -> Result<Reached, PgFault> {
        let client = self.pg.urgent().await?;
        let sql = include_str!("../../sql/grant/wait_round.sql");
        let rows = client.query(sql, &[&cell_i16(self.cell), &i32::from(lowest)]).await?;
        let Some(first) = rows.first() else { return Err(PgFault::fault("the cell has no row")) };
        let ending = |row: &Row| Some((row.get::<_, Option<i32>>(4)? as Epoch, cells::entry(row, 5)));
        Ok(Reached {
            watermark: cells::entry(first, 1),
            any_set_aside: first.get::<_, i64>(3) > 0,
            endings: rows.iter().filter_map(ending).collect(),
        })
    }

    async fn stored(&self, grants: &[Awaited]) -> Result<Vec<Awaited>, PgFault> {
        let client = self.pg.urgent().await?;
        let of = |number: fn(&Awaited) -> i32| grants.iter().map(number).collect::<Vec<i32>>();
        let (templates, epochs) = (of(|grant| grant.template.as_i32()), of(|grant| i32::from(grant.epoch)));
        let serials: Vec<i64> = grants.iter().map(|grant| grant.serial as i64).collect();
        let rows =
            client.query(include_str!("../../sql/grant/stored_of.sql"), &[&templates, &serials, &epochs]).await?;
        let stored: HashSet<(i32, i64, i32)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let is_stored =
            |grant: &&Awaited| stored.contains(&(grant.template.as_i32(), grant.serial as i64, i32::from(grant.epoch)));
        Ok(grants.iter().filter(is_stored).copied().collect())
    }
}

// === impl PgArchive ===

impl PgArchive {
    pub async fn new(client: Client, cell: CellId) -> Result<Self, PgFault> {
        Ok(PgArchive {
            advance: client.prepare(include_str!("../../sql/grant/advance.sql")).await?,
            copy: client.prepare(include_str!("../../sql/grant/copy_coupons.sql")).await?,
            set_aside: SetAside::prepare(&client, cell).await?,
            counter: IssuedCounter::prepare(&client).await?,
            client,
            cell,
        })
    }

    async fn run(&self, sql: &str) -> Result<(), PgFault> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

impl Archive for PgArchive {
    fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn try_lock(&self) -> Result<bool, PgFault> {
        let sql = include_str!("../../sql/grant/try_lock.sql");
        Ok(self.client.query_one(sql, &[&i32::from(self.cell.0)]).await?.get(0))
    }

    async fn cell(&self) -> Result<CellRow, PgFault> {
        cells::read(&self.client, self.cell).await
    }

    async fn final_before(&self, epoch: Epoch) -> Result<Option<EntryId>, PgFault> {
        cells::final_before(&self.client, self.cell, epoch).await
    }

    async fn diverged(&self, id: EntryId) -> Result<Option<(Epoch, EntryId)>, PgFault> {
        cells::diverged(&self.client, self.cell, id).await
    }

    async fn raise_epoch(&self, redis: Epoch) -> Result<Raised, PgFault> {
        cells::raise_epoch(&self.client, self.cell, redis).await
    }

    async fn record_final(&self, mine: Epoch, redis_last: EntryId) -> Result<Option<EntryId>, PgFault> {
        cells::record_final(&self.client, self.cell, mine, redis_last).await
    }

    async fn mark_opened(&self, mine: Epoch) -> Result<bool, PgFault> {
        cells::mark_opened(&self.client, self.cell, mine).await
    }

    async fn templates(&self, after: i32, limit: usize) -> Result<Vec<TemplateRow>, PgFault> {
        load_page(&self.client, after, limit).await
    }

    async fn extents(&self, from: &[(TemplateId, Serial)]) -> Result<Vec<(TemplateId, Extent)>, PgFault> {
        let (ids, firsts): (Vec<i32>, Vec<i64>) = from.iter().map(|(id, first)| (id.as_i32(), *first as i64)).unzip();
        let rows = self.client.query(include_str!("../../sql/grant/extents.sql"), &[&ids, &firsts]).await?;
        let serial = |row: &Row, at: usize| row.get::<_, i64>(at) as Serial;
        let extent = |row: &Row| Extent { rows: serial(row, 1), asides: serial(row, 2) };
        Ok(rows.iter().map(|row| (TemplateId(row.get::<_, i32>(0) as u32), extent(row))).collect())
    }

    async fn grants_within(
        &self,
        template: &TemplateRow,
        first: Serial,
        last: Serial,
        any_asides: bool,
    ) -> Result<Vec<StoredGrant>, PgFault> {
        stored::within(&self.client, template.id, template.definition.quotas, first, last, any_asides).await
    }

    async fn next_serial(&self, template: TemplateId, first: Serial, last: Serial) -> Result<Option<Serial>, PgFault> {
        stored::next_serial(&self.client, template, first, last).await
    }

    async fn rows_in_all(&self) -> Result<u64, PgFault> {
        let row = self.client.query_one(include_str!("../../sql/grant/rows_in_all.sql"), &[]).await?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    async fn terms(&self, templates: &[TemplateId]) -> Result<Vec<(TemplateId, Option<Terms>)>, PgFault> {
        let ids: Vec<i32> = templates.iter().map(|id| id.as_i32()).collect();
        let rows = self.client.query(include_str!("../../sql/grant/definitions.sql"), &[&ids]).await?;
        let terms = rows.iter().map(|row| {
            let id = TemplateId(row.get::<_, i32>(0) as u32);
            match Definition::from_store(&row.get(1)) {
                Ok(definition) => (id, Some(Terms::of(&definition, row.get::<_, i64>(2) as Serial))),
                Err(wrong) => {
                    tracing::error!(template = id.0, ?wrong, "a template's definition cannot be read");
                    (id, None)
                }
            }
        });
        Ok(terms.collect())
    }

    async fn begin(&self) -> Result<(), PgFault> {
        self.run("BEGIN; SET LOCAL synchronous_commit = on").await
    }

    async fn advance(&self, epoch: Epoch, expected: EntryId, last: EntryId) -> Result<bool, PgFault> {
        let moved = self
            .client
            .execute(
                &self.advance,
                &[
                    &cell_i16(self.cell),
                    &i32::from(epoch),
                    &i32::from(expected.epoch),
                    &(expected.seq as i64),
                    &i32::from(last.epoch),
                    &(last.seq as i64),
                ],
            )
            .await?;
        Ok(moved > 0)
    }

    async fn copy(&self, rows: &[&[GrantRow<'_>]]) -> Result<usize, PgFault> {
        let packed = rows::pack(rows);
        let count = packed.rows();
        if count > 0 {
            let mut sink = pin!(self.client.copy_in::<_, Bytes>(&self.copy).await?);
            sink.send(packed.finish()).await?;
            sink.finish().await?;
        }
        Ok(count)
    }

    async fn savepoint(&self) -> Result<(), PgFault> {
        self.run("SAVEPOINT piece").await
    }

    async fn release(&self, keep: bool) -> Result<(), PgFault> {
        self.run(if keep { "RELEASE piece" } else { "ROLLBACK TO piece; RELEASE piece" }).await
    }

    async fn stored(&self, template: TemplateId, serial: Serial) -> Result<Option<(Epoch, u64, String)>, PgFault> {
        let sql = include_str!("../../sql/grant/stored.sql");
        let row = self.client.query_opt(sql, &[&template.as_i32(), &(serial as i64)]).await?;
        Ok(row.map(|row| (cells::epoch(&row, 0), row.get::<_, i64>(1) as u64, row.get(2))))
    }

    async fn set_grant_aside(
        &self,
        id: EntryId,
        grant: &Grant<'_>,
        sqlstate: Option<&str>,
        reason: &str,
    ) -> Result<(), PgFault> {
        self.set_aside.grant(&self.client, id, grant, sqlstate, reason).await
    }

    async fn set_entry_aside(&self, id: EntryId, payload: &[u8], bad: &BadEntry) -> Result<(), PgFault> {
        self.set_aside.entry(&self.client, id, payload, bad).await
    }

    async fn keep_lost(&self, entry: &QueueEntry, grant: Option<&Grant<'_>>, reason: &str) -> Result<bool, PgFault> {
        self.set_aside.lost(&self.client, entry, grant, reason).await
    }

    async fn count_set_aside(&self, rows: usize) -> Result<(), PgFault> {
        let sql = include_str!("../../sql/grant/count_set_aside.sql");
        self.client.execute(sql, &[&cell_i16(self.cell), &(rows as i64)]).await?;
        Ok(())
    }

    async fn count_issued(&self, issued: &Issued) -> Result<(), PgFault> {
        self.counter.add(&self.client, issued).await
    }

    async fn commit(&self) -> Result<(), PgFault> {
        self.run("COMMIT").await
    }

    async fn roll_back(&self) -> Result<(), PgFault> {
        self.run("ROLLBACK").await
    }
}
