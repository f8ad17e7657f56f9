//! Memory: what a grant takes of Redis, and what floods of made-up keys and idle connections take of a
//! gateway.

use std::time::Duration;

use floodgate::demo::redis_server::Fsync;
use floodgate::domain::ids::{CellId, TemplateId};
use floodgate::redis::keys::CellKeys;
use tokio::net::TcpStream;

use super::vector::{Until, grant};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::Stand;
use crate::bench::wrk::{self, Wrk};
use crate::meter::resident;

struct Grants;
struct Gateway;

const MB: f64 = 1e6;
/// Turns of wrk at most, whatever the rate.
const FLOODS_MAX: u64 = 60;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Grants), Box::new(Gateway)]
}

impl Party for Grants {
    fn name(&self) -> &'static str {
        "memory-grants"
    }

    fn what(&self) -> &'static str {
        "bytes of Redis a grant, users of 12 characters: receipts, queue, three quotas"
    }

    fn rounds_max(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            // A hash's table doubles at powers of two: this many fill one to its end.
            let count = stand.size(1 << 20, 1 << 13);
            let mut shop = Shop::open(stand, Plan::new(Fsync::Everysec).quotas()).await?;
            let (template, keys) = (shop.publish(50_000_000, false).await?, CellKeys::new(CellId(0)));
            shop.stop_back().await;
            let before = shop.counts().await?.dataset;
            let granted = grant(&shop, template, false, Until::Claims(count)).await?;
            // To a tenth: what a hash takes for itself is none of a grant's.
            let per = |bytes: f64, grants: u64| (bytes / grants as f64 * 10.0).round() / 10.0;
            let queued = shop.bytes_of(keys.queue()).await?;
            let receipts = shop.bytes_of(keys.template(TemplateId(template)).receipts()).await?;
            shop.start_back().await?;
            shop.drained().await?;
            let flushed = shop.counts().await?.dataset - before;
            let tally = shop.tally(template).await?;
            let with_quotas = shop.publish(50_000_000, true).await?;
            shop.stop_back().await;
            let again = grant(&shop, with_quotas, true, Until::Claims(count)).await?;
            let mut quotas = 0.0;
            for key in keys.quotas() {
                quotas += shop.bytes_of(key).await?;
            }
            Ok(Sample::default()
                .with("bytes_receipts", per(receipts, granted))
                .with("bytes_flushed", per(flushed, granted))
                .with("bytes_queued", per(queued, granted))
                .with("bytes_quotas", per(quotas, again))
                .provided(tally.agrees() && tally.granted == granted, || format!("{granted} grants, but {tally:?}")))
        })
    }
}

impl Party for Gateway {
    fn name(&self) -> &'static str {
        "memory-gateway"
    }

    fn what(&self) -> &'static str {
        "resident memory of a gateway under 10 million limiter keys and 5,000 idle connections"
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        wrk::absent()
    }

    fn rounds_max(&self) -> usize {
        1
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let shop = Shop::open(stand, Plan::new(Fsync::Everysec)).await?;
            let template = shop.publish(1, false).await?;
            let memory = || resident(shop.gateway_pid()).ok_or("the gateway is gone");
            let at_first = memory()?;
            // Every request brings a user, an address and a device: three keys.
            let wanted = stand.size(10_000_000, 30_000);
            let (mut keys, mut floods, mut half_way) = (0, 0, None);
            while keys < wanted && floods < FLOODS_MAX {
                let env =
                    [("PLACES", "1".into()), ("TEMPLATE", template.to_string()), ("PREFIX", format!("f{floods}-"))];
                let url = format!("http://{}", shop.public);
                let wrk = Wrk { url, script: "sold_out_storm", env: env.into() };
                keys += 3 * wrk.run_for(stand, Duration::from_secs(stand.size(5, 1))).await?.answers;
                floods += 1;
                if keys >= wanted / 2 && half_way.is_none() {
                    half_way = Some(memory()?);
                }
            }
            let flooded = memory()?;
            let remembered = shop.metric("floodgate_throttle_keys").await?;
            let wanted_idle = stand.size(5_000, 500);
            allow_descriptors(wanted_idle + 500);
            let mut idle = Vec::new();
            for _ in 0..wanted_idle {
                let connected = TcpStream::connect(&shop.public).await;
                idle.push(connected.map_err(|error| format!("connection {}: {error}", idle.len()))?);
            }
            // Accepted, not only waiting to be.
            let counted = "floodgate_connections{listener=\"public\"";
            for _ in 0..200 {
                if shop.metric(counted).await? as u64 >= wanted_idle {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let open = shop.metric(counted).await?;
            let idling = memory()?;
            Ok(Sample::default()
                .with("rss_at_first_mb", at_first / MB)
                .with("rss_half_way_mb", half_way.unwrap_or(flooded) / MB)
                .with("rss_flooded_mb", flooded / MB)
                .with("keys_offered", keys as f64)
                .with("keys_remembered", remembered)
                .with("rss_idle_mb", idling / MB)
                .with("idle_connections", open)
                .with("rss_growth", idling / half_way.unwrap_or(flooded))
                .provided(keys >= wanted, || format!("only {keys} keys were offered"))
                .provided(open as u64 >= wanted_idle, || format!("only {open} connections are open")))
        })
    }
}

/// Raises this process' own bound on open files, as far as the system lets it.
fn allow_descriptors(count: u64) {
    // SAFETY: both calls take a pointer to a limit that outlives them.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < count {
            limit.rlim_cur = count.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
