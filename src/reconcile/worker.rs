//! Compares for as long as the process lives, some rows at a time, and shows what differs: the gauge
//! `floodgate_drift`. It mends nothing.
//!
//! One process at a time, whoever has the advisory lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::difference::{Difference, Kind};
use super::walk::Walk;
use super::{Blind, View, cell};
use crate::app::App;
use crate::domain::ids::TemplateId;
use crate::pg::{Pg, PgFault};
use crate::telemetry::{Trouble, metrics};

const LOCK: &str = include_str!("../sql/reconcile/watch_lock.sql");

/// A cell that no flusher opens.
const REFUSED: (Kind, Option<TemplateId>) = (Kind::CellRefused, None);

/// Differences that one round's log lines show.
const SHOWN: usize = 5;

/// The one that compares, or waits to become it.
#[derive(Default)]
pub struct Watch {
    /// The connection that holds the lock, while this process is the one that compares.
    client: Option<Client>,
    seen: Seen,
}

/// What the rounds so far have found.
struct Seen {
    walk: Walk,
    begun: Instant,
    /// What this walk has found, and what the one before found in templates that this one has not reached.
    now: Counts,
    before: Counts,
}

/// Differences by kind and template.
type Counts = BTreeMap<(Kind, Option<TemplateId>), u64>;

/// Runs until the process ends.
pub async fn run(app: Arc<App>) {
    let pause = Duration::from_secs(app.config.worker.reconcile_pause_s);
    if pause.is_zero() {
        return;
    }
    let mut watch = Watch::default();
    let mut trouble = Trouble::new("Redis is not compared with PostgreSQL");
    loop {
        tokio::time::sleep(pause).await;
        let looked = watch.round(&app).await;
        if let Err(Blind::Postgres(fault)) = &looked {
            metrics().postgres_error(fault.word());
            watch.client = None;
        }
        trouble.note(looked.err());
    }
}

// === impl Watch ===

impl Watch {
    /// Looks at as many rows as one round may, if this process is the one that compares.
    pub async fn round(&mut self, app: &App) -> Result<(), Blind> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = become_watcher(&app.pg).await?;
            self.seen = Seen::default();
        }
        let Some(client) = &self.client else {
            // Another process has the lock, and shows what it finds.
            metrics().drift([0; Kind::ALL.len()]);
            return Ok(());
        };
        let seen = &mut self.seen;
        let view = match View::open(app, client).await {
            Ok(view) => view,
            Err(Blind::NotOpen) => {
                let refused = cell::refused(app).await.ok().flatten();
                if !seen.now.contains_key(&REFUSED) {
                    seen.show(refused.as_slice());
                }
                return Err(Blind::NotOpen);
            }
            Err(fault) => return Err(fault),
        };
        seen.before.remove(&REFUSED);
        seen.now.remove(&REFUSED);
        let until = seen.walk.rows + seen.walk.receipts + app.config.worker.reconcile_rows.max(1);
        let begun = Instant::now();
        while seen.walk.rows + seen.walk.receipts < until && begun.elapsed() < ROUND_MAX {
            let found = seen.walk.step(&view).await?;
            seen.show(&found);
            if seen.walk.is_over() {
                metrics().reconcile_walk_seconds.set(seen.begun.elapsed().as_secs_f64());
                *seen = Seen { before: std::mem::take(&mut seen.now), ..Seen::default() };
                break;
            }
        }
        seen.show(&[]);
        Ok(())
    }
}

// === impl Seen ===

impl Default for Seen {
    fn default() -> Self {
        let (now, before) = (Counts::new(), Counts::new());
        Seen { walk: Walk::default(), begun: Instant::now(), now, before }
    }
}

impl Seen {
    /// Counts and logs. What the walk before found stands until this one is over.
    fn show(&mut self, found: &[Difference]) {
        let mut shown = 0;
        for difference in found {
            let key = (difference.place.kind, difference.place.template);
            let count = self.now.entry(key).or_default();
            *count += 1;
            // The first of a kind in a template, unless the walk before told it.
            if *count == 1 && !self.before.contains_key(&key) && shown < SHOWN {
                tracing::error!(kind = key.0.word(), template = key.1.map(|id| id.0), "{}", unnamed(difference));
                shown += 1;
            }
        }
        let mut counts = [0; Kind::ALL.len()];
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            let of = |counts: &Counts| -> u64 {
                counts.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum()
            };
            counts[at] = of(&self.now).max(of(&self.before));
        }
        metrics().drift(counts);
    }
}

/// The longest that one round may take; what waits for the watermark counts, too.
const ROUND_MAX: Duration = Duration::from_secs(3);

/// As the log may have it: without the user.
fn unnamed(difference: &Difference) -> String {
    let mut difference = difference.clone();
    difference.place.user = None;
    format!("Redis and PostgreSQL differ, see `floodgate reconcile`: {difference}")
}

/// A connection that holds the lock; `None`: another process has it.
async fn become_watcher(pg: &Pg) -> Result<Option<Client>, PgFault> {
    let client = pg.own().await?;
    let locked: bool = client.query_one(LOCK, &[]).await?.get(0);
    Ok(locked.then_some(client))
}
