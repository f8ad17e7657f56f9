//! A cell is opened: for the first time, again, and after its Redis lost something.

use std::time::Duration;

use floodgate::domain::ids::EntryId;
use floodgate::grant::fate::Fate;
use floodgate::grant::recover::recover;
use floodgate::grant::watermark::{Ack, Awaited, acks};

use super::world::{CELL, Claimed, World, until};
use super::{T1, serials, set_meta, users};

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
