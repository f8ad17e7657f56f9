//! What PostgreSQL refuses, kept with its reason.

use tokio_postgres::{Client, Statement};

use super::cells::cell_i16;
use super::entry::{self, BadEntry, Grant};
use super::queue::QueueEntry;
use super::rows::is_user;
use crate::domain::ids::{CellId, EntryId};
use crate::pg::PgFault;

/// Writes to `set_aside`, within the caller's transaction.
pub(super) struct SetAside {
    cell: CellId,
    statement: Statement,
    /// Of a history that is given up.
    lost: Statement,
}

// === impl SetAside ===

impl SetAside {
    pub async fn prepare(client: &Client, cell: CellId) -> Result<Self, PgFault> {
        let statement = client.prepare(include_str!("../sql/grant/set_aside.sql")).await?;
        let lost = client.prepare(include_str!("../sql/grant/save_lost.sql")).await?;
        Ok(SetAside { cell, statement, lost })
    }

    /// Sets one grant aside. A user that is no reference is kept as bytes.
    pub async fn grant(
        &self,
        client: &Client,
        id: EntryId,
        grant: &Grant<'_>,
        sqlstate: Option<&str>,
        reason: &str,
    ) -> Result<(), PgFault> {
        let user = std::str::from_utf8(grant.user).ok().filter(|user| is_user(user.as_bytes()));
        let payload = user.is_none().then(|| entry::encode(grant.acquired, std::slice::from_ref(grant)));
        client
            .execute(
                &self.statement,
                &[
                    &cell_i16(self.cell),
                    &i32::from(id.epoch),
                    &(id.seq as i64),
                    &grant.template.as_i32(),
                    &(grant.serial as i64),
                    &i32::from(grant.epoch),
                    &user,
                    &(grant.claim_key_hash as i64),
                    &grant.ip_hash.map(|hash| hash as i64),
                    &grant.device_hash.map(|hash| hash as i64),
                    &(grant.acquired as f64),
                    &payload,
                    &sqlstate,
                    &reason,
                ],
            )
            .await?;
        Ok(())
    }

    /// Keeps a grant of a history that is given up, or its entry as it is, unless it is stored or kept already.
    pub async fn lost(
        &self,
        client: &Client,
        entry: &QueueEntry,
        grant: Option<&Grant<'_>>,
        reason: &str,
    ) -> Result<bool, PgFault> {
        let user = grant.and_then(|grant| std::str::from_utf8(grant.user).ok()).filter(|user| !user.contains('\0'));
        let payload = user.is_none().then_some(&entry.payload);
        let kept = client
            .execute(
                &self.lost,
                &[
                    &cell_i16(self.cell),
                    &i32::from(entry.id.epoch),
                    &(entry.id.seq as i64),
                    &grant.map(|grant| grant.template.as_i32()),
                    &grant.map(|grant| grant.serial as i64),
                    &grant.map(|grant| i32::from(grant.epoch)),
                    &user,
                    &grant.map(|grant| grant.claim_key_hash as i64),
                    &grant.and_then(|grant| grant.ip_hash).map(|hash| hash as i64),
                    &grant.and_then(|grant| grant.device_hash).map(|hash| hash as i64),
                    &grant.map(|grant| grant.acquired as f64),
                    &payload,
                    &reason,
                ],
            )
            .await?;
        Ok(kept > 0)
    }

    /// Sets an entry aside that cannot be read, as it is.
    pub async fn entry(&self, client: &Client, id: EntryId, payload: &[u8], bad: &BadEntry) -> Result<(), PgFault> {
        let (no_int, no_big, no_text) = (None::<i32>, None::<i64>, None::<&str>);
        client
            .execute(
                &self.statement,
                &[
                    &cell_i16(self.cell),
                    &i32::from(id.epoch),
                    &(id.seq as i64),
                    &no_int,
                    &no_big,
                    &no_int,
                    &no_text,
                    &no_big,
                    &no_big,
                    &no_big,
                    &None::<f64>,
                    &payload,
                    &no_text,
                    &bad.to_string(),
                ],
            )
            .await?;
        Ok(())
    }
}
