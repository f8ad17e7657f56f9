//! Links between shoppers, processes and stores: slow, in crumbs, half-open, cut in the middle.

use std::time::Duration;

use super::{Area, Scene, fault};
use crate::support::app::{TestApp, coupons, until};
use crate::support::proxy::{Proxy, Weather};

const FLUSHER: usize = 2;

type Link = fn(&TestApp) -> &Proxy;

/// A link by its name, and which of it.
const LINKS: [(&str, Link); 4] = [
    ("shoppers and a gateway", |app| &app.gateway(0).links().shoppers),
    ("a gateway and Redis", |app| &app.gateway(0).links().redis),
    ("the flusher and Redis", |app| &app.gateway(FLUSHER).links().redis),
    ("the flusher and PostgreSQL", |app| &app.gateway(FLUSHER).links().postgres),
];

/// What is wrong with it, and whether that belongs to the quick form, too.
const WEATHERS: [(&str, Weather, bool); 6] = [
    ("is 50 ms late", Weather::Late(Duration::from_millis(50)), false),
    ("passes one byte at a time", Weather::Crumbs, false),
    ("is half-open", Weather::HalfOpen, true),
    ("is down", Weather::Down, false),
    ("is cut in mid-reply", Weather::CutAnswersAfter(700), true),
    ("is cut in mid-request", Weather::CutRequestsAfter(700), false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_of_every_kind() {
    let plan = TestApp::plan("faults-links").process("gateway").linked().process("gateway");
    let mut area = Area::of(plan.process("flusher,worker").linked()).await;
    for (between, link) in LINKS {
        for (what, weather, quick) in WEATHERS {
            let bad = fault(format!("the link between {between} {what}")).full_only(!quick);
            area.play(bad, async |scene: &mut Scene<'_>| {
                let cuts = link(scene.app).cuts();
                link(scene.app).set(weather);
                lasts(scene, link, weather, cuts).await;
                link(scene.app).set(Weather::Clear);
            })
            .await;
        }
    }
    let commit = fault("the link between the flusher and PostgreSQL is cut right behind a COMMIT");
    area.play(commit, async |scene: &mut Scene<'_>| {
        let postgres: Link = |app| &app.gateway(FLUSHER).links().postgres;
        let cuts = postgres(scene.app).cuts();
        let weather = Weather::CutBehind(b"COMMIT\0");
        postgres(scene.app).set(weather);
        lasts(scene, postgres, weather, cuts).await;
    })
    .await;
    area.close().await;
}

/// A batch may be on its way though its connection is gone. Until its deadline nobody knows; a retry that
/// would be refused is told so, and not refused.
#[tokio::test]
async fn a_retry_is_not_refused_while_the_first_try_may_still_execute() {
    const DEADLINE_MS: u64 = 4_000;
    let plan = TestApp::plan("faults-late").process("gateway").linked().process("flusher,worker");
    let app = plan.set("CLAIM_DEADLINE_MS", DEADLINE_MS).set("CLAIM_WAIT_MAX_MS", 400).start().await;
    let (id, elsewhere) = (app.publish(coupons(10)).await, app.publish(coupons(10)).await);
    let link = &app.gateway(0).links().redis;
    let (first, ()) = tokio::join!(app.claim(id, "u-late", "k-late", &[]), async {
        link.set(Weather::CutAndLate(b"u-late", Duration::from_millis(DEADLINE_MS / 2)));
        until("the batch has lost its connection", async || link.cuts() == 1).await;
        app.blacklist("user", "u-late").await;
        until("the user is blocked", async || app.claim(elsewhere, "u-late", "", &[]).await.code() == "blocked").await;
        let retried = app.claim(id, "u-late", "k-late", &[]).await;
        assert_eq!((retried.status, retried.code()), (504, "outcome_unknown"), "{retried:?}");
    });
    // It arrived, and what it granted was looked up behind the deadline.
    assert_eq!(first.code(), "granted", "{first:?}");
    let again = app.claim(id, "u-late", "k-late", &[]).await;
    assert_eq!((again.code(), &again.json["coupon"]), ("replayed", &first.json["coupon"]));
    app.stop().await;
}

/// A cut is a moment; everything else lasts beyond the deadlines of claims.
async fn lasts(scene: &Scene<'_>, link: Link, weather: Weather, cuts: u32) {
    match weather {
        Weather::CutAnswersAfter(_) | Weather::CutRequestsAfter(_) | Weather::CutBehind(_) => {
            until("a connection was cut", async || link(scene.app).cuts() > cuts).await;
        }
        _ => scene.lasts(1_400).await,
    }
}
