//! What operators and shoppers do, over HTTP.

use std::sync::atomic::Ordering;

use floodgate::admission::identity::{self, TokenClaims};
use floodgate::clock::now_ms;
use serde_json::{Value, json};

use super::{ADMIN_KEY, TestApp, until};
use crate::support::wire::{Answer, Client};

impl TestApp {
    // --- Administration, over HTTP ---

    /// The process that administration goes to: the first that runs.
    fn office(&self) -> &Client {
        let running = self.gateways.iter().find(|gateway| gateway.child.is_some());
        &running.expect("a running process").office
    }

    /// A call with an API key; writes bring an idempotency key of their own.
    pub async fn call(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let bearer = format!("Bearer {key}");
        let write = format!("write-{}", self.writes.fetch_add(1, Ordering::Relaxed));
        let mut all = vec![("authorization", bearer.as_str())];
        if method != "GET" && !headers.iter().any(|(name, _)| *name == "idempotency-key") {
            all.push(("idempotency-key", &write));
        }
        all.extend_from_slice(headers);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.office().send(method, path, &all, body).await.unwrap()
    }

    pub fn admin_key(&self) -> &'static str {
        ADMIN_KEY
    }

    /// A new API key of a role, the platform's.
    pub async fn api_key(&self, role: &str) -> String {
        self.api_key_of(role, "platform", "").await
    }

    /// A new API key of a role and owner.
    pub async fn api_key_of(&self, role: &str, owner_type: &str, owner_id: &str) -> String {
        let body = json!({"name": role, "role": role, "owner_type": owner_type, "owner_id": owner_id});
        let made = self.call(ADMIN_KEY, "POST", "/v1/admin/api-keys", &[], body).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json["key"].as_str().unwrap().to_owned()
    }

    /// A template from draft to published, known to every gateway when this returns.
    pub async fn publish(&self, template: Value) -> i64 {
        let mut known = Vec::new();
        for gateway in self.gateways.iter().filter(|gateway| gateway.serves()) {
            known.push((gateway, gateway.metric("floodgate_snapshot_templates").await.unwrap_or(0.0)));
        }
        let id = self.draft(template).await;
        for (key, action) in [(&self.author, "submit"), (&self.approver, "approve"), (&self.author, "publish")] {
            let done = self.act(key, id, action).await;
            assert_eq!(done.status, 200, "{action}: {done:?}");
        }
        for (gateway, before) in known {
            until("a gateway knows the template", async || {
                gateway.metric("floodgate_snapshot_templates").await.is_some_and(|now| now > before)
            })
            .await;
        }
        id
    }

    /// A draft. Issuers other than the platform have no keys here: the admin's makes theirs.
    pub async fn draft(&self, template: Value) -> i64 {
        let key = if template["issuer"].is_string() { ADMIN_KEY } else { &self.author };
        let made = self.call(key, "POST", "/v1/admin/templates", &[], template).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.json["id"].as_i64().unwrap()
    }

    /// A key of role operator, which writes the templates, and one of role approver.
    pub fn keys(&self) -> (&str, &str) {
        (&self.author, &self.approver)
    }

    pub async fn act(&self, key: &str, id: i64, action: &str) -> Answer {
        self.call(key, "POST", &format!("/v1/admin/templates/{id}/{action}"), &[], Value::Null).await
    }

    async fn acted(&self, id: i64, action: &str) {
        let done = self.act(&self.author, id, action).await;
        assert_eq!(done.status, 200, "{action}: {done:?}");
    }

    pub async fn pause(&self, id: i64) {
        self.acted(id, "pause").await;
    }

    pub async fn resume(&self, id: i64) {
        self.acted(id, "resume").await;
    }

    pub async fn end(&self, id: i64) {
        self.acted(id, "stop").await;
    }

    pub async fn add_stock(&self, id: i64, add: i64) {
        let path = format!("/v1/admin/templates/{id}/stock");
        let done = self.call(&self.author, "POST", &path, &[], json!({"add": add})).await;
        assert_eq!(done.status, 200, "{done:?}");
    }

    /// A merge patch under the present revision. A worker that notes the end of a template meanwhile
    /// raises it: then it is read again.
    pub async fn patch(&self, id: i64, patch: Value) -> Answer {
        let path = format!("/v1/admin/templates/{id}");
        loop {
            let read = self.call(&self.author, "GET", &path, &[], Value::Null).await;
            let revision = read.json["revision"].to_string();
            let patched = self.call(&self.author, "PATCH", &path, &[("if-match", &revision)], patch.clone()).await;
            if patched.status != 412 {
                return patched;
            }
        }
    }

    /// Blocks a user, an address or a device, and returns the entry's path, which DELETE lifts.
    pub async fn blacklist(&self, kind: &str, value: &str) -> String {
        let body = json!({"kind": kind, "value": value, "reason": "a test"});
        let put = self.call(&self.author, "POST", "/v1/admin/blacklist", &[], body).await;
        assert_eq!(put.status, 201, "{put:?}");
        format!("/v1/admin/blacklist/{}", put.json["id"])
    }

    /// Takes an entry off the blacklist.
    pub async fn unblock(&self, entry: &str) {
        let gone = self.call(&self.author, "DELETE", entry, &[], Value::Null).await;
        assert_eq!(gone.status, 204, "{gone:?}");
    }

    // --- Shoppers ---

    /// A shopper's token, signed once.
    pub fn token(&self, user: &str) -> String {
        let sign = || self.token_of(user, |_| {});
        self.tokens.lock().unwrap().entry(user.to_owned()).or_insert_with(sign).clone()
    }

    /// A token with other facts.
    pub fn token_of(&self, user: &str, change: impl FnOnce(&mut TokenClaims)) -> String {
        let auth = &self.config.auth;
        let mut claims = TokenClaims {
            sub: user.to_owned(),
            iss: auth.jwt_issuer.clone(),
            aud: auth.jwt_audience.clone(),
            exp: now_ms() as u64 / 1000 + 3600,
            level: None,
            tags: Vec::new(),
            registered_at: None,
            first_order: None,
        };
        change(&mut claims);
        identity::sign(auth, &claims).unwrap()
    }

    /// A claim at the first gateway. An empty key: none.
    pub async fn claim(&self, template: i64, user: &str, key: &str, headers: &[(&str, &str)]) -> Answer {
        self.claim_at(0, template, user, key, headers).await.unwrap()
    }

    /// A claim at one gateway. `Err`: the connection broke before the answer was there.
    pub async fn claim_at(
        &self,
        number: usize,
        template: i64,
        user: &str,
        key: &str,
        headers: &[(&str, &str)],
    ) -> std::io::Result<Answer> {
        let bearer = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", bearer.as_str())];
        if !key.is_empty() {
            all.push(("idempotency-key", key));
        }
        all.extend_from_slice(headers);
        self.gateways[number].shop.send("POST", &format!("/v1/templates/{template}/claims"), &all, "").await
    }

    /// A JSON body of a shopper's to the first gateway.
    pub async fn post(&self, token: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.gateways[0].shop.send("POST", path, &all, body.to_string()).await.unwrap()
    }

    /// A read of a shopper's at the first gateway.
    pub async fn get(&self, user: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let bearer = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        self.gateways[0].shop.send("GET", path, &all, "").await.unwrap()
    }
}
