//! What became of a grant, for a code whose row is asked for.
//!
//! A grant that was acknowledged by Redis alone can be lost in a failover. Its code then names an
//! epoch whose history is stored to its end, without a row of that epoch under its serial.

use rust_decimal::Decimal;
use tokio_postgres::types::ToSql;

use super::cells::cell_i16;
use crate::domain::code::CouponName;
use crate::domain::ids::CellId;
use crate::domain::user::UserRef;
use crate::domain::window::Millis;
use crate::pg::{Connection, PgFault};

/// What became of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is a row.
    Stored(StoredCoupon),
    /// It may still be on the queue.
    Pending,
    /// Its history ended before it, or another grant has its serial.
    Lost,
    /// PostgreSQL refused its row, which waits for an operator.
    SetAside,
}

/// A coupon's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCoupon {
    /// The present holder.
    pub user: UserRef,
    /// The one it was granted to, where it was given away.
    pub first_user: Option<UserRef>,
    pub status: i16,
    pub gift_generation: i16,
    pub acquired: Millis,
    pub valid_from: Millis,
    pub expires: Millis,
    /// What it is worth, where that is not what its template says.
    pub amount: Option<Decimal>,
}

/// Asks PostgreSQL, in one statement and so of one moment.
pub async fn fate(client: &Connection, cell: CellId, name: CouponName) -> Result<Fate, PgFault> {
    let epoch = name.epoch;
    let params: [&(dyn ToSql + Sync); 4] =
        [&cell_i16(cell), &name.template.as_i32(), &(name.serial as i64), &i32::from(epoch)];
    let row = client.row(include_str!("../sql/grant/fate.sql"), &params).await?;
    let row = row.ok_or_else(|| PgFault::fault("the cell has no row"))?;
    let stored_epoch: Option<i32> = row.get(0);
    if stored_epoch == Some(i32::from(epoch)) {
        let user = |at: usize| row.get::<_, Option<&str>>(at).and_then(UserRef::from_store);
        return Ok(Fate::Stored(StoredCoupon {
            user: user(1).ok_or_else(|| PgFault::fault("a coupon's user is no reference"))?,
            first_user: user(2),
            status: row.get(3),
            gift_generation: row.get(4),
            acquired: row.get(5),
            valid_from: row.get(6),
            expires: row.get(7),
            amount: row.get(10),
        }));
    }
    let (set_aside, history_stored, known_lost): (bool, bool, bool) = (row.get(8), row.get(9), row.get(11));
    Ok(if known_lost {
        Fate::Lost
    } else if set_aside {
        Fate::SetAside
    } else if stored_epoch.is_some() || history_stored {
        Fate::Lost
    } else {
        Fate::Pending
    })
}
