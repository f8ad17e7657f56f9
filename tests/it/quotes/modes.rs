//! Modes, dry runs, coupons of every state, and wallets of every size.

use floodgate::clock::now_ms;
use floodgate::domain::window::rfc3339;

use super::*;

#[tokio::test]
async fn a_grant_that_is_no_row_yet_is_quoted() {
    let mut app = TestApp::plan("quotes-unflushed").process("gateway,worker").process("flusher,worker").start().await;
    let id = app.publish(voucher("5.00")).await;
    app.kill9(1);
    let till = Till::open(app).await;
    let code = till.claim(id, "quick").await;
    let goods = order("quick", &[("d-1", "c", "m-1", "50.00")]);
    for coupons in [Value::Null, json!([code])] {
        let quote = till.quote_with(json!({"order": goods, "coupons": coupons})).await;
        assert_eq!(totals(&quote), ("5.00", "45.00"), "{coupons}");
        assert_eq!(quote["coupons"][0]["code"], code);
    }
    let strange = till.post(json!({"order": order("slow", &[("d-1", "c", "m-1", "50.00")]), "coupons": [code]})).await;
    assert_eq!(strange.code(), "coupon_not_yours");
    assert_eq!(till.app.rows(id).await, []);
}

#[tokio::test]
async fn modes_dry_runs_and_the_states_of_coupons() {
    let till = Till::open(TestApp::start("quotes-modes").await).await;
    let user = "u-1";
    let goods = order(user, &[("d-1", "c", "m-1", "50.00")]);
    let (small, small_code) = till.coupon(voucher("3.00"), user).await;
    let (large, large_code) = till.coupon(voucher("8.00"), user).await;

    // Given: the chosen set, best or not. Rank: each by itself, the best first.
    let given = json!({"order": goods, "coupons": [small_code], "mode": "given"});
    assert_eq!(totals(&till.quote_with(given).await), ("3.00", "47.00"));
    let lower = json!({"order": goods, "coupons": [small_code.to_lowercase()], "mode": "GIVEN"});
    assert_eq!(used(&till.quote_with(lower).await), [small]);
    let both = json!({"order": goods, "coupons": [small_code, large_code], "mode": "given"});
    let quote = till.quote_with(both).await;
    assert_eq!((totals(&quote), used(&quote)), (("0.00", "50.00"), vec![]));
    assert_eq!((reason(&quote, small), reason(&quote, large)), ("not_stackable", "not_stackable"));
    assert_eq!(quote.get("optimal"), None, "{quote}");
    // All or none: a third that clashes with nothing is not used by itself, and is in nobody's way.
    let (other, other_code) = till.coupon(of_merchant(voucher("1.00"), "m-1"), user).await;
    let three = json!({"order": goods, "coupons": [small_code, large_code, other_code], "mode": "given"});
    let quote = till.quote_with(three).await;
    assert_eq!((totals(&quote).0, ids(&quote["unusable"])), ("0.00", vec![small, large]));
    let two = json!({"order": goods, "coupons": [other_code, large_code], "mode": "given"});
    let quote = till.quote_with(two).await;
    assert_eq!((totals(&quote).0, used(&quote), ids(&quote["unusable"])), ("9.00", vec![large, other], vec![]));
    until("it is a row", async || till.app.rows(other).await.len() == 1).await;
    let spend = "UPDATE user_coupons SET status = 4 WHERE template_id = $1";
    till.app.sql().await.execute(spend, &[&(other as i32)]).await.unwrap();
    let rank = till.quote_with(json!({"order": goods, "mode": "rank"})).await;
    assert_eq!(rank["complete"], true);
    let ranked = rank["ranked"].as_array().unwrap();
    assert_eq!(ranked.iter().map(|one| used(one)[0]).collect::<Vec<_>>(), [large, small]);
    assert_eq!((totals(&ranked[0]), totals(&ranked[1])), (("8.00", "42.00"), ("3.00", "47.00")));

    // What is issued stays valid when its template is paused or stopped.
    till.app.pause(large).await;
    assert_eq!(totals(&till.quote(goods.clone()).await).0, "8.00");
    till.app.end(large).await;
    assert_eq!(totals(&till.quote(goods.clone()).await).0, "8.00");

    // A dry run: templates that nobody has published or holds, and another time.
    let draft = till.app.draft(voucher("20.00")).await;
    let quote = till.quote_with(json!({"order": goods, "trial_templates": [draft]})).await;
    assert_eq!((totals(&quote).0, used(&quote)), ("20.00", vec![draft]));
    let nothing = till.post(json!({"order": goods, "trial_templates": [draft, 999_999]})).await;
    assert_eq!(fields(&nothing), field("trial_templates[1]", "unknown_value"));
    let later = rfc3339(chrono_tz::UTC, now_ms() + 8 * 86_400_000);
    let quote = till.quote_with(json!({"order": goods, "now": later})).await;
    assert_eq!((totals(&quote).0, reason(&quote, small), reason(&quote, large)), ("0.00", "expired", "expired"));
    // Both at once: what the draft would do a week from now, when nothing else holds.
    let quote = till.quote_with(json!({"order": goods, "now": later, "trial_templates": [draft]})).await;
    assert_eq!((totals(&quote).0, used(&quote), reason(&quote, small)), ("20.00", vec![draft], "expired"));
    let earlier = rfc3339(chrono_tz::UTC, now_ms() - 86_400_000);
    let quote = till.quote_with(json!({"order": goods, "now": earlier})).await;
    assert_eq!((totals(&quote).0, reason(&quote, small)), ("0.00", "not_yet_valid"));

    // Each state has its word. The time of an order counts within five minutes of the clock.
    until("the coupons are rows", async || till.app.rows(large).await.len() + till.app.rows(small).await.len() == 2)
        .await;
    let sql = till.app.sql().await;
    for (status, word) in [(2i16, "locked"), (3, "offered"), (4, "used"), (6, "revoked"), (5, "expired")] {
        let statement = "UPDATE user_coupons SET status = $2::int2,
            expires_at = CASE $2::int2 WHEN 5 THEN now() - interval '1 hour' ELSE expires_at END WHERE template_id = $1";
        sql.execute(statement, &[&(large as i32), &status]).await.unwrap();
        let quote = till.quote_with(json!({"order": goods, "coupons": [large_code, small_code]})).await;
        assert_eq!((reason(&quote, large), used(&quote)), (word, vec![small]));
        let all = till.quote(goods.clone()).await;
        assert_eq!(used(&all), [small]);
        assert_eq!(ids(&all["unusable"]).len(), usize::from(matches!(status, 2 | 3 | 5)), "{all}");
    }
    let soon = "UPDATE user_coupons SET expires_at = now() + interval '2 minutes' WHERE template_id = $1";
    sql.execute(soon, &[&(small as i32)]).await.unwrap();
    for (minutes, discount) in [(0, "3.00"), (3, "0.00"), (6, "3.00")] {
        let mut goods = goods.clone();
        goods["placed_at"] = rfc3339(chrono_tz::UTC, now_ms() + minutes * 60_000).into();
        assert_eq!(totals(&till.quote(goods).await).0, discount, "{minutes}");
    }
    till.app.stop().await;
}

#[tokio::test]
async fn a_wallet_of_any_size_is_quoted_within_bounds() {
    let till = Till::open(TestApp::start("quotes-large").await).await;
    let stackable =
        template("CASH_VOUCHER", json!({"amount": 1}), &[rule("STACKABILITY", json!({"allow_stacking": true}))]);
    let (small, large) = (till.app.publish(voucher("3.00")).await, till.app.publish(stackable).await);
    let sql = till.app.sql().await;
    let fill = async |template: i64, from: i64, to: i64, expires: &str| {
        let statement = format!(
            "INSERT INTO user_coupons
                (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
            SELECT $1, s, 1, 'rich', s, now(), now(), now() + interval '{expires}' + s * interval '1 second'
            FROM generate_series($2::int8, $3::int8) s"
        );
        sql.execute(&statement, &[&(template as i32), &from, &to]).await.unwrap();
    };
    let lines: Vec<(&str, &str, &str, &str)> = vec![("d-1", "c", "m-1", "10.00"); 50];
    let goods = order("rich", &lines);

    // The first to expire are priced, and that there are more is said. What is over comes last.
    fill(large, 1, 300, "1 day").await;
    fill(small, 1, 199, "2 days").await;
    fill(small, 200, 260, "-1 day").await;
    let quote = till.quote(goods.clone()).await;
    assert_eq!((quote["optimal"].as_bool(), totals(&quote)), (Some(true), ("300.00", "200.00")));
    assert_eq!(ids(&quote["coupons"]).len() + ids(&quote["unusable"]).len(), 500);
    assert_eq!(reason(&quote, small), "not_stackable");
    fill(large, 301, 302, "1 day").await;
    let quote = till.quote(goods.clone()).await;
    assert_eq!((quote["optimal"].as_bool(), totals(&quote).0), (Some(false), "302.00"));

    // Many at once wait their turn.
    let rank = json!({"order": goods, "mode": "rank"});
    let waiting: Vec<_> = (0..8).map(|_| till.post(rank.clone())).collect();
    for answer in futures_util::future::join_all(waiting).await {
        assert_eq!((answer.status, answer.json["ranked"].as_array().unwrap().len()), (200, 500));
        assert_eq!(answer.json["complete"], false);
    }
    till.app.stop().await;
}
