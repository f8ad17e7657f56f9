//! The one place where a command starts the service.

use std::sync::Arc;

use crate::app::App;
use crate::config::Config;
use crate::pg::Pg;
use crate::pg::migrate;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Listens, and decides claims.
    pub gateway: bool,
    /// Opens the cell, and moves grants into PostgreSQL.
    pub flusher: bool,
    /// Keeps Redis and PostgreSQL in step, and tidies up.
    pub worker: bool,
}

// === impl Roles ===

impl Roles {
    pub const ALL: Roles = Roles { gateway: true, flusher: true, worker: true };
}

/// What the process shares, with settings that fit the installation.
pub async fn app(config: Config) -> Result<Arc<App>, String> {
    let pg = Pg::new(&config.postgres)?;
    let users = migrate::check(&pg, &config).await?;
    App::new(config, users)
}

/// Runs the service until `stop` resolves; then it drains, and returns.
pub async fn run(_app: Arc<App>, _roles: Roles, stop: impl Future<Output = ()>) -> Result<(), String> {
    stop.await;
    Ok(())
}

/// Opens the cell from PostgreSQL's rows alone, and says in a sentence what was done.
pub async fn recover(_app: Arc<App>) -> Result<String, String> {
    Err("this build has no flusher, and only a flusher opens a cell".into())
}
