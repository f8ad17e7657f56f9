//! Who owes whom for a discount: each entry is booked with its counter-entry, and none is changed.

use rust_decimal::Decimal;

use crate::domain::ids::{Serial, TemplateId};
use crate::pg::{PgFault, Tx};

/// The statement of [`book`], for those who send several together.
pub const INSERT: &str = include_str!("../sql/ledger/settle.sql");

/// What one coupon's bearer owes one beneficiary for one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub template: TemplateId,
    pub serial: Serial,
    /// Who pays: the template's issuer.
    pub bearer: Party,
    /// Who is paid: the merchant who sold the line at less.
    pub beneficiary: Party,
    pub subject: Subject,
    /// What the beneficiary is owed; negative where a refund takes it back. Zero is not booked.
    pub amount: Decimal,
}

/// A party of a settlement: `platform` (with an empty id), `merchant` or `streamer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub kind: String,
    pub id: String,
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The line of this id.
    Line(String),
    /// The shipping fee of this merchant.
    Shipping(String),
    /// The gift of this item's id.
    Gift(String),
}

/// Books `entries` of one order, or of one refund of it.
pub async fn book(
    tx: &Tx<'_>,
    order: &str,
    refund: Option<&str>,
    currency: &str,
    entries: &[Entry],
) -> Result<(), PgFault> {
    if entries.is_empty() {
        return Ok(());
    }
    let templates: Vec<i32> = entries.iter().map(|entry| entry.template.as_i32()).collect();
    let serials: Vec<i64> = entries.iter().map(|entry| entry.serial as i64).collect();
    let texts = |of: fn(&Entry) -> &str| -> Vec<&str> { entries.iter().map(of).collect() };
    let amounts: Vec<Decimal> = entries.iter().map(|entry| entry.amount).collect();
    tx.change(
        INSERT,
        &[
            &order,
            &refund,
            &currency,
            &templates,
            &serials,
            &texts(|entry| &entry.bearer.kind),
            &texts(|entry| &entry.bearer.id),
            &texts(|entry| &entry.beneficiary.kind),
            &texts(|entry| &entry.beneficiary.id),
            &texts(|entry| entry.subject.stored().0),
            &texts(|entry| entry.subject.stored().1),
            &amounts,
        ],
    )
    .await?;
    Ok(())
}

// === impl Subject ===

impl Subject {
    /// The words that are stored.
    pub fn stored(&self) -> (&'static str, &str) {
        match self {
            Subject::Line(id) => ("line", id),
            Subject::Shipping(id) => ("shipping", id),
            Subject::Gift(id) => ("gift", id),
        }
    }
}
