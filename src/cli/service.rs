//! The one place where a command starts the service.

use std::sync::Arc;

use crate::app::App;
use crate::config::Config;
use crate::pg::Pg;
use crate::pg::migrate;

/// What the process shares, with settings that fit the installation.
pub async fn app(config: Config) -> Result<Arc<App>, String> {
    let pg = Pg::new(&config.postgres)?;
    let users = migrate::check(&pg, &config).await?;
    App::new(config, users)
}
