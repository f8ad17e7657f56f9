//! Lock and confirm beside the same statements bare: what the product costs over a script of its own SQL.
//!
//! One side asks a `floodgate serve` over HTTP, order after order. The other is pgbench, which runs every
//! statement that the product sends for such an order, one after the other, as anyone would script
//! them: the same texts, the same rows. Both sides have the same connections to the same database, in
//! turns, each on coupons of its own of the same template. What both wrote is counted, and in the end the
//! ledger is checked: a run whose counts do not agree is void.
//!
//! # Layout
//! - [`stage`]: private servers, a gateway, a template on sale and its coupons
//! - [`script`]: the product's statements as a script for pgbench
//! - [`sides`]: one round of either side
//! - [`report`]: medians and ratios

pub mod report;
pub mod script;
pub mod sides;
pub mod stage;

use std::path::PathBuf;

use report::{Report, Side};
use script::Script;
use stage::{Stage, Written};

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// Where the servers' data go; it is emptied before, and removed once all went well.
    pub folder: PathBuf,
    pub rounds: usize,
    /// Of one side in one round.
    pub seconds: u64,
    /// Of either side; the gateway's pool has as many.
    pub connections: usize,
    /// The gateway's `redemption.checkouts_limit`; none: its default.
    pub checkouts_limit: Option<u32>,
}

/// Coupons that one connection may use in a second. Nothing near it was ever measured: a round that uses
/// them up is void.
const COUPONS_A_SECOND: u64 = 600;

// === impl Settings ===

impl Settings {
    /// Coupons of one connection in one round of one side.
    fn share(&self) -> u64 {
        self.seconds * COUPONS_A_SECOND
    }

    /// The serial before the first of a round's; round 0 is the warm-up.
    fn base(&self, round: usize, side: Side) -> u64 {
        let turn = 2 * round as u64 + u64::from(side == Side::Bare);
        script::PROBES + turn * self.connections as u64 * self.share()
    }

    fn coupons(&self) -> u64 {
        self.base(self.rounds + 1, Side::Floodgate)
    }
}

/// Measures both sides. The error: something could not be measured, or the counts do not agree.
pub async fn run(settings: &Settings) -> Result<Report, String> {
    let stage = Stage::open(settings).await?;
    let script = Script::derive(&stage).await?;
    let before = stage.written().await?;
    let mut report = Report::new(settings, &stage, &script).await?;
    for round in 0..=settings.rounds {
        // Whoever goes first finds another machine than whoever goes second: they take turns.
        let order = match round % 2 {
            0 => [Side::Floodgate, Side::Bare],
            _ => [Side::Bare, Side::Floodgate],
        };
        for side in order {
            stage.settle().await?;
            let written = stage.written().await?;
            let done = match side {
                Side::Floodgate => sides::floodgate(settings, &stage, settings.base(round, side)).await?,
                Side::Bare => sides::bare(settings, &stage, &script, settings.base(round, side)).await?,
            };
            agree(&stage.written().await?, &written, done.pairs).map_err(|why| format!("{}: {why}", side.word()))?;
            println!("round {round} {}: {done}", side.word());
            // The first of each fills caches, and is not counted.
            if round > 0 {
                report.add(side, done);
            }
        }
    }
    let pairs = stage.written().await?.pairs() - before.pairs();
    println!("{pairs} orders, each of which wrote the same rows; the ledger is being checked");
    stage.check_ledger().await?;
    stage.close(settings)?;
    Ok(report)
}

/// Demands that `pairs` locks and confirms wrote what as many must, on either side.
fn agree(after: &Written, before: &Written, pairs: u64) -> Result<(), String> {
    for ((table, now), (_, then)) in after.0.iter().zip(&before.0) {
        let each = match table.as_str() {
            "coupon_operations" | "audit_log" => 2,
            // Two lines of two merchants, each entry with its counter-entry.
            "settlement_entries" => 4,
            "user_coupons_of_other_status" | "coupons_counted_as_locked" => 0,
            _ => 1,
        };
        if now - then != each * pairs as i64 {
            return Err(format!(
                "{pairs} orders were used, and {} of {table} came of them, not {each} each",
                now - then
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rounds_share_a_coupon() {
        let settings = Settings {
            gateway: PathBuf::new(),
            folder: PathBuf::new(),
            rounds: 2,
            seconds: 3,
            connections: 4,
            checkouts_limit: None,
        };
        let mut last = script::PROBES;
        for round in 0..=2 {
            for side in [Side::Floodgate, Side::Bare] {
                assert_eq!(settings.base(round, side), last);
                last += 4 * settings.share();
            }
        }
        assert_eq!(settings.coupons(), last);
    }
}
