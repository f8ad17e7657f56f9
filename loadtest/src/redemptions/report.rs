//! Medians over the rounds, and ratios within each.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::Settings;
use super::script::Script;
use super::sides::Done;
use super::stage::{Stage, told};

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// By HTTP.
    Floodgate,
    /// By pgbench.
    Bare,
}

/// All rounds of both sides.
#[derive(Debug, Serialize)]
pub struct Report {
    pub connections: usize,
    pub seconds: u64,
    pub checkouts_limit: Option<u32>,
    /// Statements of a lock and a confirm, what begins and commits them too.
    pub statements: usize,
    pub postgres: String,
    pub processors: usize,
    pub floodgate: Vec<Done>,
    pub bare: Vec<Done>,
}

// === impl Side ===

impl Side {
    pub fn word(self) -> &'static str {
        match self {
            Side::Floodgate => "floodgate",
            Side::Bare => "pgbench",
        }
    }
}

// === impl Report ===

impl Report {
    pub async fn new(settings: &Settings, stage: &Stage, script: &Script) -> Result<Report, String> {
        let version = stage.connect().await?.query_one("SHOW server_version", &[]).await.map_err(told)?;
        Ok(Report {
            connections: settings.connections,
            seconds: settings.seconds,
            checkouts_limit: settings.checkouts_limit,
            statements: script.statements,
            postgres: version.get(0),
            processors: std::thread::available_parallelism().map_or(0, |number| number.get()),
            floodgate: Vec::new(),
            bare: Vec::new(),
        })
    }

    pub fn add(&mut self, side: Side, done: Done) {
        match side {
            Side::Floodgate => self.floodgate.push(done),
            Side::Bare => self.bare.push(done),
        }
    }

    /// Floodgate's rate by pgbench's, round by round.
    pub fn ratios(&self) -> Vec<f64> {
        self.floodgate.iter().zip(&self.bare).map(|(one, other)| one.per_second / other.per_second).collect()
    }

    /// The median of the ratios; 0 without rounds.
    pub fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    pub fn write(&self, file: &Path) -> Result<(), String> {
        let mut text = serde_json::to_value(self).map_err(|error| error.to_string())?;
        text["ratios"] = json!(self.ratios());
        text["ratio"] = json!(self.ratio());
        let cannot = |error: std::io::Error| format!("cannot write {}: {error}", file.display());
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).map_err(cannot)?;
        }
        std::fs::write(file, format!("{text:#}\n")).map_err(cannot)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.floodgate.len();
        writeln!(
            f,
            "{} connections, {rounds} rounds of {} s a side, {} processors, PostgreSQL {}, {} statements a lock + confirm",
            self.connections, self.seconds, self.processors, self.postgres, self.statements
        )?;
        writeln!(f, "| | lock + confirm /s | least | most | mean ms | floodgate us | postgres us | generator us |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (side, rounds) in [(Side::Floodgate, &self.floodgate), (Side::Bare, &self.bare)] {
            let of = |what: fn(&Done) -> f64| rounds.iter().map(what).collect::<Vec<_>>();
            let rates = of(|done| done.per_second);
            let (least, most) = spread(&rates);
            let (rate, ms) = (median(&rates), median(&of(|done| done.mean_ms)));
            let (floodgate, postgres) = (median(&of(|done| done.floodgate_us)), median(&of(|done| done.postgres_us)));
            let generator = median(&of(|done| done.generator_us));
            writeln!(
                f,
                "| {} | {rate:.0} | {least:.0} | {most:.0} | {ms:.2} | {floodgate:.0} | {postgres:.0} | {generator:.0} |",
                side.word()
            )?;
        }
        let (least, most) = spread(&self.ratios());
        write!(f, "ratio within a round: {:.2} (median; {least:.2} to {most:.2})", self.ratio())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

fn spread(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread(&[2.0, 1.0, 3.0]), (1.0, 3.0));
    }
}
