//! The loop that seals, anchors, and shows how far it is.
//!
//! Every worker process runs it. It remembers where the chain ended: an end that goes back, or has
//! another hash, is an alarm at once, not only when somebody verifies. It outlives its errors: the
//! gauges show what is not sealed, the log says once why.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::anchor::{Anchor, AnchorFile};
use super::seal::{ChainKey, Hash, hex, read_hash};
use super::sealer::seal_once;
use crate::clock::now_ms;
use crate::config::Config;
use crate::limits::AUDIT_UNSEALED_COUNTED_MAX;
use crate::pg::{Pg, PgFault};
use crate::telemetry::metrics;

const HEAD: &str = include_str!("../sql/audit/head_read.sql");
const CHAIN_HASH: &str = include_str!("../sql/audit/chain_hash.sql");

/// Between rounds; after errors it doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often the head is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One process' keeper of the chain.
pub struct Keeper {
    key: ChainKey,
    file: Option<AnchorFile>,
    interval: Duration,
    /// Where the chain ended when this process, or its anchor file, saw it last.
    seen: Option<(i64, Hash)>,
    anchored: i64,
    anchored_at: Option<Instant>,
}

// === impl Keeper ===

impl Keeper {
    /// Opens the anchor file, if the settings name one.
    pub fn open(config: &Config) -> Result<Keeper, String> {
        let path = &config.audit.anchor_file;
        let (file, last) = if path.as_os_str().is_empty() {
            (None, None)
        } else {
            let opened = AnchorFile::open(path);
            let (file, last) =
                opened.map_err(|error| format!("cannot use audit.anchor_file {}: {error}", path.display()))?;
            (Some(file), last)
        };
        Ok(Keeper {
            key: ChainKey::new(&config.code_key()),
            file,
            interval: Duration::from_secs(config.audit.anchor_interval_s),
            anchored: last.as_ref().map_or(0, |anchor| anchor.position),
            seen: last.map(|Anchor { position, hash, .. }| (position, hash)),
            anchored_at: None,
        })
    }

    /// Until `stop` says so: then what is committed is sealed, and anchored.
    pub async fn run(mut self, pg: Pg, mut stop: watch::Receiver<bool>) {
        let mut trouble: Option<String> = None;
        let (mut pause, mut looked_at) = (PAUSE_MIN, None);
        loop {
            let is_last = *stop.borrow();
            let done = self.round(&pg, &mut looked_at, is_last).await;
            pause = if done.is_ok() { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            let now = done.err();
            if now != trouble {
                match &now {
                    Some(reason) => tracing::warn!(%reason, "audit records are not sealed or anchored"),
                    None => tracing::info!("over: audit records are not sealed or anchored"),
                }
                trouble = now;
            }
            if is_last {
                return;
            }
            let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
        }
    }

    async fn round(&mut self, pg: &Pg, looked_at: &mut Option<Instant>, is_last: bool) -> Result<(), String> {
        let told = |fault: PgFault| fault.to_string();
        while seal_once(pg, &self.key).await.map_err(told)? {}
        if !is_last && looked_at.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        let head = self.look(pg).await.map_err(told)?;
        *looked_at = Some(Instant::now());
        if let Some((position, hash)) = head
            && (is_last || self.anchored_at.is_none_or(|at| at.elapsed() >= self.interval))
        {
            self.anchor(position, hash).await?;
        }
        Ok(())
    }

    /// Reads the head, sets the gauges, and compares with what was seen before.
    async fn look(&mut self, pg: &Pg) -> Result<Option<(i64, Hash)>, PgFault> {
        let client = pg.get().await?;
        let Some(row) = client.row(HEAD, &[&AUDIT_UNSEALED_COUNTED_MAX]).await? else {
            if self.seen.is_some() {
                self.alarm(0, "its head is gone");
                self.seen = None;
            }
            return Ok(None);
        };
        let (position, hash): (i64, Hash) = (row.get("position"), read_hash(&row, "chain_hash")?);
        metrics().audit_unsealed_records.set(row.get::<_, i64>("records") as f64);
        metrics().audit_unsealed_age_seconds.set(row.get::<_, f64>("age"));
        metrics().audit_sealed_position.set(position as f64);
        if let Some((seen, seen_hash)) = self.seen {
            let there = client.row(CHAIN_HASH, &[&seen]).await?;
            let there = there.map(|row| read_hash(&row, "chain_hash")).transpose()?;
            if position < seen {
                self.alarm(position, "it is shorter than it was");
            } else if there != Some(seen_hash) || position == seen && hash != seen_hash {
                self.alarm(position, "its hash at that position is another one");
            }
        }
        self.seen = (position > 0).then_some((position, hash));
        Ok(self.seen)
    }

    fn alarm(&self, position: i64, why: &str) {
        metrics().audit_head_lost.increment(1);
        let seen = self.seen.map_or(0, |(seen, _)| seen);
        tracing::error!(seen, position, why, "the audit chain lost its end: see `floodgate audit verify`");
    }

    /// Says where the chain ends, in the log and in the file.
    async fn anchor(&mut self, position: i64, hash: Hash) -> Result<(), String> {
        if position == self.anchored {
            return Ok(());
        }
        if let Some(mut file) = self.file.take() {
            let append = move || {
                let done = file.append(now_ms(), position, &hash);
                (file, done)
            };
            let (file, done) = tokio::task::spawn_blocking(append).await.map_err(|error| error.to_string())?;
            self.file = Some(file);
            done.map_err(|error| format!("the anchor file cannot be written: {error}"))?;
        }
        tracing::info!(target: "floodgate::audit", position, hash = hex(&hash), "audit anchor");
        metrics().audit_anchored_position.set(position as f64);
        (self.anchored, self.anchored_at) = (position, Some(Instant::now()));
        Ok(())
    }
}
