//! The journal by claim: all requests with the same template, user and claim key are one claim.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use floodgate::domain::user::{UserId, UserRef};

use super::Lens;
use crate::journal::{Coupon, Exchange, Outcome, Record};

/// One claim, however often it was asked.
pub struct Claim<'a> {
    pub template: u32,
    pub user: &'a str,
    pub key: &'a str,
    pub user_ref: Arc<UserRef>,
    pub hash: u64,
    /// In the order in which they were sent; never empty.
    pub exchanges: Vec<&'a Exchange>,
}

/// How a claim is found in the stores: template, user's reference, claim key's hash.
pub type Name<'a> = (u32, &'a str, u64);

pub struct Claims<'a> {
    pub all: Vec<Claim<'a>>,
    /// References of all users that asked.
    pub refs: HashMap<&'a str, Arc<UserRef>>,
    /// Requests without a key whose answers were lost: each may have been granted, under a key that
    /// nobody knows. Counted by template and user's reference.
    pub nameless: HashMap<(u32, &'a str), usize>,
}

// === impl Claims ===

impl<'a> Claims<'a> {
    pub fn of(record: &'a Record, lens: &Lens) -> Claims<'a> {
        let mut refs: HashMap<&str, Arc<UserRef>> = HashMap::new();
        let mut by_key: BTreeMap<(u32, &str, &str), Vec<&Exchange>> = BTreeMap::new();
        let mut nameless: HashMap<(u32, &str), usize> = HashMap::new();
        for exchange in &record.exchanges {
            let (template, user) = (exchange.request.template, &*exchange.request.user);
            if !refs.contains_key(user)
                && let Some(id) = UserId::parse(user)
            {
                refs.insert(user, Arc::new(lens.users.seal(&id)));
            }
            match exchange.claim_key() {
                Some(key) => by_key.entry((template, user, key)).or_default().push(exchange),
                None if exchange.is_unknown() => *nameless.entry((template, user)).or_default() += 1,
                None => {}
            }
        }
        let all = by_key.into_iter().filter_map(|((template, user, key), exchanges)| {
            let user_ref = refs.get(user)?.clone();
            Some(Claim { template, user, key, user_ref, hash: lens.hashing.claim_key(key), exchanges })
        });
        Claims { all: all.collect(), refs, nameless }
    }
}

// === impl Claim ===

impl<'a> Claim<'a> {
    pub fn name(&self) -> Name<'_> {
        (self.template, self.user_ref.as_str(), self.hash)
    }

    /// The coupons that were answered, with their requests.
    pub fn coupons(&self) -> impl Iterator<Item = (&'a Exchange, &'a Coupon)> {
        self.exchanges.iter().filter_map(|exchange| match exchange.outcome()? {
            Outcome::Coupon { coupon, .. } => Some((*exchange, coupon)),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
        })
    }

    /// For a difference's detail: ids by which it is found again.
    pub fn shown(&self) -> String {
        let requests: Vec<String> = self.exchanges.iter().take(8).map(|one| one.request.seq.to_string()).collect();
        let more = if self.exchanges.len() > 8 { ", ..." } else { "" };
        let Claim { template, user, key, .. } = self;
        format!("template {template}, user {user}, claim key {key} (requests {}{more})", requests.join(", "))
    }
}
