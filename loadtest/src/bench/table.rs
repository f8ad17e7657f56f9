//! The goals (docs/PERFORMANCE.md): a line each, reckoned within every round.

use super::party::{P99, PER_SECOND, Results, median};

/// One line of the table.
pub struct Goal {
    pub what: &'static str,
    pub goal: f64,
    pub better: Better,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// How the value of a round comes about; a party's measure each.
enum Value {
    /// One over the other.
    Ratio((&'static str, &'static str), (&'static str, &'static str)),
    Plain(&'static str, &'static str),
    /// Processor time of gateway and Redis for a claim, over H's for a request.
    Cpu,
}

/// What came of a goal.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub what: &'static str,
    pub goal: f64,
    pub better: Better,
    /// A value for each round in which everything it needs was measured.
    pub rounds: Vec<f64>,
}

/// All goals, in the order of docs/PERFORMANCE.md.
pub fn goals() -> Vec<Goal> {
    let rate = |what, of, to, goal| Goal {
        what,
        goal,
        better: Better::More,
        value: Value::Ratio((of, PER_SECOND), (to, PER_SECOND)),
    };
    let at_most = |what, value, goal| Goal { what, goal, better: Better::Less, value };
    vec![
        rate("grants, HTTP/1.1, always, flusher off / H", "fg-always", "h1", 0.70),
        rate("the same with everysec / H", "fg-everysec", "h1", 0.82),
        rate("with quotas on user, IP, device / H", "fg-quotas", "h1", 0.45),
        rate("with 1 % repeats / H", "fg-repeats-1", "h1", 0.66),
        rate("with 20 % repeats / H", "fg-repeats-20", "h1", 0.66),
        Goal {
            what: "grants with rows stored meanwhile / H",
            goal: 0.38,
            better: Better::More,
            value: Value::Ratio(("fg-flushed", "stored_per_second"), ("h1", PER_SECOND)),
        },
        rate("refusals by the latch / H", "fg-latch", "h1", 0.92),
        rate("refusals by a throttle / H", "fg-throttle", "h1", 0.92),
        rate("refusals by the latch, claims with a key / H", "fg-latch-keys", "h1", 0.75),
        rate("grants over h2c / H over HTTP/1.1", "fg-h2c", "h1", 2.2),
        rate("grants over h2c / H over h2c", "fg-h2c", "h2c", 0.75),
        rate("batch endpoint, claims / H", "fg-batch", "h1", 2.5),
        rate("grants / E1", "fg-always", "e1", 1.4),
        rate("vectorised script alone / E16", "vector", "e16", 3.5),
        rate("grants / nginx and lua", "fg-always", "nginx", 4.0),
        rate("grants / webdis", "fg-always", "webdis", 2.2),
        rate("grants / one EVALSHA a claim", "fg-always", "naive", 5.0),
        rate("grants / PostgreSQL hot row", "fg-always", "pg-row", 25.0),
        rate("grants / PostgreSQL, batches with SKIP LOCKED", "fg-always", "pg-skip-locked", 3.0),
        rate("flushed rows / C", "flush", "copy", 0.85),
        at_most("p99 at half of the peak, everysec / H's", Value::Ratio(("half-everysec", P99), ("half-h1", P99)), 2.0),
        at_most("a lone claim less H, in Redis round trips", Value::Plain("lone", "more_in_round_trips"), 1.3),
        at_most("CPU of gateway and Redis a grant / H a request", Value::Cpu, 1.5),
        at_most("Redis bytes a grant, flushed", Value::Plain("memory-grants", "bytes_receipts"), 80.0),
        at_most("Redis bytes a grant more while queued", Value::Plain("memory-grants", "bytes_queued"), 32.0),
        at_most("Redis bytes a grant more with three quotas", Value::Plain("memory-grants", "bytes_quotas"), 240.0),
        Goal {
            what: "goodput at three times Redis' peak / peak",
            goal: 0.95,
            better: Better::More,
            value: Value::Plain("overload", "goodput_of_peak"),
        },
        at_most("RSS with all keys and idle connections / half way", Value::Plain("memory-gateway", "rss_growth"), 1.5),
    ]
}

// === impl Goal ===

impl Goal {
    pub fn judge(&self, results: &Results) -> Verdict {
        let rounds = match &self.value {
            Value::Plain(party, measure) => results.each(party, measure).into_iter().flatten().collect(),
            Value::Ratio(of, to) => divide(&results.each(of.0, of.1), &results.each(to.0, to.1)),
            Value::Cpu => {
                let gateway = results.each("fg-always", "cpu_us.gateway");
                let redis = results.each("fg-always", "cpu_us.redis");
                let both: Vec<_> = gateway.iter().zip(&redis).map(|(a, b)| Some((*a)? + (*b)?)).collect();
                divide(&both, &results.each("h1", "cpu_us.gateway"))
            }
        };
        Verdict { what: self.what, goal: self.goal, better: self.better, rounds }
    }
}

/// Round by round, where both were measured.
fn divide(of: &[Option<f64>], to: &[Option<f64>]) -> Vec<f64> {
    of.iter().zip(to).filter_map(|(of, to)| Some((*of)? / (*to)?)).filter(|ratio| ratio.is_finite()).collect()
}

// === impl Verdict ===

impl Verdict {
    pub fn median(&self) -> Option<f64> {
        median(&self.rounds)
    }

    pub fn met(&self) -> Option<bool> {
        let median = self.median()?;
        Some(match self.better {
            Better::More => median >= self.goal,
            Better::Less => median <= self.goal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::party::Sample;

    #[test]
    fn ratios_are_of_the_same_round_and_void_rounds_are_left_out() {
        let mut results = Results::default();
        let rate = |rate| Sample::default().with(PER_SECOND, rate);
        for (name, rates) in [("h1", [100.0, 50.0, 80.0]), ("fg-always", [70.0, 40.0, 80.0])] {
            results.expect(name, "");
            for (round, value) in rates.into_iter().enumerate() {
                results.add(name, if round == 2 && name == "h1" { rate(value).void("no") } else { rate(value) });
            }
        }
        let verdict = goals()[0].judge(&results);
        assert_eq!(verdict.rounds, [0.7, 0.8]);
        assert_eq!((verdict.median(), verdict.met()), (Some(0.75), Some(true)));
        assert_eq!(goals()[1].judge(&results).met(), None, "nothing was measured");
    }

    #[test]
    fn every_goal_is_about_parties_that_exist() {
        let parties = crate::bench::parties::all();
        let known = |name: &str| parties.iter().any(|party| party.name() == name);
        for goal in goals() {
            let named = match goal.value {
                Value::Ratio(of, to) => vec![of.0, to.0],
                Value::Plain(party, _) => vec![party],
                Value::Cpu => vec!["fg-always", "h1"],
            };
            assert!(named.iter().all(|name| known(name)), "{}: {named:?}", goal.what);
        }
    }
}
