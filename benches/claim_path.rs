//! What the parts of a claim cost in the gateway's own process: `cargo bench --bench claim_path`.
//!
//! Times are of the thread's own CPU, a claim or a row each: a busy machine does not count. The script's
//! part is Redis' own time: `floodgate-bench run --only vector` (loadtest/).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use floodgate::admission::client::{Headers, Name};
use floodgate::admission::identity::{Gatekeeper, TokenClaims, sign};
use floodgate::admission::throttle::{Throttles, begin_request};
use floodgate::catalog::snapshot::LiveTemplate;
use floodgate::claim::cell::Cell;
use floodgate::claim::doubt::Doubts;
use floodgate::claim::engine::{
    Batch, BatchReply, Claim, Decision, Engine, GroupReply, LookupGroup, LookupReply, Mismatch,
};
use floodgate::claim::lane::{self, Job, LaneShared};
use floodgate::clock::now_ms;
use floodgate::config::{Config, Layers};
use floodgate::domain::code::{CodeKey, CouponName};
use floodgate::domain::ids::{CellId, EntryId, TemplateId};
use floodgate::domain::outcome::Scope;
use floodgate::domain::template::{Definition, Status};
use floodgate::domain::user::{UserCodec, UserRef};
use floodgate::grant::entry::{self, Grant};
use floodgate::hashing::Hashing;
use floodgate::http::express::hpack;
use floodgate::pg::copy::CopyRows;
use floodgate::redis::cell::{CellMeta, Identity};
use floodgate::redis::fault::Fault;
use floodgate::redis::keys::CellKeys;
use hyper::HeaderMap;
use hyper::header::HeaderValue;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOON: i64 = 1_781_755_200_000;

fn main() {
    println!("{:44} {:>9}", "", "ns each");
    request_parse();
    throttle();
    code_cipher();
    queue_entry();
    row_encoding();
    lane_hand_off();
}

/// What this thread has used of the CPU.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The median of seven runs of `count` calls, each of which does the work of `each`.
fn measure(name: &str, count: u64, each: u64, mut work: impl FnMut(u64)) {
    let mut runs: Vec<f64> = (0..7)
        .map(|_| {
            let begun = cpu_time();
            (0..count).for_each(&mut work);
            (cpu_time() - begun).as_nanos() as f64 / (count * each) as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    println!("{name:44} {:9.1}", runs[3]);
}

fn config(env: &[(&str, &str)]) -> Config {
    let fixed = [("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f"), ("FLOODGATE_JWT_SECRET", SECRET)];
    let env = fixed.iter().chain(env).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Layers::read(None, env).unwrap().build().unwrap()
}

/// The heads of as many requests as there are users, each different.
fn heads(count: u64, mut name: impl FnMut(u64) -> (&'static str, String)) -> Vec<HeaderMap> {
    let head = |user| {
        let (header, value) = name(user);
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("127.0.0.1:8080"));
        headers.insert(header, HeaderValue::from_str(&value).unwrap());
        headers.insert("idempotency-key", HeaderValue::from_str(&format!("key-{user}")).unwrap());
        headers.insert("x-device-id", HeaderValue::from_str(&format!("d-{user:012}")).unwrap());
        headers.insert("x-forwarded-for", HeaderValue::from_static("203.0.113.9"));
        headers
    };
    (0..count).map(head).collect()
}

fn request_parse() {
    let codec = UserCodec::plain();
    let env = [("FLOODGATE_AUTH_MODE", "trusted-header"), ("FLOODGATE_TRUSTED_PROXIES", "127.0.0.0/8")];
    let trusted = config(&env);
    let gatekeeper = Gatekeeper::new(&trusted.auth);
    let named = heads(10_000, |user| ("x-user-id", format!("u{user:011}")));
    measure("request parse: trusted header, key, device", 10_000, 1, |at| {
        let headers = &named[at as usize];
        let headers = &Headers::of(headers);
        black_box(headers.address(PEER, &trusted.auth.trusted_proxies));
        black_box(gatekeeper.identify(headers, PEER, &codec).is_ok());
        black_box(headers.word(Name::IdempotencyKey, 64).is_ok());
        black_box(headers.device().is_ok());
    });
    let blocks: Vec<Vec<u8>> = (0..10_000)
        .map(|user| {
            let user = format!("u{user:011}");
            let fields = [(":authority", "127.0.0.1:8080"), (":path", "/v1/templates/1/claims"), ("x-user-id", &user)];
            // :method POST and :scheme http by the static table.
            let mut block = vec![0x83, 0x86];
            fields.iter().for_each(|(name, value)| hpack::put_field(&mut block, name.as_bytes(), value.as_bytes()));
            block
        })
        .collect();
    let (mut decoder, mut fields) = (hpack::Decoder::new(4096), hpack::Fields::new(16 * 1024));
    measure("request parse: a head of HTTP/2, 5 fields", 10_000, 1, |at| {
        black_box(decoder.decode(&blocks[at as usize], &mut fields).is_ok());
        black_box(fields.iter().count());
    });
    let by_token = config(&[]);
    let token = |user| {
        let claims = TokenClaims {
            sub: format!("u{user:011}"),
            iss: by_token.auth.jwt_issuer.clone(),
            aud: by_token.auth.jwt_audience.clone(),
            exp: now_ms() as u64 / 1000 + 3600,
            level: None,
            tags: Vec::new(),
            registered_at: None,
            first_order: None,
        };
        ("authorization", format!("Bearer {}", sign(&by_token.auth, &claims).unwrap()))
    };
    let tokens = heads(7_000, token);
    let gatekeeper = Gatekeeper::new(&by_token.auth);
    let mut next = 0;
    measure("identity: a token that was not seen before", 1_000, 1, |_| {
        black_box(gatekeeper.identify(&Headers::of(&tokens[next]), PEER, &codec).is_ok());
        next += 1;
    });
    measure("identity: a token that is remembered", 7_000, 1, |at| {
        black_box(gatekeeper.identify(&Headers::of(&tokens[at as usize]), PEER, &codec).is_ok());
    });
    let (sealed, user) = (UserCodec::encrypted(&code_key()), floodgate::domain::user::UserId::parse("u00000000007"));
    let user = user.unwrap();
    measure("user id encrypted", 20_000, 1, |_| {
        black_box(sealed.seal(black_box(&user)));
    });
}

fn throttle() {
    let throttles = Throttles::new(&config(&[]).throttle);
    let hashing = Hashing::new(&code_key());
    let mut number = 0u64;
    measure("throttle: user, a new key", 100_000, 1, |_| {
        number += 1;
        begin_request();
        let key = hashing.device(&format!("d-{number}"));
        black_box(throttles.check(Scope::User, key).is_ok());
    });
    measure("throttle: one address, refused", 100_000, 1, |_| {
        begin_request();
        black_box(throttles.check(Scope::Ip, 7).is_ok());
    });
}

fn code_key() -> CodeKey {
    CodeKey::new([7; 16])
}

fn code_cipher() {
    let key = code_key();
    let name = |serial| CouponName { template: TemplateId(7), serial, epoch: 1, gift: 0 };
    measure("code cipher: encode", 100_000, 1, |serial| {
        black_box(key.encode(name(serial)));
    });
    let code = key.encode(name(123_456));
    measure("code cipher: decode", 100_000, 1, |_| {
        black_box(key.decode(black_box(&code)));
    });
}

const BATCH: u64 = 64;

fn queue_entry() {
    let users: Vec<String> = (0..BATCH).map(|user| format!("u{user:011}")).collect();
    let grants = users.iter().zip(1..).map(|(user, serial)| Grant {
        template: TemplateId(7),
        serial,
        epoch: 1,
        user: user.as_bytes(),
        claim_key_hash: serial,
        ip_hash: None,
        device_hash: None,
        acquired: NOON,
    });
    let payload = entry::encode(NOON, &grants.collect::<Vec<_>>());
    measure("queue entry of 64: decode, a grant", 20_000, BATCH, |seq| {
        black_box(entry::decode(EntryId::new(1, seq), black_box(&payload)).is_ok());
    });
}

fn row_encoding() {
    let rows = 20_000;
    measure("rows for COPY: encode, a row", 5, rows, |_| {
        let mut copy = CopyRows::with_capacity(rows as usize * 160);
        for serial in 1..=rows {
            copy.row(10)
                .int4(7)
                .int8(serial as i64)
                .int4(1)
                .text(b"u00000000007")
                .int8(serial as i64)
                .int8_or_null(None)
                .int8_or_null(None)
                .time(NOON)
                .time(NOON)
                .time(NOON + 604_800_000);
        }
        black_box(copy.finish());
    });
}

/// Grants whatever it is asked, at once.
#[derive(Clone)]
struct Instant(u64);

impl Engine for Instant {
    async fn meta(&mut self) -> Result<CellMeta, Fault> {
        let (role, replid) = ("master".to_owned(), "r".to_owned());
        Ok(CellMeta {
            role,
            live_replid: replid.clone(),
            replid,
            epoch: 1,
            open: true,
            now: NOON,
            ..CellMeta::default()
        })
    }

    async fn claim(&mut self, _: &Identity, batch: &Batch) -> Result<BatchReply, Fault> {
        // A turn of the runtime, as an answer of Redis would need: the next claims queue meanwhile.
        tokio::task::yield_now().await;
        let groups = batch.groups.iter().map(|group| {
            let decisions = group.claims.iter().map(|_| {
                self.0 += 1;
                Decision::Granted(self.0)
            });
            GroupReply::Decided { revision: 1, generation: 1, decisions: decisions.collect() }
        });
        let (groups, entry) = (groups.collect(), EntryId::new(1, 1));
        Ok(BatchReply::Executed { now: NOON, last: entry, entry: Some(entry), groups })
    }

    async fn lookup(&mut self, _: &Identity, _: &[LookupGroup]) -> Result<LookupReply, Fault> {
        Ok(LookupReply::NotExecuted(Mismatch::Identity))
    }

    fn another(&self) -> Self {
        self.clone()
    }
}

fn lane_hand_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = LaneShared {
            cell: Arc::new(Cell::default()),
            doubts: Arc::new(Doubts::default()),
            ring: Arc::default(),
            keys: CellKeys::new(CellId(0)),
            settings: config(&[]).claim,
        };
        let (lane, _running) = lane::start(Instant(0), Arc::new(shared));
        let (template, user) = (template(), UserRef::from_store("u00000000007").unwrap());
        for at_once in [1, 64] {
            let mut runs = Vec::new();
            for _ in 0..7 {
                let (begun, turns) = (cpu_time(), 20_000 / at_once);
                for _ in 0..turns {
                    let submit = |_| {
                        let claim = Claim { user: user.clone(), claim_key_hash: 7, ip: None, device: None };
                        lane.submit(Job { template: template.clone(), claim }).expect("the lane has room")
                    };
                    let waiting: Vec<_> = (0..at_once).map(submit).collect();
                    for answer in waiting {
                        black_box(answer.await.is_ok());
                    }
                }
                runs.push((cpu_time() - begun).as_nanos() as f64 / (turns * at_once) as f64);
            }
            runs.sort_by(f64::total_cmp);
            println!("{:44} {:9.1}", format!("lane hand-off and answer, {at_once} at once"), runs[3]);
        }
    });
}

fn template() -> Arc<LiveTemplate> {
    let definition = serde_json::json!({
        "name": "five off", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "UTC",
        "stock": {"total": 9}, "validity": {"type": "relative", "days": 7},
        "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
    });
    Arc::new(LiveTemplate {
        id: TemplateId(1),
        definition: Definition::from_store(&definition).unwrap(),
        terms: None,
        status: Status::Published,
        revision: 1,
        stock_generation: 1,
        freed: false,
        latch: Arc::default(),
    })
}
