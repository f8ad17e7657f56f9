//! Which claims are made: a function of the seed and the claim's number, so that a run can be
//! repeated and no list has to be kept.

use floodgate::clock::now_ms;

/// The claims of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Claims, not counting the retries of those whose outcome was unknown.
    pub claims: u64,
    /// Templates that are claimed, each as often as the others.
    pub templates: Vec<u32>,
    /// Users are named by this and a number from 1 to `users`.
    pub prefix: String,
    pub users: u32,
    /// Whether each claim is by a new user, in order, as long as there are some.
    pub in_turn: bool,
    /// Claim keys that a user has for a template: 1 makes every further claim of theirs a replay.
    pub keys_per_user: u32,
    /// Of 1000 claims, how many bring no claim key.
    pub keyless: u32,
    /// Of 1000 claims, how many are the claim before once more, at the same moment.
    pub double_clicks: u32,
    /// Whether each user names a device and comes from an address of their own (which a gateway
    /// believes only from a trusted proxy).
    pub places: bool,
}

/// One claim of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub template: u32,
    /// The user's number, from 1 on.
    pub user: u32,
    pub key: Option<String>,
}

// === impl Plan ===

impl Plan {
    /// `claims` on one template, by users with one claim key each.
    pub fn new(template: u32, users: u32, claims: u64) -> Plan {
        Plan {
            seed: seed_of_now(),
            claims,
            templates: vec![template],
            prefix: "u-".into(),
            users,
            in_turn: false,
            keys_per_user: 1,
            keyless: 0,
            double_clicks: 0,
            places: false,
        }
    }

    /// The claim of that number, from 0 on.
    pub fn claim(&self, number: u64) -> Claim {
        let double = number > 0 && self.draw(number, 0, 1000) < u64::from(self.double_clicks);
        let number = if double { number - 1 } else { number };
        let template = self.templates[self.draw(number, 1, self.templates.len() as u64) as usize];
        let user = match self.in_turn {
            true => number % u64::from(self.users.max(1)),
            false => self.draw(number, 2, u64::from(self.users)),
        };
        let user = user as u32 + 1;
        let keyed = self.draw(number, 3, 1000) >= u64::from(self.keyless);
        let key = self.draw(number, 4, u64::from(self.keys_per_user));
        Claim { template, user, key: keyed.then(|| format!("{}{user}-{template}-{key}", self.prefix)) }
    }

    pub fn user(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    pub fn device(&self, user: u32) -> Option<String> {
        self.places.then(|| format!("d-{user}"))
    }

    /// In 10.0.0.0/8.
    pub fn address(&self, user: u32) -> Option<String> {
        let [_, b, c, d] = user.to_be_bytes();
        self.places.then(|| format!("10.{b}.{c}.{d}"))
    }

    fn draw(&self, number: u64, purpose: u64, below: u64) -> u64 {
        mix(self.seed ^ mix(number ^ mix(purpose))) % below.max(1)
    }
}

/// A seed for a run that names none.
pub fn seed_of_now() -> u64 {
    mix(now_ms() as u64 ^ u64::from(std::process::id()) << 48) >> 32
}

/// A well-mixed number of a number (SplitMix64).
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// A user id of 12 characters for a number below 2^36, each its own, in no order: indexes are not filled from one end.
pub fn scattered(number: u64) -> String {
    format!("u{:011}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & ((1 << 36) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_claims_and_the_shares_are_kept() {
        let plan = Plan {
            seed: 7,
            templates: vec![3, 4],
            keys_per_user: 2,
            keyless: 100,
            double_clicks: 50,
            ..Plan::new(3, 1000, 10_000)
        };
        let claims: Vec<Claim> = (0..plan.claims).map(|number| plan.claim(number)).collect();
        assert!(claims.iter().enumerate().all(|(number, claim)| plan.claim(number as u64) == *claim));
        let keyless = claims.iter().filter(|claim| claim.key.is_none()).count();
        assert!((850..1150).contains(&keyless), "{keyless}");
        let doubles = claims.windows(2).filter(|pair| pair[0] == pair[1] && pair[0].key.is_some()).count();
        assert!((350..600).contains(&doubles), "{doubles}");
        assert!(claims.iter().all(|claim| (1..=1000).contains(&claim.user)));
        assert!((4700..5300).contains(&claims.iter().filter(|claim| claim.template == 4).count()));
        let other = Plan { seed: 8, ..plan.clone() };
        assert_ne!(other.claim(5), plan.claim(5));
    }
}
