//! Numbers of a template and day, written by the transaction that they count.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use tokio_postgres::{Client, Statement};

use crate::domain::ids::TemplateId;
use crate::domain::window::Millis;
use crate::pg::{PgFault, Tx};

/// The statement of [`add`], for those who send several together.
pub const UPSERT: &str = include_str!("../sql/ledger/counters.sql");

/// What one transaction adds to the counters of one template. Amounts are of the template's currency.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// The moment whose day counts, in the template's time zone; `None`: the transaction's.
    pub at: Option<Millis>,
    /// Coupons locked now: one more with each step into that status, one less with each step out of it.
    pub locked: i64,
    /// Confirmed uses, never taken back: what refunds give back is in `restored`.
    pub used: i64,
    /// Used coupons given back by a refund, whatever they became.
    pub restored: i64,
    /// Coupons in status expired now, counted as `locked` is. What nobody has swept yet is not in it.
    pub expired: i64,
    pub revoked: i64,
    pub gifted: i64,
    /// Orders that used at least one coupon of the template.
    pub orders: i64,
    pub discount_total: Decimal,
    pub discount_reversed: Decimal,
    pub gift_total: Decimal,
    pub gift_reversed: Decimal,
    /// What those orders paid, and what was paid back.
    pub revenue: Decimal,
    pub revenue_refunded: Decimal,
}

/// Coupons that one transaction makes rows, by template and the second of their grant: every time zone's
/// day begins at a whole second.
#[derive(Debug, Default)]
pub struct Issued(BTreeMap<(TemplateId, i64), i64>);

/// Counts what the flusher issues, over the flusher's own connection.
pub struct IssuedCounter(Statement);

// === impl Issued ===

impl Issued {
    pub fn count(&mut self, template: TemplateId, acquired: Millis) {
        *self.0.entry((template, acquired.div_euclid(1000))).or_default() += 1;
    }
}

// === impl IssuedCounter ===

impl IssuedCounter {
    pub async fn prepare(client: &Client) -> Result<Self, PgFault> {
        Ok(IssuedCounter(client.prepare(include_str!("../sql/ledger/issued.sql")).await?))
    }

    /// Within the transaction that makes the rows, and the last that it does, as [`add`].
    pub async fn add(&self, client: &Client, issued: &Issued) -> Result<(), PgFault> {
        if issued.0.is_empty() {
            return Ok(());
        }
        let templates: Vec<i32> = issued.0.keys().map(|(template, _)| template.as_i32()).collect();
        let seconds: Vec<i64> = issued.0.keys().map(|(_, second)| *second).collect();
        let coupons: Vec<i64> = issued.0.values().copied().collect();
        client.execute(&self.0, &[&templates, &seconds, &coupons]).await?;
        Ok(())
    }
}

/// Adds `deltas`, in key order, so that transactions that count the same templates do not wait in a
/// circle. To be the last that a transaction does: others may wait for the same rows.
pub async fn add(tx: &Tx<'_>, deltas: &[(TemplateId, Delta)]) -> Result<(), PgFault> {
    if deltas.is_empty() {
        return Ok(());
    }
    let templates: Vec<i32> = deltas.iter().map(|(template, _)| template.as_i32()).collect();
    let times: Vec<Option<i64>> = deltas.iter().map(|(_, delta)| delta.at).collect();
    let counts = |of: fn(&Delta) -> i64| -> Vec<i64> { deltas.iter().map(|(_, delta)| of(delta)).collect() };
    let sums = |of: fn(&Delta) -> Decimal| -> Vec<Decimal> { deltas.iter().map(|(_, delta)| of(delta)).collect() };
    tx.change(
        UPSERT,
        &[
            &templates,
            &times,
            &counts(|delta| delta.locked),
            &counts(|delta| delta.used),
            &counts(|delta| delta.restored),
            &counts(|delta| delta.expired),
            &counts(|delta| delta.revoked),
            &counts(|delta| delta.gifted),
            &counts(|delta| delta.orders),
            &sums(|delta| delta.discount_total),
            &sums(|delta| delta.discount_reversed),
            &sums(|delta| delta.gift_total),
            &sums(|delta| delta.gift_reversed),
            &sums(|delta| delta.revenue),
            &sums(|delta| delta.revenue_refunded),
        ],
    )
    .await?;
    Ok(())
}
