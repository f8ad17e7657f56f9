//! One cell with the verbs that tests speak, on the model or on a real Redis.
//!
//! A test says what happens once, and plays it on both. The two are compared by what they answer
//! and by what they have kept.

use std::sync::atomic::{AtomicU16, Ordering};

use floodgate::claim::engine::{Batch, BatchReply, Engine, LookupGroup, LookupReply};
use floodgate::claim::model_engine::{Entry, Grant, ModelCell, ModelEngine, QuotaRule, Row, Terms};
use floodgate::claim::redis_engine::RedisEngine;
use floodgate::domain::ids::{CellId, EntryId, Epoch, Serial, TemplateId};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::{Day, Millis};
use floodgate::grant::given::{Given, Holders};
use floodgate::grant::stores::StoredGrant;
use floodgate::redis::cell::{self, CellMeta, Holding, Identity, be};
use floodgate::redis::client::{Call, Link, Redis};
use floodgate::redis::fault::Fault;
use floodgate::redis::keys::CellKeys;
use floodgate::redis::scripts::Script;
use redis::Value;
use tokio::runtime::Runtime;

use super::clock_redis::ClockRedis;

pub type Ranges<'a> = &'a [(Serial, Serial)];

/// What can be done to a cell. Names are those of the scripts.
pub trait Stage {
    fn name(&self) -> &'static str;
    fn keys(&self) -> CellKeys;
    fn set_clock(&mut self, now: Millis);
    fn meta(&mut self) -> CellMeta;
    fn close(&mut self, epoch: Epoch);
    fn open(&mut self, epoch: Epoch, rules: [QuotaRule; 3]);
    fn put(&mut self, id: TemplateId, terms: &Terms, ranges: Ranges);
    fn free(&mut self, id: TemplateId, revision: u32, watermark: EntryId) -> bool;
    fn trim(&mut self, watermark: EntryId);
    /// Rows in ascending order of serials. Returns the refusal's detail, if there is one.
    fn reapply(
        &mut self,
        id: TemplateId,
        terms: &Terms,
        day: Day,
        rules: [QuotaRule; 3],
        rows: &[Row],
    ) -> Option<String>;
    fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault>;
    fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault>;
    /// Of an open cell.
    fn holding(&mut self, id: TemplateId, user: Option<&UserRef>) -> Holding;
    fn queue(&mut self) -> Vec<Entry>;
    fn flush_scripts(&mut self);
    fn starve(&mut self, starve: bool);

    fn identity(&mut self) -> Identity {
        let meta = self.meta();
        Identity { replid: meta.live_replid.as_str().into(), epoch: meta.epoch }
    }

    /// What is left to compare once all is said: everything but names that must differ.
    fn state(&mut self) -> State {
        let CellMeta { epoch, open, clock, last, mut marks, backlog, .. } = self.meta();
        marks.sort();
        let queue = self.queue();
        assert_eq!(backlog, queue.len() as u64);
        State { epoch, open, clock, last, marks, queue }
    }
}

#[derive(Debug, PartialEq)]
pub struct State {
    epoch: Epoch,
    open: bool,
    clock: Millis,
    last: EntryId,
    marks: Vec<(TemplateId, EntryId)>,
    queue: Vec<Entry>,
}

pub struct ModelStage {
    pub engine: ModelEngine,
}

/// A cell of its own on a server that others may use too.
pub struct RedisStage<'a> {
    server: &'a ClockRedis,
    runtime: Runtime,
    redis: Redis,
    engine: RedisEngine,
    keys: CellKeys,
}

// === impl ModelStage ===

impl ModelStage {
    pub fn new() -> ModelStage {
        ModelStage { engine: ModelEngine::new(ModelCell::new(0, "0123456789abcdef")) }
    }
}

/// The model's futures never wait.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the model waits"),
    }
}

impl Stage for ModelStage {
    fn name(&self) -> &'static str {
        "model"
    }

    fn keys(&self) -> CellKeys {
        CellKeys::new(CellId(0))
    }

    fn set_clock(&mut self, now: Millis) {
        self.engine.cell().now = now;
    }

    fn meta(&mut self) -> CellMeta {
        self.engine.cell().meta()
    }

    fn close(&mut self, epoch: Epoch) {
        assert!(self.engine.cell().close(epoch));
    }

    fn open(&mut self, epoch: Epoch, rules: [QuotaRule; 3]) {
        assert!(self.engine.cell().open(epoch, rules));
    }

    fn put(&mut self, id: TemplateId, terms: &Terms, ranges: Ranges) {
        let mut cell = self.engine.cell();
        cell.put_template(id, *terms);
        for (first, last) in ranges {
            cell.give_range(id, *first, *last);
        }
    }

    fn free(&mut self, id: TemplateId, revision: u32, watermark: EntryId) -> bool {
        self.engine.cell().free(id, revision, watermark)
    }

    fn trim(&mut self, watermark: EntryId) {
        self.engine.cell().trim(watermark);
    }

    fn reapply(&mut self, id: TemplateId, _: &Terms, day: Day, rules: [QuotaRule; 3], rows: &[Row]) -> Option<String> {
        self.engine.cell().reapply(id, day, rules, rows);
        None
    }

    fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        ready(self.engine.claim(identity, batch))
    }

    fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
        ready(self.engine.lookup(identity, groups))
    }

    fn holding(&mut self, id: TemplateId, user: Option<&UserRef>) -> Holding {
        self.engine.cell().holding(id, user)
    }

    fn queue(&mut self) -> Vec<Entry> {
        self.engine.cell().queue().to_vec()
    }

    fn flush_scripts(&mut self) {}

    fn starve(&mut self, starve: bool) {
        self.engine.cell().starved = starve;
    }
}

// === impl RedisStage ===

impl<'a> RedisStage<'a> {
    /// A cell that no test of this run had before.
    pub fn new(server: &'a ClockRedis) -> RedisStage<'a> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        Self::at(server, CellId(NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn at(server: &'a ClockRedis, cell: CellId) -> RedisStage<'a> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let redis = server.client();
        let keys = CellKeys::new(cell);
        let engine = RedisEngine::new(redis.clone(), keys.clone());
        RedisStage { server, runtime, redis, engine, keys }
    }

    /// Calls a script for its side effect; a refusal by word is a fault.
    pub fn run(&self, call: &Call) -> Result<Vec<Value>, Fault> {
        self.runtime.block_on(async { Ok(cell::accepted(self.redis.pooled(call).await?)?.collect()) })
    }

    /// A connection for [`RedisStage::wait`].
    pub fn link(&self) -> Link {
        self.wait(self.redis.link()).expect("the server is there")
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn plain(&self, command: &mut redis::Cmd) -> Value {
        self.runtime.block_on(self.redis.command(command)).expect("the server takes the command")
    }

    fn live(&mut self) -> String {
        self.meta().live_replid
    }
}

impl Stage for RedisStage<'_> {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn keys(&self) -> CellKeys {
        self.keys.clone()
    }

    fn set_clock(&mut self, now: Millis) {
        self.server.set_clock(now);
    }

    fn meta(&mut self) -> CellMeta {
        self.runtime.block_on(self.engine.meta()).expect("the meta can be read")
    }

    fn close(&mut self, epoch: Epoch) {
        let live = self.live();
        let mut call = Call::new(Script::CellClose, [self.keys.meta()].into_iter());
        call.arg(epoch).arg(live);
        self.run(&call).expect("the cell closes");
    }

    fn open(&mut self, epoch: Epoch, rules: [QuotaRule; 3]) {
        let live = self.live();
        let names: Vec<&str> = [self.keys.meta(), self.keys.queue()]
            .into_iter()
            .chain(self.keys.quotas().iter().map(|key| &**key))
            .collect();
        let mut call = Call::new(Script::CellOpen, names.into_iter());
        call.arg(live).arg(epoch);
        for rule in rules {
            call.arg(rule.limit).arg(rule.window);
        }
        self.run(&call).expect("the cell opens");
    }

    fn put(&mut self, id: TemplateId, terms: &Terms, ranges: Ranges) {
        let meta = self.meta();
        let template = self.keys.template(id);
        let mut names = vec![self.keys.meta(), template.template()];
        if terms.state == 9 {
            names.push(template.receipts());
        }
        let mut call = Call::new(Script::TemplatePut, names.into_iter());
        call.arg(meta.live_replid).arg(meta.epoch).arg(if meta.open { "1" } else { "0" });
        call.arg(terms.state).arg(terms.revision).arg(terms.generation).arg(terms.starts_at).arg(terms.ends_at);
        call.arg(terms.per_user).arg(terms.per_user_daily).arg(terms.daily).arg(if terms.quotas { "1" } else { "0" });
        for (first, last) in ranges {
            call.arg(*first).arg(*last);
        }
        match self.run(&call) {
            Ok(_) => {}
            Err(fault) => assert!(fault.detail.ends_with("freed"), "{fault}"),
        }
    }

    fn free(&mut self, id: TemplateId, revision: u32, watermark: EntryId) -> bool {
        let identity = self.identity();
        let template = self.keys.template(id);
        let names = [self.keys.meta(), template.template(), template.receipts()];
        let mut call = Call::new(Script::TemplateFree, names.into_iter());
        identity.put(&mut call);
        call.arg(revision).arg(template.mark()).arg(watermark.epoch).arg(watermark.seq);
        match self.run(&call) {
            Ok(_) => true,
            Err(fault) => {
                assert!(fault.detail.ends_with("unflushed"), "{fault}");
                false
            }
        }
    }

    fn trim(&mut self, watermark: EntryId) {
        let identity = self.identity();
        let (mut templates, mut grants) = (Vec::<TemplateId>::new(), 0);
        for entry in self.queue().iter().filter(|entry| entry.id <= watermark) {
            templates.extend(entry.grants.iter().map(|grant| grant.template));
            grants += entry.grants.len();
        }
        templates.sort();
        templates.dedup();
        let mut call = Call::new(Script::QueueTrim, [self.keys.meta(), self.keys.queue()].into_iter());
        identity.put(&mut call);
        call.arg(watermark.epoch).arg(watermark.seq).arg(EntryId::new(watermark.epoch, watermark.seq + 1).to_string());
        call.arg(grants);
        for id in templates {
            call.arg(self.keys.template(id).mark());
        }
        self.run(&call).expect("the queue is trimmed");
    }

    fn reapply(
        &mut self,
        id: TemplateId,
        terms: &Terms,
        day: Day,
        rules: [QuotaRule; 3],
        rows: &[Row],
    ) -> Option<String> {
        let (identity, keys) = (self.identity(), self.keys.clone());
        let given = Given {
            keys: &keys,
            identity: &identity,
            template: id,
            day,
            quotas: rules.map(|rule| (rule.limit.into(), rule.window as u64)),
            counted_since: terms.quotas.then_some(Millis::MIN),
        };
        let mut grants: Vec<StoredGrant> = rows
            .iter()
            .map(|row| StoredGrant {
                user: row.user.as_ref().map(|user| user.as_str().to_owned()),
                receipt: row.receipt,
                ip: row.ip,
                device: row.device,
            })
            .collect();
        // As an opening does it: the cursor is asked for, and what lies behind it is not sent.
        let mut link = self.link();
        let given = self.wait(async {
            let cursor = given.cursor(&mut link).await?;
            grants.retain(|grant| grant.receipt.serial >= cursor);
            given.give(&mut link, &grants, &mut Holders::anybody()).await
        });
        given.err().map(|fault| fault.detail)
    }

    fn claim(&mut self, identity: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        self.runtime.block_on(self.engine.claim(identity, batch))
    }

    fn lookup(&mut self, identity: &Identity, groups: &[LookupGroup]) -> Result<LookupReply, Fault> {
        self.runtime.block_on(self.engine.lookup(identity, groups))
    }

    fn holding(&mut self, id: TemplateId, user: Option<&UserRef>) -> Holding {
        let identity = self.identity();
        let templates = [id];
        let read = cell::read_holdings(&self.redis, &self.keys, &identity, user, &templates);
        self.runtime.block_on(read).expect("holdings can be read").1.remove(0)
    }

    fn queue(&mut self) -> Vec<Entry> {
        let all = self.plain(redis::cmd("XRANGE").arg(self.keys.queue()).arg("-").arg("+"));
        let Value::Array(entries) = all else { panic!("XRANGE gives a list") };
        entries.iter().map(decode_entry).collect()
    }

    fn flush_scripts(&mut self) {
        self.plain(redis::cmd("SCRIPT").arg("FLUSH"));
    }

    fn starve(&mut self, starve: bool) {
        self.plain(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(if starve { "1" } else { "0" }));
    }
}

/// Reads an entry by `lua/README.md` alone.
fn decode_entry(value: &Value) -> Entry {
    let Value::Array(parts) = value else { panic!("an entry has two parts") };
    let id = EntryId::parse(&cell::text(&parts[0]).expect("an id")).expect("an id of a cell");
    let Value::Array(fields) = &parts[1] else { panic!("an entry has fields") };
    let [Value::BulkString(field), Value::BulkString(payload)] = fields.as_slice() else { panic!("one field") };
    match field.as_slice() {
        b"m" => Entry { id, at: 0, grants: Vec::new() },
        b"g" => decode_grants(id, payload),
        other => panic!("field {other:?}"),
    }
}

fn decode_grants(id: EntryId, payload: &[u8]) -> Entry {
    let mut rest = payload;
    let mut take = |bytes: usize| {
        let (head, tail) = rest.split_at(bytes);
        rest = tail;
        (head, tail.is_empty())
    };
    assert_eq!(take(1).0, [1], "version");
    let at = be(take(6).0) as Millis;
    let mut grants = Vec::new();
    let mut end = false;
    while !end {
        let template = TemplateId(be(take(4).0) as u32);
        let first = be(take(5).0);
        let count = be(take(2).0);
        assert!(count > 0, "a run holds grants");
        for serial in first..first + count {
            let key = be(take(8).0);
            let flags = take(1).0[0];
            let length = take(1).0[0] as usize;
            let (user, mut last) = take(length);
            let user = UserRef::from_store(std::str::from_utf8(user).expect("text")).expect("a user");
            let mut hash = |flag: u8| {
                (flags & flag != 0).then(|| {
                    let (hash, tail_empty) = take(8);
                    last = tail_empty;
                    be(hash)
                })
            };
            let (ip, device) = (hash(1), hash(2));
            end = last;
            grants.push(Grant { template, serial, claim: (user, key, ip, device) });
        }
    }
    Entry { id, at, grants }
}
