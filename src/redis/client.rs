//! Connections to Redis, and one call of one script.
//!
//! A [`Link`] is one connection that never reconnects by itself: after a fault whose outcome is
//! unknown it is broken and must be replaced, so that no late answer is taken for another's.
//! [`Redis::pooled`] borrows one for reads and administration.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolConfig, Runtime, Timeouts};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, RedisResult, Value};

use super::fault::Fault;
use super::scripts::Script;
use crate::config;

/// One Redis server, by its URL.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    pool: Pool,
    connect_timeout: Duration,
    command_timeout: Duration,
}

/// One connection that is kept until it breaks.
pub struct Link {
    connection: MultiplexedConnection,
}

/// A script's keys and arguments, in the form in which they are sent.
pub struct Call {
    script: Script,
    cmd: Cmd,
}

// === impl Redis ===

impl Redis {
    /// Takes the settings; connects to nothing yet.
    pub fn new(config: &config::Redis) -> Result<Self, String> {
        let wrong = |error: redis::RedisError| format!("redis.url is no Redis address: {error}");
        let info = config.url.expose().into_connection_info().map_err(wrong)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info.clone()).map_err(wrong)?;
        let connect_timeout = config::ms(config.connect_timeout_ms);
        let command_timeout = config::ms(config.command_timeout_ms);
        let manager = Manager::new_with_config(
            info,
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(connect_timeout))
                .set_response_timeout(Some(command_timeout)),
        )
        .map_err(wrong)?;
        let mut pool_config = PoolConfig::new(config.pool_max);
        pool_config.timeouts =
            Timeouts { wait: Some(command_timeout), create: Some(connect_timeout), recycle: Some(command_timeout) };
        let pool =
            Pool::builder(manager).config(pool_config).runtime(Runtime::Tokio1).build().map_err(|e| e.to_string())?;
        Ok(Redis { client, pool, connect_timeout, command_timeout })
    }

    /// A connection of the caller's own, without a time-out on answers: the caller has one.
    pub async fn link(&self) -> Result<Link, Fault> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(self.connect_timeout)).set_response_timeout(None);
        let connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(Fault::connect)?;
        Ok(Link { connection })
    }

    /// Calls a script on a pooled connection.
    pub async fn pooled(&self, call: &Call) -> Result<Value, Fault> {
        let mut connection = self.pool.get().await.map_err(Fault::connect)?;
        let run = call_on(&mut connection, call);
        match tokio::time::timeout(self.command_timeout, run).await {
            Ok(result) => result,
            Err(_) => Err(Fault::timeout()),
        }
    }

    /// One plain command on a pooled connection, for `doctor` and reconciliation.
    pub async fn command(&self, cmd: &Cmd) -> Result<Value, Fault> {
        let mut connection = self.pool.get().await.map_err(Fault::connect)?;
        send(&mut connection, cmd).await.map_err(|error| Fault::of(&error))
    }

    /// Connections of the pool in use and in all, for the metrics.
    pub fn pool_status(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.max_size)
    }
}

// === impl Link ===

impl Link {
    /// Calls a script. The caller bounds the time; a call given up leaves the link broken.
    pub async fn call(&mut self, call: &Call) -> Result<Value, Fault> {
        call_on(&mut self.connection, call).await
    }
}

/// EVALSHA; where Redis has lost its script cache (certainly not executed), load and once more.
async fn call_on(connection: &mut MultiplexedConnection, call: &Call) -> Result<Value, Fault> {
    match send(connection, &call.cmd).await {
        Ok(value) => Ok(value),
        Err(error) if Fault::is_noscript(&error) => {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(call.script.source());
            let not_run =
                |error: redis::RedisError| Fault { executed: super::fault::Executed::No, ..Fault::of(&error) };
            send(connection, &load).await.map_err(not_run)?;
            send(connection, &call.cmd).await.map_err(|error| Fault::of(&error))
        }
        Err(error) => Err(Fault::of(&error)),
    }
}

/// One command. The client hands an error reply over as a value among others: here it is an error.
async fn send(connection: &mut MultiplexedConnection, cmd: &Cmd) -> RedisResult<Value> {
    connection.send_packed_command(cmd).await?.extract_error()
}

// === impl Call ===

impl Call {
    /// `keys` in the order of the script's contract; arguments follow with [`Call::arg`].
    pub fn new<'a>(script: Script, keys: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(script.sha()).arg(keys.len());
        for key in keys {
            cmd.arg(key);
        }
        Call { script, cmd }
    }

    pub fn arg(&mut self, value: impl redis::ToRedisArgs) -> &mut Self {
        self.cmd.arg(value);
        self
    }

    /// A binary argument, as it is.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.cmd.arg(value);
        self
    }
}
