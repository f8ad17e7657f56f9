//! Grants on their way to PostgreSQL, between real servers that are killed, set back and emptied.

mod world;

use std::time::Duration;

use floodgate::app::App;
use floodgate::domain::code::CouponName;
use floodgate::domain::ids::{EntryId, TemplateId};
use floodgate::domain::outcome::ClaimOutcome;
use floodgate::domain::user::{UserCodec, UserRef};
use floodgate::grant::cells::Position;
use floodgate::grant::entry::{self, Grant};
use floodgate::grant::fate::Fate;
use floodgate::grant::opening::Refusal;
use floodgate::grant::queue::QueueEntry;
use floodgate::grant::recover::recover;
use floodgate::grant::stored;
use floodgate::grant::stores::postgres::PgArchive;
use floodgate::grant::stores::{Archive, Extent};
use floodgate::grant::watermark::{Ack, Awaited, acks};
use floodgate::grant::writer::{WriteFault, Writer};
use floodgate::wallet::settle::settled;

use super::support::proxy::Weather;
use world::{CELL, Claimed, World, until};

const T1: TemplateId = TemplateId(1);

fn users(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| format!("u{number}")).collect()
}

fn serials(claimed: &[Claimed]) -> Vec<u64> {
    claimed.iter().map(|claim| claim.granted().unwrap_or_else(|| panic!("{claim:?}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cell_opens_and_every_grant_is_stored_once() {
    let world = World::new("fresh").await;
    world.template(1000, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    for batch in 0..20 {
        let got = world.claim(T1, &users(batch * 10 + 1..=batch * 10 + 10)).await;
        assert_eq!(serials(&got), (u64::from(batch) * 10 + 1..=u64::from(batch) * 10 + 10).collect::<Vec<_>>());
    }
    let last = world.meta().await.last;
    assert_eq!(last, EntryId::new(1, 20));
    world.flushed(last).await;
    assert_eq!(world.serials().await, (1..=200).collect::<Vec<_>>());
    until("the queue is trimmed", async || world.meta().await.backlog == 0).await;
    until("no template is marked", async || world.meta().await.marks.is_empty()).await;
    // A retry of a stored claim is its replay, and no row.
    assert_eq!(world.claim(T1, &users(7..=7)).await, [Claimed::Replayed(7)]);
    flusher.stop().await;
    assert_eq!(world.count("user_coupons WHERE expires_at = valid_from + interval '7 days'").await, 200);
    assert_eq!(world.count("set_aside").await, 0);
    world.counted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_flushers_one_works_and_the_other_takes_over() {
    let world = World::new("two").await;
    world.template(1000, false).await;
    let first = world.flusher();
    world.opened(1).await;
    let second = world.flusher();
    world.claim(T1, &users(1..=10)).await;
    world.flushed(EntryId::new(1, 1)).await;
    assert_eq!(second.handle.position().borrow().epoch, 0, "the second one waits");
    first.stop().await;
    world.claim(T1, &users(11..=20)).await;
    world.flushed(EntryId::new(1, 2)).await;
    // The cell was open all the time: a new owner adopts it.
    assert_eq!(*second.handle.position().borrow(), Position { epoch: 1, watermark: EntryId::new(1, 2) });
    second.stop().await;
    assert_eq!(world.serials().await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_writes_nothing() {
    let world = World::new("zombie").await;
    world.template(1000, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=3)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    let archive = PgArchive::new(world.pg.own().await.unwrap(), CELL).await.unwrap();
    let mut zombie = Writer::new(archive, CELL, Duration::from_secs(10));
    let grant = Grant {
        template: T1,
        serial: 900,
        epoch: 1,
        acquired: 1_800_000_000_000,
        claim_key_hash: 1,
        user: b"zombie",
        ip_hash: None,
        device_hash: None,
    };
    let entries = [QueueEntry { id: EntryId::new(1, 2), payload: entry::encode(grant.acquired, &[grant]) }];
    // It takes the watermark to stand where it no longer stands.
    let late = zombie.write(1, EntryId::new(1, 0), &entries).await;
    assert!(matches!(late, Err(WriteFault::Zombie)), "{late:?}");
    world.sql("UPDATE cells SET epoch = 2").await;
    let old = zombie.write(1, EntryId::new(1, 1), &entries).await;
    assert!(matches!(old, Err(WriteFault::Zombie)), "{old:?}");
    assert_eq!(world.serials().await, [1, 2, 3]);
    world.counted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_opened_again_with_everything() {
    let mut world = World::new("killed").await;
    world.template(1000, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    let mut given = serials(&world.claim(T1, &users(1..=50)).await);
    for epoch in 2..5u16 {
        given.extend(serials(&world.claim(T1, &users(u32::from(epoch) * 100..=u32::from(epoch) * 100 + 49)).await));
        world.restart_redis().await;
        world.opened(epoch).await;
        assert_eq!(world.claim(T1, &users(7..=7)).await, [Claimed::Replayed(7)]);
    }
    assert_eq!(given, (1..=200).collect::<Vec<_>>());
    let last = world.meta().await.last;
    world.flushed(last).await;
    assert_eq!(world.serials().await, given);
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_set_back_gets_its_grants_back_and_gives_no_serial_twice() {
    let mut world = World::new("set-back").await;
    world.template(500, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=20)).await;
    let copy = world.copy_redis();
    world.claim(T1, &users(21..=60)).await;
    let lost_later = world.claim(T1, &users(61..=70)).await;
    assert_eq!(serials(&lost_later), (61..=70).collect::<Vec<_>>());
    world.flushed(world.meta().await.last).await;
    world.kill_redis();
    world.put_redis_back(&copy);
    world.start_redis().await;
    world.opened(2).await;
    let again = world.claim(T1, &users(1..=70)).await;
    assert_eq!(again, (1..=70).map(Claimed::Replayed).collect::<Vec<_>>(), "receipts are back");
    assert_eq!(serials(&world.claim(T1, &users(71..=80)).await), (71..=80).collect::<Vec<_>>());
    world.flushed(world.meta().await.last).await;
    assert_eq!(world.serials().await, (1..=80).collect::<Vec<_>>());
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_that_no_store_has_are_lost_and_say_so() {
    let mut world = World::new("lost").await;
    world.template(500, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=5)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    let copy = world.copy_redis();
    // Acknowledged by Redis alone, and gone with it.
    world.claim(T1, &users(6..=9)).await;
    let known = world.fate(T1, 6, 1).await;
    assert_eq!(known, Fate::Pending);
    world.kill_redis();
    world.put_redis_back(&copy);
    world.start_redis().await;
    let flusher = world.flusher();
    world.opened(2).await;
    assert_eq!(serials(&world.claim(T1, &users(20..=21)).await), [6, 7]);
    world.flushed(EntryId::new(2, 1)).await;
    let of = async |serial, epoch| world.fate(T1, serial, epoch).await;
    assert_eq!(of(6, 1).await, Fate::Lost, "another grant has the serial");
    assert_eq!(of(9, 1).await, Fate::Lost, "the history of epoch 1 is stored to its end");
    assert_eq!(of(9, 2).await, Fate::Pending);
    assert!(matches!(of(6, 2).await, Fate::Stored(row) if row.user.as_str() == "u20"));
    assert!(matches!(of(3, 1).await, Fate::Stored(row) if row.user.as_str() == "u3"));
    let (place, poller) = acks(world.pg.clone(), CELL);
    tokio::spawn(poller.run());
    let wait = async |entry, serial, epoch, ms| {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(ms);
        place.wait(Awaited { entry, template: T1, serial, epoch }, deadline).await
    };
    assert_eq!(wait(EntryId::new(1, 1), 3, 1, 10_000).await, Ack::Committed);
    assert_eq!(wait(EntryId::new(1, 2), 6, 1, 10_000).await, Ack::BeyondFinal);
    assert_eq!(wait(EntryId::new(2, 1), 6, 2, 10_000).await, Ack::Committed);
    assert_eq!(wait(EntryId::new(2, 2), 8, 2, 50).await, Ack::Unknown);
    flusher.stop().await;
}

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
async fn bad_rows_are_set_aside_and_their_neighbours_pass() {
    let world = World::new("poison").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=3)).await;
    world.flushed(EntryId::new(1, 1)).await;
    let grant = |serial, user| Grant {
        template: T1,
        serial,
        epoch: 1,
        acquired: 1_800_000_000_000,
        claim_key_hash: 77,
        user,
        ip_hash: Some(1),
        device_hash: Some(2),
    };
    let unknown = Grant { template: TemplateId(99), ..grant(1, b"a") };
    let bad = [grant(50, b"ok-1"), grant(0, b"zero"), grant(51, b"ok-2"), grant(52, b"\xff"), grant(53, b"ok-3")];
    world.push(&entry::encode(1_800_000_000_000, &bad)).await;
    world.push(b"\x01nonsense").await;
    world
        .push(&entry::encode(
            1_800_000_000_000,
            &[grant(2, b"thief"), unknown, grant(101, b"beyond"), grant(54, b"ok-4")],
        ))
        .await;
    world.claim(T1, &users(4..=5)).await;
    world.flushed(EntryId::new(1, 5)).await;
    flusher.stop().await;
    assert_eq!(world.serials().await, [1, 2, 3, 4, 5, 50, 51, 53, 54]);
    for (what, rows) in [
        ("serial = 0 AND sqlstate = '23514' AND reason = 'user_coupons_serial' AND user_ref = 'zero'", 1),
        ("serial = 52 AND reason = 'no_user_reference' AND user_ref IS NULL AND payload IS NOT NULL", 1),
        ("template_id IS NULL AND reason LIKE 'unreadable entry%' AND payload = '\\x016e6f6e73656e7365'", 1),
        ("serial = 2 AND reason = 'serial_collision' AND user_ref = 'thief' AND acquired_at IS NOT NULL", 1),
        ("template_id = 99 AND reason = 'template_unknown'", 1),
        ("serial = 101 AND reason = 'serial_beyond_stock'", 1),
        ("true", 6),
    ] {
        assert_eq!(world.count(&format!("set_aside WHERE {what}")).await, rows, "{what}");
    }
    assert_eq!(world.count("cells WHERE set_aside_rows = 6").await, 1);
    world.counted().await;
    assert_eq!(world.fate(T1, 52, 1).await, Fate::SetAside);
    let (place, poller) = acks(world.pg.clone(), CELL);
    tokio::spawn(poller.run());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    for (serial, ack) in [(52, Ack::SetAside), (51, Ack::Committed)] {
        let awaited = Awaited { entry: EntryId::new(1, 2), template: T1, serial, epoch: 1 };
        assert_eq!(place.wait(awaited, deadline).await, ack);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_grants_again_are_repeats() {
    let world = World::new("repeats").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=3)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    let hash = |user: &str| world::key_hash(user);
    let grants: Vec<_> = ["u1", "u2", "u3"]
        .iter()
        .zip(1..)
        .map(|(user, serial)| Grant {
            template: T1,
            serial,
            epoch: 1,
            acquired: 1_800_000_000_000,
            claim_key_hash: hash(user),
            user: user.as_bytes(),
            ip_hash: None,
            device_hash: None,
        })
        .collect();
    world.push(&entry::encode(1_800_000_000_000, &grants)).await;
    let flusher = world.flusher();
    world.flushed(EntryId::new(1, 2)).await;
    flusher.stop().await;
    assert_eq!((world.serials().await, world.count("set_aside").await), (vec![1, 2, 3], 0));
    world.counted().await;
}

/// What `src/sql/gifts/accept.sql` leaves of the coupon `serial`.
async fn given_away(world: &World, serial: u64) {
    let given = format!(
        "UPDATE user_coupons SET first_user_ref = coalesce(first_user_ref, user_ref), user_ref = 'receiver',
             gift_generation = gift_generation + 1 WHERE serial = {serial}"
    );
    world.sql(&given).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_delivered_again_after_its_coupon_was_given_away_is_a_repeat() {
    let world = World::new("repeats-gift").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=3)).await;
    world.flushed(EntryId::new(1, 1)).await;
    flusher.stop().await;
    given_away(&world, 2).await;
    given_away(&world, 2).await;
    given_away(&world, 3).await;
    let grant = |serial, user: &'static str, key: &str| Grant {
        template: T1,
        serial,
        epoch: 1,
        acquired: 1_800_000_000_000,
        claim_key_hash: world::key_hash(key),
        user: user.as_bytes(),
        ip_hash: None,
        device_hash: None,
    };
    let repeated = [grant(1, "u1", "u1"), grant(2, "u2", "u2"), grant(4, "u4", "u4")];
    world.push(&entry::encode(1_800_000_000_000, &repeated)).await;
    // Nobody was granted what the receiver holds now, under whatever key.
    let stolen = [grant(3, "receiver", "u3"), grant(3, "u3", "other")];
    world.push(&entry::encode(1_800_000_000_000, &stolen)).await;
    let flusher = world.flusher();
    world.flushed(EntryId::new(1, 3)).await;
    flusher.stop().await;
    let held = [(1, "u1"), (2, "receiver"), (3, "receiver"), (4, "u4")].map(|(serial, user)| (serial, user.to_owned()));
    assert_eq!(world.rows().await, held);
    assert_eq!(world.count("set_aside WHERE serial = 3 AND reason = 'serial_collision'").await, 2);
    assert_eq!(world.count("set_aside").await, 2);
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
async fn a_grant_is_waited_for_until_it_is_a_row() {
    let world = World::new("settled").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    flusher.stop().await;
    world.claim(T1, &users(1..=3)).await;

    let user = |id: &str| UserRef::from_store(id).unwrap();
    let name = |serial| CouponName { template: T1, serial, epoch: 1, gift: 0 };
    let mut impatient = world.config.clone();
    impatient.claim.postgres_wait_ms = 50;
    let start = |config| {
        let app = App::new(config, UserCodec::plain()).unwrap();
        let poller = app.ack_poller.lock().unwrap().take().unwrap();
        tokio::spawn(poller.run());
        app
    };
    let (app, impatient) = (start(world.config.clone()), start(impatient));
    let refusal = settled(&impatient, &user("u2"), &[name(2)]).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_ms.is_some()), ("unavailable", true));
    assert_eq!(refusal.extra["coupon"], app.code_key.encode(name(2)));
    // What nobody was granted, or another was, is nothing to wait for.
    settled(&impatient, &user("u2"), &[name(1), name(50), CouponName { epoch: 9, ..name(2) }]).await.unwrap();

    let (app, u2) = (app.clone(), user("u2"));
    let waiting = tokio::spawn(async move { settled(&app, &u2, &[name(50), name(2)]).await });
    let flusher = world.flusher();
    waiting.await.unwrap().unwrap();
    assert_eq!(world.serials().await, [1, 2, 3]);
    flusher.stop().await;
    // Rows are found without Redis.
    let mut world = world;
    world.kill_redis();
    settled(&impatient, &user("u2"), &[name(2)]).await.unwrap();
    assert_eq!(settled(&impatient, &user("u2"), &[name(50)]).await.unwrap_err().code, "unavailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_entries_halt_the_flusher() {
    let world = World::new("gap").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    flusher.stop().await;
    for user in 1..=4 {
        world.claim(T1, &users(user..=user)).await;
    }
    world.delete_entry(EntryId::new(1, 3)).await;
    let flusher = world.flusher();
    world.flushed(EntryId::new(1, 2)).await;
    // It goes no further, however often it looks.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.watermark().await, EntryId::new(1, 2));
    assert_eq!(world.serials().await, [1, 2]);
    flusher.abort().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_postgresql_is_survived_and_drained() {
    let mut world = World::with_own_postgres("outage").await;
    world.template(10_000, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    for round in 0..3u32 {
        let base = 1 + round * 1000;
        world.claim(T1, &users(base..=base + 99)).await;
        world.kill_postgres();
        for batch in 1..5 {
            world.claim(T1, &users(base + batch * 100..=base + batch * 100 + 99)).await;
        }
        world.start_postgres().await;
        world.flushed(world.meta().await.last).await;
    }
    assert_eq!(world.serials().await, (1..=1500).collect::<Vec<_>>());
    assert_eq!(world.meta().await.epoch, 1, "the cell stayed open");
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let mut world = World::new("ambiguous").await;
    world.template(1000, false).await;
    let proxy = world.proxy_postgres();
    let flusher = world.flusher();
    world.opened(1).await;
    for round in 0..5u32 {
        proxy.set(Weather::CutBehind(b"COMMIT\0"));
        world.claim(T1, &users(round * 10 + 1..=round * 10 + 10)).await;
        until("a commit lost its answer", async || proxy.cuts() == round + 1).await;
    }
    world.flushed(EntryId::new(1, 5)).await;
    assert_eq!(world.serials().await, (1..=50).collect::<Vec<_>>());
    assert_eq!(world.count("set_aside").await, 0);
    world.counted().await;
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrives_is_made_again() {
    let mut world = World::new("unsent").await;
    world.template(1000, false).await;
    let proxy = world.proxy_postgres();
    let flusher = world.flusher();
    world.opened(1).await;
    for round in 0..2u32 {
        proxy.set(Weather::CutBefore(b"COMMIT\0"));
        world.claim(T1, &users(round * 10 + 1..=round * 10 + 10)).await;
        until("a commit was cut off", async || proxy.cuts() == round + 1).await;
    }
    world.flushed(EntryId::new(1, 2)).await;
    assert_eq!(world.serials().await, (1..=20).collect::<Vec<_>>());
    world.counted().await;
    flusher.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_stores_what_is_on_the_queue() {
    let world = World::new("stop").await;
    world.template(100_000, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    for batch in 0..100 {
        world.claim(T1, &users(batch * 100 + 1..=batch * 100 + 100)).await;
    }
    flusher.stop().await;
    assert_eq!(world.watermark().await, EntryId::new(1, 100));
    assert_eq!(world.count("user_coupons").await, 10_000);
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
async fn openings_that_died_halfway_leave_the_cell_closed_and_openable() {
    let world = World::new("halfway").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    world.claim(T1, &users(1..=5)).await;
    flusher.stop().await;
    world.claim(T1, &users(6..=9)).await;
    // Died before Redis heard of it; then after it was closed; then after the end was recorded.
    world.sql("UPDATE cells SET epoch = 2").await;
    let flusher = world.flusher();
    world.opened(3).await;
    flusher.stop().await;
    world.sql("UPDATE cells SET epoch = 4").await;
    world.close(4).await;
    let flusher = world.flusher();
    world.opened(5).await;
    flusher.stop().await;
    world.claim(T1, &users(10..=12)).await;
    world.sql("UPDATE cells SET epoch = 6; INSERT INTO cell_openings VALUES (0, 6, 5, 1)").await;
    world.close(6).await;
    let flusher = world.flusher();
    world.opened(7).await;
    assert_eq!(serials(&world.claim(T1, &users(13..=14)).await), [13, 14]);
    world.flushed(EntryId::new(7, 1)).await;
    flusher.stop().await;
    assert_eq!(world.serials().await, (1..=14).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_went_back_twice_is_told_from_the_one_that_went_on() {
    let mut world = World::new("twice").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    flusher.stop().await;
    let mut copies = Vec::new();
    for user in 1..=3 {
        world.claim(T1, &users(user..=user)).await;
        copies.push(world.copy_redis());
    }
    // Epoch 2 goes on from 1-2, epoch 3 from 1-1, neither with a flusher that stores anything.
    for (epoch, copy) in [(2, 1), (3, 0)] {
        world.kill_redis();
        world.put_redis_back(&copies[copy]);
        world.start_redis().await;
        world
            .sql(&format!(
                "UPDATE cells SET epoch = {epoch}; INSERT INTO cell_openings VALUES (0, {epoch}, 1, {})",
                copy + 1
            ))
            .await;
    }
    // 1-2 lies before the end that epoch 2 recorded, and beyond the one of epoch 3.
    for (copy, diverged) in [(0, false), (1, true), (2, true)] {
        world.kill_redis();
        world.put_redis_back(&copies[copy]);
        world.start_redis().await;
        let judged = floodgate::grant::recover::judge(&world.pg, &world.redis, CELL).await.unwrap();
        assert_eq!(judged.is_some(), diverged, "{judged:?}");
    }
}

/// Claims, crashes, copies put back, flushers that come and go, in an order that a seed decides.
/// Repeat one with SEED=<number>.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_redis_and_postgresql_agree_in_the_end() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let mut chance: u64 = seed.unwrap_or_else(|| floodgate::clock::now_ms() as u64);
    println!("SEED={chance}");
    let mut dice = |sides: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % sides
    };
    let mut world = World::new("random").await;
    world.template(100_000, true).await;
    let mut flusher = Some(world.flusher());
    world.opened(1).await;
    let (mut next_user, mut copies) = (1, vec![world.copy_redis()]);
    for step in 0..40 {
        match dice(8) {
            0..4 => {
                let count = dice(20) as u32 + 1;
                world.claim(T1, &users(next_user..=next_user + count)).await;
                next_user += count + 1;
            }
            4 => {
                // Grants that no row knows are what makes a copy another history later.
                if let Some(running) = flusher.take_if(|_| dice(3) > 0) {
                    running.stop().await;
                    world.claim(T1, &users(next_user..=next_user)).await;
                    next_user += 1;
                }
                copies.push(world.copy_redis());
            }
            5 => match flusher.take() {
                Some(running) => running.stop().await,
                None => flusher = Some(world.flusher()),
            },
            what => {
                world.kill_redis();
                if what == 7 {
                    world.put_redis_back(&copies[dice(copies.len() as u64) as usize]);
                }
                world.start_redis().await;
                let running = flusher.take().unwrap_or_else(|| world.flusher());
                if floodgate::grant::recover::judge(&world.pg, &world.redis, CELL).await.unwrap().is_some() {
                    println!("step {step}: recover");
                    recover(&world.pg, &world.redis, CELL, &world.config, false, &|_| {}).await.unwrap();
                }
                world.open().await;
                flusher = Some(running);
            }
        }
    }
    let running = flusher.unwrap_or_else(|| world.flusher());
    world.flushed(world.meta().await.last).await;
    running.stop().await;
    let rows = world.rows().await;
    let serials: Vec<u64> = rows.iter().map(|(serial, _)| *serial).collect();
    assert_eq!(serials, (1..=rows.len() as u64).collect::<Vec<_>>(), "no stock is stranded, none given twice");
    assert_eq!(world.count("set_aside WHERE reason <> 'diverged'").await, 0);
    world.counted().await;
    for (serial, user) in &rows {
        let again = world.claim(T1, std::slice::from_ref(user)).await;
        assert_eq!(again, [Claimed::Replayed(*serial)], "{user}");
    }
    assert_eq!(world.claim(T1, &["fresh".into()]).await, [Claimed::Granted(rows.len() as u64 + 1)]);
}

/// The field of the cell's meta as a hand would set it.
async fn set_meta(world: &World, field: &str, value: &str) {
    let mut set = redis::cmd("HSET");
    world.redis.command(set.arg(world.keys().meta()).arg(field).arg(value)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_quotas_take_effect_when_the_flusher_starts_again() {
    let mut world = World::new("quotas").await;
    world.template(100, true).await;
    let flusher = world.flusher();
    world.opened(1).await;
    let user = world.config.quota.user_limit;
    assert_eq!(world.meta().await.quotas[0].0, u64::from(user));
    flusher.stop().await;
    world.set_quota(|quota| quota.user_limit = user + 3);
    let flusher = world.flusher();
    world.opened(2).await;
    assert_eq!(world.meta().await.quotas[0].0, u64::from(user + 3));
    flusher.stop().await;
    // The same settings again are no reason to open.
    let flusher = world.flusher();
    world.claim(T1, &users(1..=5)).await;
    world.flushed(world.meta().await.last).await;
    assert_eq!(world.meta().await.epoch, 2);
    flusher.stop().await;
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

/// More rows than one read takes, of users who have several, among what was set aside.
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
             WHERE i % 10000 <> 0;
             INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash,
                 acquired_at, reason)
             SELECT 0, 1, 1, 1, i, 1, 'u' || i % 30000, i, now(), 'user_coupons_serial'
             FROM generate_series(10000, {stock} - 1, 10000) AS i"
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
    world.template(50_000, false).await;
    world
        .sql(
            "INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
             SELECT 1, i, 1, 'row', i, now(), now(), now() FROM unnest(ARRAY[5, 2, 1, 4, 1000, 1001, 30000, 49999]) AS i;
             INSERT INTO set_aside (cell, entry_epoch, entry_seq, template_id, serial, epoch, user_ref, claim_key_hash,
                 acquired_at, reason)
             SELECT 0, 1, 1, 1, i, 1, u, i, now(), why
             FROM unnest(ARRAY[3, 3, 3, 3, 1001, 20000, 500, 60000], ARRAY['aside', 'b', 'c', 'd', 'e', 'aside', 'f', 'g'],
                 ARRAY['x', 'x', 'x', 'x', 'x', 'x', 'diverged', 'x']) AS aside (i, u, why)",
        )
        .await;
    let row = |serial| (serial, "row");
    let aside = |serial| (serial, "aside");
    let all = [row(1), row(2), aside(3), row(4), row(5), row(1000), row(1001), aside(20_000), row(30_000), row(49_999)];
    let expected: Vec<_> = all.iter().map(|(serial, user)| (*serial, (*user).to_owned())).collect();
    let client = world.pg.own().await.unwrap();
    for limit in [1, 2, 3, 4, 100] {
        let (mut from, mut seen) = (1, Vec::new());
        loop {
            let page = stored::read(&client, T1, limit % 2 == 0, from, 50_000, limit).await.unwrap();
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
    assert_eq!(archive.extents(&[T1]).await.unwrap(), [(T1, Extent { rows: 49_999, asides: 60_000 })]);
    for width in [300, 1000, 60_000] {
        let mut seen = Vec::new();
        for first in (1..=50_000).step_by(width) {
            let last = (first + width as u64 - 1).min(50_000);
            let found = stored::within(&client, T1, width == 300, first, last, true).await.unwrap();
            seen.extend(found.into_iter().map(|grant| (grant.receipt.serial, grant.user.unwrap())));
        }
        assert_eq!(seen, expected, "in ranges of {width}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redis_of_another_installation_is_never_opened() {
    let world = World::new("foreign").await;
    world.template(100, false).await;
    let flusher = world.flusher();
    world.opened(1).await;
    flusher.stop().await;
    set_meta(&world, "install", "another").await;
    set_meta(&world, "replid", "as after a restart").await;
    let refused = recover(&world.pg, &world.redis, CELL, &world.config, true, &|_| {}).await.unwrap_err();
    assert!(refused.contains("another installation"), "{refused}");
    assert_eq!(world.meta().await.epoch, 1, "it was touched");
}
