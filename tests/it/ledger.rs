//! `floodgate ledger check`: silent while everything balances, and each kind of tampering is named.

use super::support::app::{TestApp, coupons, until};
use super::support::ledger::{balances, check, issue, number, sweep_now};

/// Orders as the shop would have made them: `o-1` is used and partly refunded, `o-2` is locked, `o-3` was cancelled.
fn orders(template: i64) -> String {
    let operation = |serial: i64, word: &str, from: i64, to: i64, cause: &str| {
        format!(
            "INSERT INTO coupon_operations (template_id, serial, operation, from_status, to_status, user_ref,
                 gift_generation, cause_kind, cause_id, actor)
             VALUES ({template}, {serial}, '{word}', {from}, {to}, 'holder-{serial}', 0, 'order', '{cause}', 'key:1');"
        )
    };
    let redemption = |order: &str, status: &str, used: &str, reversed: &str| {
        format!(
            "INSERT INTO redemptions (order_id, status, checkout_id, user_ref, request_sha256, currency, placed_order,
                 goods_total, shipping_total, discount_total, payable, reversed_total, locked_at,
                 lock_expires_at, used_at)
             VALUES ('{order}', '{status}', 'c', 'u', '', 'CNY', '{{\"order\": {{\"lines\":
                 [{{\"line_id\": \"1\", \"unit_price\": \"20.00\", \"quantity\": 2}}]}}}}',
                 40, 8, 6, 42, {reversed}, now(), now() + interval '1 hour', {used});"
        )
    };
    let coupon = |order: &str, serial: i64, state: &str, reversed: &str| {
        format!(
            "INSERT INTO redemption_coupons (order_id, template_id, serial, epoch, gift_generation, position, state,
                 user_ref, kind, issuer, issuer_id, discount, gift_value, shares, reversed, valid_from, expires_at)
             VALUES ('{order}', {template}, {serial}, 1, 0, 0, '{state}', 'holder-{serial}', 'cash_voucher',
                 'platform', '', 6, 3, '{{\"lines\": [{{\"line_id\": \"1\", \"share\": \"5.00\"}}], \"shipping\":
                 [{{\"merchant_id\": \"m\", \"share\": \"1.00\"}}], \"gifts\": []}}', {reversed}, now(), now());"
        )
    };
    let entry = |subject: &str, amount: &str, refund: &str| {
        format!(
            "INSERT INTO settlement_entries (entry, side, party, party_id, currency, amount, order_id, refund_id,
                 template_id, serial, subject, subject_id)
             SELECT e.id, s.side, s.party, '', 'CNY', s.amount, 'o-1', {refund}, {template}, 1, '{subject}', '1'
             FROM (SELECT gen_random_uuid() AS id) e, LATERAL (VALUES ('bearer', 'platform', -({amount})),
                 ('beneficiary', 'merchant', {amount})) AS s (side, party, amount);"
        )
    };
    let counters = format!(
        "INSERT INTO coupon_counters (template_id, day, slot, locked, used, orders, discount_total, discount_reversed,
             gift_total, revenue, revenue_refunded)
         VALUES ({template}, (now() AT TIME ZONE 'Asia/Shanghai')::date, 99, 1, 1, 1, 6, 2.5, 3, 42, 17.5);"
    );
    let refund = "INSERT INTO refunds (refund_id, order_id, request_sha256, reason, shipping_refunded, reversed_total,
            outcome) VALUES ('r-1', 'o-1', '', 'r', false, 2.5, '{}');
        INSERT INTO refund_lines VALUES ('r-1', '1', 1, 2.5);";
    [
        "BEGIN;".to_owned(),
        redemption("o-1", "partially_refunded", "now()", "2.5"),
        redemption("o-2", "locked", "NULL", "0"),
        redemption("o-3", "cancelled", "NULL", "0"),
        coupon("o-1", 1, "used", "2.5"),
        coupon("o-2", 2, "locked", "0"),
        coupon("o-3", 3, "released", "0"),
        operation(1, "lock", 1, 2, "o-1"),
        operation(1, "confirm", 2, 4, "o-1"),
        operation(2, "lock", 1, 2, "o-2"),
        operation(3, "lock", 1, 2, "o-3"),
        operation(3, "cancel", 2, 1, "o-3"),
        format!("UPDATE user_coupons SET status = 4 WHERE template_id = {template} AND serial = 1;"),
        format!("UPDATE user_coupons SET status = 2 WHERE template_id = {template} AND serial = 2;"),
        entry("line", "5.00", "NULL"),
        entry("shipping", "1.00", "NULL"),
        entry("gift", "3.00", "NULL"),
        refund.to_owned(),
        entry("line", "-2.50", "'r-1'"),
        counters,
        "COMMIT".to_owned(),
    ]
    .concat()
}

#[tokio::test]
async fn every_kind_of_tampering_is_named() {
    let app = TestApp::start("ledger-tampered").await;
    let (id, other) = (app.publish(coupons(100)).await, app.publish(coupons(100)).await);
    issue(&app, id, 1..=10, "now() + interval '1 day'").await;
    issue(&app, other, 1..=5, "now() - interval '1 day'").await;
    sweep_now(&app).await;
    until("five are expired", async || number(&app, "SELECT count(*) FROM user_coupons WHERE status = 5").await == 5)
        .await;
    let sql = app.sql().await;
    sql.batch_execute(&orders(id)).await.unwrap();
    balances(&app);

    // What is done, undone, and what must be said of it.
    let of = |column: &str| {
        format!("UPDATE coupon_counters SET {column} = {column} + 1 WHERE template_id = {id} AND slot = 99")
    };
    let back = |column: &str| {
        format!("UPDATE coupon_counters SET {column} = {column} - 1 WHERE template_id = {id} AND slot = 99")
    };
    let counters = [
        "issued",
        "locked",
        "used",
        "restored",
        "expired",
        "revoked",
        "gifted",
        "orders",
        "discount_total",
        "discount_reversed",
        "gift_total",
        "gift_reversed",
        "revenue",
        "revenue_refunded",
    ];
    let mut cases: Vec<(String, String, String)> = counters
        .iter()
        .map(|column| (of(column), back(column), format!("template {id}, counter {column} of ")))
        .collect();
    let mut case = |does: &str, undoes: &str, says: &str| cases.push((does.into(), undoes.into(), says.into()));
    let coupon = |serial: i64| format!("template {id}, coupon {serial}, ");
    let at = |serial: i64| format!("template_id = {id} AND serial = {serial}");
    case(
        &format!("UPDATE user_coupons SET status = 6 WHERE {}", at(4)),
        &format!("UPDATE user_coupons SET status = 1 WHERE {}", at(4)),
        &format!("{}is in status 6 and gift generation 0, but has no operation", coupon(4)),
    );
    case(
        &format!("UPDATE user_coupons SET status = 1 WHERE {}", at(1)),
        &format!("UPDATE user_coupons SET status = 4 WHERE {}", at(1)),
        &format!("{}is in status 1, but its last operation (confirm) left it in status 4", coupon(1)),
    );
    case(
        &format!("UPDATE user_coupons SET status = 1 WHERE {}", at(2)),
        &format!("UPDATE user_coupons SET status = 2 WHERE {}", at(2)),
        &format!("{}order o-2, is in status none, but its order has it locked", coupon(2)),
    );
    case(
        &format!("UPDATE user_coupons SET user_ref = 'thief' WHERE {}", at(3)),
        &format!("UPDATE user_coupons SET user_ref = 'holder-3' WHERE {}", at(3)),
        &format!("{}is in other hands", coupon(3)),
    );
    case(
        &format!("UPDATE user_coupons SET gift_generation = 1 WHERE {}", at(5)),
        &format!("UPDATE user_coupons SET gift_generation = 0 WHERE {}", at(5)),
        &format!("{}is in status 1 and gift generation 1, but has no operation", coupon(5)),
    );
    case(
        &format!("UPDATE user_coupons SET gift_generation = 2 WHERE {}", at(3)),
        &format!("UPDATE user_coupons SET gift_generation = 0 WHERE {}", at(3)),
        &format!("{}is in gift generation 2, but its last operation left it in 0", coupon(3)),
    );
    case(
        &format!("UPDATE user_coupons SET serial = 77 WHERE {}", at(3)),
        &format!("UPDATE user_coupons SET serial = 3 WHERE {}", at(77)),
        &format!("{}has operations, but there is no such coupon", coupon(3)),
    );
    case(
        &format!("UPDATE user_coupons SET acquired_at = acquired_at + interval '1 day' WHERE {}", at(6)),
        &format!("UPDATE user_coupons SET acquired_at = acquired_at - interval '1 day' WHERE {}", at(6)),
        &format!("template {id}, counter issued of "),
    );
    case(
        &format!("UPDATE coupon_operations SET from_status = 3 WHERE {} AND operation = 'confirm'", at(1)),
        &format!("UPDATE coupon_operations SET from_status = 2 WHERE {} AND operation = 'confirm'", at(1)),
        "(confirm) starts from status 3, but the coupon was in status 2",
    );
    case(
        &format!("UPDATE coupon_operations SET operation = 'accept' WHERE {} AND operation = 'confirm'", at(1)),
        &format!("UPDATE coupon_operations SET operation = 'confirm' WHERE {} AND operation = 'accept'", at(1)),
        "(accept) leads from status 2 to 4, which it never does",
    );
    case(
        &format!(
            "CREATE TABLE gone AS SELECT * FROM coupon_operations WHERE {} AND operation = 'lock';
            DELETE FROM coupon_operations WHERE {} AND operation = 'lock'",
            at(1),
            at(1)
        ),
        "INSERT INTO coupon_operations OVERRIDING SYSTEM VALUE SELECT * FROM gone; DROP TABLE gone",
        "(confirm) starts from status 2, but the coupon was in status 1",
    );
    case(
        "DROP INDEX redemption_coupons_once;
            UPDATE redemption_coupons SET serial = 2, state = 'locked' WHERE order_id = 'o-3'",
        "UPDATE redemption_coupons SET serial = 3, state = 'released' WHERE order_id = 'o-3';
            CREATE UNIQUE INDEX redemption_coupons_once ON redemption_coupons (template_id, serial)
                WHERE state IN ('locked', 'used')",
        &format!("{}order o-2, o-3, is held by 2 orders", coupon(2)),
    );
    case(
        "UPDATE redemption_coupons SET state = 'released' WHERE order_id = 'o-2'",
        "UPDATE redemption_coupons SET state = 'locked' WHERE order_id = 'o-2'",
        &format!("{}is in status 2, but no order holds it", coupon(2)),
    );
    case(
        "UPDATE redemptions SET status = 'timed_out' WHERE order_id = 'o-2'",
        "UPDATE redemptions SET status = 'locked' WHERE order_id = 'o-2'",
        "order o-2, it is timed_out, its coupons are locked",
    );
    case(
        "UPDATE redemptions SET discount_total = 7 WHERE order_id = 'o-2'",
        "UPDATE redemptions SET discount_total = 6 WHERE order_id = 'o-2'",
        "order o-2, its discount is 7.0000, its coupons say 6.0000",
    );
    case(
        "UPDATE redemptions SET payable = 43 WHERE order_id = 'o-1'",
        "UPDATE redemptions SET payable = 42 WHERE order_id = 'o-1'",
        &format!("template {id}, counter revenue of "),
    );
    case(
        "UPDATE redemptions SET reversed_total = 3 WHERE order_id = 'o-1'",
        "UPDATE redemptions SET reversed_total = 2.5 WHERE order_id = 'o-1'",
        "order o-1, it has 3.0000 reversed, its refunds say 2.5000",
    );
    case(
        "UPDATE redemption_coupons SET reversed = 2 WHERE order_id = 'o-1'",
        "UPDATE redemption_coupons SET reversed = 2.5 WHERE order_id = 'o-1'",
        &format!("{}order o-1, settlement entries reverse 2.5000, the coupon has 2.0000 reversed", coupon(1)),
    );
    case(
        "UPDATE redemption_coupons SET gift_value = 4 WHERE order_id = 'o-1'",
        "UPDATE redemption_coupons SET gift_value = 3 WHERE order_id = 'o-1'",
        &format!("{}order o-1, settlement entries add up to 9.0000, discount and gifts to 10.0000", coupon(1)),
    );
    case(
        "UPDATE redemption_coupons SET shares = jsonb_set(shares, '{lines,0,share}', '\"4.99\"') WHERE order_id = 'o-2'",
        "UPDATE redemption_coupons SET shares = jsonb_set(shares, '{lines,0,share}', '\"5.00\"') WHERE order_id = 'o-2'",
        &format!("{}order o-2, its shares add up to 5.99, its discount is 6.0000", coupon(2)),
    );
    case(
        "UPDATE settlement_entries SET amount = amount + 0.01 WHERE side = 'bearer' AND subject = 'gift'",
        "UPDATE settlement_entries SET amount = amount - 0.01 WHERE side = 'bearer' AND subject = 'gift'",
        "add up to 0.0100",
    );
    case(
        "UPDATE settlement_entries SET order_id = 'o-9' WHERE side = 'beneficiary' AND subject = 'gift'",
        "UPDATE settlement_entries SET order_id = 'o-1' WHERE side = 'beneficiary' AND subject = 'gift'",
        &format!("{}order o-9, has settlement entries, but the order has no such coupon", coupon(1)),
    );
    case(
        "CREATE TABLE gone AS SELECT * FROM settlement_entries WHERE side = 'bearer' AND subject = 'shipping';
            DELETE FROM settlement_entries WHERE side = 'bearer' AND subject = 'shipping'",
        "INSERT INTO settlement_entries OVERRIDING SYSTEM VALUE SELECT * FROM gone; DROP TABLE gone",
        "has 1 sides instead of 2",
    );
    case(
        "UPDATE refund_lines SET quantity = 2",
        "UPDATE refund_lines SET quantity = 1",
        &format!("template {id}, counter revenue_refunded of "),
    );
    for (does, undoes, says) in cases {
        sql.batch_execute(&does).await.unwrap();
        let (clean, said) = check(&app, &[]);
        assert!(!clean && said.lines().any(|line| line.contains(&says)), "{does}\nshould say: {says}\nsaid:\n{said}");
        let (clean, _) = check(&app, &["--template", &other.to_string()]);
        assert!(clean, "{does} is none of the other template's");
        sql.batch_execute(&undoes).await.unwrap();
    }
    balances(&app);
    let (clean, said) = check(&app, &["--template", &id.to_string()]);
    assert!(clean, "{said}");

    for wrong in ["0", "x", "-1"] {
        assert_eq!(app.command(&["ledger", "check", "--template", wrong]).status.code(), Some(2));
    }
    app.stop().await;
}

/// A zone that PostgreSQL does not know must not hold the flusher up: days are then UTC's, on both sides.
#[tokio::test]
async fn a_time_zone_that_postgresql_does_not_know_counts_by_utc() {
    let app = TestApp::start("ledger-zone").await;
    let id = app.publish(coupons(10)).await;
    let unknown = format!(
        "UPDATE coupon_templates SET definition = jsonb_set(definition, '{{timezone}}', '\"Mars/Olympus\"') WHERE id = {id}"
    );
    assert_eq!(app.claim(id, "u-1", "k", &[]).await.code(), "granted");
    until("it is stored, and its terms are known", async || app.rows(id).await.len() == 1).await;
    app.sql().await.batch_execute(&unknown).await.unwrap();
    assert_eq!(app.claim(id, "u-2", "k", &[]).await.code(), "granted");
    until("it is stored, too", async || app.rows(id).await.len() == 2).await;
    let utc = format!(
        "SELECT sum(issued) FROM coupon_counters WHERE template_id = {id}
            AND day IN ((now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'Asia/Shanghai')::date)"
    );
    assert_eq!(number(&app, &utc).await, 2);
    let by_utc = format!("SELECT usable_timezone(timezone) = 'UTC' FROM coupon_templates WHERE id = {id}");
    assert!(app.sql().await.query_one(&by_utc, &[]).await.unwrap().get::<_, bool>(0));
    app.stop().await;
}

#[tokio::test]
async fn drift_shows_as_a_gauge_and_goes_when_it_is_mended() {
    let app = TestApp::plan("ledger-drift").set("WORKER_LEDGER_LOOK_PAUSE_S", 1).start().await;
    let id = app.publish(coupons(10)).await;
    issue(&app, id, 1..=3, "now() + interval '1 day'").await;
    let drift = async |expected: f64| {
        until("the gauge shows it", async || app.gateway(0).metric("floodgate_ledger_drift").await == Some(expected))
            .await;
    };
    let status = async |status: i64| {
        let change = format!("UPDATE user_coupons SET status = {status} WHERE template_id = {id} AND serial = 2");
        app.sql().await.batch_execute(&change).await.unwrap();
    };
    status(6).await;
    drift(1.0).await;
    status(1).await;
    drift(0.0).await;
    app.stop().await;
}
