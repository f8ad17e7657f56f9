//! The ledger counted anew: what should be equal, compared, and every difference named.
//!
//! One read-only snapshot, so that what is written meanwhile shows nowhere or everywhere. PostgreSQL compares
//! and only differences leave it: template by template where the primary keys allow it, so that neither side
//! holds more than a template's groups in memory. It changes nothing and decides nothing.

use std::fmt;
use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use crate::domain::ids::TemplateId;
use crate::pg::PgFault;

const TEMPLATES: &str = include_str!("../sql/ledger/check/templates.sql");

/// What is compared for each template.
const OF_TEMPLATES: &[&str] = &[
    include_str!("../sql/ledger/check/counters.sql"),
    include_str!("../sql/ledger/check/chain.sql"),
    include_str!("../sql/ledger/check/coupons.sql"),
    include_str!("../sql/ledger/check/holders.sql"),
];

/// What is compared over all orders.
const OF_ORDERS: &[&str] = &[
    include_str!("../sql/ledger/check/money.sql"),
    include_str!("../sql/ledger/check/entries.sql"),
    include_str!("../sql/ledger/check/settled.sql"),
    include_str!("../sql/ledger/check/orders.sql"),
];

/// Where two things that should be equal are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub template: Option<i32>,
    pub serial: Option<i64>,
    pub order: Option<String>,
    pub what: String,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub templates: usize,
    pub differences: usize,
}

/// Compares everything, or all that concerns one template, and tells each difference as it is found.
///
/// It reads every row of the ledger: `client` must have the time for it.
pub async fn check(
    client: &mut Client,
    only: Option<TemplateId>,
    mut tell: impl FnMut(Difference),
) -> Result<Checked, PgFault> {
    let snapshot = snapshot(client).await?;
    let templates = match only {
        Some(template) => vec![template.as_i32()],
        None => templates(snapshot.client()).await?,
    };
    let mut checked = Checked { templates: templates.len(), differences: 0 };
    for sql in OF_TEMPLATES {
        let statement = snapshot.prepare(sql).await?;
        for template in &templates {
            checked.differences += differences(&snapshot, &statement, template, &mut tell).await?;
        }
    }
    for sql in OF_ORDERS {
        let statement = snapshot.prepare(sql).await?;
        checked.differences += differences(&snapshot, &statement, &only.map(TemplateId::as_i32), &mut tell).await?;
    }
    snapshot.commit().await?;
    Ok(checked)
}

/// Compares one template's coupons, operations and their counters, in a snapshot of their own, and tells how
/// many differences there are.
pub async fn check_coupons(
    client: &mut Client,
    template: i32,
    mut tell: impl FnMut(Difference),
) -> Result<usize, PgFault> {
    let snapshot = snapshot(client).await?;
    let mut found = 0;
    for sql in OF_TEMPLATES {
        let statement = snapshot.prepare(sql).await?;
        found += differences(&snapshot, &statement, &template, &mut tell).await?;
    }
    snapshot.commit().await?;
    Ok(found)
}

/// Templates that the ledger knows of, by id.
pub async fn templates(client: &Client) -> Result<Vec<i32>, PgFault> {
    Ok(client.query(TEMPLATES, &[]).await?.iter().map(|row| row.get(0)).collect())
}

async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, PgFault> {
    let isolation = IsolationLevel::RepeatableRead;
    Ok(client.build_transaction().isolation_level(isolation).read_only(true).start().await?)
}

/// One comparison; its differences are not gathered.
async fn differences(
    snapshot: &Transaction<'_>,
    statement: &tokio_postgres::Statement,
    template: &(dyn ToSql + Sync),
    tell: &mut impl FnMut(Difference),
) -> Result<usize, PgFault> {
    let mut rows = pin!(snapshot.query_raw(statement, [template]).await?);
    let mut found = 0;
    while let Some(row) = rows.try_next().await? {
        found += 1;
        tell(Difference::from_row(&row));
    }
    Ok(found)
}

// === impl Difference ===

impl Difference {
    fn from_row(row: &Row) -> Self {
        Difference {
            template: row.get("template_id"),
            serial: row.get("serial"),
            order: row.get("order_id"),
            what: row.get("what"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(template) = self.template {
            write!(f, "template {template}, ")?;
        }
        if let Some(serial) = self.serial {
            write!(f, "coupon {serial}, ")?;
        }
        if let Some(order) = &self.order {
            write!(f, "order {order}, ")?;
        }
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_where_it_is() {
        let mut difference =
            Difference { template: Some(7), serial: Some(3), order: Some("o-1".into()), what: "is odd".into() };
        assert_eq!(difference.to_string(), "template 7, coupon 3, order o-1, is odd");
        (difference.template, difference.serial) = (None, None);
        assert_eq!(difference.to_string(), "order o-1, is odd");
    }
}
