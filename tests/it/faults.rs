//! One fault a round under load, then the five equations.
//!
//! A file an area, a function a fault. In a round a template is sold over two gateways while the fault
//! happens; then all runs again, every claim is asked until its outcome is certain, and what was
//! promised must be what the stores hold, to the last coupon.
//!
//! `FAULTS=full` plays each fault three times with a larger sale; `FAULT="killed before"` those with
//! these words in their name. Each prints its row of the table in docs/RELIABILITY.md.

mod flusher;
mod gateway;
mod links;
mod load;
mod losses;
mod postgres;
mod redis;
mod time;

use std::sync::Arc;
use std::time::{Duration, Instant};

use floodgate_loadtest::client::{self, Load, Settings};
use floodgate_loadtest::journal::Journal;
use floodgate_loadtest::plan::{Plan, mix, seed_of_now};
use serde_json::json;

use super::kills::revive;
use super::sale::{agree, settings};
use super::support::app::{self, TestApp, coupons};
use super::support::ledger::{balances, number};

/// The two that sell.
const GATEWAYS: [usize; 2] = [0, 1];

/// How much is sold in a round.
struct Size {
    rounds: u64,
    stock: i64,
    users: u32,
    claims: u64,
    connections: usize,
}

const QUICK: Size = Size { rounds: 1, stock: 400, users: 340, claims: 1_600, connections: 24 };
const FULL: Size = Size { rounds: 3, stock: 2_500, users: 2_100, claims: 10_000, connections: 32 };
const LONG: Size = Size { rounds: 1, ..FULL };

fn is_full() -> bool {
    std::env::var("FAULTS").is_ok_and(|value| value == "full")
}

/// A fault by its name, and the sale that it happens to.
#[derive(Clone, Default)]
struct Fault {
    name: String,
    /// A process that has a failpoint during the round.
    armed: Option<(usize, &'static str)>,
    /// A process that is stopped in order before the round begins.
    without: Option<usize>,
    /// The level at which claims are acknowledged, where the default does not cover the fault.
    ack: Option<&'static str>,
    /// What must hold beside the equations.
    also: Option<&'static str>,
    /// The least that is lost of what was acknowledged, where the level does not cover the fault.
    loses: Option<usize>,
    /// Not in the quick form.
    full_only: bool,
    /// Takes longer than a quick sale lasts.
    long: bool,
}

/// A shop to which faults happen, one after the other.
struct Area {
    app: TestApp,
}

/// What a fault is done to.
struct Scene<'a> {
    app: &'a mut TestApp,
    load: &'a Load,
    journal: &'a Arc<Journal>,
    template: u32,
    chance: u64,
}

fn fault(name: impl Into<String>) -> Fault {
    Fault { name: name.into(), ..Fault::default() }
}

// === impl Fault ===

impl Fault {
    fn armed(mut self, process: usize, failpoint: &'static str) -> Fault {
        self.armed = Some((process, failpoint));
        self
    }

    fn without(mut self, process: usize) -> Fault {
        self.without = Some(process);
        self
    }

    fn long(mut self) -> Fault {
        self.long = true;
        self
    }

    fn size(&self) -> Size {
        match (is_full(), self.long) {
            (true, _) => FULL,
            (false, true) => LONG,
            (false, false) => QUICK,
        }
    }

    fn ack(mut self, level: &'static str) -> Fault {
        self.ack = Some(level);
        self
    }

    fn also(mut self, invariant: &'static str) -> Fault {
        self.also = Some(invariant);
        self
    }

    /// Acknowledged claims may be lost, so many at least. All of them are known and say so.
    fn loses(mut self, least: usize) -> Fault {
        self.loses = Some(least);
        self.also("what is lost is counted, listed, and answers `claim_lost`")
    }

    fn full_only(mut self, is_so: bool) -> Fault {
        self.full_only = is_so;
        self
    }

    fn is_asked_for(&self) -> bool {
        let named = std::env::var("FAULT").map_or(true, |words| self.name.contains(&words));
        named && (is_full() || !self.full_only)
    }
}

// === impl Area ===

impl Area {
    async fn of(plan: app::Plan) -> Area {
        Area { app: plan.start().await }
    }

    /// Plays a fault as often as its form asks, and prints its row.
    async fn play(&mut self, fault: Fault, strike: impl AsyncFn(&mut Scene<'_>)) {
        if !fault.is_asked_for() {
            return;
        }
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(seed_of_now);
        let (begun, rounds) = (Instant::now(), fault.size().rounds);
        let (mut claims, mut unknown, mut lost) = (0, 0, 0);
        for round in 0..rounds {
            println!("{}, round {round}: SEED={seed}", fault.name);
            let (journal, lost_here) = self.round(&fault, mix(seed.wrapping_add(round)), &strike).await;
            claims += fault.size().claims;
            lost += lost_here;
            unknown += journal.record().exchanges.iter().filter(|exchange| exchange.is_unknown()).count();
        }
        let lost = fault.loses.map(|_| format!(", {lost} acknowledged claims lost")).unwrap_or_default();
        let also = fault.also.map(|also| format!("; {also}")).unwrap_or_default();
        let took = begun.elapsed().as_secs_f64() / rounds as f64;
        println!(
            "| {} | {rounds} | equations{also} | hold: {claims} claims, {unknown} unknown answers resolved{lost}, {took:.1} s a round |",
            fault.name
        );
    }

    async fn round(
        &mut self,
        fault: &Fault,
        chance: u64,
        strike: &impl AsyncFn(&mut Scene<'_>),
    ) -> (Arc<Journal>, usize) {
        let Size { stock, users, claims, connections, .. } = fault.size();
        let app = &mut self.app;
        let mut definition = coupons(stock);
        definition["limits"] = json!({"per_user": 2});
        definition["ack"] = json!(fault.ack);
        let template = app.publish(definition).await;
        if let Some(process) = fault.without {
            app.terminate(process).await;
        }
        if let Some((process, failpoint)) = fault.armed {
            if !GATEWAYS.contains(&process) {
                // Who takes over may open the cell anew, and the mark of that is a batch of its own: not the one that
                // the failpoint waits for.
                flusher::owns(app, process).await;
                flusher::stored(app).await;
            }
            app.arm(process, Some(failpoint)).await;
            app.ready(process).await;
            if !GATEWAYS.contains(&process) {
                // Else it may find all that is sold at once, and come by its failpoint too seldom.
                flusher::owns(app, process).await;
            }
        }
        let plan = Plan {
            seed: chance,
            keys_per_user: 3,
            keyless: 30,
            double_clicks: 50,
            ..Plan::new(template.try_into().unwrap(), users, claims)
        };
        let journal = Arc::new(Journal::in_memory());
        let load = client::start(plan, front(app, connections), journal.clone());
        // While there is still something to sell: a failpoint chooses its moment itself.
        if fault.armed.is_none() {
            reached(&load, claims / 50 + mix(chance) % (claims / 5)).await;
            assert!(!load.is_over(), "the load ended before the fault");
        }
        let template_id = template.try_into().unwrap();
        strike(&mut Scene { app, load: &load, journal: &journal, template: template_id, chance }).await;
        if let Some((process, _)) = fault.armed {
            app.arm(process, None).await;
        }
        let summary = load.finish().await.unwrap();
        assert_eq!(summary.given_up, 0, "{summary:?}");
        for number in 0..app.processes() {
            revive(app, number).await;
        }
        let mut record = journal.record();
        let lost = match fault.loses {
            None => 0,
            Some(least) => {
                let lost = losses::told(app, &mut record, template).await;
                assert!(lost >= least, "{lost} acknowledged claims were lost: nothing happened");
                lost
            }
        };
        agree(app, &record).await;
        if fault.ack == Some("postgres") {
            let noted = format!("SELECT count(*) FROM lost_claims WHERE template_id = {template}");
            assert_eq!(number(app, &noted).await, 0, "nothing was acknowledged that could be lost");
        }
        assert_eq!(app.rows(template).await.len() as i64, stock, "sold to the last coupon: {:?}", summary.outcomes);
        (journal, lost)
    }

    async fn close(self) {
        balances(&self.app);
        self.app.stop().await;
    }
}

/// The gateways as shoppers reach them.
fn front(app: &TestApp, connections: usize) -> Settings {
    let gateways = GATEWAYS.map(|number| app.gateway(number).front().to_owned()).into();
    Settings { gateways, request_timeout: Duration::from_secs(4), ..settings(app, &GATEWAYS, connections) }
}

/// Waits until so many claims are decided, or the load is over.
async fn reached(load: &Load, claims: u64) {
    while load.decided() < claims && !load.is_over() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// === impl Scene ===

impl Scene<'_> {
    /// The time that a fault lasts: a part of it, not of the test.
    async fn lasts(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Waits until so many more claims are decided, or the load is over.
    async fn sells(&self, more: u64) {
        reached(self.load, self.load.decided() + more).await;
    }

    /// More claims, by other users, for as long as a fault takes: until [`Scene::enough`].
    fn more(&self) -> Load {
        let plan = Plan {
            seed: mix(self.chance),
            prefix: "more-".into(),
            keys_per_user: 3,
            double_clicks: 50,
            ..Plan::new(self.template, 100_000, u64::MAX)
        };
        client::start(plan, front(self.app, 16), self.journal.clone())
    }

    async fn enough(&self, more: Load) {
        more.stop();
        let summary = more.finish().await.unwrap();
        assert_eq!(summary.given_up, 0, "{summary:?}");
    }

    /// The armed process is gone; it stays away for a moment.
    async fn died(&mut self, process: usize) {
        self.app.died(process).await;
        self.lasts(mix(self.chance) % 200).await;
    }
}
