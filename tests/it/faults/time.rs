//! Clocks that jump, and days that have no 24 hours.

use chrono::DateTime;
use floodgate::clock::now_ms;
use floodgate::domain::window::Millis;
use serde_json::json;

use super::{Area, Scene, fault};
use crate::support::app::{TestApp, coupons, until};

const HOUR: Millis = 3_600_000;

/// Zone, and beginning and end of a local day on which its clocks change, or no longer do.
const DAYS: [(&str, &str, &str); 8] = [
    ("America/New_York", "2037-03-08T00:00:00-05:00", "2037-03-09T00:00:00-04:00"),
    ("Europe/London", "2037-03-29T00:00:00Z", "2037-03-30T00:00:00+01:00"),
    ("Australia/Lord_Howe", "2037-04-05T00:00:00+11:00", "2037-04-06T00:00:00+10:30"),
    ("Australia/Lord_Howe", "2037-10-04T00:00:00+10:30", "2037-10-05T00:00:00+11:00"),
    // Brazil gave its summer time up in 2019: October's third Sunday has 24 hours.
    ("America/Sao_Paulo", "2037-10-18T00:00:00-03:00", "2037-10-19T00:00:00-03:00"),
    ("Europe/London", "2037-10-25T00:00:00+01:00", "2037-10-26T00:00:00Z"),
    ("America/New_York", "2037-11-01T00:00:00-04:00", "2037-11-02T00:00:00-05:00"),
    // Iran gave it up in 2022.
    ("Asia/Tehran", "2038-03-22T00:00:00+03:30", "2038-03-23T00:00:00+03:30"),
];

fn at(time: &str) -> Millis {
    DateTime::parse_from_rfc3339(time).unwrap().timestamp_millis()
}

/// Through gateway, lane and script: the day's coupon is given in its first seconds, none more in its last,
/// and the next day's thereafter.
#[tokio::test]
async fn a_day_is_as_long_as_the_calendar_says() {
    let app = TestApp::plan("faults-days").clock().start().await;
    for (number, (zone, begins, ends)) in DAYS.into_iter().enumerate() {
        let mut definition = coupons(10);
        definition["timezone"] = json!(zone);
        definition["limits"] = json!({"per_user": 9, "per_user_daily": 1});
        definition["claim_window"] = json!({"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2100-01-01T00:00:00Z"});
        let id = app.publish(definition).await;
        let user = format!("u-{number}");
        for (key, time, outcome) in [
            ("first", at(begins) + 5_000, "granted"),
            ("last", at(ends) - 60_000, "user_daily_limit_reached"),
            ("next", at(ends) + 5_000, "granted"),
        ] {
            app.set_clock(0, time - now_ms());
            let answer = app.claim(id, &user, key, &[]).await;
            assert_eq!(answer.code(), outcome, "{zone}, {key} of {begins}: {answer:?}");
        }
    }
    println!(
        "| both clock changes in New York, London and Lord Howe, none in Sao Paulo and Tehran | {} | a day limit is the local day's | holds |",
        DAYS.len()
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump() {
    let plan = TestApp::plan("faults-clock").clock().process("gateway").process("gateway").process("flusher,worker");
    let mut area = Area::of(plan).await;
    // Ahead and back to where it was: the journal's times are the machine's.
    let behind = fault("Redis' clock is set back by an hour, and mended").also("the cell refuses meanwhile");
    area.play(behind, set_back).await;
    area.close().await;

    let app = TestApp::plan("faults-ahead").clock().start().await;
    let id = app.publish(coupons(10)).await;
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "granted");
    app.set_clock(0, HOUR);
    assert_eq!(app.claim(id, "u-2", "k", &[]).await.code(), "granted", "an hour later");
    app.set_clock(0, 0);
    refuses(&app, id).await;
    // A receipt is not looked up by a clock that is wrong either: nothing is said that a right one would not.
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "unavailable");
    app.set_clock(0, HOUR);
    until("claims go on", async || app.claim(id, "u-3", "k", &[]).await.code() == "granted").await;
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "replayed");
    until("every grant is a row", async || app.rows(id).await.len() == 3).await;
    println!(
        "| Redis' clock is set an hour ahead, back, and ahead again | 1 | the cell refuses what lies behind its latest time | holds |"
    );
    app.stop().await;
}

async fn refuses(app: &TestApp, id: i64) {
    until("the cell refuses", async || app.claim(id, "u-0", "", &[]).await.code() == "unavailable").await;
}

async fn set_back(scene: &mut Scene<'_>) {
    scene.app.set_clock(0, -HOUR);
    refuses(scene.app, scene.template.into()).await;
    scene.lasts(200).await;
    scene.app.set_clock(0, 0);
}
