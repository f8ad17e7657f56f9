//! An offer accepted, declined or withdrawn.
//!
//! Each may be repeated by whom it succeeded for, and answers as before. Each returns what the audit log
//! keeps of it: nothing, where it only repeats.

use super::{Gift, LockedCoupon, Party, lock_coupon, not_found};
use crate::app::App;
use crate::audit::{Action, Change};
use crate::domain::gift::GiftState;
use crate::domain::user::UserRef;
use crate::domain::window::rfc3339;
use crate::http::problem::Problem;
use crate::ledger::counters::{self, Delta};
use crate::ledger::events;
use crate::ledger::operations::{self, Cause, Operation};
use crate::pg::{PgFault, Tx};
use crate::wallet::Coupon;
use crate::wallet::settle::granted_lately;

/// A receiver, and what must be known of them before the transaction begins.
pub struct Receiver<'a> {
    user: &'a UserRef,
    /// How many coupons of the template they may have. `None`: any number.
    limit: Option<i64>,
    /// Serials of the template that they were granted and that may be no rows yet.
    granted: Vec<i64>,
}

/// Makes ready for [`accept`]: refuses the giver and who is blocked, and reads what the receiver was
/// granted, which Redis may know alone.
pub async fn receiver<'a>(app: &App, gift: &Gift, party: &Party<'a>) -> Result<Receiver<'a>, Problem> {
    if gift.giver == *party.user {
        return Err(own_gift());
    }
    party.refuse_blocked(app)?;
    let template = app.snapshot.load().templates.get(&gift.template).cloned().ok_or_else(not_found)?;
    let definition = &template.definition;
    if !definition.gift.receiver_limit {
        return Ok(Receiver { user: party.user, limit: None, granted: Vec::new() });
    }
    let granted = granted_lately(app, party.user, gift.template).await?;
    let granted = granted.into_iter().map(|serial| serial as i64).collect();
    Ok(Receiver { user: party.user, limit: Some(i64::from(definition.limits.per_user)), granted })
}

/// Puts the coupon into the receiver's hands.
pub async fn accept(
    app: &App,
    tx: &Tx<'_>,
    gift: &Gift,
    receiver: &Receiver<'_>,
) -> Result<(Gift, Coupon, Change), Problem> {
    if receiver.limit.is_some() {
        // Before the coupon's row, in every transaction: those who wait here hold no row.
        let lock = include_str!("../sql/gifts/lock_receiver.sql");
        tx.rows(lock, &[&receiver.user.as_str(), &gift.template.as_i32()]).await?;
    }
    let (gift, locked) = look(tx, gift).await?;
    let is_theirs = |gift: &Gift| gift.state == GiftState::Accepted && gift.receiver.as_ref() == Some(receiver.user);
    if is_theirs(&gift) && locked.holder == *receiver.user && Some(locked.coupon.gift) == gift.generation.checked_add(1)
    {
        let change = gift.change(Action::GiftAccept, Some(&gift));
        return Ok((gift, locked.coupon, change));
    }
    stands(app, &gift, &locked)?;
    if let Some(limit) = receiver.limit {
        let held = held_beside(tx, receiver, &gift).await?;
        if held >= limit {
            let detail = format!("the receiver has, or was granted, {held} of {limit} coupons of the template");
            return Err(Problem::new("gift_limit_reached", detail));
        }
    }

    let sql = include_str!("../sql/gifts/accept.sql");
    let row = tx.row(sql, &[&gift.id.as_i64(), &receiver.user.as_str()]).await?;
    let coupon = Coupon::from_row(&row.ok_or_else(|| PgFault::fault("an offer that stands was not accepted"))?);
    let before = gift;
    let gift = find(tx, &before).await?;
    let step = gift.step(Operation::Accept, receiver.user);
    operations::trace(tx, &[step], Cause::Gift(&gift.id.0.to_string()), "user").await?;
    let told = [gift.event("coupon.given", &gift.giver), gift.event("coupon.received", receiver.user)];
    events::write(tx, &told).await?;
    counters::add(tx, &[(gift.template, Delta { gifted: 1, ..Delta::default() })]).await?;
    let change = gift.change(Action::GiftAccept, Some(&before));
    Ok((gift, coupon, change))
}

/// Gives the coupon back: by anybody who has the token, but its giver.
pub async fn decline(app: &App, tx: &Tx<'_>, gift: &Gift, user: &UserRef) -> Result<(Gift, Change), Problem> {
    if gift.giver == *user {
        return Err(own_gift());
    }
    give_back(app, tx, gift, Operation::Decline).await
}

/// Takes the coupon back: by its giver alone.
pub async fn withdraw(app: &App, tx: &Tx<'_>, gift: &Gift, user: &UserRef) -> Result<(Gift, Change), Problem> {
    if gift.giver != *user {
        return Err(not_found());
    }
    give_back(app, tx, gift, Operation::Withdraw).await
}

async fn give_back(app: &App, tx: &Tx<'_>, gift: &Gift, operation: Operation) -> Result<(Gift, Change), Problem> {
    let (end, event, action) = match operation {
        Operation::Decline => (GiftState::Declined, "coupon.gift_declined", Action::GiftDecline),
        _ => (GiftState::Withdrawn, "coupon.gift_withdrawn", Action::GiftWithdraw),
    };
    let (before, locked) = look(tx, gift).await?;
    if before.state == end {
        let change = before.change(action, Some(&before));
        return Ok((before, change));
    }
    stands(app, &before, &locked)?;
    let rows = tx.rows(include_str!("../sql/gifts/give_back.sql"), &[&vec![before.id.as_i64()], &end.word()]).await?;
    let row = rows.first().ok_or_else(|| PgFault::fault("an offer that stands was not given back"))?;
    let gift = Gift::from_row(row)?;
    let step = gift.step(operation, &gift.giver);
    operations::trace(tx, &[step], Cause::Gift(&gift.id.0.to_string()), "user").await?;
    events::write(tx, &[gift.event(event, &gift.giver)]).await?;
    let change = gift.change(action, Some(&before));
    Ok((gift, change))
}

/// The offer as it is once its coupon is locked: it stays so to the end of the transaction.
async fn look(tx: &Tx<'_>, gift: &Gift) -> Result<(Gift, LockedCoupon), Problem> {
    let locked = lock_coupon(tx, gift.template, gift.serial).await?;
    let locked = locked.ok_or_else(|| PgFault::fault("an offered coupon has no row"))?;
    Ok((find(tx, gift).await?, locked))
}

async fn find(tx: &Tx<'_>, gift: &Gift) -> Result<Gift, PgFault> {
    let row = tx.row(include_str!("../sql/gifts/find.sql"), &[&gift.id.as_i64()]).await?;
    Gift::from_row(&row.ok_or_else(|| PgFault::fault("an offer has gone"))?)
}

/// Refuses what is no longer offered, and says what became of it.
fn stands(app: &App, gift: &Gift, locked: &LockedCoupon) -> Result<(), Problem> {
    let state = match gift.state {
        GiftState::Offered if gift.holds(locked) => return Ok(()),
        // Whoever revoked the coupon has yet to end its offer.
        GiftState::Offered => GiftState::Revoked,
        state => state,
    };
    let detail = match state {
        GiftState::Offered | GiftState::Revoked => "the coupon was revoked".to_owned(),
        GiftState::Accepted => "somebody has accepted the gift".to_owned(),
        GiftState::Declined => "the gift was declined, and its coupon is its giver's again".to_owned(),
        GiftState::Withdrawn => "the giver has taken the coupon back".to_owned(),
        GiftState::Returned => {
            let snapshot = app.snapshot.load();
            let zone = snapshot.templates.get(&gift.template).map_or(chrono_tz::UTC, |t| t.definition.timezone);
            format!("the offer was over at {}, and its coupon is its giver's again", rfc3339(zone, gift.expires))
        }
    };
    Err(Problem::new("gift_closed", detail).with("state", state.word()))
}

/// How many coupons of the template count against the receiver's limit, beside the given one: that may
/// have been theirs before.
async fn held_beside(tx: &Tx<'_>, receiver: &Receiver<'_>, gift: &Gift) -> Result<i64, PgFault> {
    let sql = include_str!("../sql/gifts/held.sql");
    let (template, serial) = (gift.template.as_i32(), gift.serial as i64);
    let row = tx.row(sql, &[&receiver.user.as_str(), &template, &receiver.granted, &serial]).await?;
    Ok(row.map_or(0, |row| row.get(0)))
}

fn own_gift() -> Problem {
    Problem::new("own_gift", "the gift is one's own: withdraw it instead")
}
