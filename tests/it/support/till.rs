//! An order service on an app: templates, coupons, and orders that use them.

use floodgate::clock::now_ms;
use floodgate::domain::window::rfc3339;
use serde_json::{Value, json};

use super::app::{TestApp, coupons};
use super::ledger::balances;
use super::wire::Answer;

/// An app with an order service.
pub struct Till {
    pub app: TestApp,
    pub service: String,
}

// === impl Till ===

impl Till {
    pub async fn open(app: TestApp) -> Till {
        let service = app.api_key("service").await;
        Till { app, service }
    }

    /// Ends it; its books must balance.
    pub async fn close(self) {
        balances(&self.app);
        self.app.stop().await;
    }

    pub async fn claim(&self, id: i64, user: &str) -> String {
        let claimed = self.app.claim(id, user, "", &[]).await;
        assert_eq!(claimed.status, 201, "{claimed:?}");
        claimed.json["coupon"]["code"].as_str().unwrap().to_owned()
    }

    /// A published template, and the code of the user's coupon of it.
    pub async fn coupon(&self, template: Value, user: &str) -> (i64, String) {
        let id = self.app.publish(template).await;
        (id, self.claim(id, user).await)
    }

    /// A call of the order service.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.app.call(&self.service, method, path, &[], body).await
    }

    pub async fn lock(&self, order: &Value, codes: &[&str]) -> Answer {
        self.call("POST", "/v1/redemptions", json!({"order": order, "coupons": codes})).await
    }

    /// Locked, or the test fails.
    pub async fn locked(&self, order: &Value, codes: &[&str]) -> Value {
        let answer = self.lock(order, codes).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json
    }

    pub async fn confirm(&self, order: &str) -> Answer {
        self.call("POST", &format!("/v1/redemptions/{order}/confirm"), Value::Null).await
    }

    pub async fn cancel(&self, order: &str) -> Answer {
        self.call("POST", &format!("/v1/redemptions/{order}/cancel"), Value::Null).await
    }

    pub async fn redemption(&self, order: &str) -> Answer {
        self.call("GET", &format!("/v1/redemptions/{order}"), Value::Null).await
    }

    pub async fn refund(&self, body: Value) -> Answer {
        self.call("POST", "/v1/refunds", body).await
    }

    /// Locked and confirmed.
    pub async fn used(&self, order: &Value, codes: &[&str]) -> Value {
        self.locked(order, codes).await;
        let confirmed = self.confirm(order["order_id"].as_str().unwrap()).await;
        assert_eq!(confirmed.status, 200, "{confirmed:?}");
        confirmed.json
    }

    /// A coupon's status as its holder's wallet shows it.
    pub async fn status(&self, user: &str, code: &str) -> String {
        let coupon = self.app.get(user, &format!("/v1/me/coupons/{code}"), &[]).await;
        coupon.json["status"].as_str().unwrap_or(coupon.code()).to_owned()
    }

    /// Changes the row of a coupon, as time or another hand would: `set` is SQL.
    pub async fn alter(&self, template: i64, set: &str) {
        let sql = format!("UPDATE user_coupons SET {set} WHERE template_id = $1");
        let changed = self.app.sql().await.execute(&sql, &[&(template as i32)]).await.unwrap();
        assert!(changed > 0, "no coupon of {template} is a row yet");
    }

    /// Steps of a template's coupons as they were traced: operation, from, to, cause.
    pub async fn trace(&self, template: i64) -> Vec<String> {
        let sql = "SELECT operation, from_status, to_status, cause_kind || ' ' || cause_id FROM coupon_operations
            WHERE template_id = $1 ORDER BY serial, id";
        let rows = self.app.sql().await.query(sql, &[&(template as i32)]).await.unwrap();
        let line = |row: &tokio_postgres::Row| {
            let (operation, from, to): (String, i16, i16) = (row.get(0), row.get(1), row.get(2));
            format!("{operation} {from}>{to} {}", row.get::<_, String>(3))
        };
        rows.iter().map(line).collect()
    }

    /// One number of the database.
    pub async fn number(&self, sql: &str) -> i64 {
        self.app.sql().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// One text of the database.
    pub async fn text(&self, sql: &str) -> String {
        self.app.sql().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

pub fn rule(word: &str, params: Value) -> Value {
    json!({"rule_type": word, "params": params})
}

pub fn template(kind: &str, value: Value, rules: &[Value]) -> Value {
    let mut template = coupons(100);
    template["kind"] = kind.into();
    template["value"] = value;
    template["usage_rules"] = rules.into();
    template
}

/// 20 off from 100.
pub fn reduction() -> Value {
    template("full_reduction", json!({"amount": "20.00"}), &[rule("MINIMUM_SPEND", json!({"amount": "100.00"}))])
}

/// A voucher of an amount, without conditions.
pub fn voucher(amount: &str) -> Value {
    template("CASH_VOUCHER", json!({ "amount": amount }), &[])
}

pub fn of_merchant(mut template: Value, merchant: &str) -> Value {
    template["issuer"] = "merchant".into();
    template["issuer_id"] = merchant.into();
    template
}

/// An order of one piece a line: item, category, merchant, price. Its checkout is its own.
pub fn order(id: &str, user: &str, lines: &[(&str, &str, &str, &str)]) -> Value {
    let line = |(at, (item, category, merchant, price)): (usize, &(&str, &str, &str, &str))| {
        json!({
            "line_id": (at + 1).to_string(), "item_id": item, "category_ids": [category], "merchant_id": merchant,
            "streamer_id": null, "unit_price": price, "quantity": 1,
        })
    };
    json!({
        "order_id": id, "user_id": user, "channel": "app",
        "placed_at": rfc3339(chrono_tz::Asia::Shanghai, now_ms()), "currency": "CNY",
        "lines": lines.iter().enumerate().map(line).collect::<Vec<_>>(),
    })
}
