//! Grants on their way to PostgreSQL, between real servers that are killed, set back and emptied.

mod flushing;
mod openings;
mod recoveries;
mod world;

use floodgate::domain::ids::TemplateId;

use world::{Claimed, World};

const T1: TemplateId = TemplateId(1);

fn users(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| format!("u{number}")).collect()
}

fn serials(claimed: &[Claimed]) -> Vec<u64> {
    claimed.iter().map(|claim| claim.granted().unwrap_or_else(|| panic!("{claim:?}"))).collect()
}

/// What `src/sql/gifts/accept.sql` leaves of the coupon `serial`.
async fn given_away(world: &World, serial: u64) {
    let given = format!(
        "UPDATE user_coupons SET first_user_ref = coalesce(first_user_ref, user_ref), user_ref = 'receiver',
             gift_generation = gift_generation + 1 WHERE serial = {serial}"
    );
    world.sql(&given).await;
}

/// The field of the cell's meta as a hand would set it.
async fn set_meta(world: &World, field: &str, value: &str) {
    let mut set = redis::cmd("HSET");
    world.redis.command(set.arg(world.keys().meta()).arg(field).arg(value)).await.unwrap();
}
