//! A refund's request, read whole.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::fields::{Complaints, FieldError, Object, is_plain};
use crate::limits::{LINE_QUANTITY_MAX, ORDER_ID_MAX, ORDER_LINES_MAX, REASON_MAX};

/// What the shop refunds.
#[derive(Clone, Debug)]
pub struct RefundRequest {
    pub refund_id: String,
    pub order_id: String,
    pub reason: String,
    /// Lines and how many units of each; `None`: all that is left of the order.
    pub lines: Option<Vec<(String, u32)>>,
    /// Whether the shipping fees are paid back: with the whole order, unless said otherwise.
    pub shipping_refunded: bool,
    /// Of the whole request.
    pub sha256: [u8; 32],
}

// === impl RefundRequest ===

impl RefundRequest {
    pub fn parse(body: &Value) -> Result<RefundRequest, Vec<FieldError>> {
        let wrong = &mut Complaints::default();
        let mut object = Object::body(body, wrong);
        let refund_id = need_id(&mut object, "refund_id", wrong);
        let order_id = need_id(&mut object, "order_id", wrong);
        let reason = object.need_text("reason", wrong).map(str::to_owned);
        if reason.as_ref().is_some_and(|text| !is_plain(text) || !(1..=REASON_MAX).contains(&text.chars().count())) {
            wrong.add("reason", "length", format!("must have 1 to {REASON_MAX} characters"));
        }
        let lines = object.has("lines").then(|| read_lines(&mut object, wrong));
        if lines.is_none() {
            object.get("lines");
        }
        let shipping = object.flag("shipping_refunded", wrong);
        let shipping_refunded = shipping.unwrap_or(lines.is_none());
        if lines.as_ref().is_some_and(Vec::is_empty) && !shipping_refunded && wrong.is_empty() {
            wrong.add("lines", "length", "must name at least one line, unless only the shipping fees are refunded");
        }
        object.finish(wrong);
        let request = || {
            Some(RefundRequest {
                refund_id: refund_id?,
                order_id: order_id?,
                reason: reason?,
                lines,
                shipping_refunded,
                sha256: Sha256::digest(body.to_string()).into(),
            })
        };
        let request = request();
        std::mem::take(wrong).or(request)
    }
}

fn read_lines(object: &mut Object<'_>, wrong: &mut Complaints) -> Vec<(String, u32)> {
    let Some(items) = object.get("lines").and_then(Value::as_array) else {
        wrong.add("lines", "type", "must be a list");
        return Vec::new();
    };
    if items.len() > ORDER_LINES_MAX {
        wrong.add("lines", "too_many", format!("must hold at most {ORDER_LINES_MAX}"));
        return Vec::new();
    }
    let mut lines: Vec<(String, u32)> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let mut line = Object::at(&format!("lines[{at}]"), item, wrong);
        let id = need_id(&mut line, "line_id", wrong);
        line.need("quantity", wrong);
        let quantity = line.whole("quantity", 1, LINE_QUANTITY_MAX.into(), wrong);
        if id.as_ref().is_some_and(|id| lines.iter().any(|(known, _)| known == id)) {
            wrong.add(line.path("line_id"), "repeated", "is named twice");
        }
        line.finish(wrong);
        lines.extend(id.zip(quantity).map(|(id, quantity)| (id, quantity as u32)));
    }
    lines
}

fn need_id(object: &mut Object<'_>, name: &'static str, wrong: &mut Complaints) -> Option<String> {
    let text = object.need_text(name, wrong)?;
    if !(1..=ORDER_ID_MAX).contains(&text.chars().count()) || !is_plain(text) {
        wrong.add(object.path(name), "length", format!("must have 1 to {ORDER_ID_MAX} characters"));
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(body: Value) -> Vec<String> {
        RefundRequest::parse(&body).unwrap_err().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn fees_go_back_with_the_whole_order_unless_said_otherwise() {
        let mut body = json!({"refund_id": "r", "order_id": "o", "reason": "changed mind"});
        let shipping = |body: &Value| RefundRequest::parse(body).unwrap().shipping_refunded;
        assert!(shipping(&body));
        body["shipping_refunded"] = false.into();
        assert!(!shipping(&body));
        body["lines"] = json!([{"line_id": "1", "quantity": 1}]);
        body["shipping_refunded"] = Value::Null;
        assert!(!shipping(&body));
        body["lines"] = json!([]);
        assert_eq!(fields(body.clone()), ["lines"]);
        body["shipping_refunded"] = true.into();
        assert_eq!(RefundRequest::parse(&body).unwrap().lines, Some(Vec::new()));
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let line = |id: &str, quantity: i64| json!({"line_id": id, "quantity": quantity});
        let body = json!({"refund_id": "", "reason": "\u{0}", "lines": [line("1", 1), line("1", 0)], "why": 1});
        assert_eq!(fields(body), ["refund_id", "order_id", "reason", "lines[1].quantity", "lines[1].line_id", "why"]);
    }
}
