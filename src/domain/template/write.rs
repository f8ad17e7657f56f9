//! A definition back to JSON: the full form of the HTTP contract, what is not built yet at its default.

use serde_json::{Value, json};

use super::Definition;
use crate::domain::audience::Audience;
use crate::domain::window::{Millis, Validity, rfc3339};

/// The only value that a field takes which is not built yet.
pub(super) fn unbuilt(field: &str) -> Value {
    match field {
        "wide" => json!(false),
        "notifications" => json!({"expiry_days": [3, 1]}),
        _ => Value::Null,
    }
}

// === impl Definition ===

impl Definition {
    /// What [`parse()`](super::parse()) reads back to an equal definition.
    pub fn to_json(&self) -> Value {
        let time = |at: Millis| rfc3339(self.timezone, at);
        let total = self.stock.total.map_or(json!(-1), |total| json!(total));
        let validity = match self.validity {
            Validity::Fixed { from, until } => json!({"type": "fixed", "from": time(from), "until": time(until)}),
            Validity::Relative { days, delay_days, end_of_day } => {
                json!({"type": "relative", "days": days, "delay_days": delay_days, "end_of_day": end_of_day})
            }
        };
        json!({
            "name": self.name,
            "description": self.description,
            "issuer": self.issuer.word(),
            "issuer_id": self.issuer_id,
            "special": self.special,
            "kind": self.kind.word(),
            "value": self.value,
            "currency": self.currency,
            "max_discount_ratio": self.max_discount_ratio.to_string(),
            "usage_rules": self.usage_rules,
            "rule_set": self.rule_set,
            "distribution": self.distribution.iter().map(|way| way.word()).collect::<Vec<_>>(),
            "campaign_id": unbuilt("campaign_id"),
            "timezone": self.timezone.name(),
            "stock": {"total": total, "daily": self.stock.daily},
            "wide": unbuilt("wide"),
            "ack": self.ack.map(|ack| ack.word()),
            "limits": {
                "per_user": self.limits.per_user,
                "per_user_daily": self.limits.per_user_daily,
                "per_user_period": null,
                "per_user_pushed": null,
                "use_per_user": self.limits.use_per_user,
            },
            "claim_window": {"starts_at": time(self.claim_window.0), "ends_at": time(self.claim_window.1)},
            "validity": validity,
            "audience": self.audience.as_ref().map(|audience| write_audience(audience, &time)),
            "quotas": self.quotas,
            "gift": {
                "allowed": self.gift.allowed,
                "max_hops": self.gift.max_hops,
                "receiver_limit": self.gift.receiver_limit,
                "offer_hours": self.gift.offer_hours,
            },
            "refund": {
                "returnable": self.refund.returnable,
                "window_days": self.refund.window_days,
                "restore_elapsed": self.refund.restore_elapsed,
                "extend_days": self.refund.extend_days,
                "partial": self.refund.partial.word(),
            },
            "notifications": unbuilt("notifications"),
        })
    }
}

fn write_audience(audience: &Audience, time: &dyn Fn(Millis) -> String) -> Value {
    json!({
        "new_user_days": audience.new_user_days,
        "registered_from": audience.registered_from.map(time),
        "registered_until": audience.registered_until.map(time),
        "levels": audience.levels,
        "tags": audience.tags,
        "user_list_id": null,
        "min_spend_total": null,
        "first_order": null,
        "channels": audience.channels,
    })
}
