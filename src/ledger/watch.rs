//! Looks at one template after the other and shows what does not balance: the gauge `ledger_drift`.
//!
//! One process at a time, whoever has the advisory lock. A look is the check's part of templates, in a
//! snapshot of its own and for a bounded time; orders and money are for `floodgate ledger check`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::check::{check_coupons, templates};
use crate::app::App;
use crate::limits::LEDGER_LOOK_MAX_MS;
use crate::pg::{Pg, PgFault};
use crate::telemetry::{Trouble, metrics};

const LOCK: &str = include_str!("../sql/ledger/watch_lock.sql");

/// Differences of a template that one log line shows.
const SHOWN: usize = 3;

/// What the looks so far have found.
#[derive(Default)]
pub struct Watch {
    /// The connection that holds the lock, while this process is the one that looks.
    client: Option<Client>,
    /// Templates that this round has not looked at.
    left: VecDeque<i32>,
    /// Templates whose last look found differences, and how many.
    drift: BTreeMap<i32, usize>,
}

/// Looks for as long as the process lives, with a pause between two looks.
pub async fn run(app: Arc<App>) {
    let pause = Duration::from_secs(app.config.worker.ledger_look_pause_s);
    if pause.is_zero() {
        return;
    }
    let mut watch = Watch::default();
    let mut trouble = Trouble::new("the ledger is not looked at");
    loop {
        let looked = watch.look(&app.pg).await;
        if let Err(fault) = &looked {
            metrics().postgres_error(fault.word());
            watch.client = None;
        }
        trouble.note(looked.err());
        tokio::time::sleep(pause).await;
    }
}

// === impl Watch ===

impl Watch {
    /// Looks at the next template, if this process is the one that looks.
    pub async fn look(&mut self, pg: &Pg) -> Result<(), PgFault> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = become_watcher(pg).await?;
        }
        let Some(client) = &mut self.client else {
            // Another process has the lock, and shows what it finds.
            self.drift.clear();
            metrics().ledger_drift.set(0.0);
            return Ok(());
        };
        if self.left.is_empty() {
            self.left = templates(client).await?.into();
            self.drift.retain(|template, _| self.left.contains(template));
        }
        if let Some(template) = self.left.pop_front() {
            let mut shown = Vec::new();
            let found = check_coupons(client, template, |difference| {
                if shown.len() < SHOWN {
                    shown.push(difference.to_string());
                }
            })
            .await?;
            let before = if found == 0 { self.drift.remove(&template) } else { self.drift.insert(template, found) };
            if found > 0 && before != Some(found) {
                tracing::error!(template, found, ?shown, "the ledger does not balance: see `floodgate ledger check`");
            }
        }
        metrics().ledger_drift.set(self.drift.values().sum::<usize>() as f64);
        Ok(())
    }
}

/// A connection that holds the lock; `None`: another process has it.
async fn become_watcher(pg: &Pg) -> Result<Option<Client>, PgFault> {
    let client = pg.own().await?;
    client.batch_execute(&format!("SET statement_timeout = {LEDGER_LOOK_MAX_MS}")).await?;
    let locked: bool = client.query_one(LOCK, &[]).await?.get(0);
    Ok(locked.then_some(client))
}
