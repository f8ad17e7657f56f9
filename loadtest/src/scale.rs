//! Reads at the size of a year of sales: the data, the plans, and what a wallet page costs.
//!
//! All of it runs on private servers and the product's own statements, as they lie in `src/sql`.
//!
//! # Layout
//! - this file: a private PostgreSQL, migrated, with coupons made up
//! - [`plans`]: every read statement explained, none by a scan of a big table
//! - [`wallet`]: a wallet page by HTTP beside its bare statement
//! - [`recover`]: an empty Redis given back from PostgreSQL, beside COPY out of the same table

pub mod plans;
pub mod recover;
pub mod wallet;

use std::path::{Path, PathBuf};

use floodgate::config::{Config, Layers};
use floodgate::demo::postgres_server::{PostgresOptions, PostgresServer};
use floodgate::pg::{Pg, migrate};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

/// The user who has very many coupons.
pub const WHALE: &str = "u-whale";
/// At most so many: at 10 million rows, one in a hundred.
const WHALE_COUPONS: i64 = 100_000;
const COUPONS_A_TEMPLATE: i64 = 50_000;
/// Of the used coupons, the operations and orders of one in so many are made up too.
const ONE_USE_IN: i64 = 10;

/// A database with coupons. Its server stops with it; its data stay in their folder.
pub struct Scale {
    pub server: PostgresServer,
    pub rows: i64,
}

// === impl Scale ===

impl Scale {
    /// Starts a server on the folder. Data of as many rows that an earlier run left there are taken.
    pub async fn open(folder: &Path, rows: i64) -> Result<Scale, String> {
        // Durability is not looked at here, and buffers are as a small server has them.
        let extra =
            [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "1h"), ("autovacuum", "off")];
        let extra = extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let server = PostgresServer::start(folder, &PostgresOptions { fsync: false, extra }).await?;
        let scale = Scale { server, rows };
        let config = settings(&[("POSTGRES_URL", &scale.server.url())])?;
        let pg = Pg::new(&config.postgres)?;
        migrate::migrate(&pg, &config).await?;
        let client = scale.connect().await?;
        let there: i64 = client.query_one("SELECT count(*) FROM user_coupons", &[]).await.map_err(told)?.get(0);
        match there {
            0 => scale.fill(&client).await?,
            there if there == rows => {}
            there => return Err(format!("{} holds {there} coupons: remove it first", folder.display())),
        }
        Ok(scale)
    }

    /// Users beside the whale: seven coupons each, most of them fewer.
    pub fn users(&self) -> i64 {
        self.rows / 7
    }

    pub fn templates(&self) -> i64 {
        (self.rows as u64).div_ceil(5 * self.coupons_a_template() as u64) as i64 * 5
    }

    pub fn coupons_a_template(&self) -> i64 {
        COUPONS_A_TEMPLATE.min(self.rows / 10)
    }

    pub async fn connect(&self) -> Result<Client, String> {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), NoTls).await.map_err(told)?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The key of `user_coupons` and its index are made after the rows, as it goes faster.
    async fn fill(&self, client: &Client) -> Result<(), String> {
        let definition = json!({
            "name": "scale", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "Asia/Shanghai",
            "stock": {"total": self.coupons_a_template()}, "limits": {"per_user": 10}, "validity": {"type": "relative", "days": 7},
            "claim_window": {"starts_at": "2025-01-01T00:00:00+08:00", "ends_at": "2025-01-02T00:00:00+08:00"},
        });
        let definition = floodgate::domain::template::parse(&definition, 0)
            .map_err(|errors| format!("the template cannot be made: {errors:?}"))?
            .to_json();
        let templates = include_str!("sql/scale/templates.sql");
        client.execute(templates, &[&definition, &(self.templates() as i32)]).await.map_err(told)?;
        let indexes =
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'user_coupons' AND indexname <> 'user_coupons_pkey'";
        let indexes: Vec<String> =
            client.query(indexes, &[]).await.map_err(told)?.iter().map(|row| row.get(0)).collect();
        let dropped = "DO $$ DECLARE i text; BEGIN
            FOR i IN SELECT indexname FROM pg_indexes WHERE tablename = 'user_coupons' AND indexname <> 'user_coupons_pkey'
            LOOP EXECUTE 'DROP INDEX ' || i; END LOOP; END $$;
            ALTER TABLE user_coupons DROP CONSTRAINT user_coupons_pkey";
        client.batch_execute(dropped).await.map_err(told)?;
        let one_in = self.rows / WHALE_COUPONS.min(self.rows / 20);
        let made = include_str!("sql/scale/coupons.sql");
        let params = [self.rows, one_in, self.users(), self.coupons_a_template()];
        client.execute(made, &[&params[0], &params[1], &params[2], &params[3]]).await.map_err(told)?;
        let key = "ALTER TABLE user_coupons ADD CONSTRAINT user_coupons_pkey PRIMARY KEY (template_id, serial)";
        client.batch_execute(key).await.map_err(told)?;
        for index in indexes {
            client.batch_execute(&index).await.map_err(told)?;
        }
        client.execute(include_str!("sql/scale/uses.sql"), &[&ONE_USE_IN]).await.map_err(told)?;
        client.batch_execute("VACUUM ANALYZE").await.map_err(told)
    }
}

/// Settings of processes that nobody else reaches.
fn settings(pairs: &[(&str, &str)]) -> Result<Config, String> {
    let own = pairs.iter().map(|(name, value)| (format!("FLOODGATE_{name}"), (*value).to_owned()));
    let env = secrets().into_iter().chain(own);
    Layers::read(None, env).and_then(Layers::build).map_err(|error| error.0.join("\n"))
}

fn secrets() -> [(String, String); 3] {
    [
        ("FLOODGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f"),
        ("FLOODGATE_PRIVACY_ENCRYPT", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The product's statements.
fn statement(path: &str) -> Result<String, String> {
    let file = statements().join(path);
    std::fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn statements() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/sql")
}

fn told(error: tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("PostgreSQL: {} {}", db.code().code(), db.message()),
        None => format!("PostgreSQL: {error}"),
    }
}
