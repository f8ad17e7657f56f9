//! E1 and E16: redis-benchmark running a plain one-claim script, with a pipeline of 1 and of 16.

use std::time::Duration;

use floodgate::demo::redis_server::{Fsync, RedisServer};
use redis::aio::MultiplexedConnection;

use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, find};
use crate::meter::{self, Meter, RedisCounts};

/// Stock, receipts and queue of the plain script.
pub const KEYS: [&str; 3] = ["bench:{1}:stock", "bench:{1}:users", "bench:{1}:queue"];

/// Users that redis-benchmark draws from: the most that it can.
const USERS: &str = "2000000000";

const SCRIPT: &str = include_str!("../../../lua/one_claim.lua");

struct Evalsha {
    name: &'static str,
    what: &'static str,
    pipeline: u32,
}

pub fn parties() -> Vec<Box<dyn Party>> {
    let of = |name, what, pipeline| Box::new(Evalsha { name, what, pipeline }) as Box<dyn Party>;
    vec![
        of("e1", "E1: redis-benchmark, a plain one-claim script, always, -P 1", 1),
        of("e16", "E16: the same with -P 16", 16),
    ]
}

/// A Redis with stock for the plain script, and the script's hash.
pub async fn stocked(stand: &Stand, fsync: Fsync) -> Result<(RedisServer, MultiplexedConnection, String), String> {
    let server = stand.redis(fsync).await?;
    let mut connection = meter::redis(&server.url()).await?;
    let fail = |error: redis::RedisError| format!("Redis: {error}");
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut connection).await.map_err(fail)?;
    let set = redis::cmd("SET").arg(KEYS[0]).arg(1_000_000_000).query_async::<()>(&mut connection).await;
    set.map_err(fail)?;
    Ok((server, connection, sha))
}

/// Receipts and queue entries: equal, or claims were lost on the way.
pub async fn granted(connection: &mut MultiplexedConnection) -> Result<(u64, u64), String> {
    let fail = |error: redis::RedisError| format!("Redis: {error}");
    let users = redis::cmd("HLEN").arg(KEYS[1]).query_async(connection).await.map_err(fail)?;
    let queued = redis::cmd("XLEN").arg(KEYS[2]).query_async(connection).await.map_err(fail)?;
    Ok((users, queued))
}

impl Party for Evalsha {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        find("redis-benchmark").err()
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (server, mut connection, sha) = stocked(stand, Fsync::Always).await?;
            // It counts requests, not time: first a few to learn how many a turn takes.
            let mut requests = 20_000;
            let mut rate = self.bench(stand, &server, &sha, requests).await?;
            requests = ((rate * stand.settings.seconds) as u64).max(requests);
            let before = RedisCounts::read(&mut connection).await?;
            let meter = Meter::start(&[("redis", server.pid())]);
            rate = self.bench(stand, &server, &sha, requests).await?;
            let used = meter.stop();
            let counts = RedisCounts::read(&mut connection).await?.since(&before);
            let (users, queued) = granted(&mut connection).await?;
            let claims = requests as f64;
            let sample = Sample::rate(rate, Duration::from_secs(1)).used(&used, claims).redis(&counts, claims);
            // A user that is drawn twice is refused; it must be rare.
            Ok(sample
                .provided(users == queued, || format!("{users} receipts, {queued} on the queue"))
                .provided(users as f64 > 0.99 * claims, || format!("{users} grants of {claims} claims")))
        })
    }
}

impl Evalsha {
    /// Claims a second.
    async fn bench(&self, stand: &Stand, server: &RedisServer, sha: &str, requests: u64) -> Result<f64, String> {
        let mut command = tokio::process::Command::new(find("redis-benchmark")?);
        command.arg("-s").arg(server.socket()).args(["--csv", "-r", USERS]);
        command.args(["-c", &stand.settings.connections.to_string(), "-P", &self.pipeline.to_string()]);
        command.args(["-n", &requests.to_string(), "EVALSHA", sha, "3"]).args(KEYS).arg("u__rand_int__");
        let output = command.kill_on_drop(true).output().await.map_err(|error| format!("redis-benchmark: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        rate(&text).ok_or_else(|| format!("redis-benchmark said: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// The second column of the last line.
fn rate(csv: &str) -> Option<f64> {
    let line = csv.lines().rfind(|line| line.starts_with('"'))?;
    line.split("\",\"").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_csv() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"EVALSHA abc 3 a b c u\",\"38461.54\",\"0.4\"\n";
        assert_eq!(rate(csv), Some(38461.54));
        assert_eq!(rate("ERR no"), None);
    }
}
