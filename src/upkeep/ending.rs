//! Coupons locked in key order, ended, traced and counted, within the caller's transaction.

use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::domain::coupon::CouponStatus;
use crate::domain::gift::GiftState;
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::user::UserRef;
use crate::gifts;
use crate::ledger::counters::{self, Delta};
use crate::ledger::events::{self, Event};
use crate::ledger::operations::{self, Cause, Operation, Step};
use crate::pg::{PgFault, Tx};
use crate::telemetry::metrics;

const HOLD: &str = include_str!("../sql/upkeep/coupons_hold.sql");
const END: &str = include_str!("../sql/upkeep/coupons_end.sql");

/// A coupon that nobody else changes until the transaction ends.
#[derive(Clone, Debug)]
pub struct Held {
    pub template: TemplateId,
    pub serial: Serial,
    /// As it is stored; see [`Held::stands`].
    pub status: CouponStatus,
    /// Its time is over.
    pub over: bool,
    pub user: UserRef,
    pub gift: u8,
}

/// How a coupon ends without being used.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    Expired,
    /// By the revocation of this id.
    Revoked(&'a str),
}

/// Locks coupons in key order and tells where they stand.
pub async fn hold(tx: &Tx<'_>, keys: &[(TemplateId, Serial)]) -> Result<Vec<Held>, PgFault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let templates: Vec<i32> = keys.iter().map(|(template, _)| template.as_i32()).collect();
    let serials: Vec<i64> = keys.iter().map(|(_, serial)| *serial as i64).collect();
    tx.rows(HOLD, &[&templates, &serials]).await?.iter().map(Held::from_row).collect()
}

/// Ends `coupons` of one template, which are held and not used. The last that a transaction does.
pub async fn end(tx: &Tx<'_>, coupons: &[Held], how: End<'_>, actor: &str) -> Result<(), PgFault> {
    if coupons.is_empty() {
        return Ok(());
    }
    let to = how.status();
    let templates: Vec<i32> = coupons.iter().map(|coupon| coupon.template.as_i32()).collect();
    let serials: Vec<i64> = coupons.iter().map(|coupon| coupon.serial as i64).collect();
    let from: Vec<i16> = coupons.iter().map(|coupon| coupon.status.stored()).collect();
    if tx.change(END, &[&templates, &serials, &from, &to.stored()]).await? != coupons.len() as u64 {
        return Err(PgFault::fault("a coupon changed while it was held"));
    }
    let offered = coupons.iter().filter(|coupon| coupon.status == CouponStatus::Offered);
    let offered: Vec<(TemplateId, Serial)> = offered.map(|coupon| (coupon.template, coupon.serial)).collect();
    gifts::close_ended(tx, &offered, how.gift_state()).await?;
    let steps: Vec<Step> = coupons.iter().map(|coupon| coupon.step(how.operation(), to)).collect();
    operations::trace(tx, &steps, how.cause(), actor).await?;
    let told: Vec<Event> = coupons.iter().map(|coupon| coupon.event(&how)).collect();
    events::write(tx, &told).await?;
    let mut deltas: Vec<(TemplateId, Delta)> = Vec::new();
    for coupon in coupons {
        match deltas.last_mut().filter(|(template, _)| *template == coupon.template) {
            Some((_, delta)) => *how.counter(delta) += 1,
            None => {
                let mut delta = Delta::default();
                *how.counter(&mut delta) = 1;
                deltas.push((coupon.template, delta));
            }
        }
    }
    counters::add(tx, &deltas).await
}

/// Counts what a committed transaction ended.
pub fn count(coupons: &[Held], how: End<'_>) {
    match how {
        End::Expired => metrics().coupons_expired.increment(coupons.len() as u64),
        End::Revoked(_) => metrics().coupons_revoked.increment(coupons.len() as u64),
    }
}

/// The status that a stored one and the time come to: what nobody has locked or used is expired when its
/// time is over, whether or not the sweeper was there.
pub fn stands(stored: i16, over: bool) -> CouponStatus {
    match CouponStatus::of(stored, over) {
        CouponStatus::Offered if over => CouponStatus::Expired,
        status => status,
    }
}

// === impl Held ===

impl Held {
    /// See [`stands`].
    pub fn stands(&self) -> CouponStatus {
        stands(self.status.stored(), self.over)
    }

    fn from_row(row: &Row) -> Result<Held, PgFault> {
        let user = UserRef::from_store(row.get("user_ref"));
        Ok(Held {
            template: TemplateId(row.get::<_, i32>("template_id") as u32),
            serial: row.get::<_, i64>("serial") as Serial,
            status: CouponStatus::of(row.get("status"), false),
            over: row.get("over"),
            user: user.ok_or_else(|| PgFault::fault("a coupon's user is no reference"))?,
            gift: row.get::<_, i16>("gift_generation") as u8,
        })
    }

    fn step(&self, operation: Operation, to: CouponStatus) -> Step {
        let Held { template, serial, status: from, gift, .. } = *self;
        Step { template, serial, operation, from, to, user: self.user.clone(), gift }
    }

    fn event(&self, how: &End<'_>) -> Event {
        let (template, serial, user) = (self.template, self.serial, self.user.clone());
        Event { kind: how.event(), template, serial, user, data: how.data() }
    }
}

/// Whether a coupon in this status may be revoked.
pub fn is_open(status: CouponStatus) -> bool {
    match status {
        CouponStatus::Unused | CouponStatus::Offered => true,
        CouponStatus::Locked | CouponStatus::Used | CouponStatus::Expired | CouponStatus::Revoked => false,
    }
}

// === impl End ===

impl<'a> End<'a> {
    fn status(self) -> CouponStatus {
        match self {
            End::Expired => CouponStatus::Expired,
            End::Revoked(_) => CouponStatus::Revoked,
        }
    }

    /// What becomes of an offer that held the coupon.
    fn gift_state(self) -> GiftState {
        match self {
            End::Expired => GiftState::Returned,
            End::Revoked(_) => GiftState::Revoked,
        }
    }

    fn operation(self) -> Operation {
        match self {
            End::Expired => Operation::Expire,
            End::Revoked(_) => Operation::Revoke,
        }
    }

    fn cause(self) -> Cause<'a> {
        match self {
            End::Expired => Cause::Time,
            End::Revoked(id) => Cause::Revocation(id),
        }
    }

    fn event(self) -> &'static str {
        match self {
            End::Expired => "coupon.expired",
            End::Revoked(_) => "coupon.revoked",
        }
    }

    fn data(self) -> Value {
        match self {
            End::Expired => json!({}),
            End::Revoked(id) => json!({"revocation_id": id}),
        }
    }

    fn counter(self, delta: &mut Delta) -> &mut i64 {
        match self {
            End::Expired => &mut delta.expired,
            End::Revoked(_) => &mut delta.revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_ends_what_nobody_has_locked_or_used() {
        let over = (1..=6).map(|stored| stands(stored, true).word()).collect::<Vec<_>>();
        assert_eq!(over, ["expired", "locked", "expired", "used", "expired", "revoked"]);
        for (stored, status) in (1..=6).zip(CouponStatus::ALL) {
            assert_eq!(stands(stored, false), status);
        }
    }
}
