//! Claims whose outcome is unknown, until their deadline has passed.
//!
//! A batch may still execute up to its deadline. Until then a keyed retry that the gateway would
//! refuse is answered `outcome_unknown`, so that no late execution contradicts a refusal. After
//! the deadline the receipts tell the truth.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::mono_ms;
use crate::domain::ids::TemplateId;
use crate::domain::user::UserRef;
use crate::limits::IN_DOUBT_MAX;
use crate::telemetry::metrics;

type Key = (TemplateId, UserRef, u64);

/// The process' claims in doubt: claim -> the monotonic time in ms after which it is none.
#[derive(Default)]
pub struct Doubts {
    claims: Mutex<HashMap<Key, u64>>,
    /// Kept beside the map so that the common case, none, takes no lock.
    count: AtomicUsize,
}

// === impl Doubts ===

impl Doubts {
    /// Notes claims that may still execute until `until`. Beyond the bound nothing more is noted:
    /// the answer to their first request still waits for the deadline.
    pub fn note(&self, claims: impl Iterator<Item = Key>, until: u64) {
        let mut noted = self.claims.lock().expect("no panic holds this lock");
        let now = mono_ms();
        if noted.len() >= IN_DOUBT_MAX / 2 {
            noted.retain(|_, until| now < *until);
        }
        for claim in claims {
            if noted.len() < IN_DOUBT_MAX {
                noted.insert(claim, until);
            }
        }
        self.count.store(noted.len(), Ordering::Release);
        metrics().in_doubt.set(noted.len() as f64);
    }

    /// Forgets what has passed. Called now and then.
    pub fn sweep(&self) {
        if self.count.load(Ordering::Acquire) > 0 {
            let now = mono_ms();
            let mut noted = self.claims.lock().expect("no panic holds this lock");
            noted.retain(|_, until| now < *until);
            self.count.store(noted.len(), Ordering::Release);
            metrics().in_doubt.set(noted.len() as f64);
        }
    }

    /// Whether the claim may still execute.
    pub fn holds(&self, template: TemplateId, user: &UserRef, key: u64) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let noted = self.claims.lock().expect("no panic holds this lock");
        noted.get(&(template, user.clone(), key)).is_some_and(|until| mono_ms() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_ends_with_its_deadline_and_the_table_is_bounded() {
        let doubts = Doubts::default();
        let user = UserRef::from_store("u").unwrap();
        doubts.note([(TemplateId(1), user.clone(), 7)].into_iter(), mono_ms() + 60_000);
        assert!(doubts.holds(TemplateId(1), &user, 7));
        assert!(!doubts.holds(TemplateId(2), &user, 7) && !doubts.holds(TemplateId(1), &user, 8));
        doubts.note([(TemplateId(1), user.clone(), 7)].into_iter(), 0);
        assert!(!doubts.holds(TemplateId(1), &user, 7));
        doubts.sweep();
        assert_eq!(doubts.count.load(Ordering::Acquire), 0);

        doubts.note((0..IN_DOUBT_MAX as u64 * 2).map(|key| (TemplateId(1), user.clone(), key)), u64::MAX);
        assert_eq!(doubts.count.load(Ordering::Acquire), IN_DOUBT_MAX);
    }
}
