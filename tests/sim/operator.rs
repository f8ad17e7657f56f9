//! The operator: recovers a cell that no flusher opens, and sometimes dies in the middle of it.

use std::sync::Arc;
use std::time::Duration;

use floodgate::config::{self, Config};
use floodgate::domain::ids::CellId;
use floodgate::grant::opening::Opening;
use floodgate::grant::recover::Recovery;
use floodgate::grant::stores::{Archive, Stores};
use floodgate::grant::writer::Writer;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::stores::SimStores;
use crate::world::{Process, World};

/// How long a recovery waits for the lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Looks again and again, for as long as the simulation lasts.
pub fn start(world: &Arc<World>, config: &'static Config) -> JoinHandle<()> {
    let world = world.clone();
    tokio::spawn(async move {
        let install = config.install_name();
        loop {
            let (pause, life) = {
                let chance = &mut world.state().chance;
                (chance.between(200, 900), if chance.one_in(3) { chance.between(1, 300) } else { 60_000 })
            };
            sleep(Duration::from_millis(pause)).await;
            let stores = SimStores { world: world.clone(), process: Arc::<Process>::default() };
            if is_refused(&stores, config, &install).await {
                world.state().note(format_args!("the operator recovers, for {life} ms at most"));
                let recovery = recover(&stores, config, &install);
                let done = timeout(Duration::from_millis(life), recovery).await;
                let mut state = world.state();
                state.note(format_args!("the recovery ends: {done:?}"));
                state.recoveries += u64::from(matches!(done, Ok(Ok(_))));
            }
        }
    })
}

/// Whether flushers leave the cell to an operator.
async fn is_refused(stores: &SimStores, config: &Config, install: &str) -> bool {
    let (Ok(archive), Ok(mut link)) = (stores.archive().await, stores.link().await) else { return false };
    let (cell, quota) = (CellId(0), &config.quota);
    let mut opening = Opening { archive: &archive, link: &mut link, cell, quota, install, progress: &|_| {} };
    matches!(opening.inspect().await, Ok((_, Some(_))))
}

async fn recover(stores: &SimStores, config: &Config, install: &str) -> Result<u16, String> {
    let archive = stores.archive().await.map_err(|fault| fault.to_string())?;
    let begun = Instant::now();
    while !archive.try_lock().await.map_err(|fault| fault.to_string())? {
        if begun.elapsed() > LOCK_WAIT {
            return Err("a flusher holds this cell".into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let recovery = Recovery {
        writer: Writer::new(archive, CellId(0), config::ms(config.postgres.statement_timeout_ms)),
        link: stores.link().await.map_err(|fault| fault.to_string())?,
        cell: CellId(0),
        quota: &config.quota,
        install,
        progress: &|_| {},
    };
    let recovered = recovery.run(false, async |_| Ok(())).await?;
    Ok(recovered.opened.identity.epoch)
}
