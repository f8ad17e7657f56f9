//! Each difference, made one at a time in a small world where everything agrees.

use std::collections::BTreeMap;

use floodgate::domain::code::{CodeKey, CouponName};
use floodgate::domain::ids::{EntryId, TemplateId};
use floodgate::domain::template::Definition;
use floodgate::domain::user::{UserCodec, UserId};
use floodgate::domain::window::{Millis, rfc3339};
use floodgate::hashing::Hashing;
use floodgate::redis::cell::{CellMeta, Holding};
use serde_json::{Value, json};

use super::stores::{Aside, CellRow, Grant, Quota, Row, Stores, Template};
use super::{Lens, compare};
use crate::journal::{Answer, Coupon, Exchange, Held, Outcome, Record, Request};

/// A noon in Shanghai.
const NOON: Millis = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000 + 4 * 3_600_000;
const WEEK: Millis = 7 * 86_400_000;
const ZONE: chrono_tz::Tz = chrono_tz::Asia::Shanghai;

struct Small {
    record: Record,
    stores: Stores,
    lens: Lens,
}

fn lens() -> Lens {
    let code_key = CodeKey::new([7; 16]);
    Lens { users: UserCodec::encrypted(&code_key), hashing: Hashing::new(&code_key), code_key }
}

fn definition(limits: Value, stock: Value) -> Definition {
    let definition = json!({
        "name": "small", "kind": "cash_voucher", "value": {"amount": "5.00"}, "timezone": "Asia/Shanghai",
        "stock": stock, "limits": limits, "validity": {"type": "relative", "days": 7},
        "claim_window": {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"},
    });
    Definition::from_store(&definition).unwrap()
}

impl Small {
    /// Stock 3: serial 1 for u-1, replayed; serial 2 for u-2, told after an unknown outcome; serial 3
    /// for u-3; u-4 finds nothing left, u-1 again finds the limit.
    fn new() -> Small {
        let holding = Holding { state: 1, ..Holding::default() };
        let limits = json!({"per_user": 1});
        let template = Template {
            definition: definition(limits, json!({"total": 3})),
            freed: false,
            ranges: vec![(1, 3, NOON - 60_000)],
            cell: Some(holding),
        };
        let meta = CellMeta {
            role: "master".into(),
            live_replid: "r".into(),
            epoch: 2,
            open: true,
            replid: "r".into(),
            clock: NOON,
            now: NOON,
            last: EntryId::new(2, 3),
            ..CellMeta::default()
        };
        let stores = Stores {
            templates: BTreeMap::from([(7, template)]),
            rows: Vec::new(),
            aside: Vec::new(),
            queued: Vec::new(),
            unreadable: Vec::new(),
            receipts: Vec::new(),
            cell: CellRow { epoch: 2, watermark: EntryId::new(2, 3), set_aside: (0, 0) },
            meta,
            quotas: [Quota { limit: 1, window_ms: 60_000 }; 3],
        };
        let mut small = Small { record: Record::default(), stores, lens: lens() };
        for serial in 1..=3 {
            small.store(serial, &format!("u-{serial}"), &format!("k-{serial}"));
        }
        let coupon = |small: &Small, serial, replayed| Outcome::Coupon {
            replayed,
            claim_key: format!("k-{serial}").into(),
            coupon: small.coupon(serial),
        };
        let (first, again) = (coupon(&small, 1, false), coupon(&small, 1, true));
        small.say("u-1", "k-1", first);
        small.say("u-1", "k-1", again);
        small.say("u-2", "k-2", Outcome::Unknown { why: "answer: the connection was closed".into() });
        let (second, third) = (coupon(&small, 2, true), coupon(&small, 3, false));
        small.say("u-2", "k-2", second);
        small.say("u-3", "k-3", third);
        small.say("u-4", "k-4", refused(410, "sold_out"));
        let held = vec![Held { serial: 1, code: small.coupon(1).code }];
        let limit = Outcome::Refused { status: 409, code: "user_limit_reached".into(), claim_key: None, held };
        small.say("u-1", "k-other", limit);
        small
    }

    fn reference(&self, user: &str) -> Box<str> {
        self.lens.users.seal(&UserId::parse(user).unwrap()).as_str().into()
    }

    fn grant(&self, serial: u64, user: &str, key: &str) -> Grant {
        Grant {
            template: 7,
            serial,
            epoch: 2,
            user: self.reference(user),
            claim_key_hash: self.lens.hashing.claim_key(key),
            acquired: acquired(serial),
        }
    }

    /// A row and its receipt.
    fn store(&mut self, serial: u64, user: &str, key: &str) {
        let grant = self.grant(serial, user, key);
        let (valid_from, expires_at) = (grant.acquired, grant.acquired + WEEK);
        self.stores.receipts.push(grant.clone());
        self.stores.rows.push(Row { grant, ip_hash: Some(serial), device_hash: None, valid_from, expires_at });
    }

    fn coupon(&self, serial: u64) -> Coupon {
        let acquired = acquired(serial);
        let name = CouponName { template: TemplateId(7), serial, epoch: 2, gift: 0 };
        let time = |at| Box::from(rfc3339(ZONE, at));
        Coupon {
            serial,
            code: self.lens.code_key.encode(name).into(),
            acquired_at: time(acquired),
            valid_from: time(acquired),
            expires_at: time(acquired + WEEK),
        }
    }

    /// One more request, answered 10 ms later.
    fn say(&mut self, user: &str, key: &str, outcome: Outcome) {
        let seq = self.record.exchanges.len() as u64 + 1;
        let at = NOON + 100 * seq as Millis;
        let request = Request {
            seq,
            at,
            gateway: "g".into(),
            template: 7,
            user: user.into(),
            claim_key: (!key.is_empty()).then(|| key.into()),
            ip: None,
            device: None,
        };
        self.record.exchanges.push(Exchange { request, answer: Some(Answer { seq, at: at + 10, outcome }) });
    }

    fn template(&mut self) -> &mut Template {
        self.stores.templates.get_mut(&7).unwrap()
    }

    fn kinds(&self) -> Vec<&'static str> {
        compare(&self.record, &self.stores, &self.lens).iter().map(|difference| difference.kind).collect()
    }
}

/// While the request that was given the serial was under way.
fn acquired(serial: u64) -> Millis {
    NOON + [0, 105, 305, 505, 805][serial as usize]
}

fn refused(status: u16, code: &str) -> Outcome {
    Outcome::Refused { status, code: code.into(), claim_key: None, held: Vec::new() }
}

fn unknown() -> Outcome {
    Outcome::Unknown { why: "no answer in time".into() }
}

/// What is found when one thing is changed.
fn after(change: impl FnOnce(&mut Small)) -> Vec<&'static str> {
    let mut small = Small::new();
    change(&mut small);
    small.kinds()
}

#[test]
fn where_all_agree_nothing_is_found() {
    assert_eq!(after(|_| {}), [""; 0]);
    // Limits that just hold, refusals that say nothing of a key, claims that were refused for good.
    assert_eq!(after(|small| small.say("u-1", "k-1", refused(429, "throttled"))), [""; 0]);
    assert_eq!(after(|small| small.say("u-9", "k-9", refused(503, "unavailable"))), [""; 0]);
    assert_eq!(after(|small| small.say("u-9", "", unknown())), [""; 0]);
}

#[test]
fn stock_that_does_not_balance() {
    assert_eq!(
        after(|small| small.template().cell.as_mut().unwrap().remaining = 1),
        ["stock_does_not_balance", "sold_out_with_stock"]
    );
    assert_eq!(after(|small| small.template().ranges[0].1 = 2), ["serial_beyond_stock", "stock_does_not_balance"]);
    let skipped = after(|small| {
        small.stores.rows.retain(|row| row.grant.serial != 2);
        small.stores.receipts.retain(|receipt| receipt.serial != 2);
        small.template().cell.as_mut().unwrap().remaining = 1;
    });
    assert!(skipped.contains(&"serial_skipped") && skipped.contains(&"row_missing"), "{skipped:?}");
    assert!(!skipped.contains(&"stock_does_not_balance"), "{skipped:?}");
    let early = after(|small| {
        let mut last = small.record.exchanges.pop().unwrap();
        last.request.at = NOON - 50_000;
        last.answer = Some(Answer { seq: 7, at: NOON - 49_000, outcome: refused(410, "sold_out") });
        last.request.claim_key = Some("k-early".into());
        small.record.exchanges.push(last);
    });
    assert_eq!(early, ["sold_out_too_early"]);
}

#[test]
fn more_than_limits_allow() {
    let two = |small: &mut Small| {
        small.store(2, "u-1", "k-other");
        let row = small.stores.rows.remove(1);
        assert_eq!((row.grant.serial, &*row.grant.user), (2, &*small.reference("u-2")));
    };
    assert!(after(two).contains(&"over_user_limit"));
    let limit = |limits: Value, stock: Value| {
        let definition = definition(limits, stock);
        after(|small| {
            two(small);
            small.template().definition = definition;
        })
    };
    let three = json!({"total": 3});
    let found = limit(json!({"per_user": 2, "per_user_daily": 1}), three.clone());
    assert!(found.contains(&"over_user_daily_limit") && !found.contains(&"over_user_limit"), "{found:?}");
    assert!(limit(json!({"per_user": 2}), json!({"total": 3, "daily": 2})).contains(&"over_daily_stock"));
    assert!(limit(json!({"per_user": 2}), three).contains(&"over_user_quota"));
    assert_eq!(after(|small| small.stores.rows[1].ip_hash = Some(1)), ["over_ip_quota"]);
    let devices = |small: &mut Small| small.stores.rows.iter_mut().for_each(|row| row.device_hash = Some(9));
    assert_eq!(after(devices), ["over_device_quota"]);
    let outside = after(|small| {
        small.stores.quotas[2].window_ms = 1;
        devices(small);
    });
    assert_eq!(outside, [""; 0], "a window later is another window");
}

#[test]
fn promises_that_are_not_kept() {
    assert_eq!(
        after(|small| drop(small.stores.rows.remove(2))),
        ["stock_does_not_balance", "row_missing", "receipt_without_row"]
    );
    let aside = after(|small| {
        let row = small.stores.rows.remove(1);
        let entry = EntryId::new(2, 2);
        small.stores.aside.push(Aside { grant: Some(row.grant), entry, reason: "a test".into() });
    });
    assert_eq!(aside, ["row_set_aside"]);
    assert_eq!(after(|small| small.stores.rows[0].expires_at += 1), ["row_differs"]);
    assert_eq!(after(|small| small.stores.rows[0].valid_from -= 1), ["row_differs"]);
    let epoch = after(|small| {
        small.stores.rows[0].grant.epoch = 3;
        small.stores.receipts[0].epoch = 3;
    });
    assert_eq!(epoch, ["row_differs", "held_is_not_theirs"]);
    let twice = after(|small| {
        let coupon = Outcome::Coupon { replayed: false, claim_key: "k-5".into(), coupon: small.coupon(3) };
        small.say("u-5", "k-5", coupon);
    });
    assert_eq!(twice, ["serial_answered_twice", "row_differs", "row_differs"]);
}

#[test]
fn grants_of_unclear_origin() {
    let extra = |small: &mut Small| {
        small.template().ranges[0].1 = 4;
        small.store(4, "u-5", "k-5");
        small.template().cell = None;
    };
    assert_eq!(after(extra), ["nobody_asked"]);
    let told_no = after(|small| {
        extra(small);
        small.say("u-5", "k-5", refused(409, "template_inactive"));
    });
    assert_eq!(told_no, ["granted_untold"]);
    let lost = |outcomes: Vec<Outcome>, key: &str| {
        after(|small| {
            extra(small);
            outcomes.into_iter().for_each(|outcome| small.say("u-5", key, outcome));
        })
    };
    assert_eq!(lost(vec![unknown()], "k-5"), ["unresolved"]);
    assert_eq!(lost(vec![unknown()], ""), [""; 0], "without a key it may be that one");
    assert_eq!(lost(vec![unknown(), refused(410, "ended")], "k-5"), ["refused_though_granted"]);
    let set_aside = after(|small| {
        extra(small);
        let row = small.stores.rows.pop().unwrap();
        small.stores.receipts.pop();
        let entry = EntryId::new(2, 2);
        small.stores.aside.push(Aside { grant: Some(row.grant), entry, reason: "a test".into() });
        small.say("u-5", "k-5", refused(500, "set_aside"));
    });
    assert_eq!(set_aside, [""; 0], "the client was told so");
    let again = after(|small| small.say("u-1", "k-1", refused(410, "ended")));
    assert_eq!(again, ["refused_though_granted"]);
    let told_nothing = after(|small| {
        small.record.exchanges[0].answer.as_mut().unwrap().outcome = refused(503, "unavailable");
    });
    assert_eq!(told_nothing, ["granted_while_refused"]);
    let other = after(|small| {
        let coupon = Coupon { expires_at: "2030-01-01T00:00:00Z".into(), ..small.coupon(1) };
        small.say("u-1", "k-1", Outcome::Coupon { replayed: true, claim_key: "k-1".into(), coupon });
    });
    assert_eq!(other, ["replay_differs"]);
    let twice = after(|small| {
        extra(small);
        small.stores.rows.pop();
        small.stores.receipts.pop();
        small.store(4, "u-1", "k-1");
    });
    assert_eq!(twice, ["over_user_limit", "over_user_quota", "granted_twice"]);
    assert_eq!(after(|small| small.stores.receipts[1].acquired += 1), ["receipt_differs"]);
    assert_eq!(after(|small| drop(small.stores.receipts.pop())), ["row_without_receipt"]);
    let orphan = |small: &mut Small| {
        let answer = Answer { seq: 99, at: NOON, outcome: unknown() };
        small.record.orphans.push(answer);
    };
    assert_eq!(after(orphan), ["answer_without_request"]);
}

#[test]
fn queues_that_are_not_drained() {
    assert_eq!(after(|small| small.stores.meta.backlog = 1), ["queue_not_trimmed"]);
    assert_eq!(after(|small| small.stores.cell.watermark = EntryId::new(2, 2)), ["queue_not_drained"]);
    assert_eq!(after(|small| small.stores.meta.marks.push((TemplateId(7), EntryId::new(2, 3)))), ["mark_left"]);
    assert_eq!(after(|small| small.stores.meta.live_replid = "other".into()), ["cell_not_open"]);
    assert_eq!(after(|small| small.stores.cell.epoch = 3), ["epochs_differ"]);
    assert_eq!(after(|small| small.stores.unreadable.push(EntryId::new(2, 9))), ["entry_unreadable"]);
    assert_eq!(after(|small| small.stores.cell.set_aside = (1, 0)), ["set_aside_miscounted"]);
    // What is only on the queue is no row yet.
    let queued = after(|small| {
        let row = small.stores.rows.pop().unwrap();
        small.stores.queued.push(row.grant);
    });
    assert_eq!(queued, ["row_missing"]);
}
