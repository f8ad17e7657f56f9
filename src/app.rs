//! What a process shares: settings, stores, and the snapshot it decides by.

use std::sync::Arc;

use crate::catalog::api_keys::ApiKeys;
use crate::catalog::snapshot::SharedSnapshot;
use crate::config::Config;
use crate::domain::code::CodeKey;
use crate::domain::ids::CellId;
use crate::domain::user::UserCodec;
use crate::hashing::Hashing;
use crate::pg::Pg;
use crate::redis::client::Redis;
use crate::redis::keys::CellKeys;

/// Shared by every thread of the process.
pub struct App {
    pub config: Config,
    pub pg: Pg,
    pub redis: Redis,
    pub code_key: CodeKey,
    pub users: UserCodec,
    pub hashing: Hashing,
    pub cell: CellId,
    pub keys: CellKeys,
    pub snapshot: SharedSnapshot,
    pub api_keys: ApiKeys,
}

// === impl App ===

impl App {
    /// Takes checked settings and the installation's way with user ids. Connects to nothing.
    pub fn new(config: Config, users: UserCodec) -> Result<Arc<App>, String> {
        let cell = CellId(0);
        let code_key = config.code_key();
        let pg = Pg::new(&config.postgres)?;
        Ok(Arc::new(App {
            api_keys: ApiKeys::new(pg.clone()),
            pg,
            redis: Redis::new(&config.redis)?,
            hashing: Hashing::new(&code_key),
            users,
            cell,
            keys: CellKeys::new(cell),
            snapshot: Default::default(),
            code_key,
            config,
        }))
    }
}
