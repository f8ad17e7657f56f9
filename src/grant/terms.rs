//! How long a template's coupons hold: what a row needs beyond what the queue carries.
//!
//! A template's definition is frozen once it is published, so what was read once stays true. A
//! template that is not there is asked for again: it may be published meanwhile.

use std::collections::HashMap;

use chrono_tz::Tz;
use tokio_postgres::Client;

use crate::domain::ids::TemplateId;
use crate::domain::template::Definition;
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
            let terms = match Definition::from_store(&row.get(1)) {
                Ok(definition) => Some(Terms { validity: definition.validity, zone: definition.timezone }),
                Err(wrong) => {
                    tracing::error!(template = id.0, ?wrong, "a template's definition cannot be read");
                    None
                }
            };
            self.known.insert(id, terms);
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
