//! The loops that carry revocations out, sweep what has expired, and look whether the ledger balances.

use std::sync::Arc;
use std::time::Duration;

use super::{revoker, sweeper};
use crate::app::App;
use crate::config::ms;
use crate::ledger::watch;
use crate::limits::UPKEEP_PAUSE_MS;
use crate::pg::PgFault;
use crate::telemetry::{Trouble, metrics};

const IDLE_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// All of it, for as long as the process lives.
pub async fn run(app: Arc<App>) {
    let revoke = steps("revocations stand still", || revoker::step(&app));
    let sweep = steps("expired coupons are not swept (they are refused all the same)", || sweeper::step(&app));
    tokio::join!(revoke, sweep, watch::run(app.clone()));
}

/// Steps with a short pause while there is something to do. Never returns.
async fn steps<F: Future<Output = Result<bool, PgFault>>>(what: &'static str, step: impl Fn() -> F) {
    let mut trouble = Trouble::new(what);
    let mut pause = IDLE_PAUSE;
    loop {
        let done = step().await;
        pause = match &done {
            Ok(true) => ms(UPKEEP_PAUSE_MS),
            Ok(false) => IDLE_PAUSE,
            Err(fault) => {
                metrics().postgres_error(fault.word());
                (pause * 2).clamp(IDLE_PAUSE, PAUSE_MAX)
            }
        };
        trouble.note(done.err());
        tokio::time::sleep(pause).await;
    }
}
