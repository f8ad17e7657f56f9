//! H: a bare hyper server with a fixed answer. What HTTP alone costs on this machine.

use floodgate::demo::child::Supervised;

use crate::bench::flood::Flood;
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, free_address, myself};
use crate::bench::wrk::{self, Wrk};
use crate::link::Protocol;
use crate::meter::Meter;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Bare), Box::new(BareH2c)]
}

struct Bare;
struct BareH2c;

/// Requests under way on each h2c connection, and connections: the same for every party.
pub const H2C_CONNECTIONS: usize = 8;
pub const H2C_STREAMS: u32 = 64;

/// A running H, and its address.
pub async fn start(stand: &Stand, protocol: Protocol) -> Result<(Supervised, String), String> {
    let address = free_address();
    let mut command = myself()?;
    command.args(["serve-bare", "--listen", &address]);
    if protocol == Protocol::H2c {
        command.arg("--h2c");
    }
    let mut child = stand.child("bare server", command).await?;
    stand.listening(&mut child, &address).await?;
    Ok((child, address))
}

impl Party for Bare {
    fn name(&self) -> &'static str {
        "h1"
    }

    fn what(&self) -> &'static str {
        "H: bare hyper, a fixed answer as long as a grant, HTTP/1.1"
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        wrk::absent()
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (child, address) = start(stand, Protocol::Http1).await?;
            let meter = Meter::start(&[("gateway", child.pid())]);
            let wrk = Wrk { url: format!("http://{address}"), script: "flash_sale", env: Vec::new() };
            let count = wrk.run(stand).await?;
            let claims = count.answers as f64;
            let sample = Sample::rate(claims, count.took).used(&meter.stop(), claims);
            Ok(sample.provided(count.refused == 0, || format!("{} answers were refusals", count.refused)))
        })
    }
}

impl Party for BareH2c {
    fn name(&self) -> &'static str {
        "h2c"
    }

    fn what(&self) -> &'static str {
        "H over h2c, 8 connections of 64 streams"
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (child, address) = start(stand, Protocol::H2c).await?;
            let meter = Meter::start(&[("gateway", child.pid())]);
            let count = flood(stand, address, "/v1/templates/1/claims").run().await?;
            let claims = count.all() as f64;
            let sample = Sample::rate(claims, count.took).used(&meter.stop(), claims);
            Ok(sample.provided(count.of(201) == count.all(), || format!("statuses {:?}", count.statuses)))
        })
    }
}

/// The same load over h2c for every party.
pub fn flood(stand: &Stand, address: String, path: &str) -> Flood {
    Flood {
        address,
        path: path.to_owned(),
        connections: H2C_CONNECTIONS,
        streams: H2C_STREAMS,
        duration: stand.duration(),
    }
}
