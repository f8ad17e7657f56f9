//! How long a template's coupons hold: what a row needs beyond what the queue carries.
//!
//! A template's definition is frozen once it is published, so what was read once stays true. A
//! template that is not there is asked for again: it may be published meanwhile.

use std::collections::HashMap;

use chrono::DateTime;
use chrono_tz::Tz;
use serde_json::Value;
use tokio_postgres::Client;

use crate::domain::ids::TemplateId;
use crate::domain::window::{Millis, Validity};
use crate::limits;
use crate::pg::PgFault;

/// A template's validity and the zone it is meant in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub validity: Validity,
    pub zone: Tz,
}

/// Terms by template. Bounded: forgotten as a whole when full.
#[derive(Default)]
pub struct TermsCache {
    known: HashMap<TemplateId, Option<Terms>>,
}

// === impl Terms ===

impl Terms {
    /// Reads a stored definition. `None` where it is not as it was written.
    pub fn of(definition: &Value) -> Option<Terms> {
        let zone = definition.get("timezone")?.as_str()?.parse().ok()?;
        let validity = definition.get("validity")?;
        let number = |key: &str| validity.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let time = |key: &str| -> Option<Millis> {
            Some(DateTime::parse_from_rfc3339(validity.get(key)?.as_str()?).ok()?.timestamp_millis())
        };
        let kind = validity.get("type")?.as_str()?;
        let validity = if kind.eq_ignore_ascii_case("fixed") {
            Validity::Fixed { from: time("from")?, until: time("until")? }
        } else if kind.eq_ignore_ascii_case("relative") {
            Validity::Relative {
                days: number("days")?,
                delay_days: number("delay_days").unwrap_or(0),
                end_of_day: validity.get("end_of_day").and_then(Value::as_bool).unwrap_or(false),
            }
        } else {
            return None;
        };
        Some(Terms { validity, zone })
    }

    /// `[valid from, expires)` of a coupon acquired at `acquired`.
    pub fn span(&self, acquired: Millis) -> (Millis, Millis) {
        self.validity.span(self.zone, acquired)
    }
}

// === impl TermsCache ===

impl TermsCache {
    /// Reads what is not known yet of `templates`.
    pub async fn load(&mut self, client: &Client, templates: impl Iterator<Item = TemplateId>) -> Result<(), PgFault> {
        let mut missing: Vec<i32> =
            templates.filter(|id| !self.known.contains_key(id)).map(TemplateId::as_i32).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        if self.known.len() + missing.len() > limits::TERMS_TEMPLATES_MAX {
            self.known.clear();
        }
        for row in client.query(include_str!("../sql/grant/definitions.sql"), &[&missing]).await? {
            let id = TemplateId(row.get::<_, i32>(0) as u32);
            self.known.insert(id, Terms::of(&row.get(1)));
        }
        Ok(())
    }

    /// The terms of a loaded template, or the word for why there are none.
    pub fn get(&self, template: TemplateId) -> Result<Terms, &'static str> {
        match self.known.get(&template) {
            Some(Some(terms)) => Ok(*terms),
            Some(None) => Err("template_unreadable"),
            None => Err("template_unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_kinds_of_validity_are_read() {
        let relative = json!({"timezone": "Asia/Shanghai", "validity": {"type": "relative", "days": 7}});
        assert_eq!(
            Terms::of(&relative).unwrap().validity,
            Validity::Relative { days: 7, delay_days: 0, end_of_day: false }
        );
        let fixed = json!({"timezone": "UTC", "validity":
            {"type": "FIXED", "from": "1970-01-01T00:00:01Z", "until": "1970-01-01T01:00:02+01:00"}});
        assert_eq!(Terms::of(&fixed).unwrap().span(77), (1000, 2000));
        for bad in [
            json!({}),
            json!({"timezone": "Mars/Base", "validity": {"type": "relative", "days": 7}}),
            json!({"timezone": "UTC", "validity": {"type": "relative", "days": -7}}),
            json!({"timezone": "UTC", "validity": {"type": "never"}}),
        ] {
            assert_eq!(Terms::of(&bad), None, "{bad}");
        }
    }
}
