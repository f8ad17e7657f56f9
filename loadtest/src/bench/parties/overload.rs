//! Overload: three times what Redis can do, in the open loop; then half of it.
//!
//! Redis is slowed by a relay, so that the generator can offer so much. Peak is what the same gateway grants
//! behind the same relay when it is asked for a little more than it can. Journal, Redis and PostgreSQL
//! must agree over all three loads.

use std::sync::Arc;
use std::time::Duration;

use floodgate::demo::place;
use floodgate::demo::redis_server::Fsync;

use super::half;
use crate::bench::party::{PER_SECOND, Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::slow::Slow;
use crate::bench::stand::Stand;
use crate::client;
use crate::journal::Journal;
use crate::link::Protocol;
use crate::open::{self, Report, Settings};

struct Overload;

/// A claim takes about 60 bytes of a batch's request: some thousand claims a second, which a generator on the
/// same machine can offer three times over.
const BYTES_PER_SECOND: f64 = 240_000.0;
/// What is offered first, a second: less than the peak, which the loads after it find.
const FIRST: f64 = 4_000.0;
/// Requests under way: more than the gateway lets wait, so that the load stays open.
const CONNECTIONS: usize = 24;
const STREAMS: usize = 200;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Overload)]
}

impl Party for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn what(&self) -> &'static str {
        "Redis slowed, offered three times its peak over h2c, open loop; then half of the peak"
    }

    fn rounds_max(&self) -> usize {
        3
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(turn(stand))
    }
}

async fn turn(stand: &Stand) -> Result<Sample, String> {
    // The relay's socket first: the gateway is told of it when it starts.
    let folder = place::socket_folder(&place::private_folder(&stand.fresh_folder("slow")?)?, None)?;
    let socket = folder.join("redis.sock");
    let mut plan = Plan::new(Fsync::Everysec);
    plan.gateway_redis = Some(format!("unix://{}", socket.display()));
    let open_shop = Shop::open_behind(stand, plan, |server| Slow::start(socket, server, BYTES_PER_SECOND));
    let (mut shop, slow) = open_shop.await?;
    let template = shop.publish(50_000_000, false).await?;
    shop.stop_back().await;
    let journal = Arc::new(Journal::in_memory());
    // Each load with users of its own.
    let mut left = Vec::new();
    let mut load = async |name: &str, rate: u64, duration: Duration| -> Result<Report, String> {
        let mut plan = half::claims(template, rate, duration);
        plan.prefix = format!("{name}-");
        let report = open::run(plan.clone(), settings(&shop.public, rate), Some(journal.clone())).await?;
        left.push((plan, report.unknown.clone()));
        Ok(report)
    };
    let duration = stand.duration();
    // More and more, until more brings nothing more.
    let (mut peak, mut rate) = (0.0f64, FIRST);
    for name in ["first", "more", "yet-more", "still-more", "most", "last"] {
        let found = goodput(&load(name, rate as u64, duration).await?);
        let gains = found > peak * 1.03;
        peak = peak.max(found);
        if !gains && peak >= 1.0 {
            break;
        }
        rate *= 1.25;
    }
    if peak < 1.0 {
        return Err("behind the relay nothing is granted".into());
    }
    let over = load("over", (peak * 3.0) as u64, duration.max(Duration::from_secs(2))).await?;
    let calm = load("calm", (peak / 2.0) as u64, duration.max(Duration::from_secs(2))).await?;
    drop(slow);
    // What stayed unknown is asked again, past the relay that is gone: by a gateway that finds Redis itself.
    shop.start_back().await?;
    let other = shop.another_gateway().await?;
    for (plan, unknown) in left.into_iter().filter(|(_, unknown)| !unknown.is_empty()) {
        let settings = client::Settings::new(vec![other.address.clone()], 16, client::Identity::TrustedHeader);
        let summary = client::settle(plan, unknown, settings, journal.clone()).finish().await?;
        if summary.given_up > 0 {
            return Err(format!("{} claims have no outcome", summary.given_up));
        }
    }
    let wrong = shop.check(&journal.record()).await?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Sample::default()
        .with(PER_SECOND, goodput(&over))
        .with("peak_per_second", peak)
        .with("offered_per_second", peak * 3.0)
        .with("goodput_of_peak", goodput(&over) / peak)
        .with("granted_p99_ms", ms(over.granted.at(0.99)))
        .with("refused_p50_ms", ms(over.refused.at(0.5)))
        .with("refused_p99_ms", ms(over.refused.at(0.99)))
        .with("unknown_part", over.unknown.len() as f64 / over.claims as f64)
        .with("late_part", over.late as f64 / over.claims as f64)
        // How long after the load fell the last claim was refused.
        .with("recovery_ms", ms(calm.last_refused))
        .with("after_granted_p99_ms", ms(calm.granted.at(0.99)))
        .provided(wrong.is_none(), || wrong.unwrap_or_default()))
}

/// Grants a second while the load lasted.
fn goodput(report: &Report) -> f64 {
    report.granted_in_time as f64 / report.time.as_secs_f64().max(1e-9)
}

fn settings(address: &str, rate: u64) -> Settings {
    Settings {
        gateways: vec![address.to_owned()],
        protocol: Protocol::H2c,
        connections: CONNECTIONS,
        streams: STREAMS,
        rate,
        identity: client::Identity::TrustedHeader,
        request_timeout: Duration::from_secs(10),
        threads: 1,
    }
}
