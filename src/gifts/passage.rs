//! How the coupons of a wallet came to it, and which are on their way out.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Gift;
use crate::app::App;
use crate::domain::coupon::CouponStatus;
use crate::domain::gift::GiftId;
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::window::{Millis, rfc3339};
use crate::http::problem::Problem;
use crate::pg::PgFault;
use crate::wallet::Coupon;

/// What gifts have to say of one coupon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passage {
    /// When its holder accepted it as a gift.
    pub received: Option<Millis>,
    /// The offer that stands: its number, since when, until when.
    pub offer: Option<(GiftId, Millis, Millis)>,
}

/// Coupons as wallets show them. Asks PostgreSQL only where a coupon was given or is offered.
pub async fn shown(app: &App, coupons: &[Coupon]) -> Result<Vec<Value>, Problem> {
    let moved = |coupon: &&Coupon| coupon.gift > 0 || coupon.status == CouponStatus::Offered;
    let passages = passages(app, coupons.iter().filter(moved)).await?;
    let show = |coupon: &Coupon| match passages.get(&(coupon.template, coupon.serial)) {
        Some(passage) => passage.show(app, coupon),
        None => coupon.to_json(app),
    };
    Ok(coupons.iter().map(show).collect())
}

async fn passages<'a>(
    app: &App,
    coupons: impl Iterator<Item = &'a Coupon> + Clone,
) -> Result<HashMap<(TemplateId, Serial), Passage>, PgFault> {
    let templates: Vec<i32> = coupons.clone().map(|coupon| coupon.template.as_i32()).collect();
    let serials: Vec<i64> = coupons.clone().map(|coupon| coupon.serial as i64).collect();
    let generations: Vec<i16> = coupons.map(|coupon| i16::from(coupon.gift)).collect();
    if templates.is_empty() {
        return Ok(HashMap::new());
    }
    let client = app.pg.get().await?;
    let rows = client.rows(include_str!("../sql/gifts/passages.sql"), &[&templates, &serials, &generations]).await?;
    let read = |row: &tokio_postgres::Row| {
        let coupon = (TemplateId(row.get::<_, i32>("template_id") as u32), row.get::<_, i64>("serial") as Serial);
        let id: Option<i64> = row.get("id");
        let offer = id.map(|id| (GiftId(id as u64), row.get("offered"), row.get("expires")));
        (coupon, Passage { received: row.get("received"), offer })
    };
    Ok(rows.iter().map(read).collect())
}

// === impl Passage ===

impl Passage {
    /// Of a coupon that was just accepted.
    pub fn through(gift: &Gift) -> Self {
        Passage { received: gift.closed, offer: None }
    }

    /// The coupon as its holder's wallet shows it.
    pub fn show(&self, app: &App, coupon: &Coupon) -> Value {
        let snapshot = app.snapshot.load();
        let zone = snapshot.templates.get(&coupon.template).map_or(chrono_tz::UTC, |t| t.definition.timezone);
        let mut shown = coupon.to_json(app);
        if let Some(at) = self.received {
            shown["received_at"] = rfc3339(zone, at).into();
        }
        if let Some((id, since, until)) = self.offer {
            shown["offer"] = json!({
                "gift_id": id.0,
                "offered_at": rfc3339(zone, since),
                "expires_at": rfc3339(zone, until),
            });
        }
        shown
    }
}
