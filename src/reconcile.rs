//! Redis, the grant queue and PostgreSQL compared, and what is safe to mend mended.
//!
//! Everything is in motion while it is compared, so each comparison reads in the order in which a grant
//! travels. A row was a receipt before: rows are read first, receipts after them. A receipt becomes a row
//! behind its entry: where it is missing, the watermark must have passed the template's last entry as of the
//! moment at which the receipt was read. What is found all the same is looked at a second time, and only
//! what is still so is a difference.
//!
//! It decides nothing that is not certain. What is given back to Redis is what PostgreSQL has; nothing is
//! ever taken from either. What only a person can decide is said, with what to do.
//!
//! # Layout
//! - [`difference`]: the kinds of difference, each with its likely cause and its remedy
//! - [`walk`]: the order in which all is looked at, in steps of bounded size
//! - [`cell`]: the cell's meta and queue beside its row
//! - [`template`]: a template's state, stock and day count beside its row
//! - [`rows`], [`receipts`]: rows that have no receipt, serials that have no row, receipts that have none
//! - [`lost`]: what is known to be lost or set aside
//! - [`journal`]: a client's journal beside all of it
//! - [`mend`]: what is given back
//! - [`worker`]: the loop, and the gauge of drift

pub mod cell;
pub mod difference;
pub mod journal;
pub mod lost;
pub mod mend;
pub mod receipts;
pub mod rows;
pub mod template;
pub mod walk;
pub mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::app::App;
use crate::domain::ids::EntryId;
use crate::grant::cells::{self, CellRow};
use crate::pg::PgFault;
use crate::redis::cell::{CellMeta, Identity, read_meta_pooled};
use crate::redis::fault::Fault;

/// A view on both stores of one cell, under one identity of the cell.
pub struct View<'a> {
    pub app: &'a App,
    pub client: &'a Client,
    pub identity: Arc<Identity>,
}

/// Why nothing can be compared.
#[derive(Debug)]
pub enum Blind {
    Postgres(PgFault),
    Redis(Fault),
    /// The cell is being opened, or was opened anew meanwhile.
    NotOpen,
}

/// How long the watermark is waited for before what is on the queue is called in flight.
const SETTLE_MAX: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(20);

// === impl View ===

impl<'a> View<'a> {
    /// Adopts the cell as it is open now.
    pub async fn open(app: &'a App, client: &'a Client) -> Result<View<'a>, Blind> {
        let meta = read_meta_pooled(&app.redis, &app.keys).await?;
        let identity = Identity::of(&meta).ok_or(Blind::NotOpen)?;
        Ok(View { app, client, identity: Arc::new(identity) })
    }

    pub async fn meta(&self) -> Result<CellMeta, Blind> {
        Ok(read_meta_pooled(&self.app.redis, &self.app.keys).await?)
    }

    pub async fn row(&self) -> Result<CellRow, Blind> {
        Ok(cells::read(self.client, self.app.cell).await?)
    }

    /// Whether all grants up to `entry` are stored; waits a little for it.
    pub async fn settled(&self, entry: Option<EntryId>) -> Result<bool, Blind> {
        let Some(entry) = entry else { return Ok(true) };
        let begun = Instant::now();
        while self.row().await?.position.watermark < entry {
            if begun.elapsed() > SETTLE_MAX {
                return Ok(false);
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
        Ok(true)
    }
}

// === impl Blind ===

impl From<PgFault> for Blind {
    fn from(fault: PgFault) -> Self {
        Blind::Postgres(fault)
    }
}

impl From<tokio_postgres::Error> for Blind {
    fn from(error: tokio_postgres::Error) -> Self {
        Blind::Postgres(error.into())
    }
}

impl From<Fault> for Blind {
    fn from(fault: Fault) -> Self {
        // The cell's identity is another one by now, or it is closed.
        if fault.kind == "refused" { Blind::NotOpen } else { Blind::Redis(fault) }
    }
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blind::Postgres(fault) => fault.fmt(f),
            Blind::Redis(fault) => fault.fmt(f),
            Blind::NotOpen => f.write_str("the cell is not open: a flusher opens it"),
        }
    }
}
