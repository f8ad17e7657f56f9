//! A lone claim on an idle gateway, H's answer, and a round trip to Redis: what a claim waits for.

use std::time::{Duration, Instant};

use floodgate::demo::redis_server::Fsync;

use super::bare;
use super::script::{self, KEYS};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::Stand;
use crate::http::Connection;
use crate::link::Protocol;

struct Lone;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Lone)]
}

impl Party for Lone {
    fn name(&self) -> &'static str {
        "lone"
    }

    fn what(&self) -> &'static str {
        "one request at a time, no other load: Floodgate, H, and a script's round trip to Redis, always"
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let turns = stand.size(2_000, 200) as usize;
            let (child, address) = bare::start(stand, Protocol::Http1).await?;
            let h = ask(&address, 1, turns).await?;
            drop(child);
            let (server, mut connection, sha) = script::stocked(stand, Fsync::Always).await?;
            let mut trips = Vec::with_capacity(turns);
            for user in 0..turns {
                let mut call = redis::cmd("EVALSHA");
                call.arg(&sha).arg(3).arg(&KEYS).arg(format!("u{user:011}"));
                let begun = Instant::now();
                let serial: i64 =
                    call.query_async(&mut connection).await.map_err(|error| format!("EVALSHA: {error}"))?;
                trips.push(begun.elapsed());
                if serial < 1 {
                    return Err(format!("the plain script answered {serial}"));
                }
            }
            drop(server);
            let mut shop = Shop::open(stand, Plan::new(Fsync::Always)).await?;
            let template = shop.publish(50_000_000, false).await?;
            shop.stop_back().await;
            let claim = ask(&shop.public, template, turns).await?;
            shop.start_back().await?;
            shop.drained().await?;
            let tally = shop.tally(template).await?;
            let us = |time: Duration| time.as_secs_f64() * 1e6;
            let (h, trip, claim) = (us(middle(h)), us(middle(trips)), us(middle(claim)));
            Ok(Sample::default()
                .with("h_p50_us", h)
                .with("redis_p50_us", trip)
                .with("claim_p50_us", claim)
                .with("more_in_round_trips", (claim - h) / trip)
                .provided(tally.agrees() && tally.granted == turns as u64, || format!("{turns} grants, but {tally:?}")))
        })
    }
}

/// One request after the other, all of which must be granted.
async fn ask(address: &str, template: u32, turns: usize) -> Result<Vec<Duration>, String> {
    let mut connection = Connection::open(address).await?;
    let mut times = Vec::with_capacity(turns);
    for user in 0..turns {
        let request = format!(
            "POST /v1/templates/{template}/claims HTTP/1.1\r\nhost: {address}\r\nx-user-id: u{user:011}\r\n\
             content-length: 0\r\n\r\n"
        );
        let begun = Instant::now();
        let answer = connection.send(request.as_bytes()).await?;
        times.push(begun.elapsed());
        if answer.status != 201 {
            return Err(format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
    }
    Ok(times)
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
