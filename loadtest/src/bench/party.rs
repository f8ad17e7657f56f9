//! A party of the bench, and what a turn of it came to.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use super::stand::Stand;
use crate::meter::{RedisCounts, Used};

/// Something that is measured once a round.
pub trait Party: Send + Sync {
    /// A short word; goals refer to it.
    fn name(&self) -> &'static str;

    /// A sentence for the reader.
    fn what(&self) -> &'static str;

    /// Why it cannot be measured here, if it cannot.
    fn absent(&self, _stand: &Stand) -> Option<String> {
        None
    }

    /// Turns that are enough where a turn is long.
    fn rounds_max(&self) -> usize {
        usize::MAX
    }

    /// One turn. `results`: what others came to in this round and before.
    fn run<'a>(&'a self, stand: &'a Stand, results: &'a Results) -> Turn<'a>;
}

pub type Turn<'a> = Pin<Box<dyn Future<Output = Result<Sample, String>> + Send + 'a>>;

/// What one turn came to. A measure's name says its unit.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub measures: BTreeMap<&'static str, f64>,
    /// Microseconds of processor time for each claim, by process.
    pub cpu_us: BTreeMap<&'static str, f64>,
    /// Why it does not count.
    pub void: Option<String>,
}

/// Everything that was measured so far.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// By party, in the order of its first turn; one sample a round.
    pub samples: Vec<(&'static str, &'static str, Vec<Sample>)>,
    pub absent: Vec<(&'static str, String)>,
    pub failed: Vec<(&'static str, String)>,
}

/// Claims or requests in a second.
pub const PER_SECOND: &str = "per_second";
pub const P50: &str = "p50_us";
pub const P99: &str = "p99_us";
pub const P999: &str = "p999_us";

// === impl Sample ===

impl Sample {
    pub fn rate(claims: f64, took: Duration) -> Sample {
        Sample::default().with(PER_SECOND, claims / took.as_secs_f64().max(1e-9))
    }

    pub fn with(mut self, name: &'static str, value: f64) -> Sample {
        self.measures.insert(name, value);
        self
    }

    /// What the processes used for each of so many claims.
    pub fn used(mut self, used: &Used, claims: f64) -> Sample {
        for (name, time) in &used.cpu {
            self.cpu_us.insert(name, time.as_secs_f64() * 1e6 / claims.max(1.0));
        }
        self
    }

    /// What Redis was told for each of so many claims.
    pub fn redis(self, counts: &RedisCounts, claims: f64) -> Sample {
        let claims = claims.max(1.0);
        self.with("redis_scripts_per_claim", counts.scripts / claims)
            .with("redis_commands_per_claim", counts.commands / claims)
            .with("redis_bytes_in_per_claim", counts.bytes_in / claims)
            .with("redis_bytes_out_per_claim", counts.bytes_out / claims)
    }

    pub fn latency(self, latency: &crate::open::Latency) -> Sample {
        let us = |part| latency.at(part).as_secs_f64() * 1e6;
        self.with(P50, us(0.5)).with(P99, us(0.99)).with(P999, us(0.999))
    }

    /// Does not count; the first reason stays.
    pub fn void(mut self, why: impl Into<String>) -> Sample {
        self.void.get_or_insert_with(|| why.into());
        self
    }

    /// Does not count unless that holds.
    pub fn provided(self, holds: bool, otherwise: impl FnOnce() -> String) -> Sample {
        if holds { self } else { self.void(otherwise()) }
    }
}

// === impl Results ===

impl Results {
    pub fn expect(&mut self, name: &'static str, what: &'static str) {
        self.samples.push((name, what, Vec::new()));
    }

    pub fn absent(&mut self, name: &'static str, why: String) {
        self.absent.push((name, why));
    }

    pub fn fail(&mut self, name: &'static str, why: String) {
        self.failed.push((name, why));
        // A round without it: positions stay those of the rounds.
        self.add(name, Sample::default().void("failed"));
    }

    pub fn add(&mut self, name: &str, sample: Sample) {
        if let Some((.., samples)) = self.samples.iter_mut().find(|(known, ..)| *known == name) {
            samples.push(sample);
        }
    }

    /// A party's measure in each round; none where the turn was void or there was none.
    pub fn each(&self, name: &str, measure: &str) -> Vec<Option<f64>> {
        let samples = self.samples.iter().find(|(known, ..)| *known == name).map(|(.., samples)| samples.as_slice());
        let value = |sample: &Sample| {
            let own = sample.measures.get(measure).copied();
            let value = own.or_else(|| sample.cpu_us.get(measure.strip_prefix("cpu_us.")?).copied());
            value.filter(|_| sample.void.is_none())
        };
        samples.unwrap_or_default().iter().map(value).collect()
    }

    pub fn last(&self, name: &str, measure: &str) -> Option<f64> {
        self.each(name, measure).into_iter().rev().flatten().next()
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn void_turns_do_not_count_and_keep_their_place() {
        let mut results = Results::default();
        results.expect("h1", "a server");
        results.add("h1", Sample::default().with(PER_SECOND, 5.0));
        results.add("h1", Sample::default().with(PER_SECOND, 9.0).provided(false, || "no".into()));
        results.fail("h1", "gone".into());
        assert_eq!(results.each("h1", PER_SECOND), [Some(5.0), None, None]);
        assert_eq!(results.last("h1", PER_SECOND), Some(5.0));
        assert_eq!(results.each("h2", PER_SECOND), []);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }
}
