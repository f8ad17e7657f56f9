//! C, COPY alone into `user_coupons`; and the flusher on a queue that waits for it.
//!
//! Both store rows of the same kind into a table with the same indexes, so many in a transaction as the
//! flusher's setting says.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodgate::clock::now_ms;
use floodgate::demo::redis_server::Fsync;
use floodgate::domain::ids::CellId;
use floodgate::pg::copy::CopyRows;
use floodgate::redis::keys::CellKeys;
use futures_util::SinkExt;

use super::vector::{Until, grant};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::shop::{Plan, Shop};
use crate::bench::stand::{Stand, connect};
use crate::meter::Meter;
use crate::plan::{mix, scattered};

struct Copy;
struct Flush;

/// The flusher's own statement.
const COPY: &str = include_str!("../../../../src/sql/grant/copy_coupons.sql");
const POLL: Duration = Duration::from_millis(1);

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Copy), Box::new(Flush)]
}

/// Rows in one transaction, and in all.
fn sizes(stand: &Stand) -> (u64, u64) {
    (stand.size(20_000, 500), stand.size(600_000, 10_000))
}

impl Party for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn what(&self) -> &'static str {
        "C: COPY alone into user_coupons, the same indexes, batch and commit sizes"
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let mut shop = Shop::open(stand, Plan::new(Fsync::Always)).await?;
            shop.stop_back().await;
            let sql = connect(shop.database()).await?;
            let (batch, rows) = sizes(stand);
            let chunks: Vec<Bytes> = (0..rows / batch).map(|number| chunk(number * batch, batch)).collect();
            stand.settle().await?;
            let fail = |error: tokio_postgres::Error| format!("COPY: {error}");
            let statement = sql.prepare(COPY).await.map_err(fail)?;
            let (begun, meter) = (Instant::now(), Meter::start(&[("postgres", stand.postgres.pid())]));
            for bytes in chunks {
                sql.batch_execute("BEGIN").await.map_err(fail)?;
                let mut sink = pin!(sql.copy_in::<_, Bytes>(&statement).await.map_err(fail)?);
                sink.send(bytes).await.map_err(fail)?;
                sink.finish().await.map_err(fail)?;
                sql.batch_execute("COMMIT").await.map_err(fail)?;
            }
            let claims = rows as f64;
            Ok(Sample::rate(claims, begun.elapsed()).used(&meter.stop(), claims))
        })
    }
}

/// Rows as grants give them: serials ascend, users come in no order.
fn chunk(first: u64, count: u64) -> Bytes {
    let mut rows = CopyRows::with_capacity(count as usize * 160);
    let now = now_ms();
    for serial in first + 1..=first + count {
        rows.row(10)
            .int4(1)
            .int8(serial as i64)
            .int4(1)
            .text(scattered(serial).as_bytes())
            .int8(mix(!serial) as i64)
            .null()
            .null()
            .time(now)
            .time(now)
            .time(now + 86_400_000);
    }
    rows.finish()
}

impl Party for Flush {
    fn name(&self) -> &'static str {
        "flush"
    }

    fn what(&self) -> &'static str {
        "the flusher alone, on a queue of grants that waits for it"
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (batch, rows) = sizes(stand);
            let mut shop = Shop::open(stand, Plan::new(Fsync::Always).set("FLUSHER_ROWS_MAX", batch)).await?;
            let template = shop.publish(50_000_000, false).await?;
            shop.stop_back().await;
            let granted = grant(&shop, template, false, Until::Claims(rows)).await?;
            stand.settle().await?;
            let queued = shop.queued().await?;
            shop.start_back().await?;
            // From the first transaction's end on: the process starts and opens the cell before it.
            let (mut left, mut begun) = (queued, Instant::now());
            let mut meter = Meter::start(&shop.processes());
            while left > 0 {
                tokio::time::sleep(POLL).await;
                let now = shop.queued().await?;
                if left == queued && now < queued {
                    (begun, meter) = (Instant::now(), Meter::start(&shop.processes()));
                    left = now;
                }
                if left < queued && now == 0 {
                    break;
                }
            }
            let (took, used) = (begun.elapsed(), meter.stop());
            let tally = shop.tally(template).await?;
            let sample = Sample::rate(left as f64, took).used(&used, left as f64);
            Ok(sample
                .provided(left > 0, || "the queue is shorter than one transaction".into())
                .provided(tally.agrees() && tally.granted == granted, || format!("{granted} grants, but {tally:?}")))
        })
    }
}

impl Shop<'_> {
    /// Grants on the queue.
    pub async fn queued(&self) -> Result<u64, String> {
        let keys = CellKeys::new(CellId(0));
        let mut command = redis::cmd("HGET");
        command.arg(keys.meta()).arg("queued");
        let queued: Option<u64> = command
            .query_async(&mut self.connection.clone())
            .await
            .map_err(|error| format!("the queue's length: {error}"))?;
        Ok(queued.unwrap_or(0))
    }
}
