//! How long a template's coupons hold, and how many there are: what a row needs beyond what the
//! queue carries.
//!
//! A template's definition is frozen once it is published, so what was read once stays true. A
//! template that is not there is asked for again, and so is one whose stock seems too small: ranges
//! are rows before a cell has them.

use std::collections::{BTreeMap, HashMap};

use chrono_tz::Tz;

use super::stores::Archive;
use crate::domain::ids::{Serial, TemplateId};
use crate::domain::template::Definition;
use crate::domain::window::{Millis, Validity};
use crate::limits;
use crate::pg::PgFault;

/// A template's validity and the zone it is meant in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub validity: Validity,
    pub zone: Tz,
    /// The highest serial of its stock, when it was read.
    pub last_serial: Serial,
}

/// Terms by template. Bounded: forgotten as a whole when full.
#[derive(Default)]
pub struct TermsCache {
    known: HashMap<TemplateId, Option<Terms>>,
}

// === impl Terms ===

impl Terms {
    /// Of a template whose stock ends at `last_serial`.
    pub fn of(definition: &Definition, last_serial: Serial) -> Self {
        Terms { validity: definition.validity, zone: definition.timezone, last_serial }
    }

    /// `[valid from, expires)` of a coupon acquired at `acquired`.
    pub fn span(&self, acquired: Millis) -> (Millis, Millis) {
        self.validity.span(self.zone, acquired)
    }

    /// Whether the template's stock has this serial. Serial 0 is left to the table's own check.
    pub fn has(&self, serial: Serial) -> bool {
        serial <= self.last_serial
    }
}

// === impl TermsCache ===

impl TermsCache {
    /// Reads what is not known yet of templates, each with the highest serial that is asked for.
    pub async fn load(&mut self, archive: &impl Archive, wanted: &BTreeMap<TemplateId, Serial>) -> Result<(), PgFault> {
        let missing: Vec<TemplateId> = wanted
            .iter()
            .filter(|(id, serial)| match self.known.get(id) {
                Some(Some(terms)) => terms.last_serial < **serial,
                Some(None) => false,
                None => true,
            })
            .map(|(id, _)| *id)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if self.known.len() + missing.len() > limits::TERMS_TEMPLATES_MAX {
            self.known.clear();
        }
        self.known.extend(archive.terms(&missing).await?);
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
