//! Reads JSON objects field by field and keeps every complaint: a caller learns all that is wrong at once.
//!
//! `null` stands for an absent field. A field that nobody asked for is unknown, and is named.

use chrono::DateTime;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::window::Millis;

/// One violated field: where, a stable word, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// As `limits.per_user` or `claims[3].user_id`.
    pub field: String,
    pub code: &'static str,
    pub detail: String,
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub struct Complaints(Vec<FieldError>);

/// An object that is being read: which of its fields somebody knows.
pub struct Object<'a> {
    /// Path of the object with a dot behind it; empty for the body itself.
    prefix: String,
    members: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

/// Times that a store and a local calendar can both hold, with room for a year of validity.
const EARLIEST: Millis = 946_684_800_000; // 2000-01-01
const LATEST: Millis = 253_370_764_800_000; // 9999-01-01

/// Digits before and after the point: 10^12 units, and one place more than any currency's minor unit.
const WHOLE_DIGITS: usize = 12;
const PLACES: usize = 4;

// === impl Complaints ===

impl Complaints {
    pub fn add(&mut self, field: impl Into<String>, code: &'static str, detail: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), code, detail: detail.into() });
    }

    /// The value, unless something is wrong.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// The whole body.
    pub fn body(value: &'a Value, wrong: &mut Complaints) -> Self {
        if !value.is_object() {
            wrong.add("", "type", "the body must be an object");
        }
        Object { prefix: String::new(), members: value.as_object(), known: Vec::new() }
    }

    /// An element of a list, at `path`.
    pub fn at(path: &str, value: &'a Value, wrong: &mut Complaints) -> Self {
        if !value.is_object() {
            wrong.add(path, "type", "must be an object");
        }
        Object { prefix: format!("{path}."), members: value.as_object(), known: Vec::new() }
    }

    /// The full path of a field.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A field as it is; `None` where it is absent or null.
    pub fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.members.and_then(|members| members.get(name)).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub fn need(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<&'a Value> {
        let value = self.get(name);
        if value.is_none() && self.members.is_some() {
            wrong.add(self.path(name), "required", "is required");
        }
        value
    }

    pub fn text(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<&'a str> {
        let value = self.get(name)?;
        self.as_text(name, value, wrong)
    }

    pub fn need_text(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<&'a str> {
        let value = self.need(name, wrong)?;
        self.as_text(name, value, wrong)
    }

    /// One of a closed list of words; case does not matter.
    pub fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)], wrong: &mut Complaints) -> Option<T> {
        let text = self.text(name, wrong)?;
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            wrong.add(self.path(name), "unknown_value", format!("must be one of {}", list.join(", ")));
        }
        found
    }

    pub fn flag(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<bool> {
        let value = self.get(name)?;
        if !value.is_boolean() {
            wrong.add(self.path(name), "type", "must be true or false");
        }
        value.as_bool()
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, name: &'static str, from: i64, to: i64, wrong: &mut Complaints) -> Option<i64> {
        let value = self.get(name)?;
        match value.as_i64() {
            Some(number) if (from..=to).contains(&number) => Some(number),
            Some(_) => {
                wrong.add(self.path(name), "out_of_range", format!("must be {from} to {to}"));
                None
            }
            None if value.is_number() => {
                wrong.add(self.path(name), "out_of_range", format!("must be a whole number from {from} to {to}"));
                None
            }
            None => {
                wrong.add(self.path(name), "type", "must be a whole number");
                None
            }
        }
    }

    /// An exact decimal, written as a string or a number.
    pub fn decimal(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<Decimal> {
        let value = self.get(name)?;
        let parsed = match value {
            Value::String(text) => parse_decimal(text),
            Value::Number(number) => parse_decimal(number.as_str()),
            _ => None,
        };
        if parsed.is_none() {
            let detail = format!(
                "must be a decimal as \"20.00\", of at most {WHOLE_DIGITS} digits before and {PLACES} after the point"
            );
            wrong.add(self.path(name), "decimal", detail);
        }
        parsed
    }

    /// A moment: RFC 3339 with an offset.
    pub fn time(&mut self, name: &'static str, wrong: &mut Complaints) -> Option<Millis> {
        let text = self.text(name, wrong)?;
        let at = DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis());
        let fits = at.filter(|at| (EARLIEST..LATEST).contains(at));
        if fits.is_none() {
            let detail = "must be a time as 2026-06-18T00:00:00+08:00, between the years 2000 and 9998";
            wrong.add(self.path(name), "time", detail);
        }
        fits
    }

    /// An object within this one; absent fields are all absent.
    pub fn object(&mut self, name: &'static str, wrong: &mut Complaints) -> Object<'a> {
        match self.get(name) {
            Some(value) => Object::at(&self.path(name), value, wrong),
            None => Object { prefix: format!("{}{name}.", self.prefix), members: None, known: Vec::new() },
        }
    }

    /// A list of words of up to `length` characters each.
    pub fn words(&mut self, name: &'static str, most: usize, length: usize, wrong: &mut Complaints) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            wrong.add(self.path(name), "type", "must be a list of strings");
            return Vec::new();
        };
        if items.len() > most {
            wrong.add(self.path(name), "too_many", format!("must hold at most {most}"));
            return Vec::new();
        }
        let mut words = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match item.as_str() {
                Some(word) if is_plain(word) && (1..=length).contains(&word.chars().count()) => {
                    words.push(word.to_owned());
                }
                _ => {
                    let detail = format!("must be a string of 1 to {length} characters");
                    wrong.add(format!("{}[{at}]", self.path(name)), "length", detail);
                }
            }
        }
        words
    }

    /// Whether the object is there and the field was given a value.
    pub fn has(&self, name: &str) -> bool {
        self.members.and_then(|members| members.get(name)).is_some_and(|value| !value.is_null())
    }

    /// Names what nobody asked for.
    pub fn finish(self, wrong: &mut Complaints) {
        for name in self.members.into_iter().flat_map(Map::keys) {
            if !self.known.iter().any(|known| known == name) {
                let shown: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
                wrong.add(self.path(&shown), "unknown_field", "is not a field of this object");
            }
        }
    }

    fn as_text(&self, name: &str, value: &'a Value, wrong: &mut Complaints) -> Option<&'a str> {
        if !value.is_string() {
            wrong.add(self.path(name), "type", "must be a string");
        }
        value.as_str()
    }
}

/// No control characters: PostgreSQL's text holds no NUL, and nobody means the others.
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Plain digits with at most one point and one sign; no exponent, so that nothing is rounded.
fn parse_decimal(text: &str) -> Option<Decimal> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, places) = digits.split_once('.').unwrap_or((digits, "0"));
    let fits = (1..=WHOLE_DIGITS).contains(&whole.len()) && (1..=PLACES).contains(&places.len());
    if !fits || !whole.bytes().chain(places.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, expected) in [("20", "20"), ("20.00", "20.00"), ("-0.5", "-0.5"), ("007.10", "7.10")] {
            assert_eq!(parse_decimal(text).unwrap().to_string(), expected);
        }
        for bad in ["", ".", "1.", ".5", "1e2", "+1", "1_0", "1,0", " 1", "NaN", "1.23456", "1234567890123", "--1"] {
            assert_eq!(parse_decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_complaint_is_kept_with_its_path() {
        let body: Value = serde_json::from_str(
            r#"{"a":{"n":1e400,"t":"2026-06-18 00:00","x":1},"w":["ok",""],"word":"No","d":"1.000001","gone":null}"#,
        )
        .unwrap();
        let mut wrong = Complaints::default();
        let mut object = Object::body(&body, &mut wrong);
        let mut inner = object.object("a", &mut wrong);
        inner.whole("n", 0, 9, &mut wrong);
        inner.time("t", &mut wrong);
        inner.need("missing", &mut wrong);
        inner.finish(&mut wrong);
        object.words("w", 5, 3, &mut wrong);
        object.word("word", &[("yes", 1)], &mut wrong);
        object.decimal("d", &mut wrong);
        object.need("gone", &mut wrong);
        object.finish(&mut wrong);
        let errors = wrong.or(Some(())).unwrap_err();
        let found: Vec<_> = errors.iter().map(|error| (error.field.as_str(), error.code)).collect();
        let expected = [
            ("a.n", "out_of_range"),
            ("a.t", "time"),
            ("a.missing", "required"),
            ("a.x", "unknown_field"),
            ("w[1]", "length"),
            ("word", "unknown_value"),
            ("d", "decimal"),
            ("gone", "required"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_body_that_is_no_object_is_one_complaint() {
        let body = json!([1]);
        let mut wrong = Complaints::default();
        let mut object = Object::body(&body, &mut wrong);
        object.need("name", &mut wrong);
        object.finish(&mut wrong);
        assert_eq!(wrong.or(Some(())).unwrap_err().len(), 1);
    }
}
