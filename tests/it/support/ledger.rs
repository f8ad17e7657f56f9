//! Coupons by the thousand, and the ledger checked by the command that operators use.

use super::app::TestApp;

/// Makes `serials` of a template rows, each of a user of its own, expiring at an SQL expression, and counts them
/// as the flusher would.
pub async fn issue(app: &TestApp, template: i64, serials: std::ops::RangeInclusive<i64>, expires: &str) {
    let (first, last) = (serials.start(), serials.end());
    let statement = format!(
        "INSERT INTO user_coupons (template_id, serial, epoch, user_ref, claim_key_hash, acquired_at, valid_from, expires_at)
         SELECT {template}, n, 1, 'holder-' || n, n, now() - interval '30 days', now() - interval '30 days', {expires}
         FROM generate_series({first}::int8, {last}::int8) n;
         INSERT INTO coupon_counters (template_id, day, slot, issued)
         SELECT {template}, ((now() - interval '30 days') AT TIME ZONE 'Asia/Shanghai')::date, 99, {last} - {first} + 1
         ON CONFLICT (template_id, day, slot) DO UPDATE SET issued = coupon_counters.issued + excluded.issued"
    );
    app.sql().await.batch_execute(&statement).await.unwrap();
}

/// A template without grants is looked at every ten minutes: now.
pub async fn sweep_now(app: &TestApp) {
    app.sql().await.batch_execute("UPDATE coupon_sweeps SET due_at = now()").await.unwrap();
}

/// A number from the app's database.
pub async fn number(app: &TestApp, select: &str) -> i64 {
    app.sql().await.query_one(&format!("SELECT ({select})::int8"), &[]).await.unwrap().get(0)
}

/// What `floodgate ledger check` prints, and whether it found nothing.
pub fn check(app: &TestApp, more: &[&str]) -> (bool, String) {
    let done = app.command(&[&["ledger", "check"], more].concat());
    let said = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
    (done.status.success(), said)
}

/// Demands that the ledger balances.
pub fn balances(app: &TestApp) {
    let (clean, said) = check(app, &[]);
    assert!(clean, "{said}");
}
