//! PostgreSQL alone, by pgbench: a hot stock row, and free units in batches with SKIP LOCKED.

use std::time::Duration;

use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, connect, find, root};
use crate::meter::Meter;

struct HotRow {
    name: &'static str,
    what: &'static str,
    script: &'static str,
    /// Claims in a transaction.
    batch: f64,
    /// Counts what was claimed.
    count: &'static str,
    clients: Option<usize>,
}

const SCHEMA: &str = include_str!("../../../pgbench/schema.sql");

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![
        Box::new(HotRow {
            name: "pg-row",
            what: "PostgreSQL: a hot stock row, one transaction a claim, pgbench",
            script: "hot_row",
            batch: 1.0,
            count: "SELECT count(*) FROM bench_claims",
            clients: None,
        }),
        Box::new(HotRow {
            name: "pg-skip-locked",
            what: "PostgreSQL: free units by SKIP LOCKED, 64 claims a transaction, pgbench on 8 connections",
            script: "skip_locked",
            batch: 64.0,
            count: "SELECT count(*) FROM bench_units WHERE user_ref IS NOT NULL",
            clients: Some(8),
        }),
    ]
}

impl Party for HotRow {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        find("pgbench").err()
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(self.turn(stand))
    }
}

impl HotRow {
    async fn turn(&self, stand: &Stand) -> Result<Sample, String> {
        let url = stand.database().await?;
        let sql = connect(&url).await?;
        let fail = |error: tokio_postgres::Error| format!("PostgreSQL: {error}");
        sql.batch_execute(SCHEMA).await.map_err(fail)?;
        let units = stand.size(1_000_000, 200_000);
        let fill = format!("INSERT INTO bench_units SELECT generate_series(1, {units}); ANALYZE bench_units");
        sql.batch_execute(&fill).await.map_err(fail)?;
        stand.settle().await?;
        let clients = self.clients.unwrap_or(stand.settings.connections).to_string();
        let seconds = stand.settings.seconds.ceil().max(1.0).to_string();
        let mut command = tokio::process::Command::new(find("pgbench")?);
        command.args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds, "-f"]);
        command.arg(root().join(format!("loadtest/pgbench/{}.sql", self.script))).arg(&url).kill_on_drop(true);
        let meter = Meter::start(&[("postgres", stand.postgres.pid())]);
        let output = command.output().await.map_err(|error| format!("pgbench: {error}"))?;
        let used = meter.stop();
        let text = String::from_utf8_lossy(&output.stdout);
        let of = |line: &str| -> Option<f64> {
            text.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok())
        };
        let (Some(rate), Some(done)) = (of("tps = "), of("number of transactions actually processed: ")) else {
            return Err(format!("pgbench said: {text}{}", String::from_utf8_lossy(&output.stderr)));
        };
        let claims = done * self.batch;
        let stored = sql.query_one(self.count, &[]).await.map_err(fail)?.get::<_, i64>(0) as f64;
        let sample = Sample::rate(rate * self.batch, Duration::from_secs(1)).used(&used, claims);
        // A user drawn twice is no claim; and the last batch may find fewer units.
        Ok(sample.provided((stored - claims).abs() <= claims * 0.001, || {
            format!("{claims} claims were made, {stored} are stored")
        }))
    }
}
