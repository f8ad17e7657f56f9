//! A coupon offered to whoever is given the token.

use super::{Gift, LockedCoupon, Party, lock_coupon};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::code::CouponName;
use crate::domain::coupon::CouponStatus;
use crate::domain::template::GiftTerms;
use crate::http::problem::Problem;
use crate::ledger::events;
use crate::ledger::operations::{self, Cause, Operation};
use crate::limits::GIFT_OFFERS_MAX;
use crate::pg::{PgFault, Tx};
use crate::wallet::settle::settled;

/// The coupon that a code names, once it is a row if the user was granted it a moment ago. A code that
/// is none costs no query.
pub async fn ready(app: &App, giver: &Party<'_>, code: &str) -> Result<CouponName, Problem> {
    let name = app.code_key.decode(code).ok_or_else(not_found)?;
    giver.refuse_blocked(app)?;
    settled(app, giver.user, &[name]).await?;
    Ok(name)
}

/// Offers the coupon `name` of `giver`; the offer, and what the audit log keeps of it.
pub async fn offer(app: &App, tx: &Tx<'_>, giver: &Party<'_>, name: CouponName) -> Result<(Gift, Change), Problem> {
    let locked = lock_coupon(tx, name.template, name.serial).await?.ok_or_else(not_found)?;
    if locked.holder != *giver.user || locked.coupon.name() != name {
        return Err(not_found());
    }
    let template = app.snapshot.load().templates.get(&name.template).cloned().ok_or_else(not_found)?;
    let terms = template.definition.gift;
    judge(&locked, &terms)?;
    let (id, serial, generation) = (name.template.as_i32(), name.serial as i64, i16::from(name.gift));
    let count = tx.row(include_str!("../sql/gifts/count_offers.sql"), &[&id, &serial, &GIFT_OFFERS_MAX]).await?;
    if count.is_some_and(|row| row.get::<_, i64>(0) >= GIFT_OFFERS_MAX) {
        let detail = format!("the coupon was offered {GIFT_OFFERS_MAX} times: it cannot be offered again");
        return Err(Problem::new("gift_not_allowed", detail).with("reason", "offers"));
    }

    let sql = include_str!("../sql/gifts/offer.sql");
    let user = giver.user.as_str();
    let row = tx.row(sql, &[&id, &serial, &generation, &user, &(terms.offer_hours as i32)]).await?;
    let gift = Gift::from_row(&row.ok_or_else(|| PgFault::fault("a coupon that is locked and free was not offered"))?)?;
    let step = gift.step(Operation::Offer, giver.user);
    operations::trace(tx, &[step], Cause::Gift(&gift.id.0.to_string()), "user").await?;
    events::write(tx, &[gift.event("coupon.offered", giver.user)]).await?;
    let change = gift.change(Action::GiftOffer, None);
    Ok((gift, change))
}

/// Whether a coupon may be offered.
fn judge(locked: &LockedCoupon, terms: &GiftTerms) -> Result<(), Problem> {
    let refuse = |code, detail: &str| Err(Problem::new(code, detail));
    match locked.coupon.status {
        CouponStatus::Unused => {}
        CouponStatus::Locked => return refuse("coupon_locked", "the coupon is reserved for an order"),
        CouponStatus::Offered => return refuse("coupon_offered", "the coupon is offered already: withdraw that first"),
        CouponStatus::Used => return refuse("coupon_used", "the coupon has been used"),
        CouponStatus::Expired => return refuse("coupon_expired", "the coupon's time is over"),
        CouponStatus::Revoked => return refuse("coupon_revoked", "the coupon was revoked"),
    }
    let not_allowed =
        |reason: &str, detail: String| Err(Problem::new("gift_not_allowed", detail).with("reason", reason));
    if !terms.allowed {
        return not_allowed("template", "coupons of this template cannot be given away".into());
    }
    if locked.coupon.gift >= terms.max_hops {
        let detail = format!("the coupon has been given away {} of {} times", locked.coupon.gift, terms.max_hops);
        return not_allowed("hops", detail);
    }
    Ok(())
}

/// The refusal of a code that is none, or another's.
fn not_found() -> Problem {
    Problem::new("coupon_not_found", "there is no coupon of this code in the wallet")
}
