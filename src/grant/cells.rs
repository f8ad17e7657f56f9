//! A cell's row in PostgreSQL, and where each of its histories ended.

use tokio_postgres::{Client, Row};

use crate::domain::ids::{CellId, EntryId, Epoch};
use crate::pg::{Connection, PgFault};

/// How far a cell is stored, and under which epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The epoch in force. Whoever holds a lower one is a zombie.
    pub epoch: Epoch,
    /// The last entry whose grants are committed.
    pub watermark: EntryId,
}

/// The cell's row as an opening needs it.
#[derive(Clone, Copy, Debug)]
pub struct CellRow {
    pub position: Position,
    /// Whether the cell was ever opened: only one that never was is made from nothing.
    pub opened: bool,
}

/// What came of asking for a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    To(Epoch),
    /// Another session has the cell's advisory lock: this one had it and lost it, though its connection lives.
    NotMine,
    /// All 65,535 are used up.
    Exhausted,
}

/// The cell as PostgreSQL types it.
pub fn cell_i16(cell: CellId) -> i16 {
    cell.0 as i16
}

pub async fn read(client: &Client, cell: CellId) -> Result<CellRow, PgFault> {
    let row = client.query_one(include_str!("../sql/grant/cell.sql"), &[&cell_i16(cell)]).await?;
    Ok(CellRow { position: Position { epoch: epoch(&row, 0), watermark: entry(&row, 1) }, opened: row.get(3) })
}

/// How far the cell is stored, for readers.
pub async fn watermark(client: &Connection, cell: CellId) -> Result<EntryId, PgFault> {
    let row = client.row(include_str!("../sql/grant/watermark.sql"), &[&cell_i16(cell)]).await?;
    Ok(entry(&row.ok_or_else(|| PgFault::fault("the cell has no row"))?, 0))
}

/// The last entry before `epoch` began, as its opening recorded it.
pub async fn final_before(client: &Client, cell: CellId, epoch: Epoch) -> Result<Option<EntryId>, PgFault> {
    let sql = include_str!("../sql/grant/final_before.sql");
    Ok(client.query_opt(sql, &[&cell_i16(cell), &i32::from(epoch)]).await?.map(|row| entry(&row, 0)))
}

/// An opening that found a history which ended before `id`: its epoch, and where that history ended.
///
/// Any opening after the entry's epoch counts, not only the next one: a Redis may have come back
/// with less twice.
pub async fn diverged(client: &Client, cell: CellId, id: EntryId) -> Result<Option<(Epoch, EntryId)>, PgFault> {
    let sql = include_str!("../sql/grant/diverged.sql");
    let row = client.query_opt(sql, &[&cell_i16(cell), &i32::from(id.epoch), &(id.seq as i64)]).await?;
    Ok(row.map(|row| (epoch(&row, 0), entry(&row, 1))))
}

/// A new epoch, above PostgreSQL's and Redis', for whoever has the cell's advisory lock.
pub async fn raise_epoch(client: &Client, cell: CellId, redis: Epoch) -> Result<Raised, PgFault> {
    let sql = include_str!("../sql/grant/raise_epoch.sql");
    let row = client.query_one(sql, &[&cell_i16(cell), &i32::from(redis)]).await?;
    Ok(match (row.get::<_, bool>(0), row.get::<_, Option<i32>>(1)) {
        (false, _) => Raised::NotMine,
        (true, None) => Raised::Exhausted,
        (true, Some(epoch)) => Raised::To(epoch as Epoch),
    })
}

/// Records where the history before `mine` ended. `None`: `mine` is no longer the cell's epoch.
pub async fn record_final(
    client: &Client,
    cell: CellId,
    mine: Epoch,
    redis_last: EntryId,
) -> Result<Option<EntryId>, PgFault> {
    let sql = include_str!("../sql/grant/record_final.sql");
    let row = client
        .query_opt(sql, &[&cell_i16(cell), &i32::from(mine), &i32::from(redis_last.epoch), &(redis_last.seq as i64)])
        .await?;
    Ok(row.map(|row| entry(&row, 0)))
}

/// Notes that the cell may be open from now on. `false`: `mine` is no longer the cell's epoch.
pub async fn mark_opened(client: &Client, cell: CellId, mine: Epoch) -> Result<bool, PgFault> {
    let sql = include_str!("../sql/grant/mark_opened.sql");
    Ok(client.execute(sql, &[&cell_i16(cell), &i32::from(mine)]).await? == 1)
}

/// An epoch in column `at`.
pub fn epoch(row: &Row, at: usize) -> Epoch {
    row.get::<_, i32>(at) as Epoch
}

/// An entry id in columns `at` and `at + 1`.
pub fn entry(row: &Row, at: usize) -> EntryId {
    EntryId::new(epoch(row, at), row.get::<_, i64>(at + 1) as u64)
}
