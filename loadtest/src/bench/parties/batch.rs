//! The batch endpoint: a trusted backend claims for many users in one request.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodgate::demo::redis_server::Fsync;
use http_body_util::Full;
use hyper::Request;

use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::Stand;
use crate::link::{Link, Protocol};
use crate::meter::Meter;

struct Batch;

/// Claims in a request, and requests under way.
const CLAIMS: u64 = 500;
const CONNECTIONS: usize = 8;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Batch)]
}

impl Party for Batch {
    fn name(&self) -> &'static str {
        "fg-batch"
    }

    fn what(&self) -> &'static str {
        "claims by the batch endpoint, 500 a request, always"
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let mut shop = Shop::open(stand, Plan::new(Fsync::Always)).await?;
            let template = shop.publish(50_000_000, false).await?;
            let key: Arc<str> = shop.api_key("service").await?.into();
            shop.stop_back().await;
            let before = shop.counts().await?;
            let meter = Meter::start(&shop.processes());
            let (begun, users) = (Instant::now(), Arc::new(AtomicU64::new(0)));
            let tasks: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let link = Link::new(&shop.internal, Protocol::Http1);
                    tokio::spawn(claim(link, template, key.clone(), users.clone(), begun, stand.duration()))
                })
                .collect();
            let mut granted = 0;
            for task in tasks {
                granted += task.await.map_err(|error| error.to_string())??;
            }
            let (took, used) = (begun.elapsed(), meter.stop());
            let counts = shop.counts().await?.since(&before);
            let claims = granted as f64;
            let sample = Sample::rate(claims, took).used(&used, claims).redis(&counts, claims);
            shop.start_back().await?;
            shop.drained().await?;
            let tally = shop.tally(template).await?;
            Ok(sample
                .with("batch_claims", claims / counts.scripts.max(1.0))
                .provided(tally.agrees() && tally.granted == granted, || format!("{granted} grants, but {tally:?}")))
        })
    }
}

/// Requests of new users until the time is over; how many claims were granted.
async fn claim(
    mut link: Link,
    template: u32,
    key: Arc<str>,
    users: Arc<AtomicU64>,
    begun: Instant,
    duration: Duration,
) -> Result<u64, String> {
    let mut granted = 0;
    while begun.elapsed() < duration {
        let first = users.fetch_add(CLAIMS, Ordering::Relaxed);
        let mut body = String::from("{\"claims\":[");
        for user in first..first + CLAIMS {
            let _ = write!(body, "{{\"user_id\":\"u{user:011}\"}},");
        }
        body.pop();
        body.push_str("]}");
        let request = Request::post(format!("/v1/templates/{template}/claims:batch"))
            .header("host", link.address())
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = link.send(request).await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
        // Counted in the text: a JSON tree would cost the generator more than the gateway's answer.
        granted += memchr::memmem::find_iter(&answer.body, b"\"status\":201").count() as u64;
    }
    Ok(granted)
}
