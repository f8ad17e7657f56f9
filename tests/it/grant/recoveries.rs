//! An empty or diverged Redis is given back what PostgreSQL knows.

use floodgate::domain::ids::{EntryId, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::grant::fate::Fate;
use floodgate::grant::opening::Refusal;
use floodgate::grant::recover::recover;
use floodgate::grant::stored;
use floodgate::grant::stores::postgres::PgArchive;
use floodgate::grant::stores::{Archive, Extent};

use super::world::{CELL, Claimed, World, until};
use super::{T1, given_away, serials, set_meta, users};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_redis_is_refused_until_it_is_recovered() {
    let mut world = World::new("empty").await;
    world.template(100, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=30)).await;
    world.flushed(world.meta().await.last).await;
    world.kill_redis();
    world.empty_redis();
    world.start_redis().await;
    let judged = async || floodgate::grant::recover::judge(&world.pg, &world.redis, CELL).await;
    until("the cell is judged empty", async || judged().await.is_ok_and(|refusal| refusal.is_some())).await;
    assert_eq!(world.meta().await.epoch, 0);
    // The flusher runs all the while.
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert_eq!((recovered.kept, recovered.opened.rows_reapplied), (0, 30));
    let again = world.claim(T1, &users(1..=30)).await;
    assert_eq!(again, (1..=30).map(Claimed::Replayed).collect::<Vec<_>>());
    assert_eq!(serials(&world.claim(T1, &users(31..=100)).await), (31..=100).collect::<Vec<_>>());
    assert_eq!(world.claim(T1, &users(101..=101)).await, [Claimed::Refused(ClaimOutcome::SoldOut)], "sold out");
    world.flushed(world.meta().await.last).await;
    assert_eq!(world.serials().await, (1..=100).collect::<Vec<_>>());
    let refused = recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {});
    flusher.stop().await;
    assert!(refused.await.unwrap_err().contains("opens it by itself"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diverged_redis_is_refused_and_what_it_alone_knew_is_kept() {
    let mut world = World::new("diverged").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=10)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    let short = world.copy_redis();
    world.claim(T1, &users(11..=15)).await;
    let long = world.copy_redis();
    world.kill_redis();
    // The world goes on with the shorter history, from 1-1.
    world.put_redis_back(&short);
    world.start_redis().await;
    let flusher = world.flusher();
    world.opened(2).await;
    assert_eq!(serials(&world.claim(T1, &users(21..=25)).await), [11, 12, 13, 14, 15]);
    world.flushed(EntryId::new(2, 1)).await;
    world.kill_redis();
    world.put_redis_back(&long);
    world.start_redis().await;
    let judged = async || floodgate::grant::recover::judge(&world.pg, &world.redis, CELL).await;
    until("the cell is judged diverged", async || judged().await.is_ok_and(|refusal| refusal.is_some())).await;
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert_eq!((recovered.kept, recovered.opened.rows_reapplied), (5, 15));
    assert_eq!(world.count("set_aside WHERE reason = 'diverged' AND epoch = 1 AND serial BETWEEN 11 AND 15").await, 5);
    assert_eq!(serials(&world.claim(T1, &users(11..=15)).await), [16, 17, 18, 19, 20]);
    world.flushed(world.meta().await.last).await;
    assert_eq!(world.serials().await, (1..=20).collect::<Vec<_>>());
    assert_eq!(world.fate(T1, 12, 1).await, Fate::Lost);
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_receipt_is_its_first_users() {
    let mut world = World::new("recover-gift").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=3)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    given_away(&world, 2).await;
    world.kill_redis();
    world.empty_redis();
    world.start_redis().await;
    recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    let flusher = world.flusher();
    world.open().await;
    // The claim that was granted is answered again; who was given the coupon has not claimed.
    assert_eq!(world.claim(T1, &users(2..=2)).await, [Claimed::Replayed(2)]);
    assert_eq!(world.claim(T1, &["receiver".to_owned()]).await, [Claimed::Granted(4)]);
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freed_templates_are_tombstones_and_quotas_come_back() {
    let mut world = World::new("freed").await;
    world.template(100, true).await;
    let freed = world.template(100, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=2)).await;
    let quota_before = world.quota_of("u1").await;
    assert_eq!(quota_before.len(), 4, "one stamp");
    world.claim(freed, &users(3..=3)).await;
    world.flushed(world.meta().await.last).await;
    world
        .sql(&format!("UPDATE coupon_templates SET freed_at = now(), revision = revision + 1 WHERE id = {freed}"))
        .await;
    world.kill_redis();
    world.empty_redis();
    world.start_redis().await;
    recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert_eq!(world.quota_of("u1").await, quota_before, "the quota's stamp is the grant's");
    assert_eq!(world.claim(freed, &users(3..=3)).await, [Claimed::Refused(ClaimOutcome::Ended)], "ended");
    assert_eq!(world.claim(T1, &users(1..=1)).await, [Claimed::Replayed(1)]);
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_recovery_of_a_sound_redis_loses_nothing() {
    let world = World::new("forced").await;
    world.template(100, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=10)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    world.claim(T1, &users(11..=15)).await;
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, true, &|_| {}).await.unwrap();
    assert_eq!((recovered.stored, recovered.kept, recovered.opened.rows_reapplied), (5, 0, 15));
    assert_eq!(world.claim(T1, &users(1..=15)).await, (1..=15).map(Claimed::Replayed).collect::<Vec<_>>());
    assert_eq!(serials(&world.claim(T1, &users(16..=16)).await), [16]);
    let flusher = world.flusher();
    world.flushed(world.meta().await.last).await;
    flusher.stop().await;
    assert_eq!(world.serials().await, (1..=16).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_died_while_it_wiped_is_finished_by_another_one_alone() {
    let world = World::new("wiping").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=10)).await;
    world.flushed(world.meta().await.last).await;
    flusher.stop().await;
    // As a recovery leaves it that died between the receipts and their template.
    world.close(2).await;
    set_meta(&world, "wiping", "1").await;
    let mut unlink = redis::cmd("UNLINK");
    world.redis.command(unlink.arg(world.keys().template(T1).receipts())).await.unwrap();
    let flusher = world.flusher();
    let judged = floodgate::grant::recover::judge(&world.pg, &world.redis, CELL).await.unwrap();
    assert_eq!(judged, Some(Refusal::Wiping));
    recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert!(!world.meta().await.wiping);
    assert_eq!(world.claim(T1, &users(1..=10)).await, (1..=10).map(Claimed::Replayed).collect::<Vec<_>>());
    flusher.stop().await;
}

/// One that died over the second of two templates, of which the first was given back.
async fn died_while_it_gave_back(world: &World) {
    let flusher = world.flusher();
    world.opened(1).await;
    for template in [T1, TemplateId(2)] {
        world.claim(template, &users(1..=10)).await;
    }
    world.flushed(world.meta().await.last).await;
    flusher.stop().await;
    let others = world.keys().template(TemplateId(2));
    let url = world.config.redis.url.expose().to_owned();
    // Where receipts should be written stands something else.
    let spoil = |sentence: &str| {
        if sentence.contains("are wiped") {
            let mut connection = redis::Client::open(&*url).unwrap().get_connection().unwrap();
            redis::cmd("SET").arg(others.receipts()).arg("x").exec(&mut connection).unwrap();
        }
    };
    let died = recover(&world.pg, &world.redis, CELL, &world.config, true, &spoil).await.unwrap_err();
    assert!(died.contains("WRONGTYPE") || died.contains("wrong kind"), "{died}");
    let meta = world.meta().await;
    assert!(meta.refilling && !meta.open, "{meta:?}");
    let mut unlink = redis::cmd("UNLINK");
    world.redis.command(unlink.arg(others.receipts())).await.unwrap();
}

async fn everybody_has_their_coupon(world: &World) {
    for template in [T1, TemplateId(2)] {
        assert_eq!(world.claim(template, &users(1..=10)).await, (1..=10).map(Claimed::Replayed).collect::<Vec<_>>());
        assert_eq!(world.claim(template, &users(11..=11)).await, [Claimed::Granted(11)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_died_while_it_gave_back_goes_on_where_it_was() {
    let world = World::new("refill").await;
    world.template(100, false).await;
    world.template(100, false).await;
    died_while_it_gave_back(&world).await;
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert_eq!(recovered.opened.rows_reapplied, 10, "the first template's rows were there already");
    assert!(!world.meta().await.refilling);
    everybody_has_their_coupon(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flusher_goes_on_where_a_recovery_died() {
    let world = World::new("refill-flusher").await;
    world.template(100, false).await;
    world.template(100, false).await;
    died_while_it_gave_back(&world).await;
    let flusher = world.flusher();
    world.open().await;
    assert!(!world.meta().await.refilling);
    everybody_has_their_coupon(&world).await;
    flusher.stop().await;
}

/// More rows than one read takes, of users who have several, of stock that was added to, among what was set aside: its last
/// serial, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_template_is_given_back_whole() {
    let mut world = World::new("large").await;
    let stock = 70_000;
    world.template(stock, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    flusher.stop().await;
    world
        .sql(&format!(
            "INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
             SELECT 1, i, 1, 'u' || i % 30000, i, now(), now(), now() FROM generate_series(1, {stock} - 1) AS i
             WHERE i % 10000 <> 0 AND i < {stock} - 1;
             INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash,
                 acquired_at, reason)
             SELECT 0, 1, 1, 1, i, 1, 'u' || i % 30000, i, now(), 'user_coupons_serial'
             FROM generate_series(10000, {stock}, 10000) AS ten, least(ten, {stock} - 1) AS i;
             UPDATE stock_ranges SET last_serial = 30000;
             INSERT INTO stock_ranges (template_id, first_serial, last_serial, cell) VALUES (1, 30001, {stock}, 0)"
        ))
        .await;
    world.kill_redis();
    world.empty_redis();
    world.start_redis().await;
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
    assert_eq!(recovered.opened.rows_reapplied, stock as u64 - 1);
    let receipts = world.keys().template(T1);
    let mut count = redis::cmd("HLEN");
    assert_eq!(world.redis.command(count.arg(receipts.receipts())).await.unwrap(), redis::Value::Int(30_000));
    for (user, held) in [("u1", 3), ("u10000", 2), ("u9999", 3), ("u0", 2)] {
        let mut get = redis::cmd("HSTRLEN");
        let length = world.redis.command(get.arg(receipts.receipts()).arg(user)).await.unwrap();
        assert_eq!(length, redis::Value::Int(21 * held), "{user}");
    }
    assert_eq!(world.claim(T1, &["fresh".into()]).await, [Claimed::Granted(stock as u64)]);
    assert_eq!(world.claim(T1, &["late".into()]).await, [Claimed::Refused(ClaimOutcome::SoldOut)], "sold out");
}

/// Serials may have gaps of any width, and several rows may have been set aside for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_template_with_gaps_are_whole() {
    let world = World::new("gaps").await;
    world.template(500_000, false).await;
    world
        .sql(
            "INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
             SELECT 1, i, 1, 'row', i, now(), now(), now() FROM unnest(ARRAY[5, 2, 1, 4, 1000, 1001, 30000, 499999]) AS i;
             INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash,
                 acquired_at, reason)
             SELECT 0, 1, 1, 1, i, 1, u, i, now(), why
             FROM unnest(ARRAY[3, 3, 3, 3, 1001, 20000, 500, 600000], ARRAY['aside', 'b', 'c', 'd', 'e', 'aside', 'f', 'g'],
                 ARRAY['x', 'x', 'x', 'x', 'x', 'x', 'diverged', 'x']) AS aside (i, u, why)",
        )
        .await;
    let row = |serial| (serial, "row");
    let aside = |serial| (serial, "aside");
    let all =
        [row(1), row(2), aside(3), row(4), row(5), row(1000), row(1001), aside(20_000), row(30_000), row(499_999)];
    let expected: Vec<_> = all.iter().map(|(serial, user)| (*serial, (*user).to_owned())).collect();
    let client = world.pg.own().await.unwrap();
    for limit in [1, 2, 3, 4, 100] {
        let (mut from, mut seen) = (1, Vec::new());
        loop {
            let page = stored::read(&client, T1, limit % 2 == 0, from, 500_000, limit).await.unwrap();
            assert!(page.len() <= limit);
            from = page.last().map_or(from, |grant| grant.receipt.serial + 1);
            let is_end = page.len() < limit;
            seen.extend(page.into_iter().map(|grant| (grant.receipt.serial, grant.user.unwrap())));
            if is_end {
                break;
            }
        }
        assert_eq!(seen, expected, "in pages of {limit}");
    }
    // What a recovery reads: ranges of serials, up to the last that anybody has.
    let archive = PgArchive::new(world.pg.own().await.unwrap(), CELL).await.unwrap();
    assert_eq!(archive.extents(&[(T1, 1)]).await.unwrap(), [(T1, Extent { rows: 499_999, asides: 600_000 })]);
    assert_eq!(archive.extents(&[(T1, 500_000)]).await.unwrap(), [(T1, Extent { rows: 0, asides: 600_000 })]);
    for (first, next) in [(1, Some(1)), (6, Some(1000)), (1002, Some(20_000)), (500_000, None)] {
        assert_eq!(archive.next_serial(T1, first, 500_000).await.unwrap(), next, "from {first} on");
    }
    for width in [3_000, 10_000, 600_000] {
        let mut seen = Vec::new();
        for first in (1..=500_000).step_by(width) {
            let last = (first + width as u64 - 1).min(500_000);
            let found = stored::within(&client, T1, width == 3_000, first, last, true).await.unwrap();
            seen.extend(found.into_iter().map(|grant| (grant.receipt.serial, grant.user.unwrap())));
        }
        assert_eq!(seen, expected, "in ranges of {width}");
    }
    let recovered = recover(&world.pg, &world.redis, CELL, &world.config, true, &|_| {}).await.unwrap();
    assert_eq!(recovered.opened.rows_reapplied, expected.len() as u64);
    assert_eq!(serials(&world.claim(T1, &["next".into()]).await), [500_000], "what lies before it was given");
}
