//! `STACKABILITY`: what may stand beside the coupon. It is laid down here and judged over a whole set
//! of coupons, in `stacking.rs`; on its own a coupon always satisfies it.

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::Complaints;
use crate::domain::template::Kind;
use crate::limits::QUOTE_COUPONS_MAX;
use crate::pricing::reason::Refusal;

pub struct StackabilityType;

/// Without the rule: the class limits hold, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stackability {
    /// `Some(true)`: shares its class with others that say so. `Some(false)`: is used alone.
    pub allow: Option<bool>,
    pub alone_scope: AloneScope,
    /// Kinds that may not stand beside it.
    pub excluded: Vec<Kind>,
    /// Others beside it, at most.
    pub max_others: Option<u32>,
}

/// How alone a coupon is that does not stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AloneScope {
    #[default]
    All,
    /// Alone among goods coupons: shipping coupons may join.
    Goods,
}

impl RuleType for StackabilityType {
    fn name(&self) -> &'static str {
        "STACKABILITY"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut object = reading.object(wrong);
        let allow = object.flag("allow_stacking", wrong);
        let words = [("all", AloneScope::All), ("goods", AloneScope::Goods)];
        let alone = object.word("alone_scope", &words, wrong);
        if alone.is_some() && allow != Some(false) {
            wrong.add(object.path("alone_scope"), "contradiction", "goes with allow_stacking false only");
        }
        let names = object.words("exclude_coupon_types", Kind::WORDS.len(), 64, wrong);
        let mut excluded = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            match Kind::parse(name) {
                Some(kind) => excluded.push(kind),
                None => {
                    let path = format!("{}[{at}]", object.path("exclude_coupon_types"));
                    wrong.add(path, "unknown_value", "is not a kind of coupon");
                }
            }
        }
        let max_others = object.whole("max_stacked", 0, QUOTE_COUPONS_MAX as i64, wrong).map(|count| count as u32);
        object.finish(wrong);
        Some(Box::new(Stackability { allow, alone_scope: alone.unwrap_or_default(), excluded, max_others }))
    }
}

impl Rule for Stackability {
    fn lay_down(&self, shape: &mut Shape) {
        shape.stackability = self.clone();
    }

    fn check(&self, _: &Asked) -> Result<(), Refusal> {
        Ok(())
    }

    fn explain(&self, _: &str) -> String {
        let mut parts = Vec::new();
        match (self.allow, self.alone_scope) {
            (Some(true), _) => parts.push("stacks with coupons of its class that stack too".to_owned()),
            (Some(false), AloneScope::All) => parts.push("used alone".to_owned()),
            (Some(false), AloneScope::Goods) => parts.push("used alone, or with shipping coupons".to_owned()),
            (None, _) => {}
        }
        if !self.excluded.is_empty() {
            let kinds: Vec<&str> = self.excluded.iter().map(|kind| kind.word()).collect();
            parts.push(format!("not beside {}", kinds.join(", ")));
        }
        if let Some(others) = self.max_others {
            parts.push(format!("at most {others} others beside it"));
        }
        parts.join(", ")
    }
}
