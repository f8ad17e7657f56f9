//! A named set of usage rules, which templates name instead of rules of their own.
//!
//! A template that names a set copies its rules when it is written and when it is submitted, and
//! keeps that copy once it is published: a set that changes later changes nothing that was sold.

use serde_json::{Value, json};

use super::fields::{Complaints, FieldError, Object};
use super::template::{self, Issuer};

/// Everything that a set's author says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSet {
    /// Unique for its issuer.
    pub name: String,
    pub description: String,
    /// Whose templates may name it.
    pub issuer: Issuer,
    /// The merchant or streamer; empty for the platform.
    pub issuer_id: String,
    /// `[{rule_type, params, priority}]`, checked for shape.
    pub usage_rules: Value,
}

// === impl RuleSet ===

impl RuleSet {
    /// Makes a set from a body, or says everything that is wrong with its shape.
    pub fn parse(body: &Value) -> Result<RuleSet, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = Object::body(body, wrong);
        let name = template::read_name(&mut object, wrong);
        let description = template::read_description(&mut object, wrong);
        let (issuer, issuer_id) = template::read_issuer(&mut object, wrong);
        let rules = object.need("usage_rules", wrong);
        let usage_rules = rules.map(|rules| template::read_rules(rules, wrong));
        object.finish(wrong);
        let set = name.zip(usage_rules).map(|(name, usage_rules)| RuleSet {
            name,
            description,
            issuer,
            issuer_id,
            usage_rules,
        });
        std::mem::take(wrong).or(set)
    }

    /// The set with a merge patch laid over it. Whose it is stays: templates name it by its owner.
    pub fn patch(&self, patch: &Value) -> Result<RuleSet, Vec<FieldError>> {
        let patched = RuleSet::parse(&template::laid_over(self.to_json(), patch)?)?;
        let mut wrong = Vec::new();
        for (field, is_other) in
            [("issuer", patched.issuer != self.issuer), ("issuer_id", patched.issuer_id != self.issuer_id)]
        {
            if is_other {
                let detail = "cannot change: make another rule set".to_owned();
                wrong.push(FieldError { field: field.into(), code: "frozen", detail });
            }
        }
        if wrong.is_empty() { Ok(patched) } else { Err(wrong) }
    }

    /// What [`RuleSet::parse`] reads back to an equal set.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "issuer": self.issuer.word(),
            "issuer_id": self.issuer_id,
            "usage_rules": self.usage_rules,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(result: Result<RuleSet, Vec<FieldError>>) -> Vec<(String, &'static str)> {
        result.err().unwrap_or_default().into_iter().map(|error| (error.field, error.code)).collect()
    }

    #[test]
    fn a_set_is_read_and_written_and_every_violation_is_named() {
        let rule = json!({"rule_type": "minimum_spend", "params": {"amount": 100}});
        let set = RuleSet::parse(&json!({"name": "满100", "usage_rules": [rule]})).unwrap();
        assert_eq!((set.issuer, set.usage_rules[0]["rule_type"].as_str()), (Issuer::Platform, Some("MINIMUM_SPEND")));
        assert_eq!(RuleSet::parse(&set.to_json()).unwrap(), set);

        let wrong = named(RuleSet::parse(&json!({"name": "x", "usage_rules": [{"params": 1}], "colour": 1})));
        let fields: Vec<_> = wrong.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["name", "usage_rules[0].rule_type", "usage_rules[0].params", "colour"]);
        assert_eq!(named(RuleSet::parse(&json!({"name": "set"}))), [("usage_rules".to_owned(), "required")]);
        assert_eq!(named(RuleSet::parse(&json!([]))).len(), 1);
    }

    #[test]
    fn a_patch_changes_all_but_the_owner() {
        let set = RuleSet::parse(&json!({"name": "set", "usage_rules": []})).unwrap();
        let patched = set.patch(&json!({"name": "another", "description": "d"})).unwrap();
        assert_eq!((patched.name.as_str(), patched.description.as_str()), ("another", "d"));
        let merchant = json!({"issuer": "merchant", "issuer_id": "m-1"});
        let frozen = [("issuer".to_owned(), "frozen"), ("issuer_id".to_owned(), "frozen")];
        assert_eq!(named(set.patch(&merchant)), frozen);
        assert_eq!(named(set.patch(&json!({"usage_rules": null}))), [("usage_rules".to_owned(), "required")]);
    }
}
