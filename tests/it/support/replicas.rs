//! A Redis with replicas, and a Sentinel that watches over them, on private ports.
//!
//! Servers may be killed, frozen and started again in any role; which of them is the master, Sentinel says. It is
//! told to be quicker than it would be elsewhere, and never to hold still because this machine was slow.

use std::path::{Path, PathBuf};
use std::process::Command;

use floodgate::demo::child::{FamilyLock, Supervised};
use floodgate::demo::redis_server::{RedisOptions, RedisServer};
use redis::{FromRedisValue, RedisResult};

use super::app::{free_address, until};

const NAME: &str = "floodgate";

/// Looks often, and never holds still because this machine was slow.
const QUICK: [&str; 15] = [
    "DEBUG",
    "info-period",
    "200",
    "ping-period",
    "100",
    "publish-period",
    "100",
    "ask-period",
    "100",
    "min-link-reconnect-period",
    "200",
    "tilt-trigger",
    "60000",
    "tilt-period",
    "100",
];

pub struct Replicas {
    nodes: Vec<Node>,
    _sentinel: Supervised,
    sentinel_address: String,
}

struct Node {
    address: String,
    folder: PathBuf,
    options: RedisOptions,
    server: Option<RedisServer>,
}

// === impl Replicas ===

impl Replicas {
    /// A master, node 0, and its replicas, which have all it has when this returns.
    pub async fn start(folder: &Path, replicas: usize, options: &RedisOptions) -> Replicas {
        let mut nodes = Vec::new();
        for number in 0..=replicas {
            let (address, folder) = (free_address(), folder.join(format!("node-{number}")));
            std::fs::create_dir_all(&folder).unwrap();
            nodes.push(Node { address, folder, options: options.clone(), server: None });
        }
        let master = nodes[0].address.clone();
        for (number, node) in nodes.iter_mut().enumerate() {
            node.start((number > 0).then_some(master.as_str())).await;
        }
        let sentinel_address = free_address();
        let sentinel = start_sentinel(&folder.join("sentinel"), &sentinel_address, &master).await;
        let all = Replicas { nodes, _sentinel: sentinel, sentinel_address };
        all.replicating(0, replicas).await;
        until("Sentinel answers", async || all.ask_sentinel::<String>(&QUICK).await.is_ok()).await;
        let known = replicas.to_string();
        until("Sentinel knows the replicas", async || {
            let fields = all.ask_sentinel::<Vec<String>>(&["MASTER", NAME]).await.unwrap_or_default();
            fields.chunks_exact(2).any(|pair| pair[0] == "num-slaves" && pair[1] == known)
        })
        .await;
        all
    }

    /// Settings of a process that is to find the master by Sentinel.
    pub fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("REDIS_URL", self.url(0)),
            ("REDIS_SENTINELS", format!("redis://{}", self.sentinel_address)),
            ("REDIS_MASTER_NAME", NAME.to_owned()),
        ]
    }

    /// The node that is the master as Sentinel says.
    pub async fn master(&self) -> usize {
        let (host, port): (String, u16) = self.ask_sentinel(&["GET-MASTER-ADDR-BY-NAME", NAME]).await.unwrap();
        let address = format!("{host}:{port}");
        self.nodes.iter().position(|node| node.address == address).expect("one of the nodes")
    }

    /// Waits until Sentinel names another master than that node, which is a master by then.
    pub async fn failed_over(&self, from: usize) -> usize {
        until("Sentinel fails over", async || {
            let now = self.master().await;
            now != from && self.role(now).await == "master"
        })
        .await;
        self.master().await
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].server.take().expect("a running node").kill();
    }

    /// Starts a node that was killed: as the master that it may have been, or as a replica of another.
    pub async fn revive(&mut self, node: usize, replica_of: Option<usize>) {
        let master = replica_of.map(|master| self.nodes[master].address.clone());
        self.nodes[node].start(master.as_deref()).await;
    }

    /// SIGSTOP, or SIGCONT.
    pub fn freeze(&self, node: usize, frozen: bool) {
        let pid = self.nodes[node].server.as_ref().expect("a running node").pid();
        // SAFETY: kill takes plain numbers; the process is not reaped while its server is there.
        unsafe { libc::kill(pid as i32, if frozen { libc::SIGSTOP } else { libc::SIGCONT }) };
    }

    /// Sentinel looks away: it names no master, and lets every node be.
    pub async fn release(&self) {
        self.ask_sentinel::<()>(&["REMOVE", NAME]).await.unwrap();
    }

    /// Sentinel names this node from now on, and does nothing else.
    pub async fn name(&self, node: usize) {
        let _ = self.ask_sentinel::<()>(&["REMOVE", NAME]).await;
        let (host, port) = self.nodes[node].address.split_once(':').unwrap();
        self.ask_sentinel::<()>(&["MONITOR", NAME, host, port, "1"]).await.unwrap();
        self.ask_sentinel::<()>(&["SET", NAME, "down-after-milliseconds", "3600000"]).await.unwrap();
    }

    /// A node becomes a replica of another one, and forgets what it alone had.
    pub async fn follow(&self, node: usize, master: usize) {
        let (host, port) = self.nodes[master].address.split_once(':').unwrap();
        self.ask::<()>(node, &["REPLICAOF", host, port]).await.unwrap();
    }

    /// How a process reaches a node without asking Sentinel.
    pub fn url(&self, node: usize) -> String {
        format!("redis://{}/0", self.nodes[node].address)
    }

    /// One command to a node.
    pub async fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> RedisResult<T> {
        ask(&self.nodes[node].address, words).await
    }

    /// `master`, `slave`, or empty where the node does not answer.
    pub async fn role(&self, node: usize) -> String {
        let answer: RedisResult<Vec<redis::Value>> = self.ask(node, &["ROLE"]).await;
        let first = answer.ok().and_then(|answer| answer.into_iter().next());
        first.and_then(|word| redis::from_redis_value(word).ok()).unwrap_or_default()
    }

    /// Waits until so many replicas have what a node has.
    pub async fn replicating(&self, node: usize, replicas: usize) {
        until("replicas have what the master has", async || {
            // A write of this connection's own comes before: WAIT counts for nothing else.
            let address = &self.nodes[node].address;
            let client = redis::Client::open(format!("redis://{address}")).unwrap();
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
            let mut both = redis::pipe();
            both.cmd("PUBLISH").arg("written").arg("").ignore().cmd("WAIT").arg(replicas).arg(200);
            both.query_async::<(usize,)>(&mut connection).await.is_ok_and(|(count,)| count >= replicas)
        })
        .await;
    }

    async fn ask_sentinel<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        ask(&self.sentinel_address, &[&["SENTINEL"], words].concat()).await
    }
}

// === impl Node ===

impl Node {
    async fn start(&mut self, replica_of: Option<&str>) {
        let mut options = self.options.clone();
        let (host, port) = self.address.split_once(':').unwrap();
        for (name, value) in [("bind", host), ("port", port), ("repl-diskless-sync-delay", "0")] {
            options.extra.push((name.to_owned(), value.to_owned()));
        }
        if let Some(master) = replica_of {
            options.extra.push(("replicaof".to_owned(), master.replace(':', " ")));
        }
        self.server = Some(RedisServer::start(&self.folder, &options).await.unwrap());
    }
}

async fn start_sentinel(folder: &Path, address: &str, master: &str) -> Supervised {
    std::fs::create_dir_all(folder).unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let text = format!(
        "port {port}\nbind {host}\ndir ./\nsentinel monitor {NAME} {} 1\n\
         sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 2000\n",
        master.replace(':', " ")
    );
    std::fs::write(folder.join("sentinel.conf"), text).unwrap();
    let mut command = Command::new("redis-server");
    command.args(["./sentinel.conf", "--sentinel"]).current_dir(folder);
    let lock = FamilyLock::take(&folder.join("lock")).await.unwrap();
    Supervised::spawn("sentinel", command, lock, folder.join("sentinel.log"), libc::SIGKILL).unwrap()
}

async fn ask<T: FromRedisValue>(address: &str, words: &[&str]) -> RedisResult<T> {
    let client = redis::Client::open(format!("redis://{address}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut cmd = redis::cmd(words[0]);
    cmd.arg(&words[1..]);
    cmd.query_async(&mut connection).await
}
