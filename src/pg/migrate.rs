//! The schema, and what is fixed when a deployment is made.

use serde_json::{Value, json};

use super::{Pg, PgFault};
use crate::audit::{self, Action, Actor, Change, Subject};
use crate::config::Config;
use crate::domain::user::UserCodec;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Migrations that this binary brings.
pub fn known_version() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0)
}

/// Applies what is missing, under an advisory lock, and fixes the installation's settings if this
/// is the first time. Returns the names of the migrations that were applied.
pub async fn migrate(pg: &Pg, config: &Config) -> Result<Vec<String>, String> {
    let mut client = pg.own().await.map_err(|fault| fault.to_string())?;
    client
        .batch_execute(
            "SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_advisory_lock(hashtext('floodgate migrate'))",
        )
        .await
        .map_err(|error| PgFault::from(error).to_string())?;
    let report = embedded::migrations::runner().run_async(&mut client).await.map_err(|error| error.to_string())?;
    client
        .execute(
            "INSERT INTO install (privacy_encrypt, code_key_fingerprint, cells) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING",
            &[&config.privacy.encrypt, &config.code_key().fingerprint()],
        )
        .await
        .map_err(|error| PgFault::from(error).to_string())?;
    check_install(&client, config).await?;
    let applied: Vec<String> = report.applied_migrations().iter().map(|migration| migration.to_string()).collect();
    if !applied.is_empty() {
        let change = Change::new(Action::SchemaMigrate, Subject::Schema, Value::Null, json!({"applied": applied}));
        audit::record_alone(pg, Actor::Cli, &change).await.map_err(|fault| fault.to_string())?;
    }
    Ok(applied)
}

/// Compares the installation with the settings, and tells how user ids are stored here.
///
/// A wrong code key would make codes that nobody can open; another privacy setting would count one
/// user twice; a schema that is behind lacks columns.
pub async fn check(pg: &Pg, config: &Config) -> Result<UserCodec, String> {
    let client = pg.own().await.map_err(|fault| fault.to_string())?;
    check_install(&client, config).await?;
    let version: Option<i32> = client
        .query_one("SELECT max(version)::int4 FROM refinery_schema_history", &[])
        .await
        .map_err(|error| PgFault::from(error).to_string())?
        .get(0);
    if version.unwrap_or(0) < known_version() {
        return Err("the database's schema is older than this binary: run `floodgate migrate` first".into());
    }
    Ok(if config.privacy.encrypt { UserCodec::encrypted(&config.code_key()) } else { UserCodec::plain() })
}

async fn check_install(client: &tokio_postgres::Client, config: &Config) -> Result<(), String> {
    let row = match client.query_opt("SELECT privacy_encrypt, code_key_fingerprint FROM install", &[]).await {
        Ok(Some(row)) => row,
        Ok(None) => return Err("the database is not installed: run `floodgate migrate` first".into()),
        Err(error) => {
            let fault = PgFault::from(error);
            if fault.sqlstate.as_deref() == Some("42P01") {
                return Err("the database is empty: run `floodgate migrate` first".into());
            }
            return Err(fault.to_string());
        }
    };
    let (encrypt, fingerprint): (bool, i64) = (row.get(0), row.get(1));
    if fingerprint != config.code_key().fingerprint() {
        return Err("FLOODGATE_CODE_KEY is not the key this database was installed with: the codes that shoppers hold could not be opened".into());
    }
    if encrypt != config.privacy.encrypt {
        return Err(format!(
            "privacy.encrypt was fixed as {encrypt} when the database was installed, and cannot be {} now",
            config.privacy.encrypt
        ));
    }
    Ok(())
}
