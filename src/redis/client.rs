//! Connections to Redis, and one call of one script.
//!
//! A [`Link`] is one connection that never reconnects by itself and that nobody else uses: after a fault
//! whose outcome is unknown it is broken and must be replaced, so that no late answer is taken for another's.
//! [`Redis::pooled`] borrows one for reads and administration. A connection that turns out to lead to a
//! replica is not used again: the next one is made to whoever is the master then.

use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Object, PoolConfig, Timeouts};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

use super::fault::Fault;
use super::master::Master;
use super::pool::{Keeper, Pool};
use super::scripts::Script;
use super::wire::{Packed, Wire};
use crate::config;

/// The Redis that is the master.
#[derive(Clone)]
pub struct Redis {
    master: Arc<Master>,
    pool: Pool,
    command_timeout: Duration,
}

/// One connection that is kept until it breaks.
pub struct Link {
    wire: Wire,
    master: Arc<Master>,
    /// The master's turn in which it was made.
    turn: u64,
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
        let master = Arc::new(Master::new(config)?);
        let command_timeout = config::ms(config.command_timeout_ms);
        // A connection that is asked for at Sentinel has two ways to go.
        let connect_timeout = 2 * config::ms(config.connect_timeout_ms);
        let mut pool_config = PoolConfig::new(config.pool_max);
        pool_config.timeouts =
            Timeouts { wait: Some(command_timeout), create: Some(connect_timeout), recycle: Some(command_timeout) };
        let keeper = Keeper { master: master.clone(), answers_within: command_timeout };
        let pool = Pool::builder(keeper).config(pool_config).runtime(Runtime::Tokio1).build();
        Ok(Redis { master, pool: pool.map_err(|error| error.to_string())?, command_timeout })
    }

    /// A connection of the caller's own, without a time-out on answers: the caller has one.
    pub async fn link(&self) -> Result<Link, Fault> {
        let (wire, turn) = self.master.wire().await?;
        Ok(Link { wire, master: self.master.clone(), turn })
    }

    /// Calls a script on a pooled connection.
    pub async fn pooled(&self, call: &Call) -> Result<Value, Fault> {
        let mut kept = self.pool.get().await.map_err(Fault::connect)?;
        let run = call_on(&mut kept.connection, call);
        let result = match tokio::time::timeout(self.command_timeout, run).await {
            Ok(result) => result,
            Err(_) => Err(Fault::timeout()),
        };
        if is_of_replica(&result) {
            drop(Object::take(kept));
        }
        result
    }

    /// One plain command on a pooled connection, for `doctor` and reconciliation.
    pub async fn command(&self, cmd: &Cmd) -> Result<Value, Fault> {
        let mut kept = self.pool.get().await.map_err(Fault::connect)?;
        kept.connection.send(cmd).await.map_err(|error| Fault::of(&error))
    }

    /// Where the master is, and who says so.
    pub fn master(&self) -> &Master {
        &self.master
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
        call_on(&mut self.wire, call).await
    }

    /// Commands in one go, of which those that call a script call this one. The first error reply is the error,
    /// though commands behind it may have been executed; an error within an EXEC's answer stands in it.
    pub async fn send(&mut self, script: Script, packed: &Packed) -> Result<Vec<Value>, Fault> {
        self.send_meanwhile(script, packed, || ()).await.0
    }

    /// The same; `work` is done while Redis is busy with them, and also where they could not be sent.
    pub async fn send_meanwhile<T>(
        &mut self,
        script: Script,
        packed: &Packed,
        work: impl FnOnce() -> T,
    ) -> (Result<Vec<Value>, Fault>, T) {
        // Not before all of it is on its way: a half Redis can only keep.
        let posted = self.wire.post(packed).await;
        let worked = work();
        let answers = match posted {
            Ok(()) => self.wire.answers(packed.commands()).await,
            Err(error) => Err(error),
        };
        let answers = match answers {
            Err(error) if Fault::is_noscript(&error) => match load(&mut self.wire, script).await {
                Ok(()) => self.wire.send(packed).await.map_err(|error| Fault::of(&error)),
                Err(fault) => Err(fault),
            },
            answers => answers.map_err(|error| Fault::of(&error)),
        };
        (answers, worked)
    }

    /// The call, WAIT for `replicas` of what it wrote, and the call once more, in one go: the three answers.
    pub async fn call_around_wait(&mut self, call: &Call, replicas: u32, wait_ms: u64) -> Result<[Value; 3], Fault> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(wait_ms);
        let mut packed = Packed::default();
        [&call.cmd, &wait, &call.cmd].into_iter().for_each(|command| packed.command(command));
        let answers = self.send(call.script, &packed).await?;
        answers.try_into().map_err(|_| Fault::reply("not three answers"))
    }

    /// Whether it leads to the Redis that was named as the master last.
    pub fn is_current(&self) -> bool {
        self.turn == self.master.turn()
    }
}

/// Whether an answer shows that a replica gave it: a write refused, a script's word, or a cell's meta.
fn is_of_replica(result: &Result<Value, Fault>) -> bool {
    let is_word =
        |value: Option<&Value>, word: &str| matches!(value, Some(Value::BulkString(bytes)) if bytes == word.as_bytes());
    match result {
        Ok(Value::Array(answer)) => {
            is_word(answer.first(), "slave") || answer.first() == Some(&Value::Int(0)) && is_word(answer.get(1), "role")
        }
        Ok(_) => false,
        Err(fault) => fault.kind == "readonly",
    }
}

/// A connection that takes one command and gives its answer; an error reply is an error.
pub(super) trait Connection {
    async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value>;
}

impl Connection for Wire {
    async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let answer = self.send_all(&[cmd]).await?.pop();
        Ok(answer.unwrap_or(Value::Nil))
    }
}

impl Connection for MultiplexedConnection {
    /// The client hands an error reply over as a value among others.
    async fn send(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        self.send_packed_command(cmd).await?.extract_error()
    }
}

/// EVALSHA; where Redis has lost its script cache (certainly not executed), load and once more.
async fn call_on(connection: &mut impl Connection, call: &Call) -> Result<Value, Fault> {
    match connection.send(&call.cmd).await {
        Ok(value) => Ok(value),
        Err(error) if Fault::is_noscript(&error) => {
            load(connection, call.script).await?;
            connection.send(&call.cmd).await.map_err(|error| Fault::of(&error))
        }
        Err(error) => Err(Fault::of(&error)),
    }
}

/// SCRIPT LOAD. Where it fails, the call that needs it has certainly not run.
async fn load(connection: &mut impl Connection, script: Script) -> Result<(), Fault> {
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script.source());
    let not_run = |error: redis::RedisError| Fault { executed: super::fault::Executed::No, ..Fault::of(&error) };
    connection.send(&load).await.map(drop).map_err(not_run)
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

    /// As a command among others.
    pub fn command(&self) -> &Cmd {
        &self.cmd
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
