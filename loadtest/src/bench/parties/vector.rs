//! The vectorised script alone: whole batches, without HTTP, as fast as Redis takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use floodgate::claim::engine::{Batch, BatchReply, Claim, Decision, Engine, Group, GroupReply};
use floodgate::claim::redis_engine::RedisEngine;
use floodgate::clock::now_ms;
use floodgate::demo::redis_server::Fsync;
use floodgate::domain::ids::{CellId, TemplateId};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::Day;
use floodgate::redis::cell::Identity;
use floodgate::redis::client::Redis;
use floodgate::redis::keys::CellKeys;

use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::Stand;
use crate::meter::Meter;
use crate::plan::{mix, scattered};

struct Vector {
    name: &'static str,
    what: &'static str,
    quotas: bool,
}

/// Claims in a batch, and batches under way.
const BATCH: u64 = 64;
const LINKS: u64 = 16;

pub fn parties() -> Vec<Box<dyn Party>> {
    let what = "Floodgate's script alone, batches of 64 on 16 connections, always";
    let under_quotas = "the same with quotas on user, IP and device, all distinct";
    vec![
        Box::new(Vector { name: "vector", what, quotas: false }),
        Box::new(Vector { name: "vector-quotas", what: under_quotas, quotas: true }),
    ]
}

impl Party for Vector {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let plan = Plan::new(Fsync::Always);
            let mut shop = Shop::open(stand, if self.quotas { plan.quotas() } else { plan }).await?;
            let template = shop.publish(50_000_000, self.quotas).await?;
            shop.stop_back().await;
            let before = shop.counts().await?;
            let meter = Meter::start(&[("redis", shop.redis.pid())]);
            let begun = Instant::now();
            let granted = grant(&shop, template, self.quotas, Until::Time(begun + stand.duration())).await?;
            let (took, used) = (begun.elapsed(), meter.stop());
            let counts = shop.counts().await?.since(&before);
            let claims = granted as f64;
            let sample = Sample::rate(claims, took).used(&used, claims).redis(&counts, claims);
            shop.start_back().await?;
            shop.drained().await?;
            let tally = shop.tally(template).await?;
            Ok(sample
                .provided(tally.agrees() && tally.granted == granted, || format!("{granted} grants, but {tally:?}")))
        })
    }
}

/// How long batches go.
#[derive(Clone, Copy)]
pub enum Until {
    Time(Instant),
    /// So many claims, rounded up to whole batches.
    Claims(u64),
}

/// Batches of new users straight to the script, by the project's own engine; how many were granted.
/// `quotas`: each with an address and a device of its own.
pub async fn grant(shop: &Shop<'_>, template: u32, quotas: bool, until: Until) -> Result<u64, String> {
    let redis = Redis::new(&shop.config()?.redis)?;
    let (keys, users) = (CellKeys::new(CellId(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..LINKS)
        .map(|_| {
            let engine = RedisEngine::new(redis.clone(), keys.clone());
            tokio::spawn(claim(engine, keys.clone(), TemplateId(template), quotas, users.clone(), until))
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        granted += task.await.map_err(|error| error.to_string())??;
    }
    Ok(granted)
}

async fn claim(
    mut engine: RedisEngine,
    keys: CellKeys,
    template: TemplateId,
    quotas: bool,
    users: Arc<AtomicU64>,
    until: Until,
) -> Result<u64, String> {
    let meta = engine.meta().await.map_err(|fault| fault.to_string())?;
    let identity = Identity::of(&meta).ok_or("the cell is not open")?;
    let mut granted = 0;
    loop {
        let first = users.fetch_add(BATCH, Ordering::Relaxed);
        let over = match until {
            Until::Time(end) => Instant::now() >= end,
            Until::Claims(count) => first >= count,
        };
        if over {
            return Ok(granted);
        }
        let claims = (first..first + BATCH).map(|user| Claim {
            user: UserRef::from_store(&scattered(user)).expect("a plain id"),
            claim_key_hash: mix(user),
            ip: quotas.then(|| mix(!user)),
            device: quotas.then(|| mix(user ^ 1 << 40)),
        });
        let (keys, day) = (keys.template(template), Day { start: 0, end: 0 });
        let group = Group { template, keys, quotas, day, claims: claims.collect() };
        let batch = Batch { deadline: now_ms() + 10_000, backlog_max: u64::MAX >> 12, groups: vec![group] };
        let reply = engine.claim(&identity, &batch).await.map_err(|fault| fault.to_string())?;
        let BatchReply::Executed { groups, .. } = reply else { return Err(format!("not executed: {reply:?}")) };
        for group in groups {
            let GroupReply::Decided { decisions, .. } = group else { return Err(format!("{group:?}")) };
            granted += decisions.iter().filter(|decision| matches!(decision, Decision::Granted(_))).count() as u64;
        }
    }
}
