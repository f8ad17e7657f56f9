//! What others are to be told, written by the transaction that did it.

use serde_json::Value;

use crate::domain::ids::{Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::pg::{PgFault, Tx};

/// The statement of [`write()`], for those who send several together.
pub const INSERT: &str = include_str!("../sql/ledger/events.sql");

/// One event of one coupon.
#[derive(Clone, Debug)]
pub struct Event {
    /// As `coupon.used`. Words are stored: never rename one.
    pub kind: &'static str,
    pub template: TemplateId,
    pub serial: Serial,
    pub user: UserRef,
    /// Without user ids and codes.
    pub data: Value,
}

pub async fn write(tx: &Tx<'_>, events: &[Event]) -> Result<(), PgFault> {
    if events.is_empty() {
        return Ok(());
    }
    let kinds: Vec<&str> = events.iter().map(|event| event.kind).collect();
    let templates: Vec<i32> = events.iter().map(|event| event.template.as_i32()).collect();
    let serials: Vec<i64> = events.iter().map(|event| event.serial as i64).collect();
    let users: Vec<&str> = events.iter().map(|event| event.user.as_str()).collect();
    let data: Vec<&Value> = events.iter().map(|event| &event.data).collect();
    tx.change(INSERT, &[&kinds, &templates, &serials, &users, &data]).await?;
    Ok(())
}
