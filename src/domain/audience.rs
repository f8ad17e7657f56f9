//! Who may claim: every part of a template's audience must hold.

use super::window::Millis;

/// What the user's token, header or backend says of them. Absent facts satisfy no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub level: Option<String>,
    pub tags: Vec<String>,
    pub registered_at: Option<Millis>,
    /// Whether what is bought now is their first order.
    pub first_order: Option<bool>,
}

/// The conditions of a template. Empty lists and `None` ask nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Registered within this many times 24 hours before the claim.
    pub new_user_days: Option<u32>,
    pub registered_from: Option<Millis>,
    pub registered_until: Option<Millis>,
    /// The user's level is one of these.
    pub levels: Vec<String>,
    /// The user has at least one of these.
    pub tags: Vec<String>,
    /// The request's channel is one of these.
    pub channels: Vec<String>,
}

const DAY_MS: Millis = 86_400_000;

impl Audience {
    /// Whether a user with these facts may claim through `channel` at `now`; else the name of the
    /// first condition that fails.
    pub fn check(&self, facts: &Facts, channel: Option<&str>, now: Millis) -> Result<(), &'static str> {
        let registered = |holds: &dyn Fn(Millis) -> bool| facts.registered_at.is_some_and(holds);
        if let Some(days) = self.new_user_days
            && !registered(&|at| now - at < Millis::from(days) * DAY_MS)
        {
            return Err("new_user_days");
        }
        if let Some(from) = self.registered_from
            && !registered(&|at| at >= from)
        {
            return Err("registered_from");
        }
        if let Some(until) = self.registered_until
            && !registered(&|at| at < until)
        {
            return Err("registered_until");
        }
        if !self.levels.is_empty() && !facts.level.as_ref().is_some_and(|level| self.levels.contains(level)) {
            return Err("levels");
        }
        if !self.tags.is_empty() && !facts.tags.iter().any(|tag| self.tags.contains(tag)) {
            return Err("tags");
        }
        if !self.channels.is_empty()
            && !channel.is_some_and(|channel| self.channels.iter().any(|known| known == channel))
        {
            return Err("channels");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_refuses_by_its_name() {
        let now = 1_000 * DAY_MS;
        let facts = Facts {
            level: Some("gold".into()),
            tags: vec!["vip".into(), "early".into()],
            registered_at: Some(now - 3 * DAY_MS),
            first_order: None,
        };
        let list = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        let cases = [
            (Audience::default(), Ok(())),
            (Audience { new_user_days: Some(4), ..Default::default() }, Ok(())),
            (Audience { new_user_days: Some(3), ..Default::default() }, Err("new_user_days")),
            (Audience { registered_from: Some(now - 3 * DAY_MS), ..Default::default() }, Ok(())),
            (Audience { registered_from: Some(now), ..Default::default() }, Err("registered_from")),
            (Audience { registered_until: Some(now - 3 * DAY_MS), ..Default::default() }, Err("registered_until")),
            (Audience { levels: list(&["silver", "gold"]), ..Default::default() }, Ok(())),
            (Audience { levels: list(&["silver"]), ..Default::default() }, Err("levels")),
            (Audience { tags: list(&["vip", "x"]), ..Default::default() }, Ok(())),
            (Audience { tags: list(&["x"]), ..Default::default() }, Err("tags")),
            (Audience { channels: list(&["app"]), ..Default::default() }, Ok(())),
            (Audience { channels: list(&["web"]), ..Default::default() }, Err("channels")),
        ];
        for (audience, expected) in cases {
            assert_eq!(audience.check(&facts, Some("app"), now), expected, "{audience:?}");
            if audience != Audience::default() {
                assert!(audience.check(&Facts::default(), None, now).is_err(), "absent facts pass {audience:?}");
            }
        }
    }
}
