//! Which Redis is the master: the one of the settings, or the one that Sentinels name.
//!
//! Every new connection asks all Sentinels at once, and the answer of the highest configuration epoch
//! counts: one that was cut off does not lead back to a master that has been replaced. [`Master::follow`]
//! asks besides, so that connections which still stand, to a master that went on alone behind a split, say,
//! are given up before their next use. None of this fences anything; the scripts do, see `lua/lib/identity.lua`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult};
use tokio::time::Instant;

use super::client::Connection;
use super::fault::Fault;
use super::wire::Wire;
use crate::config;
use crate::limits::{SENTINEL_GRACE_MS, SENTINEL_LOOK_MS};
use crate::telemetry::{Trouble, metrics};

/// A way to the master, wherever it is.
pub struct Master {
    /// User, password and database; the address, too, where there are no Sentinels.
    info: ConnectionInfo,
    sentinels: Vec<Client>,
    name: String,
    connect_timeout: Duration,
    answer_timeout: Duration,
    /// The address that was named last.
    named: Mutex<Option<Address>>,
    /// Counts the addresses that were named: a connection of an earlier one is given up.
    turn: AtomicU64,
}

type Address = (String, u16);

/// What one Sentinel says.
struct Told {
    address: Address,
    /// Raised by each failover.
    config_epoch: u64,
}

// === impl Master ===

impl Master {
    /// Takes the settings; connects to nothing yet.
    pub fn new(config: &config::Redis) -> Result<Master, String> {
        let parse = |setting: &str, url: &config::Secret| {
            let info = url.expose().into_connection_info();
            let info = info.map_err(|error| format!("{setting} is no Redis address: {error}"))?;
            Ok::<_, String>(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
        };
        let client = |url: &config::Secret| {
            Client::open(parse("redis.sentinels", url)?).map_err(|error| format!("redis.sentinels: {error}"))
        };
        Ok(Master {
            info: parse("redis.url", &config.url)?,
            sentinels: config.sentinels.iter().map(client).collect::<Result<_, _>>()?,
            name: config.master_name.clone(),
            connect_timeout: config::ms(config.connect_timeout_ms),
            answer_timeout: config::ms(config.command_timeout_ms),
            named: Mutex::default(),
            turn: AtomicU64::new(0),
        })
    }

    /// What makes connections to the master of now, and the turn that they belong to.
    pub async fn manager(&self, answers_within: Duration) -> Result<(deadpool_redis::Manager, u64), Fault> {
        let (info, turn) = self.locate().await?;
        let manager = deadpool_redis::Manager::new_with_config(info, self.patience(answers_within));
        Ok((manager.map_err(Fault::connect)?, turn))
    }

    /// A new connection to the master for a caller who shares it with nobody and bounds the time of answers, and
    /// the turn that it belongs to.
    pub async fn wire(&self) -> Result<(Wire, u64), Fault> {
        let (info, turn) = self.locate().await?;
        let connected = tokio::time::timeout(self.connect_timeout, Wire::connect(&info)).await;
        let mut wire = connected.map_err(|_| Fault::connect("no connection in time"))?.map_err(Fault::connect)?;
        self.check(&mut wire).await?;
        Ok((wire, turn))
    }

    async fn locate(&self) -> Result<(ConnectionInfo, u64), Fault> {
        if self.sentinels.is_empty() {
            return Ok((self.info.clone(), self.turn()));
        }
        let ((host, port), turn) = self.find().await?;
        Ok((self.info.clone().set_addr(ConnectionAddr::Tcp(host, port)), turn))
    }

    /// Whether a new connection leads to a master: what is named may not have been promoted yet.
    pub(super) async fn check(&self, connection: &mut impl Connection) -> Result<(), Fault> {
        if self.sentinels.is_empty() {
            return Ok(());
        }
        let role = tokio::time::timeout(self.answer_timeout, role(connection)).await;
        match role.map_err(|_| Fault::connect("the master that Sentinel names does not answer"))? {
            Ok(role) if role == "master" => Ok(()),
            Ok(role) => Err(Fault::connect(format!("the master that Sentinel names is a {role} as yet"))),
            Err(error) => Err(Fault::connect(error)),
        }
    }

    /// The turn of connections that are made now. An older one leads elsewhere.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// How many Sentinels there are to ask.
    pub fn sentinels(&self) -> usize {
        self.sentinels.len()
    }

    /// Notices a new master without being asked, for ever. Without Sentinels it returns at once.
    pub async fn follow(&self) {
        if self.sentinels.is_empty() {
            return;
        }
        let mut trouble = Trouble::new("no Sentinel names a master");
        loop {
            trouble.note(self.ask().await.err());
            tokio::time::sleep(config::ms(SENTINEL_LOOK_MS)).await;
        }
    }

    /// What `SENTINEL CKQUORUM` says at each Sentinel, for `doctor`.
    pub async fn quorum(&self) -> Vec<Result<String, String>> {
        let ask = async |sentinel: &Client| -> RedisResult<String> {
            let mut connection = self.sentinel(sentinel).await?;
            redis::cmd("SENTINEL").arg("CKQUORUM").arg(&self.name).query_async(&mut connection).await
        };
        let mut said = Vec::new();
        for sentinel in &self.sentinels {
            said.push(ask(sentinel).await.map_err(|error| error.to_string()));
        }
        said
    }

    /// The master's address and turn: as Sentinel names it, or, where none answers, as it was named last.
    async fn find(&self) -> Result<(Address, u64), Fault> {
        let asked = self.ask().await;
        let named = self.named.lock().expect("no panic holds this lock");
        match (&*named, asked) {
            (Some(address), _) => Ok((address.clone(), self.turn())),
            (None, asked) => Err(asked.err().unwrap_or_else(|| Fault::connect("no master is named"))),
        }
    }

    /// Asks all Sentinels; those that take longer than the first one and a little are not waited for.
    async fn ask(&self) -> Result<(), Fault> {
        let mut asked: FuturesUnordered<_> = self.sentinels.iter().map(|sentinel| self.ask_one(sentinel)).collect();
        let mut until = Instant::now() + self.connect_timeout;
        let (mut best, mut why): (Option<Told>, _) = (None, "no answer in time".to_owned());
        while let Ok(Some(told)) = tokio::time::timeout_at(until, asked.next()).await {
            match told {
                Ok(told) => {
                    until = until.min(Instant::now() + config::ms(SENTINEL_GRACE_MS));
                    if best.as_ref().is_none_or(|best| best.config_epoch < told.config_epoch) {
                        best = Some(told);
                    }
                }
                Err(reason) => why = reason,
            }
        }
        let told = best.ok_or_else(|| Fault::connect(format!("no Sentinel names a master: {why}")))?;
        self.note(told.address);
        Ok(())
    }

    async fn ask_one(&self, sentinel: &Client) -> Result<Told, String> {
        let ask = async {
            let mut connection = self.sentinel(sentinel).await?;
            let mut both = redis::pipe();
            both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
            both.cmd("SENTINEL").arg("MASTER").arg(&self.name);
            both.query_async::<(Option<Address>, HashMap<String, String>)>(&mut connection).await
        };
        let (address, fields) = ask.await.map_err(|error| error.to_string())?;
        let address = address.ok_or_else(|| format!("there is no master {}", self.name))?;
        let config_epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
        Ok(Told { address, config_epoch })
    }

    async fn sentinel(&self, sentinel: &Client) -> RedisResult<MultiplexedConnection> {
        sentinel.get_multiplexed_async_connection_with_config(&self.patience(self.answer_timeout)).await
    }

    fn patience(&self, answers_within: Duration) -> AsyncConnectionConfig {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(self.connect_timeout));
        config.set_response_timeout(Some(answers_within))
    }

    fn note(&self, address: Address) {
        let mut named = self.named.lock().expect("no panic holds this lock");
        if named.as_ref() == Some(&address) {
            return;
        }
        let master = format!("{}:{}", address.0, address.1);
        if named.replace(address).is_some() {
            metrics().master_changes.increment(1);
            tracing::warn!(master, "Sentinel names another master");
        } else {
            tracing::info!(master, "Sentinel names the master");
        }
        // Under the lock: an address and its turn are always read together.
        self.turn.fetch_add(1, Ordering::AcqRel);
    }
}

async fn role(connection: &mut impl Connection) -> RedisResult<String> {
    let answer: Vec<redis::Value> = redis::from_redis_value(connection.send(&redis::cmd("ROLE")).await?)?;
    redis::from_redis_value(answer.into_iter().next().unwrap_or(redis::Value::Nil)).map_err(Into::into)
}
