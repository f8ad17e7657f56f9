//! A lock's request, read whole: every violated field is named at once, the order's too.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config;
use crate::domain::fields::{Complaints, FieldError, Object};
use crate::domain::window::Millis;
use crate::limits::LOCK_COUPONS_MAX;
use crate::pricing::{Order, User};
use crate::quotes::request::{fill_placed_at, read_codes, read_facts, read_order};

/// Coupons that an order wants to use.
#[derive(Clone, Debug)]
pub struct LockRequest {
    /// `placed_at` as it was sent: whether it is believed is for PostgreSQL's clock to say.
    pub order: Order,
    pub user: User,
    /// Codes as they were sent: at least one.
    pub codes: Vec<String>,
    /// What the shopper was shown; another discount is refused.
    pub expected_discount: Option<Decimal>,
    pub lock_seconds: i32,
    /// Of the whole request: the same order asked for otherwise is another request.
    pub sha256: [u8; 32],
    /// The order without its user, and their facts, as they are kept.
    pub placed: Value,
}

// === impl LockRequest ===

impl LockRequest {
    /// `clock` stands for a missing `placed_at`.
    pub fn parse(body: &Value, clock: Millis, settings: &config::Redemption) -> Result<LockRequest, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = Object::body(body, wrong);
        let user = read_facts(&mut object, wrong);
        let order = read_order(&mut object, wrong, |order| fill_placed_at(order, clock));
        object.need("coupons", wrong);
        let codes = read_codes(&mut object, LOCK_COUPONS_MAX, wrong);
        if codes.is_empty() && wrong.is_empty() {
            wrong.add("coupons", "length", "must name at least one coupon");
        }
        let expected_discount = object.decimal("expected_discount", wrong);
        let most = i64::from(settings.lock_seconds_max);
        let lock_seconds = object.whole("lock_seconds", 1, most, wrong).map(|seconds| seconds as i32);
        object.finish(wrong);
        let mut placed = json!({"order": body["order"], "facts": body["facts"]});
        if let Some(order) = placed["order"].as_object_mut() {
            order.remove("user_id");
        }
        let request = order.map(|order| LockRequest {
            order,
            user,
            codes,
            expected_discount,
            lock_seconds: lock_seconds.unwrap_or(settings.lock_seconds as i32),
            // Members in the order of their names, whatever order they came in.
            sha256: Sha256::digest(body.to_string()).into(),
            placed,
        });
        std::mem::take(wrong).or(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Millis = 1_781_755_200_000;

    fn settings() -> config::Redemption {
        config::Redemption { lock_seconds: 900, lock_seconds_max: 3600, checkouts_limit: 1, checkouts_window_s: 60 }
    }

    fn body() -> Value {
        json!({"order": {
            "order_id": "o-1", "user_id": "u-1", "currency": "CNY",
            "lines": [{"line_id": "1", "item_id": "d", "merchant_id": "m", "unit_price": 1.10, "quantity": 1}],
        }, "coupons": ["A"]})
    }

    #[test]
    fn a_request_is_known_again_by_what_it_says() {
        let read = |text: &str| LockRequest::parse(&serde_json::from_str(text).unwrap(), CLOCK, &settings());
        let line = r#"{"line_id":"1","item_id":"d","merchant_id":"m","unit_price":1.10,"quantity":1}"#;
        let one = format!(
            r#"{{"coupons":["A"],"order":{{"order_id":"o","user_id":"u","currency":"CNY","lines":[{line}]}}}}"#
        );
        let same = format!(
            r#"{{"order":{{"currency":"CNY","lines":[{line}],"user_id":"u","order_id":"o"}}, "coupons":["A"]}}"#
        );
        let (one, same) = (read(&one).unwrap(), read(&same).unwrap());
        assert_eq!(one.sha256, same.sha256);
        assert_eq!((one.lock_seconds, one.order.placed_at), (900, CLOCK));
        assert_eq!(one.placed["order"]["user_id"], Value::Null);
        assert_eq!(one.placed["order"]["order_id"], "o");

        let mut other = body();
        other["lock_seconds"] = 60.into();
        let sixty = LockRequest::parse(&other, CLOCK, &settings()).unwrap();
        assert_eq!(sixty.lock_seconds, 60);
        assert_ne!(sixty.sha256, LockRequest::parse(&body(), CLOCK, &settings()).unwrap().sha256);
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let mut bad = body();
        bad["order"]["order_id"] = Value::Null;
        bad["coupons"] = json!([]);
        bad["lock_seconds"] = 3601.into();
        bad["expected_discount"] = "1e3".into();
        bad["colour"] = 1.into();
        let errors = LockRequest::parse(&bad, CLOCK, &settings()).unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["order.order_id", "expected_discount", "lock_seconds", "colour"]);
        let mut none = body();
        none["coupons"] = json!([]);
        assert_eq!(LockRequest::parse(&none, CLOCK, &settings()).unwrap_err()[0].field, "coupons");
    }
}
