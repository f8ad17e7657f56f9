//! Floodgate in each of its modes.

use floodgate::demo::redis_server::Fsync;

use super::bare::{H2C_CONNECTIONS, H2C_STREAMS, flood};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Expected, Plan, Shop};
use crate::bench::stand::Stand;
use crate::bench::wrk::{self, Wrk};
use crate::meter::Meter;

struct Mode {
    name: &'static str,
    what: &'static str,
    fsync: Fsync,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// New users, no flusher while it is measured.
    Grants,
    /// The same with rows stored meanwhile.
    Flushed,
    /// Quotas on user, address and device, each its own.
    Quotas,
    /// Of 1000 claims, so many are an earlier one again.
    Repeats(u32),
    /// All is sold; claims without or with a key.
    Latch { keys: bool },
    /// One user's throttle refuses.
    Throttle,
    /// HTTP/2.
    H2c,
    /// Answered when a replica of Redis has the grant.
    AckReplica,
    /// Answered when the row is stored.
    AckPostgres,
}

/// More than any turn can grant.
const STOCK: u64 = 50_000_000;

pub fn parties() -> Vec<Box<dyn Party>> {
    let (always, everysec) = (Fsync::Always, Fsync::Everysec);
    let modes = [
        ("fg-always", "grants, appendfsync always, throttles and per-user limit, flusher off", always, Kind::Grants),
        ("fg-everysec", "the same with everysec", everysec, Kind::Grants),
        ("fg-quotas", "always, quotas on user, IP and device, all distinct", always, Kind::Quotas),
        ("fg-repeats-1", "always, 1 % repeats", always, Kind::Repeats(10)),
        ("fg-repeats-20", "always, 20 % repeats", always, Kind::Repeats(200)),
        ("fg-flushed", "always, rows stored in the same run", always, Kind::Flushed),
        ("fg-ack-replica", "always, ack level replica: one of one, always, too", always, Kind::AckReplica),
        ("fg-ack-postgres", "always, ack level postgres", always, Kind::AckPostgres),
        ("fg-latch", "sold out: the latch refuses", always, Kind::Latch { keys: false }),
        ("fg-latch-keys", "the same for claims with a key", always, Kind::Latch { keys: true }),
        ("fg-throttle", "one address too many: its throttle refuses", always, Kind::Throttle),
        ("fg-h2c", "always, over h2c", always, Kind::H2c),
    ];
    modes
        .into_iter()
        .map(|(name, what, fsync, kind)| Box::new(Mode { name, what, fsync, kind }) as Box<dyn Party>)
        .collect()
}

impl Party for Mode {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        if self.kind == Kind::H2c { None } else { wrk::absent() }
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(self.turn(stand))
    }
}

impl Mode {
    fn plan(&self) -> Plan {
        let plan = Plan::new(self.fsync);
        match self.kind {
            Kind::Quotas => plan.quotas(),
            Kind::Throttle => plan.set("THROTTLE_IP_PER_S", 1).set("THROTTLE_IP_BURST", 1),
            Kind::AckReplica => Plan { replica: true, ..plan.set("CLAIM_ACK", "replica").set("CLAIM_REPLICAS", 1) },
            Kind::AckPostgres => plan.set("CLAIM_ACK", "postgres"),
            _ => plan,
        }
    }

    async fn turn(&self, stand: &Stand) -> Result<Sample, String> {
        let mut shop = Shop::open(stand, self.plan()).await?;
        let sold_out = matches!(self.kind, Kind::Latch { .. } | Kind::Throttle);
        let template = shop.publish(if sold_out { 1 } else { STOCK }, self.kind == Kind::Quotas).await?;
        let wrk = |script, env: &[(&'static str, &str)]| Wrk {
            url: format!("http://{}", shop.public),
            script,
            env: env
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .chain([("TEMPLATE", template.to_string())])
                .collect(),
        };
        let (wrk, expected) = match self.kind {
            Kind::Grants | Kind::Flushed | Kind::AckReplica | Kind::AckPostgres | Kind::H2c => {
                (wrk("flash_sale", &[]), Expected::Grants)
            }
            Kind::Quotas => (wrk("flash_sale", &[("PLACES", "1")]), Expected::Grants),
            Kind::Repeats(part) => (wrk("retry_storm", &[("REPEATS", &part.to_string())]), Expected::Grants),
            Kind::Throttle => (wrk("flash_sale", &[]), Expected::Refusals),
            Kind::Latch { keys } => {
                (wrk("sold_out_storm", &[("KEYS", if keys { "1" } else { "0" })]), Expected::Refusals)
            }
        };
        if sold_out {
            sell_the_one(&shop, template).await?;
        }
        if !matches!(self.kind, Kind::Flushed | Kind::AckPostgres) {
            shop.stop_back().await;
        }
        match self.kind {
            Kind::H2c => h2c(stand, &mut shop, template).await,
            _ => shop.wrk_turn(template, wrk, expected).await,
        }
    }
}

/// One claim is granted, one refused: then all is sold, and the address has had its request.
async fn sell_the_one(shop: &Shop<'_>, template: u32) -> Result<(), String> {
    let mut connection = crate::http::Connection::open(&shop.public).await?;
    for user in ["first", "second"] {
        let request = format!(
            "POST /v1/templates/{template}/claims HTTP/1.1\r\nhost: {}\r\nx-user-id: {user}\r\n\
             x-forwarded-for: 10.0.0.1\r\ncontent-length: 0\r\n\r\n",
            shop.public
        );
        connection.send(request.as_bytes()).await?;
    }
    shop.drained().await
}

async fn h2c(stand: &Stand, shop: &mut Shop<'_>, template: u32) -> Result<Sample, String> {
    let before = shop.counts().await?;
    let meter = Meter::start(&shop.processes());
    let count = flood(stand, shop.public.clone(), &format!("/v1/templates/{template}/claims")).run().await?;
    let used = meter.stop();
    let counts = shop.counts().await?.since(&before);
    let claims = count.of(201) as f64;
    let sample = Sample::rate(claims, count.took).used(&used, claims).redis(&counts, claims);
    shop.start_back().await?;
    shop.drained().await?;
    let tally = shop.tally(template).await?;
    let under_way = H2C_CONNECTIONS as u64 * u64::from(H2C_STREAMS);
    Ok(sample
        .with("batch_claims", claims / counts.scripts.max(1.0))
        .provided(tally.agrees(), || format!("Redis and PostgreSQL do not agree: {tally:?}"))
        .provided(count.of(201) == count.all(), || format!("statuses {:?}", count.statuses))
        .provided((count.of(201)..=count.of(201) + under_way).contains(&tally.granted), || {
            format!("{} grants were told, Redis has {}", count.of(201), tally.granted)
        }))
}
