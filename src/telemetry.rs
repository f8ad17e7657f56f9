//! What an operator can see: metrics, as documented fields whose doc is their help text.
//!
//! Handles are made once and kept: the hot path never looks a metric up by name, counts once a
//! batch, and no label is unbounded (never a user, an address, a claim key). Metrics of wrongness
//! (`identity_mismatch`, `set_aside_rows`, `queue_gap`) should stay at zero.

use std::fmt::Display;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::outcome::{ClaimOutcome, Scope};
use crate::http::route::Door;
use crate::reconcile::difference::Kind;

/// Seconds: from 50 us to 10 s, about 2.2 apart.
const SECONDS: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Sizes: powers of two to 131,072.
const SIZES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 131072.0];

/// Classes of statuses.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

macro_rules! metrics_table {
    ($($(#[doc = $doc:literal])+ $field:ident : $kind:ident $name:literal $({$($label:literal = $value:literal),+})?),+ $(,)?) => {
        /// Every metric with a fixed set of labels.
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: $kind,)+
            claims: Vec<Counter>,
            throttled: [Counter; 4],
            requests: [[Counter; 4]; 2],
            drift: Vec<Gauge>,
        }

        impl Metrics {
            fn register() -> Self {
                $(metrics_table!(@describe $kind $name concat!($($doc),+));)+
                metrics::describe_counter!("floodgate_claims_total", Unit::Count, "Claims by what became of them.");
                metrics::describe_gauge!("floodgate_drift", Unit::Count, "Differences between Redis and PostgreSQL that the last look at each template found, by kind.");
                metrics::describe_counter!("floodgate_throttled_total", Unit::Count, "Requests refused by a throttle, by scope.");
                metrics::describe_counter!("floodgate_redis_errors_total", Unit::Count, "Calls to Redis that failed, by kind.");
                metrics::describe_counter!("floodgate_postgres_errors_total", Unit::Count, "Calls to PostgreSQL that failed, by kind.");
                metrics::describe_counter!("floodgate_http_requests_total", Unit::Count, "Requests by listener and status class, claims included.");
                Metrics {
                    $($field: metrics_table!(@make $kind $name $({$($label = $value),+})?),)+
                    claims: ClaimOutcome::ALL.iter().map(|outcome| metrics::counter!("floodgate_claims_total", "outcome" => outcome.code())).collect(),
                    requests: ["public", "internal"].map(|listener| {
                        CLASSES.map(|class| metrics::counter!("floodgate_http_requests_total", "listener" => listener, "class" => class))
                    }),
                    drift: Kind::ALL.iter().map(|kind| metrics::gauge!("floodgate_drift", "kind" => kind.word())).collect(),
                    throttled: [Scope::All, Scope::User, Scope::Ip, Scope::Device].map(|scope| metrics::counter!("floodgate_throttled_total", "scope" => scope.word())),
                }
            }
        }
    };
    (@describe Counter $name:literal $doc:expr) => { metrics::describe_counter!($name, $doc.trim()) };
    (@describe Gauge $name:literal $doc:expr) => { metrics::describe_gauge!($name, $doc.trim()) };
    (@describe Histogram $name:literal $doc:expr) => { metrics::describe_histogram!($name, $doc.trim()) };
    (@make Counter $name:literal $({$($label:literal = $value:literal),+})?) => { metrics::counter!($name $($(, $label => $value)+)?) };
    (@make Gauge $name:literal $({$($label:literal = $value:literal),+})?) => { metrics::gauge!($name $($(, $label => $value)+)?) };
    (@make Histogram $name:literal $({$($label:literal = $value:literal),+})?) => { metrics::histogram!($name $($(, $label => $value)+)?) };
}

metrics_table! {
    /// Time from a claim's arrival to its answer, by stage: the whole.
    claim_seconds: Histogram "floodgate_claim_seconds" {"stage" = "total"},
    /// Time from a claim's arrival to its answer, by stage: waiting in the lane for its batch.
    claim_lane_seconds: Histogram "floodgate_claim_seconds" {"stage" = "lane"},
    /// Time from a claim's arrival to its answer, by stage: the batch's round trip to Redis.
    claim_redis_seconds: Histogram "floodgate_claim_seconds" {"stage" = "redis"},
    /// Time from a claim's arrival to its answer, by stage: waiting for PostgreSQL at ack level postgres.
    claim_postgres_seconds: Histogram "floodgate_claim_seconds" {"stage" = "postgres"},
    /// Time from a claim's arrival to its answer, by stage: waiting for replicas at ack level replica.
    claim_replica_seconds: Histogram "floodgate_claim_seconds" {"stage" = "replica"},
    /// Claims in a batch.
    batch_size: Histogram "floodgate_batch_size",
    /// Claims that wait in lanes now.
    lane_waiting: Gauge "floodgate_lane_waiting",
    /// Lookups of claim keys that came before a refusal.
    lookups: Counter "floodgate_lookups_total",
    /// Batches that Redis did not execute because the cell's identity did not match.
    identity_mismatch: Counter "floodgate_identity_mismatch_total",
    /// Times that Sentinel named another Redis as the master.
    master_changes: Counter "floodgate_redis_master_changes_total",
    /// Batches refused because Redis' clock was more than a second behind.
    clock_behind: Counter "floodgate_clock_behind_total",
    /// Keys in the throttle tables, by scope.
    throttle_keys_ip: Gauge "floodgate_throttle_keys" {"scope" = "ip"},
    /// Keys in the throttle tables, by scope.
    throttle_keys_user: Gauge "floodgate_throttle_keys" {"scope" = "user"},
    /// Keys in the throttle tables, by scope.
    throttle_keys_device: Gauge "floodgate_throttle_keys" {"scope" = "device"},
    /// Keys that a throttle table forgot while they still counted, because it was full.
    throttle_evictions: Counter "floodgate_throttle_evictions_total",
    /// Templates that are latched as sold out in this process.
    latched_templates: Gauge "floodgate_latched_templates",
    /// Claims refused by the sold-out latch without asking Redis.
    latch_refusals: Counter "floodgate_latch_refusals_total",
    /// Claims whose outcome is unknown and whose deadline has not passed.
    in_doubt: Gauge "floodgate_in_doubt",
    /// Connections open now, by listener.
    connections_public: Gauge "floodgate_connections" {"listener" = "public"},
    /// Connections open now, by listener.
    connections_internal: Gauge "floodgate_connections" {"listener" = "internal"},
    /// Connections closed at once because too many were open.
    connections_refused: Counter "floodgate_connections_refused_total",
    /// Verified tokens that are remembered.
    token_cache_entries: Gauge "floodgate_token_cache_entries",
    /// Templates in the snapshot.
    snapshot_templates: Gauge "floodgate_snapshot_templates",
    /// Quotes that wait for a processor or have one.
    quotes_waiting: Gauge "floodgate_quotes_waiting",
    /// Seconds since the snapshot was last compared with PostgreSQL.
    snapshot_age_seconds: Gauge "floodgate_snapshot_age_seconds",
    /// Claims of ack level postgres that wait for their row.
    ack_waiting: Gauge "floodgate_ack_waiting",
    /// Claims of ack level replica that wait for replicas to have their grant.
    confirm_waiting: Gauge "floodgate_confirm_waiting",
    /// Times that not enough replicas had what was granted, or could not be asked.
    confirm_failed: Counter "floodgate_confirm_failed_total",
    /// Entries on the grant queue.
    backlog_entries: Gauge "floodgate_backlog_entries",
    /// Grants on the queue: at claim.backlog_grants_max claims are refused.
    backlog_grants: Gauge "floodgate_backlog_grants",
    /// Age in seconds of the oldest grant on the queue: how far the watermark lags behind.
    backlog_age_seconds: Gauge "floodgate_backlog_age_seconds",
    /// Rows that the flusher committed.
    flush_rows: Counter "floodgate_flush_rows_total",
    /// Rows in one transaction of the flusher.
    flush_batch_rows: Histogram "floodgate_flush_batch_rows",
    /// Time of one transaction of the flusher.
    flush_seconds: Histogram "floodgate_flush_seconds",
    /// Age in seconds of the oldest grant that the watermark has not passed; the same as the backlog's age.
    watermark_lag_seconds: Gauge "floodgate_watermark_lag_seconds",
    /// 1 while this process is the flusher of the cell.
    flusher_active: Gauge "floodgate_flusher_active",
    /// 1 while the flusher is stopped by an error that it repeats against.
    flusher_failing: Gauge "floodgate_flusher_failing",
    /// The cell's epoch as this process knows it; 0 while the cell is not open.
    cell_epoch: Gauge "floodgate_cell_epoch",
    /// Openings of the cell that this process finished.
    openings: Counter "floodgate_openings_total",
    /// Openings that were refused because the cell needs `floodgate recover`.
    openings_refused: Counter "floodgate_openings_refused_total",
    /// Rows that PostgreSQL refused and that were set aside.
    set_aside_rows: Counter "floodgate_set_aside_rows_total",
    /// Rows whose serial another claim has: an alarm.
    serial_collisions: Counter "floodgate_serial_collisions_total",
    /// Times that the queue had a gap and the flusher halted: an alarm.
    queue_gap: Counter "floodgate_queue_gap_total",
    /// Acknowledged claims that a failover lost, as this process found them: an alarm.
    claims_lost: Counter "floodgate_claims_lost_total",
    /// Acknowledged grants that this process remembers until they are rows.
    ring_grants: Gauge "floodgate_ring_grants",
    /// Acknowledged grants that fell out of that memory before they were rows: lost, they would not be told.
    ring_dropped: Counter "floodgate_ring_dropped_total",
    /// Seconds that the last whole comparison of Redis with PostgreSQL took.
    reconcile_walk_seconds: Gauge "floodgate_reconcile_walk_seconds",
    /// Templates whose state PostgreSQL has and Redis does not have yet.
    templates_out_of_step: Gauge "floodgate_templates_out_of_step",
    /// Coupons that were found expired and became so.
    coupons_expired: Counter "floodgate_coupons_expired_total",
    /// Age in seconds of the oldest due coupon that the sweeper has not looked at. Wallets and orders refuse it all the same.
    expiry_lag_seconds: Gauge "floodgate_expiry_lag_seconds",
    /// Coupons that were revoked.
    coupons_revoked: Counter "floodgate_coupons_revoked_total",
    /// Differences between counters, coupons and operations that the last look at each template found: an alarm.
    ledger_drift: Gauge "floodgate_ledger_drift",
    /// Revocations that are not carried out to their end.
    revocations_open: Gauge "floodgate_revocations_open",
    /// Locks whose time was over and whose coupons were given free.
    locks_timed_out: Counter "floodgate_locks_timed_out_total",
    /// Locks whose time is over and that nobody has released yet, counted up to 10,000.
    locks_overdue: Gauge "floodgate_locks_overdue",
    /// Seconds since the oldest of them was over.
    locks_overdue_seconds: Gauge "floodgate_locks_overdue_seconds",
    /// Gifts that nobody took in time and that went back to their givers.
    gifts_returned: Counter "floodgate_gifts_returned_total",
    /// Seconds since the oldest offer of a coupon was over that has not gone back to its giver.
    gifts_overdue_seconds: Gauge "floodgate_gifts_overdue_seconds",
    /// Approval requests that have not arrived at the approval flow.
    approvals_waiting: Gauge "floodgate_approvals_waiting",
    /// Attempts to send an approval request that failed.
    approval_failures: Counter "floodgate_approval_failures_total",
    /// Audit records that are not sealed into the chain yet, up to 100000.
    audit_unsealed_records: Gauge "floodgate_audit_unsealed_records",
    /// Age in seconds of the oldest audit record that is not sealed: a second or so while a worker runs.
    audit_unsealed_age_seconds: Gauge "floodgate_audit_unsealed_age_seconds",
    /// Where the audit chain ends: never falls.
    audit_sealed_position: Gauge "floodgate_audit_sealed_position",
    /// Where the audit chain ended when this process wrote its last anchor.
    audit_anchored_position: Gauge "floodgate_audit_anchored_position",
    /// Times that the audit chain's end was not what this process had seen before: an alarm.
    audit_head_lost: Counter "floodgate_audit_head_lost_total",
    /// Connections to PostgreSQL in use.
    postgres_pool_busy: Gauge "floodgate_postgres_pool_busy",
    /// Reads that a replica could have served, by what became of them: it served them.
    replica_reads_served: Counter "floodgate_replica_reads_total" {"result" = "served"},
    /// Reads that a replica could have served, by what became of them: it was not new enough, the primary served them.
    replica_reads_behind: Counter "floodgate_replica_reads_total" {"result" = "behind"},
    /// Reads that a replica could have served, by what became of them: it failed, the primary served them.
    replica_reads_failed: Counter "floodgate_replica_reads_total" {"result" = "failed"},
    /// 1 while reads that decide nothing go to the replica of postgres.replica_url.
    replica_in_use: Gauge "floodgate_replica_in_use",
    /// Seconds for which the replica has missed something that the primary had.
    replica_lag_seconds: Gauge "floodgate_replica_lag_seconds",
    /// Connections to the replica in use.
    replica_pool_busy: Gauge "floodgate_replica_pool_busy",
    /// Pooled connections to Redis in use.
    redis_pool_busy: Gauge "floodgate_redis_pool_busy",
}

static METRICS: OnceLock<Metrics> = OnceLock::new();
static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process' metrics. Before [`install`] they count nowhere.
pub fn metrics() -> &'static Metrics {
    METRICS.get_or_init(Metrics::register)
}

/// Starts recording. Called once, before the first metric is touched.
pub fn install() -> Result<(), String> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full("floodgate_batch_size".into()), SIZES))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full("floodgate_flush_batch_rows".into()), SIZES))
        .map_err(|error| error.to_string())?
        .build_recorder();
    let _ = HANDLE.set(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    metrics();
    Ok(())
}

/// The text of `/metrics`.
pub fn render() -> String {
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds histogram samples into their buckets; without it the recorder's memory grows.
pub async fn upkeep() {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(handle) = HANDLE.get() {
            handle.run_upkeep();
        }
    }
}

// === impl Metrics ===

impl Metrics {
    pub fn claims(&self, outcome: ClaimOutcome, count: u64) {
        let at = ClaimOutcome::ALL.iter().position(|known| *known == outcome).expect("ALL is whole");
        self.claims[at].increment(count);
    }

    pub fn throttled(&self, scope: Scope) {
        self.throttled[match scope {
            Scope::All => 0,
            Scope::User => 1,
            Scope::Ip => 2,
            Scope::Device => 3,
        }]
        .increment(1);
    }

    /// Differences of each kind, in the order of [`Kind::ALL`].
    pub fn drift(&self, counts: [u64; Kind::ALL.len()]) {
        for (gauge, count) in self.drift.iter().zip(counts) {
            gauge.set(count as f64);
        }
    }

    /// A request was answered with this status.
    pub fn request(&self, door: Door, status: u16) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[usize::from(door == Door::Internal)][class].increment(1);
    }

    /// Off the hot path: looks the counter up by its kind.
    pub fn redis_error(&self, kind: &'static str) {
        metrics::counter!("floodgate_redis_errors_total", "kind" => kind).increment(1);
    }

    /// Off the hot path: looks the counter up by its kind.
    pub fn postgres_error(&self, kind: &'static str) {
        metrics::counter!("floodgate_postgres_errors_total", "kind" => kind).increment(1);
    }
}

/// Lets a log line through once a second and counts what it held back: an outage must not fill a disk.
#[derive(Default)]
pub struct Seldom {
    next: AtomicU64,
    held_back: AtomicU64,
}

// === impl Seldom ===

impl Seldom {
    pub const fn new() -> Self {
        Seldom { next: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// `Some` with the number of lines held back since the last one, if it is time for a line.
    pub fn now(&self) -> Option<u64> {
        let now = crate::clock::mono_ms();
        let due = self.next.load(Ordering::Relaxed);
        if now < due || self.next.compare_exchange(due, now + 1000, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

/// Says a background loop's trouble once, and once that it is over.
pub struct Trouble {
    what: &'static str,
    last: Option<String>,
}

// === impl Trouble ===

impl Trouble {
    pub fn new(what: &'static str) -> Self {
        Trouble { what, last: None }
    }

    /// What a round came to: the reason why it failed, if it did.
    pub fn note(&mut self, reason: Option<impl Display>) {
        let now = reason.map(|reason| reason.to_string());
        if now != self.last {
            match &now {
                Some(reason) => tracing::warn!(%reason, "{}", self.what),
                None => tracing::info!("over: {}", self.what),
            }
            self.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_lines_is_one_line_that_counts_the_others() {
        let seldom = Seldom::new();
        assert_eq!(seldom.now(), Some(0));
        assert_eq!((0..50).filter_map(|_| seldom.now()).count(), 0);
        seldom.next.store(0, Ordering::Relaxed);
        assert_eq!(seldom.now(), Some(50));
    }
}
