//! Asks Redis again before a sold-out latch is no longer believed.
//!
//! Between restock and claim there is no message to lose: a latch that is not renewed ends by
//! itself, and one that is renewed was true at the time of the question.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::clock::mono_ms;
use crate::limits::{HOLDINGS_TEMPLATES_MAX, LATCH_PROBE_MS};
use crate::redis::cell::read_holdings;
use crate::telemetry::metrics;

/// Probes every watched latch until the process ends.
pub async fn run(app: Arc<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(LATCH_PROBE_MS)).await;
        let snapshot = app.snapshot.load();
        let asked = mono_ms();
        let watched: Vec<_> = snapshot.templates.values().filter(|template| template.latch.is_watched(asked)).collect();
        metrics().latched_templates.set(watched.iter().filter(|template| template.latch.is_set(asked)).count() as f64);
        let Some(identity) = app.claims.cell.identity() else { continue };
        for page in watched.chunks(HOLDINGS_TEMPLATES_MAX) {
            let ids: Vec<_> = page.iter().map(|template| template.id).collect();
            match read_holdings(&app.redis, &app.keys, &identity, None, &ids).await {
                Ok((_, holdings)) => {
                    for (template, holding) in page.iter().zip(holdings) {
                        if holding.remaining == 0 {
                            template.latch.set(holding.generation, asked);
                        } else {
                            template.latch.clear(holding.generation);
                        }
                    }
                }
                // Unrenewed, the latches end by themselves and claims ask Redis.
                Err(fault) => metrics().redis_error(fault.kind),
            }
        }
    }
}
