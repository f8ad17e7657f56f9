//! What the scripts cost, what they need, and what they refuse beside the claim path.

use std::collections::BTreeMap;

use floodgate::claim::engine::{Batch, BatchReply, Claim, Decision, Group, GroupReply, LookupGroup};
use floodgate::claim::model_engine::{QuotaRule, Row, Terms};
use floodgate::domain::ids::{EntryId, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::user::UserRef;
use floodgate::domain::window::{Day, Millis};
use floodgate::grant::given::{Given, Holders, Look};
use floodgate::grant::stores::StoredGrant;
use floodgate::limits::{BATCH_CLAIMS_MAX, REAPPLY_ROWS_MAX};
use floodgate::redis::cell::Receipt;
use floodgate::redis::client::{Call, Link};
use floodgate::redis::keys::CellKeys;
use floodgate::redis::scripts::Script;
use redis::Value;

use super::support::clock_redis;
use super::support::stage::{ModelStage, RedisStage, Stage};

/// 2026-06-18 12:00 UTC.
const NOON: Millis = 1_781_784_000_000;
const DAY: Day = Day { start: NOON - 43_200_000, end: NOON + 43_200_000 };
const RULES: [QuotaRule; 3] = [QuotaRule { limit: 2, window: 60_000 }; 3];
const NO_QUOTAS: [QuotaRule; 3] = [QuotaRule { limit: 0, window: 60_000 }; 3];
const TERMS: Terms = Terms {
    state: 1,
    revision: 1,
    generation: 1,
    starts_at: 0,
    ends_at: Millis::MAX >> 16,
    per_user: 10,
    per_user_daily: 0,
    daily: 0,
    quotas: true,
};

fn user(number: usize) -> UserRef {
    UserRef::from_store(&format!("u{number}")).expect("a user")
}

fn batch(keys: &CellKeys, templates: u32, claims: usize) -> Batch {
    let each = claims / templates as usize;
    let group = |id| Group {
        template: TemplateId(id),
        keys: keys.template(TemplateId(id)),
        quotas: true,
        day: DAY,
        claims: (0..each)
            .map(|number| Claim {
                user: user(number),
                claim_key_hash: number as u64,
                ip: Some(number as u64),
                device: Some(number as u64),
            })
            .collect(),
    };
    Batch { deadline: NOON + 60_000, backlog_max: 1_000, groups: (1..=templates).map(group).collect() }
}

fn granted(reply: &BatchReply) -> usize {
    let BatchReply::Executed { groups, .. } = reply else { panic!("{reply:?}") };
    let decisions = groups.iter().flat_map(|group| match group {
        GroupReply::Decided { decisions, .. } => decisions.as_slice(),
        _ => panic!("{group:?}"),
    });
    decisions.filter(|decision| matches!(decision, Decision::Granted(_))).count()
}

/// A cell at noon with templates 1 to `templates`, 1,000 coupons each.
fn cell<'a>(server: &'a clock_redis::ClockRedis, templates: u32, rules: [QuotaRule; 3]) -> RedisStage<'a> {
    let mut stage = RedisStage::new(server);
    stage.set_clock(NOON);
    stage.close(1);
    for id in 1..=templates {
        stage.put(TemplateId(id), &TERMS, &[(1, 1_000)]);
    }
    stage.open(1, rules);
    stage
}

/// Calls by command since the last look.
fn calls(stage: &RedisStage) -> BTreeMap<String, u64> {
    let Value::BulkString(info) = stage.plain(redis::cmd("INFO").arg("commandstats")) else { panic!("no text") };
    stage.plain(redis::cmd("CONFIG").arg("RESETSTAT"));
    String::from_utf8(info)
        .expect("text")
        .lines()
        .filter_map(|line| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        })
        .collect()
}

#[test]
fn a_batchs_calls_depend_on_its_templates_and_not_on_its_claims() {
    let server = clock_redis::shared();
    let mut totals = Vec::new();
    for templates in [1, 2, 4] {
        let mut by_size = Vec::new();
        for claims in [8, 64, 256] {
            let mut stage = cell(&server, templates, [QuotaRule { limit: 50, window: 60_000 }; 3]);
            let identity = stage.identity();
            // The first batch loads the script and begins the quotas' periods; the second repeats
            // half of it under other keys, so that it reads receipts and stamps as well.
            let first = batch(&stage.keys(), templates, claims / 2);
            stage.claim(&identity, &first).expect("the cell is open");
            let mut second = batch(&stage.keys(), templates, claims);
            for claim in second.groups.iter_mut().flat_map(|group| &mut group.claims) {
                claim.claim_key_hash += 1_000;
            }
            calls(&stage);
            let reply = stage.claim(&identity, &second).expect("the cell is open");
            by_size.push(calls(&stage));
            assert_eq!(granted(&reply), claims);
        }
        assert_eq!(by_size[0], by_size[1], "8 and 64 claims of {templates} templates");
        assert_eq!(by_size[1], by_size[2], "64 and 256 claims of {templates} templates");
        totals.push(by_size[0].values().sum::<u64>());
    }
    println!("calls of a batch of 1, 2 and 4 templates: {totals:?}");
    assert_eq!(totals[1] - totals[0], 4, "calls for one more template: {totals:?}");
    assert_eq!(totals[2] - totals[1], 8, "calls for two more templates: {totals:?}");
}

#[test]
fn the_largest_batch_is_decided_and_given_back() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, [QuotaRule { limit: 50, window: 60_000 }; 3]);
    let identity = stage.identity();
    let all = batch(&stage.keys(), 1, BATCH_CLAIMS_MAX);
    assert_eq!(granted(&stage.claim(&identity, &all).expect("the cell is open")), BATCH_CLAIMS_MAX);
    assert_eq!(granted(&stage.claim(&identity, &all).expect("the cell is open")), 0, "all are replays");
    let mut empty = RedisStage::new(&server);
    empty.close(1);
    empty.put(TemplateId(1), &TERMS, &[(1, REAPPLY_ROWS_MAX as u64)]);
    let rows: Vec<Row> = (1..=REAPPLY_ROWS_MAX).map(|number| row(number, NOON)).collect();
    assert_eq!(empty.reapply(TemplateId(1), &TERMS, DAY, RULES, &rows), None);
    empty.open(1, RULES);
    assert_eq!(empty.holding(TemplateId(1), Some(&user(REAPPLY_ROWS_MAX))).remaining, 0);
}

#[test]
fn every_script_works_right_after_the_script_cache_is_lost() {
    let server = clock_redis::shared();
    let mut stage = RedisStage::new(&server);
    stage.set_clock(NOON);
    let id = TemplateId(1);
    for script in Script::ALL {
        stage.flush_scripts();
        match script {
            Script::CellMeta => assert_eq!(stage.meta().epoch, 0),
            Script::CellClose => stage.close(1),
            _ => continue,
        }
    }
    stage.flush_scripts();
    stage.put(id, &TERMS, &[(1, 1_000)]);
    stage.flush_scripts();
    assert_eq!(stage.reapply(id, &TERMS, DAY, RULES, &[row(1, NOON)]), None);
    stage.flush_scripts();
    stage.open(1, RULES);
    let identity = stage.identity();
    stage.flush_scripts();
    let reply = stage.claim(&identity, &batch(&stage.keys(), 1, 2)).expect("the cell is open");
    assert_eq!(granted(&reply), 1, "one of two users was reapplied with the same claim key: {reply:?}");
    stage.flush_scripts();
    let keys = stage.keys().template(id);
    stage.lookup(&identity, &[LookupGroup { keys, claims: vec![(user(1), 1)] }]).expect("the cell is open");
    stage.flush_scripts();
    assert_eq!(stage.holding(id, Some(&user(1))).receipts.len(), 1);
    let names = stage.keys();
    let mut read = Call::new(Script::QueueRead, [names.meta(), names.queue()].into_iter());
    identity.put(&mut read);
    read.arg("0-0").arg(10);
    stage.flush_scripts();
    let reply = stage.run(&read).expect("the cell is open");
    assert_eq!(reply[1], Value::Int(2));
    assert_eq!(reply[2], stage.plain(redis::cmd("XRANGE").arg(names.queue()).arg("-").arg("+")));
    stage.flush_scripts();
    stage.trim(EntryId::new(1, 1));
    stage.flush_scripts();
    assert!(stage.free(id, 2, EntryId::new(1, 1)));
}

/// The coupon with this number, in the hands of the user of the same number.
fn row(number: usize, acquired: Millis) -> Row {
    let receipt = Receipt { serial: number as u64, epoch: 1, acquired, claim_key_hash: number as u64 };
    Row { user: Some(user(number)), receipt, ip: Some(number as u64), device: None }
}

#[test]
fn rows_are_reapplied_once() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, RULES);
    let id = TemplateId(1);
    stage.close(2);
    let rows: Vec<Row> = (1..=5).map(|number| row(number, NOON - 1)).collect();
    for rows in [&rows[..3], &rows[1..4], &rows, &rows, &[]] {
        assert_eq!(stage.reapply(id, &TERMS, DAY, RULES, rows), None);
    }
    stage.open(2, RULES);
    for row in &rows {
        let holding = stage.holding(id, row.user.as_ref());
        assert_eq!(holding.receipts, [row.receipt]);
        assert_eq!(holding.remaining, 995);
    }
    // Two grants a minute: one was given back, one is new.
    let identity = stage.identity();
    let mut again = batch(&stage.keys(), 1, 1);
    again.groups[0].claims =
        (1..=2).map(|key| Claim { user: user(1), claim_key_hash: 100 + key, ip: None, device: None }).collect();
    let reply = stage.claim(&identity, &again).expect("the cell is open");
    assert_eq!(granted(&reply), 1, "{reply:?}");
}

/// A chunk is given back as a whole or not at all, and what a user has of several chunks is put together.
#[test]
fn a_chunk_behind_the_cursor_is_passed_over_and_a_users_rows_are_put_together() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, RULES);
    let id = TemplateId(1);
    stage.close(2);
    let (identity, keys) = (stage.identity(), stage.keys());
    let given =
        Given { keys: &keys, identity: &identity, template: id, day: DAY, quotas: [(0, 1); 3], counted_since: None };
    let grant = |serial| StoredGrant {
        user: Some("user-7".into()),
        receipt: row(serial, NOON - 1).receipt,
        ip: None,
        device: None,
    };
    let grants: Vec<StoredGrant> = (1..=5).map(grant).collect();
    let cursor = |stage: &RedisStage<'_>, grants: &[StoredGrant]| {
        let give = async |link: &mut Link| given.give(link, grants, &mut Holders::anybody()).await;
        stage.wait(give(&mut stage.link())).expect("the cell is closed by this epoch")
    };
    assert_eq!(cursor(&stage, &grants[..3]), 4);
    assert_eq!(cursor(&stage, &grants[1..]), 4, "it begins before the cursor");
    // Receipts whose cursor did not come along are not written twice.
    let receipts = keys.template(id).receipts().to_owned();
    let more: Vec<u8> = grants.iter().flat_map(|grant| grant.receipt.pack()).collect();
    stage.plain(redis::cmd("HSET").arg(&receipts).arg("user-7").arg(more));
    assert_eq!(cursor(&stage, &grants[3..]), 6);
    stage.open(2, RULES);
    let held = stage.holding(id, UserRef::from_store("user-7").as_ref()).receipts;
    assert_eq!(held, grants.iter().map(|grant| grant.receipt).collect::<Vec<_>>());
}

/// Whoever closes the cell anew while rows are on their way makes them worth nothing.
#[test]
fn rows_of_an_opener_that_was_overtaken_are_not_written() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, RULES);
    let id = TemplateId(1);
    stage.close(2);
    let (identity, keys) = (stage.identity(), stage.keys());
    let given =
        Given { keys: &keys, identity: &identity, template: id, day: DAY, quotas: [(0, 1); 3], counted_since: None };
    let grants = [StoredGrant { user: Some("user-7".into()), receipt: row(1, NOON).receipt, ip: None, device: None }];
    let mut link = stage.link();
    let chunk = given.chunk(&grants, &mut Holders::nobody());
    let Ok(Look::Free(write)) = stage.wait(chunk.look(&mut link, || ())).0 else { panic!("the cursor stands at 1") };
    stage.close(3);
    assert_eq!(stage.wait(write.carry_out(&mut link, None, || ())).0.unwrap_err().kind, "refused");
    let fault = stage.wait(given.give(&mut link, &grants, &mut Holders::nobody())).unwrap_err();
    assert_eq!((fault.kind, &*fault.detail), ("refused", "the cell refused: epoch"));
    assert_eq!(stage.plain(redis::cmd("EXISTS").arg(keys.template(id).receipts())), Value::Int(0));
}

/// The two hashes of a scope are used in turns: what a period long gone left is not read as new.
#[test]
fn a_reapplied_row_begins_its_quota_periods() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, [QuotaRule { limit: 1, window: 60_000 }; 3]);
    let id = TemplateId(1);
    let begin = (NOON / 60_000 + 1) * 60_000;
    let mut one = batch(&stage.keys(), 1, 1);
    one.deadline = Millis::MAX >> 16;
    one.groups[0].claims = vec![Claim { user: user(1), claim_key_hash: 100, ip: None, device: None }];
    stage.set_clock(begin + 50_000);
    let identity = stage.identity();
    assert_eq!(granted(&stage.claim(&identity, &one).expect("the cell is open")), 1);
    for (periods, epoch) in [(3, 2), (6, 3)] {
        let now = begin + periods * 60_000 + 1_000;
        stage.set_clock(now);
        stage.close(epoch);
        // A row of this period the first time, of the one before it the second.
        let acquired = if epoch == 2 { now } else { now - 2_000 };
        assert_eq!(
            stage.reapply(
                id,
                &TERMS,
                DAY,
                RULES.map(|rule| QuotaRule { limit: 1, ..rule }),
                &[row(epoch.into(), acquired)]
            ),
            None
        );
        stage.open(epoch, RULES.map(|rule| QuotaRule { limit: 1, ..rule }));
        let identity = stage.identity();
        one.groups[0].claims[0].claim_key_hash += 1;
        assert_eq!(granted(&stage.claim(&identity, &one).expect("the cell is open")), 1, "period {periods}");
    }
}

/// A Redis that takes over may be a little behind the one that granted: its clock starts where
/// the rows end, so that quotas count them as long as they were promised to.
#[test]
fn rows_that_lie_ahead_of_the_clock_move_it() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, RULES);
    let id = TemplateId(1);
    stage.close(2);
    // A period of the quotas begins between the clock and the row.
    let at = (NOON / 60_000 + 1) * 60_000 + 3;
    stage.set_clock(at - 1_001);
    let refusal = stage.reapply(id, &TERMS, DAY, RULES, &[row(1, at)]).expect("it is refused");
    assert!(refusal.ends_with("clock"), "{refusal}");
    stage.set_clock(at - 500);
    assert_eq!(stage.reapply(id, &TERMS, DAY, RULES, &[row(1, at)]), None);
    stage.open(2, [QuotaRule { limit: 1, window: 60_000 }; 3]);
    assert_eq!(stage.meta().clock, at);
    let identity = stage.identity();
    let mut again = batch(&stage.keys(), 1, 1);
    again.deadline = Millis::MAX >> 16;
    again.groups[0].claims = vec![Claim { user: user(1), claim_key_hash: 100, ip: None, device: None }];
    for (now, granted_by_then) in [(at - 400, 0), (at + 59_999, 0), (at + 60_000, 1)] {
        stage.set_clock(now);
        let reply = stage.claim(&identity, &again).expect("the cell is open");
        assert_eq!(granted(&reply), granted_by_then, "{} ms after the row: {reply:?}", now - at);
    }
}

/// A day's count would be that of another day.
#[test]
fn a_template_with_a_daily_total_is_reapplied_on_its_day_alone() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, NO_QUOTAS);
    let id = TemplateId(1);
    let daily = Terms { revision: 2, daily: 3, ..TERMS };
    stage.put(id, &daily, &[]);
    stage.close(2);
    stage.set_clock(DAY.end);
    let refusal = stage.reapply(id, &daily, DAY, NO_QUOTAS, &[row(1, DAY.end - 5)]).expect("it is refused");
    assert!(refusal.ends_with("day"), "{refusal}");
    let next = Day { start: DAY.end, end: DAY.end + 86_400_000 };
    let rows = [row(1, DAY.end - 5), row(2, DAY.end)];
    assert_eq!(stage.reapply(id, &daily, next, NO_QUOTAS, &rows), None);
    stage.open(2, NO_QUOTAS);
    let holding = stage.holding(id, None);
    assert_eq!((holding.day, holding.day_count), (DAY.end, 1));
}

/// A copy may hold a template that was freed since.
#[test]
fn an_opening_frees_again_what_was_freed() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, RULES);
    let identity = stage.identity();
    let keys = stage.keys();
    stage.claim(&identity, &batch(&keys, 1, 2)).expect("the cell is open");
    stage.close(2);
    for _ in 0..2 {
        stage.put(TemplateId(1), &Terms { state: 9, revision: 5, ..TERMS }, &[]);
    }
    stage.open(2, RULES);
    let holding = stage.holding(TemplateId(1), Some(&user(1)));
    assert_eq!((holding.state, holding.revision, holding.remaining, holding.receipts.len()), (9, 5, 0, 0));
    let identity = stage.identity();
    let reply = stage.claim(&identity, &batch(&keys, 1, 2)).expect("the cell is open");
    let BatchReply::Executed { groups, .. } = &reply else { panic!("{reply:?}") };
    let ended = vec![Decision::Refused(ClaimOutcome::Ended); 2];
    assert_eq!(groups, &[GroupReply::Decided { revision: 5, generation: 0, decisions: ended }]);
}

/// Its serial is gone and its day counts it, but nobody holds it.
#[test]
fn a_row_that_was_set_aside_without_a_user_moves_the_cursor() {
    let server = clock_redis::shared();
    let mut redis = cell(&server, 1, RULES);
    let mut model = ModelStage::new();
    model.set_clock(NOON);
    model.close(1);
    model.put(TemplateId(1), &TERMS, &[(1, 1_000)]);
    model.open(1, RULES);
    let daily = Terms { revision: 2, daily: 3, ..TERMS };
    let rows = [row(1, NOON), Row { user: None, ip: None, ..row(2, NOON) }];
    let mut after = Vec::new();
    for stage in [&mut model as &mut dyn Stage, &mut redis] {
        stage.put(TemplateId(1), &daily, &[]);
        stage.close(2);
        assert_eq!(stage.reapply(TemplateId(1), &daily, DAY, RULES, &rows), None);
        stage.open(2, RULES);
        let identity = stage.identity();
        let reply = stage.claim(&identity, &batch(&stage.keys(), 1, 3)).expect("the cell is open");
        assert_eq!(granted(&reply), 1, "the day has three: {reply:?}");
        after.push((stage.holding(TemplateId(1), Some(&user(2))), reply));
    }
    assert_eq!(after[0], after[1]);
}

/// The cursor would stand beyond the stock, and a range that is given later would lie behind it.
#[test]
fn rows_beyond_the_given_ranges_are_refused() {
    let server = clock_redis::shared();
    let mut stage = cell(&server, 1, NO_QUOTAS);
    stage.close(2);
    let rows = [row(1_000, NOON), row(1_001, NOON)];
    let refusal = stage.reapply(TemplateId(1), &TERMS, DAY, NO_QUOTAS, &rows).expect("it is refused");
    assert!(refusal.ends_with("range"), "{refusal}");
    stage.put(TemplateId(1), &TERMS, &[(1_001, 1_002)]);
    assert_eq!(stage.reapply(TemplateId(1), &TERMS, DAY, NO_QUOTAS, &rows), None);
    stage.open(2, NO_QUOTAS);
    assert_eq!(stage.holding(TemplateId(1), None).remaining, 1);
}
