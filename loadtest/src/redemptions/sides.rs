//! One round of either side.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use floodgate::demo::child::run_helper;
use floodgate::demo::place;
use serde::Serialize;

use super::Settings;
use super::script::Script;
use super::stage::{Stage, request};
use crate::http::Connection;
use crate::meter::Used;

/// What a round came to.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// Orders that were locked and confirmed.
    pub pairs: u64,
    pub per_second: f64,
    /// Of a lock and a confirm together.
    pub mean_ms: f64,
    /// Processor time a pair, in microseconds.
    pub floodgate_us: f64,
    pub postgres_us: f64,
    pub generator_us: f64,
}

/// A connection to the gateway, as an order service has it.
pub struct OrderService<'a> {
    stage: &'a Stage,
    connection: Connection,
}

// === impl OrderService ===

impl<'a> OrderService<'a> {
    pub async fn open(stage: &'a Stage) -> Result<OrderService<'a>, String> {
        Ok(OrderService { stage, connection: Connection::open(&stage.address).await? })
    }

    /// Locks the coupon of this serial for an order, and confirms. The order and its user are named by it.
    pub async fn pair(&mut self, serial: u64) -> Result<(), String> {
        let code = self.stage.code(serial);
        let body = format!(
            r#"{{"order":{{"order_id":"{serial}","user_id":"{serial}","channel":"app","currency":"CNY","lines":[{{"line_id":"1","item_id":"d-101","category_ids":["cat-roast-duck"],"merchant_id":"m-1","unit_price":"60.00","quantity":1}},{{"line_id":"2","item_id":"d-202","category_ids":["cat-noodles"],"merchant_id":"m-2","unit_price":"80.00","quantity":1}}]}},"coupons":["{code}"]}}"#
        );
        self.send("/v1/redemptions", &body, 201).await?;
        self.send(&format!("/v1/redemptions/{serial}/confirm"), "", 200).await
    }

    async fn send(&mut self, path: &str, body: &str, status: u16) -> Result<(), String> {
        let asked = request("POST", path, &self.stage.address, &self.stage.service, body);
        let answer = self.connection.send(asked.as_bytes()).await?;
        match answer.status == status {
            true => Ok(()),
            false => Err(format!("POST {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))),
        }
    }
}

/// Over HTTP, on coupons after `base`.
pub async fn floodgate(settings: &Settings, stage: &Stage, base: u64) -> Result<Done, String> {
    let share = settings.share();
    let mut services = Vec::new();
    for _ in 0..settings.connections {
        services.push(OrderService::open(stage).await?);
    }
    let (meter, begun) = (stage.meter(), Instant::now());
    let until = begun + Duration::from_secs(settings.seconds);
    let mut turns = Vec::new();
    for (number, service) in (0..).zip(services) {
        turns.push(turn(service, base + number * share, share, until));
    }
    let done = futures_util::future::try_join_all(turns).await?;
    let used = meter.stop();
    let pairs = done.iter().sum::<u64>();
    let per_second = pairs as f64 / used.took.as_secs_f64();
    Ok(Done::new(pairs, per_second, settings.connections as f64 * 1e3 / per_second, &used))
}

/// Order after order until the time is over; how many.
async fn turn(mut service: OrderService<'_>, base: u64, share: u64, until: Instant) -> Result<u64, String> {
    let mut pairs = 0;
    while Instant::now() < until {
        pairs += 1;
        if pairs > share {
            return Err("a connection has used up its coupons".into());
        }
        service.pair(base + pairs).await?;
    }
    Ok(pairs)
}

/// By pgbench, on coupons after `base`.
pub async fn bare(settings: &Settings, stage: &Stage, script: &Script, base: u64) -> Result<Done, String> {
    let file = settings.folder.join("lock_and_confirm.sql");
    std::fs::write(&file, &script.text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut command = Command::new(pgbench()?);
    command.args(["--no-vacuum", "--protocol=prepared", "--file"]).arg(&file);
    command.args(["--client".into(), settings.connections.to_string()]);
    command.args(["--jobs".into(), settings.connections.min(2).to_string()]);
    command.args(["--time".into(), settings.seconds.to_string()]);
    let own = [("turn", 0), ("base", base), ("share", settings.share())].map(|(name, value)| (name, value.to_string()));
    let own = own.iter().map(|(name, value)| (*name, value));
    for (name, value) in own.chain(script.constants.iter().map(|(name, value)| (name.as_str(), value))) {
        command.arg(format!("--define={name}={value}"));
    }
    command.arg(stage.postgres_url());
    let meter = stage.meter();
    let output = run_helper(command, "").await.map_err(|error| format!("cannot start pgbench: {error}"))?;
    let used = meter.stop();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)));
    }
    let told = |what: &str| number(&said, what).ok_or_else(|| format!("pgbench does not say {what}: {said}"));
    if told("number of failed transactions: ")? != 0.0 {
        return Err(format!("pgbench: {said}"));
    }
    let pairs = told("number of transactions actually processed: ")? as u64;
    Ok(Done::new(pairs, told("tps = ")?, told("latency average = ")?, &used))
}

/// The number behind a word of pgbench's.
fn number(said: &str, what: &str) -> Option<f64> {
    let rest = said.lines().find_map(|line| line.strip_prefix(what))?;
    rest.split([' ', '/']).next()?.parse().ok()
}

/// On the PATH, or among PostgreSQL's own.
fn pgbench() -> Result<PathBuf, String> {
    let mut folders = place::path_folders();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    place::find_binary("pgbench", "postgresql", &folders)
}

// === impl Done ===

impl Done {
    fn new(pairs: u64, per_second: f64, mean_ms: f64, used: &Used) -> Done {
        let each = |name| used.cpu.get(name).map_or(0.0, Duration::as_secs_f64) * 1e6 / (pairs.max(1) as f64);
        Done {
            pairs,
            per_second,
            mean_ms,
            floodgate_us: each("floodgate"),
            postgres_us: each("postgres"),
            generator_us: each("generator"),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Done { pairs, per_second, mean_ms, floodgate_us, postgres_us, generator_us } = self;
        write!(f, "{per_second:.1} lock + confirm a second ({pairs} in all), {mean_ms:.2} ms; CPU each: ")?;
        write!(f, "floodgate {floodgate_us:.0} us, postgres {postgres_us:.0} us, generator {generator_us:.0} us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_is_read() {
        let said = "number of transactions actually processed: 4210\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 15.201 ms\ninitial connection time = 9.1 ms\n\
                    tps = 526.301442 (without initial connection time)\n";
        assert_eq!(number(said, "number of transactions actually processed: "), Some(4210.0));
        assert_eq!(number(said, "number of failed transactions: "), Some(0.0));
        assert_eq!(number(said, "latency average = "), Some(15.201));
        assert_eq!(number(said, "tps = "), Some(526.301442));
        assert_eq!(number(said, "nothing"), None);
    }
}
