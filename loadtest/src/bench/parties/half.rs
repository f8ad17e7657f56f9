//! Latency at half of Floodgate's peak, in the open loop, with a journal that is checked; and H's at the
//! same rate.

use std::sync::Arc;
use std::time::Duration;

use floodgate::demo::redis_server::Fsync;

use super::bare;
use crate::bench::party::{PER_SECOND, Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::Stand;
use crate::client::Identity;
use crate::journal::Journal;
use crate::link::Protocol;
use crate::meter::Meter;
use crate::open::{self, Report, Settings};
use crate::plan;

struct Half {
    name: &'static str,
    what: &'static str,
    /// Whose peak: in the results of this round.
    peak: &'static str,
    /// None: H.
    fsync: Option<Fsync>,
}

/// The part of claims that may be refused at half of the peak.
const REFUSED_MAX: f64 = 0.001;

pub fn parties() -> Vec<Box<dyn Party>> {
    let of = |name, what, peak, fsync| Box::new(Half { name, what, peak, fsync }) as Box<dyn Party>;
    vec![
        of("half-h1", "H at half of fg-everysec's peak, open loop", "fg-everysec", None),
        of(
            "half-everysec",
            "Floodgate, everysec, at half of its peak, open loop",
            "fg-everysec",
            Some(Fsync::Everysec),
        ),
        of("half-always", "Floodgate, always, at half of its peak, open loop", "fg-always", Some(Fsync::Always)),
    ]
}

impl Party for Half {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn run<'a>(&'a self, stand: &'a Stand, results: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let peak = results.last(self.peak, PER_SECOND).ok_or_else(|| format!("{} has no peak yet", self.peak))?;
            let rate = (peak / 2.0) as u64;
            match self.fsync {
                None => h(stand, rate).await,
                Some(fsync) => floodgate(stand, rate, fsync).await,
            }
        })
    }
}

/// Each claim by a new user, on one template.
pub fn claims(template: u32, rate: u64, duration: Duration) -> plan::Plan {
    let claims = (rate as f64 * duration.as_secs_f64()) as u64;
    plan::Plan { in_turn: true, ..plan::Plan::new(template, u32::try_from(claims).unwrap_or(u32::MAX), claims) }
}

pub fn settings(stand: &Stand, address: &str, rate: u64) -> Settings {
    Settings {
        gateways: vec![address.to_owned()],
        protocol: Protocol::Http1,
        connections: stand.settings.connections,
        streams: 1,
        rate,
        identity: Identity::TrustedHeader,
        request_timeout: Duration::from_secs(10),
        threads: 1,
    }
}

async fn h(stand: &Stand, rate: u64) -> Result<Sample, String> {
    let (child, address) = bare::start(stand, Protocol::Http1).await?;
    let meter = Meter::start(&[("gateway", child.pid())]);
    // A journal here, too: the client shall have as much to do.
    let journal = Arc::new(Journal::in_memory());
    let report = open::run(claims(1, rate, stand.duration()), settings(stand, &address, rate), Some(journal)).await?;
    Ok(sample(&report, rate).used(&meter.stop(), report.claims as f64))
}

async fn floodgate(stand: &Stand, rate: u64, fsync: Fsync) -> Result<Sample, String> {
    let mut shop = Shop::open(stand, Plan::new(fsync)).await?;
    let template = shop.publish(50_000_000, false).await?;
    shop.stop_back().await;
    let meter = Meter::start(&shop.processes());
    let journal = Arc::new(Journal::in_memory());
    let plan = claims(template, rate, stand.duration());
    let report = open::run(plan, settings(stand, &shop.public, rate), Some(journal.clone())).await?;
    let used = meter.stop();
    shop.start_back().await?;
    let wrong = shop.check(&journal.record()).await?;
    let sample = sample(&report, rate).used(&used, report.claims as f64);
    // Refusals are quick: among many of them a latency says nothing. A quick run on a busy machine is let pass.
    let refused = 1.0 - report.granted.count() as f64 / report.claims.max(1) as f64;
    let few = refused <= REFUSED_MAX || stand.settings.quick;
    Ok(sample
        .with("refused_part", refused)
        .provided(wrong.is_none(), || wrong.unwrap_or_default())
        .provided(few, || format!("outcomes {:?}", report.outcomes)))
}

fn sample(report: &Report, rate: u64) -> Sample {
    Sample::rate(report.claims as f64, report.took)
        .latency(&report.latency)
        .with("offered_per_second", rate as f64)
        .with("late_part", report.late as f64 / report.claims.max(1) as f64)
}
