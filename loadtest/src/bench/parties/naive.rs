//! What one would write first: a hyper server that sends an EVALSHA for each claim.

use floodgate::demo::redis_server::Fsync;

use super::script;
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, free_address, myself};
use crate::bench::wrk::{self, Count, Wrk};
use crate::meter::{Meter, RedisCounts};

struct Naive;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Naive)]
}

impl Party for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn what(&self) -> &'static str {
        "hyper and one EVALSHA a claim, multiplexed, the plain script, always"
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        wrk::absent()
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (server, mut connection, sha) = script::stocked(stand, Fsync::Always).await?;
            let address = free_address();
            let mut command = myself()?;
            command.args(["serve-naive", "--listen", &address, "--redis", &server.url(), "--sha", &sha]);
            let mut child = stand.child("naive gateway", command).await?;
            stand.listening(&mut child, &address).await?;
            let wrk = Wrk { url: format!("http://{address}"), script: "flash_sale", env: Vec::new() };
            let before = RedisCounts::read(&mut connection).await?;
            let meter = Meter::start(&[("gateway", child.pid()), ("redis", server.pid())]);
            let count = wrk.run(stand).await?;
            let used = meter.stop();
            let counts = RedisCounts::read(&mut connection).await?.since(&before);
            let claims = count.granted() as f64;
            let sample = Sample::rate(claims, count.took).used(&used, claims).redis(&counts, claims);
            Ok(agreed(sample, stand, &count, script::granted(&mut connection).await?))
        })
    }
}

/// Receipts, queue and answers of a peer that runs the plain script.
pub fn agreed(sample: Sample, stand: &Stand, count: &Count, (users, queued): (u64, u64)) -> Sample {
    let under_way = stand.settings.connections as u64;
    sample
        .provided(count.refused == 0, || format!("{} answers were refusals", count.refused))
        .provided(users == queued, || format!("{users} receipts, {queued} on the queue"))
        .provided((count.granted()..=count.granted() + under_way).contains(&users), || {
            format!("{} grants were told, Redis has {users}", count.granted())
        })
}
