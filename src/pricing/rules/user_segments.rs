//! `USER_SEGMENTS` `{levels, tags, new_user_days, first_order}`: the user's facts at use match all of it.

use serde_json::json;

use super::{Asked, Reading, Rule, RuleType};
use crate::domain::audience::Audience;
use crate::domain::fields::Complaints;
use crate::limits::{AUDIENCE_WORDS_MAX, FACT_WORD_MAX};
use crate::pricing::reason::{Reason, Refusal};

pub struct UserSegments;

#[derive(Debug)]
struct Segment {
    audience: Audience,
    first_order: Option<bool>,
}

const NEW_USER_DAYS_MAX: i64 = 36_500;

impl RuleType for UserSegments {
    fn name(&self) -> &'static str {
        "USER_SEGMENTS"
    }

    fn repeatable(&self) -> bool {
        true
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        let audience = Audience {
            levels: object.words("levels", AUDIENCE_WORDS_MAX, FACT_WORD_MAX, wrong),
            tags: object.words("tags", AUDIENCE_WORDS_MAX, FACT_WORD_MAX, wrong),
            new_user_days: object.whole("new_user_days", 1, NEW_USER_DAYS_MAX, wrong).map(|days| days as u32),
            ..Audience::default()
        };
        let first_order = object.flag("first_order", wrong);
        if audience == Audience::default() && first_order.is_none() && wrong.is_empty() {
            wrong.add(&*reading.path, "required", "levels, tags, new_user_days or first_order must be given");
        }
        object.finish(wrong);
        Some(Box::new(Segment { audience, first_order }))
    }
}

impl Rule for Segment {
    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        let refused = |condition: &str| {
            Refusal::new(Reason::UserSegment, format!("not for this user ({condition})"))
                .missing("condition", json!(condition))
        };
        self.audience.check(&asked.user.facts, None, asked.order.placed_at).map_err(refused)?;
        match self.first_order {
            Some(wanted) if asked.user.facts.first_order != Some(wanted) => {
                let mut refusal = refused("first_order");
                if asked.user.facts.first_order.is_none() {
                    refusal.detail = "it is not known whether this is the user's first order".into();
                }
                Err(refusal)
            }
            _ => Ok(()),
        }
    }

    fn explain(&self, _: &str) -> String {
        let Audience { levels, tags, new_user_days, .. } = &self.audience;
        let mut parts = Vec::new();
        if !levels.is_empty() {
            parts.push(format!("of level {}", levels.join(" or ")));
        }
        if !tags.is_empty() {
            parts.push(format!("tagged {}", tags.join(" or ")));
        }
        if let Some(days) = new_user_days {
            parts.push(format!("registered within {days} days"));
        }
        match self.first_order {
            Some(true) => parts.push("on their first order".to_owned()),
            Some(false) => parts.push("after their first order".to_owned()),
            None => {}
        }
        format!("for users {}", parts.join(", "))
    }
}
