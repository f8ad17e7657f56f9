//! What a fault lost of what was acknowledged: all of it is known, and says so.

use std::collections::{HashMap, HashSet};

use floodgate_loadtest::journal::{Coupon, Exchange, Outcome, Record};
use serde_json::json;

use super::GATEWAYS;
use super::flusher::stored;
use crate::reconcile::reconcile;
use crate::support::app::{TestApp, until};
use crate::support::ledger::number;

/// A claim: user and claim key.
type Claim = (Box<str>, Box<str>);

/// Demands that every coupon which was answered and is no row is counted, listed, and answers `claim_lost`; takes
/// those out of the record, and tells how many they were.
pub async fn told(app: &TestApp, record: &mut Record, template: i64) -> usize {
    stored(app).await;
    let rows: HashSet<(u64, i32)> = app.rows(template).await.iter().map(|row| (row.serial as u64, row.epoch)).collect();
    let key = app.config().code_key();
    let name = |code: &str| {
        let name = key.decode(code).expect("a code of ours");
        (name.serial, i32::from(name.epoch))
    };
    let is_lost = |code: &str| !rows.contains(&name(code));
    let answered = record.exchanges.iter().filter_map(coupon).map(|coupon| coupon.code.clone());
    let lost: HashSet<Box<str>> = answered.filter(|code| is_lost(code)).collect();
    let names: HashSet<(u64, i32)> = lost.iter().map(|code| name(code)).collect();

    // The gateways write down what they acknowledged; not every such answer has reached its client.
    let written = async || -> HashSet<(u64, i32)> {
        let sql = "SELECT serial, epoch FROM lost_claims WHERE template_id = $1";
        let lost = app.sql().await.query(sql, &[&(template as i32)]).await.unwrap();
        lost.iter().map(|row| (row.get::<_, i64>(0) as u64, row.get(1))).collect()
    };
    until("the losses are written down", async || written().await.is_superset(&names)).await;
    let count = number(app, "SELECT count(*) FROM lost_claims").await;
    let mut counted = 0.0;
    for gateway in GATEWAYS {
        counted += app.gateway(gateway).metric("floodgate_claims_lost_total").await.unwrap();
    }
    assert_eq!(counted as i64, count, "each is counted once");
    let said = reconcile(app, &[]);
    let number = |value: &serde_json::Value| value.as_i64().expect("a number");
    let of = |one: &serde_json::Value| (number(&one["serial"]) as u64, number(&one["epoch"]) as i32);
    assert!(said.differences.iter().all(|one| one["kind"] == "claim_lost"), "{said:?}");
    let listed: HashSet<(u64, i32)> = said.differences.iter().map(of).collect();
    assert_eq!(listed, written().await, "each is listed, and nothing else differs");
    app.sql().await.batch_execute("UPDATE lost_claims SET settled_at = now()").await.unwrap();
    for code in &lost {
        let asked = app.get("u-1", &format!("/v1/me/coupons/{code}"), &[]).await;
        assert_eq!((asked.status, &asked.json["code"]), (410, &json!("claim_lost")), "{asked:?}");
    }

    forget(record, is_lost);
    lost.len()
}

fn coupon(exchange: &Exchange) -> Option<&Coupon> {
    match exchange.outcome()? {
        Outcome::Coupon { coupon, .. } => Some(coupon),
        _ => None,
    }
}

/// As if nobody had asked until the answer that told of a lost coupon: what was asked later stands.
fn forget(record: &mut Record, is_lost: impl Fn(&str) -> bool) {
    let claim =
        |exchange: &Exchange| -> Option<Claim> { Some((exchange.request.user.clone(), exchange.claim_key()?.into())) };
    let mut until: HashMap<Claim, u64> = HashMap::new();
    for exchange in &record.exchanges {
        if let (Some(coupon), Some(claim)) = (coupon(exchange), claim(exchange))
            && is_lost(&coupon.code)
        {
            let last = until.entry(claim).or_default();
            *last = (*last).max(exchange.request.seq);
        }
    }
    let is_forgotten = |exchange: &Exchange| {
        let until = claim(exchange).and_then(|claim| until.get(&claim).copied());
        until.is_some_and(|until| exchange.request.seq <= until)
    };
    record.exchanges.retain(|exchange| !is_forgotten(exchange));
    for exchange in &mut record.exchanges {
        if let Some(Outcome::Refused { held, .. }) = exchange.answer.as_mut().map(|answer| &mut answer.outcome) {
            held.retain(|coupon| !is_lost(&coupon.code));
        }
    }
}
