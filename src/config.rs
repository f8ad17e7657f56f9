//! Settings: a documented file that is also the default.
//!
//! `config/default.toml` is compiled in and names every setting; a file, the environment and flags
//! lay over it, in that order. Everything is checked, pairs of settings too, before the first
//! socket opens, and all that is wrong is said at once.

mod layers;

pub use layers::Layers;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::domain::code::CodeKey;
use crate::domain::template::{AckLevel, Definition};
use crate::webhook::{Signer, Target};
use crate::{limits, pricing};

/// A value that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub public: Listener,
    pub internal: Listener,
    pub http: Http,
    pub redis: Redis,
    pub postgres: Postgres,
    pub auth: Auth,
    pub code: Code,
    pub privacy: Privacy,
    pub throttle: Throttle,
    pub quota: Quota,
    pub claim: Claim,
    pub flusher: Flusher,
    pub worker: Worker,
    pub redemption: Redemption,
    pub audit: Audit,
    pub approval: Approval,
    /// Whole: the section `stacking` is laid into it.
    pub pricing: pricing::Settings,
    pub stacking: pricing::settings::Stacking,
    pub log: Log,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub threads: usize,
    pub connections_max: usize,
    pub header_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub h2_streams_max: u32,
    pub drain_grace_ms: u64,
    pub drain_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub url: Secret,
    pub sentinels: Vec<Secret>,
    pub master_name: String,
    pub pool_max: usize,
    pub connect_timeout_ms: u64,
    pub command_timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    pub url: Secret,
    pub replica_url: Secret,
    pub replica_lag_max_ms: u64,
    pub pool_max: u32,
    pub connect_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub start_wait_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    Jwt,
    TrustedHeader,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub mode: AuthMode,
    pub jwt_secret: Secret,
    pub jwt_secret_file: PathBuf,
    pub jwt_issuer: String,
    pub jwt_audience: String,
    pub jwt_leeway_s: u64,
    pub token_cache_max: usize,
    pub trusted_proxies: Vec<IpNet>,
    pub admin_key: Secret,
    pub admin_key_file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    pub key: Secret,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    pub encrypt: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    pub all_per_s: u32,
    pub all_burst: u32,
    pub ip_per_s: u32,
    pub ip_burst: u32,
    pub user_per_s: u32,
    pub user_burst: u32,
    pub device_per_s: u32,
    pub device_burst: u32,
    pub keys_max: usize,
    pub device_required: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub user_limit: u32,
    pub user_window_s: u32,
    pub ip_limit: u32,
    pub ip_window_s: u32,
    pub device_limit: u32,
    pub device_window_s: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub ack: AckLevel,
    pub deadline_ms: u64,
    pub answer_margin_ms: u64,
    pub replicas: u32,
    pub replica_wait_ms: u64,
    pub postgres_wait_ms: u64,
    pub batch_max: usize,
    pub lane_max: usize,
    pub wait_max_ms: u64,
    pub backlog_grants_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flusher {
    pub rows_max: usize,
    pub poll_ms: u64,
    pub backoff_min_ms: u64,
    pub backoff_max_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub snapshot_poll_ms: u64,
    pub free_after_s: u64,
    pub ledger_look_pause_s: u64,
    pub reconcile_pause_s: u64,
    pub reconcile_rows: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redemption {
    pub lock_seconds: u32,
    pub lock_seconds_max: u32,
    pub checkouts_limit: u32,
    pub checkouts_window_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalMode {
    FourEyes,
    External,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    pub mode: ApprovalMode,
    pub url: String,
    pub secret: Secret,
    pub secret_file: PathBuf,
    pub timeout_ms: u64,
    pub retry_min_ms: u64,
    pub retry_max_ms: u64,
    pub tolerance_s: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub anchor_file: PathBuf,
    pub anchor_interval_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// Everything that is wrong with the settings, a sentence each.
#[derive(Debug)]
pub struct ConfigError(pub Vec<String>);

// === impl Config ===

impl Config {
    fn checked(mut self) -> Result<Config, ConfigError> {
        let mut wrong = Vec::new();
        self.read_secret_files(&mut wrong);
        self.pricing.stacking = self.stacking;
        self.check(&mut wrong);
        if wrong.is_empty() { Ok(self) } else { Err(ConfigError(wrong)) }
    }

    fn read_secret_files(&mut self, wrong: &mut Vec<String>) {
        for (path, slot) in [
            (&self.auth.jwt_secret_file, &mut self.auth.jwt_secret),
            (&self.auth.admin_key_file, &mut self.auth.admin_key),
            (&self.code.key_file, &mut self.code.key),
            (&self.approval.secret_file, &mut self.approval.secret),
        ] {
            if path.as_os_str().is_empty() {
                continue;
            }
            match std::fs::read_to_string(path) {
                Ok(text) => *slot = Secret(text.trim().to_owned()),
                Err(error) => wrong.push(format!("cannot read the secret in {}: {error}", path.display())),
            }
        }
    }

    fn check(&self, wrong: &mut Vec<String>) {
        let mut demand = |holds: bool, sentence: &str| {
            if !holds {
                wrong.push(sentence.to_owned());
            }
        };
        demand(
            self.public.listen != self.internal.listen || self.public.listen.port() == 0,
            "public.listen and internal.listen are the same address",
        );
        demand(self.http.connections_max > 0, "http.connections_max must be at least 1");
        demand(
            self.http.header_timeout_ms > 0 && self.http.body_timeout_ms > 0,
            "http.header_timeout_ms and http.body_timeout_ms must be at least 1",
        );
        demand((1..=10_000).contains(&self.http.h2_streams_max), "http.h2_streams_max must be 1 to 10000");
        demand(
            self.redis.pool_max > 0 && self.postgres.pool_max > 1,
            "redis.pool_max must be at least 1, postgres.pool_max at least 2",
        );
        demand(
            self.redis.sentinels.is_empty() || !self.redis.master_name.is_empty(),
            "redis.sentinels: set redis.master_name to the name under which they know the master",
        );
        demand(self.redis.sentinels.len() <= limits::SENTINELS_MAX, "redis.sentinels: name at most 16");
        demand(self.auth.jwt_leeway_s <= 5, "auth.jwt_leeway_s must be at most 5");
        if self.auth.mode == AuthMode::Jwt {
            demand(
                self.auth.jwt_secret.expose().len() >= 32,
                "auth.mode is jwt: set FLOODGATE_JWT_SECRET to a secret of at least 32 bytes",
            );
            demand(
                !self.auth.jwt_issuer.is_empty() && !self.auth.jwt_audience.is_empty(),
                "auth.jwt_issuer and auth.jwt_audience must not be empty",
            );
        } else {
            demand(
                !self.auth.trusted_proxies.is_empty(),
                "auth.mode is trusted-header: set FLOODGATE_TRUSTED_PROXIES to the networks of your proxies",
            );
        }
        demand(
            self.auth.admin_key.is_empty() || self.auth.admin_key.expose().len() >= 20,
            "FLOODGATE_ADMIN_KEY must have at least 20 characters",
        );
        demand(
            CodeKey::from_hex(self.code.key.expose()).is_some(),
            "set FLOODGATE_CODE_KEY to 32 hex digits (for example from: openssl rand -hex 16) and never change it",
        );
        demand(
            (1..=limits::BATCH_CLAIMS_MAX).contains(&self.claim.batch_max),
            &format!("claim.batch_max must be 1 to {}", limits::BATCH_CLAIMS_MAX),
        );
        demand(self.claim.lane_max >= self.claim.batch_max, "claim.lane_max must be at least claim.batch_max");
        demand((10..=60_000).contains(&self.claim.deadline_ms), "claim.deadline_ms must be 10 to 60000");
        demand(
            self.claim.wait_max_ms < self.claim.deadline_ms,
            "claim.wait_max_ms must be less than claim.deadline_ms",
        );
        demand(
            (1..=limits::REPLICAS_MAX).contains(&self.claim.replicas),
            &format!("claim.replicas must be 1 to {}", limits::REPLICAS_MAX),
        );
        // WAIT takes 0 as for ever.
        demand((1..=60_000).contains(&self.claim.replica_wait_ms), "claim.replica_wait_ms must be 1 to 60000");
        demand(self.claim.backlog_grants_max >= 100, "claim.backlog_grants_max must be at least 100");
        demand(
            (1..=limits::FLUSH_ROWS_MAX).contains(&self.flusher.rows_max),
            &format!("flusher.rows_max must be 1 to {}", limits::FLUSH_ROWS_MAX),
        );
        demand(self.flusher.poll_ms > 0, "flusher.poll_ms must be at least 1");
        demand(
            0 < self.flusher.backoff_min_ms && self.flusher.backoff_min_ms <= self.flusher.backoff_max_ms,
            "flusher.backoff_min_ms must be at least 1 and at most flusher.backoff_max_ms",
        );
        demand(
            (10..=1000).contains(&self.worker.snapshot_poll_ms),
            "worker.snapshot_poll_ms must be 10 to 1000: the blacklist must be in force within a second",
        );
        demand(
            (1..=self.redemption.lock_seconds_max).contains(&self.redemption.lock_seconds)
                && self.redemption.lock_seconds_max <= limits::LOCK_SECONDS_MAX,
            &format!(
                "redemption.lock_seconds must be 1 to redemption.lock_seconds_max, and that at most {}",
                limits::LOCK_SECONDS_MAX
            ),
        );
        demand(
            (1..=limits::CHECKOUTS_WINDOW_S_MAX).contains(&self.redemption.checkouts_window_s),
            &format!("redemption.checkouts_window_s must be 1 to {}", limits::CHECKOUTS_WINDOW_S_MAX),
        );
        for (name, limit, window) in [
            ("user", self.quota.user_limit, self.quota.user_window_s),
            ("ip", self.quota.ip_limit, self.quota.ip_window_s),
            ("device", self.quota.device_limit, self.quota.device_window_s),
        ] {
            demand(
                limit <= limits::QUOTA_LIMIT_MAX,
                &format!("quota.{name}_limit must be at most {}", limits::QUOTA_LIMIT_MAX),
            );
            demand(
                (1..=limits::QUOTA_WINDOW_S_MAX).contains(&window),
                &format!("quota.{name}_window_s must be 1 to {}", limits::QUOTA_WINDOW_S_MAX),
            );
        }
        for (name, rate, burst) in [
            ("all", self.throttle.all_per_s, self.throttle.all_burst),
            ("ip", self.throttle.ip_per_s, self.throttle.ip_burst),
            ("user", self.throttle.user_per_s, self.throttle.user_burst),
            ("device", self.throttle.device_per_s, self.throttle.device_burst),
        ] {
            demand(
                rate == 0 || burst > 0,
                &format!("throttle.{name}_burst must be at least 1 where throttle.{name}_per_s is set"),
            );
        }
        demand(
            (1024..=limits::THROTTLE_KEYS_MAX).contains(&self.throttle.keys_max),
            &format!("throttle.keys_max must be 1024 to {}", limits::THROTTLE_KEYS_MAX),
        );
        let approval = &self.approval;
        if approval.mode == ApprovalMode::External {
            demand(
                Target::parse(&approval.url).is_some(),
                "approval.mode is external: set approval.url to an http:// address (no TLS: use a proxy)",
            );
            demand(
                Signer::new(approval.secret.expose()).is_some(),
                "approval.mode is external: set FLOODGATE_APPROVAL_SECRET to at least 24 bytes, or whsec_ and base 64",
            );
        }
        demand((100..=60_000).contains(&approval.timeout_ms), "approval.timeout_ms must be 100 to 60000");
        demand(
            0 < approval.retry_min_ms && approval.retry_min_ms <= approval.retry_max_ms,
            "approval.retry_min_ms must be at least 1 and at most approval.retry_max_ms",
        );
        demand(approval.retry_max_ms <= 86_400_000, "approval.retry_max_ms must be at most 86400000");
        demand((1..=3_600).contains(&approval.tolerance_s), "approval.tolerance_s must be 1 to 3600");
        demand((1..=86_400).contains(&self.audit.anchor_interval_s), "audit.anchor_interval_s must be 1 to 86400");
        self.pricing.check(demand);
    }

    /// Which installation these settings belong to, for a cell's meta: the code key's fingerprint.
    pub fn install_name(&self) -> String {
        format!("{:016x}", self.code_key().fingerprint())
    }

    /// The code key. Checked when the settings were built.
    pub fn code_key(&self) -> CodeKey {
        CodeKey::from_hex(self.code.key.expose()).expect("checked by Config::check")
    }
}

/// Milliseconds of a setting as a duration.
pub fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

// === impl Claim ===

impl Claim {
    /// The level at which claims of a template are acknowledged.
    pub fn level(&self, template: &Definition) -> AckLevel {
        template.ack.unwrap_or(self.ack)
    }
}

// === impl Secret ===

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let enough = [
            ("FLOODGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
        ];
        enough.iter().chain(pairs).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn build(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Layers::read(None, env(pairs)).and_then(Layers::build)
    }

    #[test]
    fn the_defaults_need_only_their_secrets() {
        build(&[]).unwrap();
        let wrong = Layers::read(None, Vec::new()).and_then(Layers::build).unwrap_err();
        assert_eq!(wrong.0.len(), 2, "{wrong}");
        assert!(wrong.to_string().contains("FLOODGATE_JWT_SECRET") && wrong.to_string().contains("FLOODGATE_CODE_KEY"));
    }

    #[test]
    fn the_environment_lies_over_the_defaults() {
        let config = build(&[
            ("FLOODGATE_PUBLIC_LISTEN", "0.0.0.0:9000"),
            ("FLOODGATE_REDIS_URL", "redis://:pw@r:1/2"),
            ("FLOODGATE_CLAIM_DEADLINE_MS", "800"),
            ("FLOODGATE_PRIVACY_ENCRYPT", "false"),
            ("FLOODGATE_TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1/32"),
        ])
        .unwrap();
        assert_eq!(config.public.listen, "0.0.0.0:9000".parse().unwrap());
        assert_eq!(config.redis.url.expose(), "redis://:pw@r:1/2");
        assert_eq!(config.claim.deadline_ms, 800);
        assert!(!config.privacy.encrypt);
        assert_eq!(config.auth.trusted_proxies.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_at_once_and_by_name() {
        let wrong = Layers::read(None, env(&[("FLOODGATE_CLAIM_DEDLINE_MS", "1"), ("FLOODGATE_HTTP_THREADS", "two")]))
            .err()
            .unwrap();
        assert_eq!(wrong.0.len(), 2, "{wrong}");
        let wrong = build(&[("FLOODGATE_CLAIM_WAIT_MAX_MS", "5000"), ("FLOODGATE_FLUSHER_ROWS_MAX", "0")]).unwrap_err();
        assert_eq!(wrong.0.len(), 2, "{wrong}");
        let wrong = build(&[
            ("FLOODGATE_REDIS_SENTINELS", "redis://s1:26379"),
            ("FLOODGATE_REDIS_MASTER_NAME", ""),
            ("FLOODGATE_CLAIM_REPLICAS", "0"),
            ("FLOODGATE_CLAIM_REPLICA_WAIT_MS", "0"),
        ])
        .unwrap_err();
        assert_eq!(wrong.0.len(), 3, "{wrong}");
    }

    #[test]
    fn services_of_kubernetes_are_no_settings() {
        let links = [
            ("FLOODGATE_SERVICE_HOST", "10.0.0.7"),
            ("FLOODGATE_SERVICE_PORT_PUBLIC", "80"),
            ("FLOODGATE_PORT", "tcp://10.0.0.7:80"),
            ("FLOODGATE_PORT_80_TCP", "tcp://10.0.0.7:80"),
            ("FLOODGATE_PORT_80_TCP_ADDR", "10.0.0.7"),
            ("FLOODGATE_INTERNAL_SERVICE_HOST", "10.0.0.8"),
            ("FLOODGATE_INTERNAL_PORT_8081_TCP_PROTO", "tcp"),
        ];
        build(&links).unwrap();
        for (name, value) in [("FLOODGATE_PORT", "8080"), ("FLOODGATE_SERVICE", "x"), ("FLOODGATE_PUBLIC_PORT_X", "1")]
        {
            assert!(build(&[(name, value)]).is_err(), "{name}");
        }
    }

    #[test]
    fn pricing_takes_its_defaults_and_its_bounds() {
        assert_eq!(build(&[]).unwrap().pricing, pricing::Settings::default());
        let config = build(&[
            ("FLOODGATE_STACKING_MODE", "one_per_order"),
            ("FLOODGATE_STACKING_MERCHANT", "per_order"),
            ("FLOODGATE_PRICING_MAX_DISCOUNT_RATIO", "0.9"),
            ("FLOODGATE_PRICING_KINDS", "cash_voucher, shipping"),
            ("FLOODGATE_PRICING_PRESETS", "SHIPPING.amount=8.00, percentage_discount.max_off=50"),
        ])
        .unwrap();
        let kind = crate::domain::template::Kind::PercentageDiscount;
        assert_eq!(config.pricing.presets(kind).collect::<Vec<_>>(), [("max_off", "50")]);
        for bad in ["shipping=8", "shipping.max_off=8", "shipping.amount=-8", "voucher.amount=8"] {
            assert!(build(&[("FLOODGATE_PRICING_PRESETS", bad)]).is_err(), "{bad}");
        }
        assert_eq!(config.pricing.stacking.mode, pricing::settings::StackingMode::OnePerOrder);
        assert_eq!(config.pricing.stacking.merchant, pricing::settings::MerchantLimit::PerOrder);
        assert_eq!(config.pricing.max_discount_ratio.to_string(), "0.9");
        assert_eq!(config.pricing.kinds, ["cash_voucher", "shipping"]);
        let wrong = build(&[
            ("FLOODGATE_PRICING_MAX_DISCOUNT_RATIO", "1.1"),
            ("FLOODGATE_PRICING_MAX_ORDER_DISCOUNT_RATIO", "0"),
            ("FLOODGATE_PRICING_KINDS", "voucher"),
            ("FLOODGATE_PRICING_SEARCH_NODES_MAX", "0"),
        ])
        .unwrap_err();
        assert_eq!(wrong.0.len(), 4, "{wrong}");
    }

    #[test]
    fn an_approval_flow_needs_its_address_and_its_secret() {
        assert_eq!(build(&[]).unwrap().approval.mode, ApprovalMode::FourEyes);
        let external = ("FLOODGATE_APPROVAL_MODE", "external");
        assert_eq!(build(&[external]).unwrap_err().0.len(), 2);
        let tls = [external, ("FLOODGATE_APPROVAL_URL", "https://flow/"), ("FLOODGATE_APPROVAL_SECRET", "short")];
        assert_eq!(build(&tls).unwrap_err().0.len(), 2);
        let secret = ("FLOODGATE_APPROVAL_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let layers =
            Layers::read(None, env(&[external, ("FLOODGATE_APPROVAL_URL", "http://flow/hook"), secret])).unwrap();
        assert!(!layers.print().contains("MfKQ9r8G"));
        assert_eq!(layers.build().unwrap().approval.mode, ApprovalMode::External);
    }

    #[test]
    fn secrets_are_not_printed() {
        let layers = Layers::read(
            None,
            env(&[
                ("FLOODGATE_POSTGRES_URL", "postgres://fg:hunter2@db/x"),
                ("FLOODGATE_ADMIN_KEY", "an-admin-key-of-length"),
                ("FLOODGATE_REDIS_SENTINELS", "redis://:hunter3@s1:26379, redis://s2:26379"),
            ]),
        )
        .unwrap();
        let shown = layers.print();
        for secret in ["hunter2", "hunter3", "an-admin-key", "0123456789abcdef", "000102"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        assert!(shown.contains("postgres://fg:(hidden)@db/x") && shown.contains("redis://s2:26379"), "{shown}");
        let config = layers.build().unwrap();
        assert_eq!(config.redis.sentinels[1].expose(), "redis://s2:26379");
        assert!(!format!("{config:?}").contains("hunter"));
    }
}
