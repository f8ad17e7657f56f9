//! Grants become rows, once each, whatever happens to their flusher and to PostgreSQL.

use std::time::Duration;

use floodgate::app::App;
use floodgate::domain::code::CouponName;
use floodgate::domain::ids::{EntryId, TemplateId};
use floodgate::domain::user::{UserCodec, UserRef};
use floodgate::grant::cells::Position;
use floodgate::grant::entry::{self, Grant};
use floodgate::grant::fate::Fate;
use floodgate::grant::queue::QueueEntry;
use floodgate::grant::stores::postgres::PgArchive;
use floodgate::grant::watermark::{Ack, Awaited, acks};
use floodgate::grant::writer::{WriteFault, Writer};
use floodgate::wallet::settle::settled;

use super::world::{self, CELL, World, until};
use super::{T1, given_away, users};
use crate::support::proxy::Weather;

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
