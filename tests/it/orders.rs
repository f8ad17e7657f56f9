//! Orders upon orders over few coupons: four order services lock, confirm, cancel, forget, refund, give
//! away and repeat themselves at random while processes are killed; and in the end every number is right.
//!
//! `FLOODGATE_ORDERS=full` plays 10,000 orders over 1,000 coupons; else 600 over 120.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::support::app::{TestApp, until};
use super::support::till::{Till, order, reduction, voucher};
use super::support::wire::{Answer, Client};

/// How much is played.
struct Size {
    orders: u64,
    coupons: usize,
    kills: usize,
}

const QUICK: Size = Size { orders: 600, coupons: 120, kills: 2 };
const FULL: Size = Size { orders: 10_000, coupons: 1_000, kills: 12 };

const CLIENTS: u64 = 4;
/// Coupons of each user, and so of each template to a user.
const EACH: usize = 10;

/// Chance with a seed: xorshift.
struct Chance(u64);

/// A coupon as the shop knows it.
#[derive(Clone)]
struct Known {
    code: String,
    user: String,
}

/// What an order service was told and may rely on.
#[derive(Default)]
struct Told {
    confirmed: Vec<String>,
    cancelled: Vec<String>,
    /// Refunds, and what each said it reversed.
    refunded: Vec<(String, String)>,
    /// New codes of accepted gifts, and whose they are.
    received: Vec<Known>,
}

/// Processes that come and go, and those who keep asking until one answers.
struct Shop {
    /// Internal and public addresses of the processes.
    offices: Vec<Client>,
    doors: Vec<Client>,
    service: String,
    tokens: Vec<String>,
    coupons: Mutex<Vec<Known>>,
    told: Mutex<Told>,
    keys: AtomicU64,
}

// === impl Chance ===

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
}

// === impl Shop ===

impl Shop {
    /// Asks one process after the other until one knows: a connection that breaks, a process that is not
    /// ready and an answer that may come later are asked again, with the same body under the same key.
    async fn ask(&self, clients: &[Client], method: &str, path: &str, bearer: &str, body: &Value) -> Answer {
        let key = format!("k-{}", self.keys.fetch_add(1, Ordering::Relaxed));
        let bearer = format!("Bearer {bearer}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key.as_str())];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        for attempt in 0..6_000usize {
            let client = &clients[(attempt + path.len()) % clients.len()];
            match client.send(method, path, &headers, text.clone()).await {
                Ok(answer) if answer.status < 500 => return answer,
                Ok(answer) if [503, 504].contains(&answer.status) => {}
                Ok(answer) => panic!("{method} {path}: {answer:?}"),
                Err(_) => {}
            }
            // A bounded poll: a killed process comes back within a second or two.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{method} {path}: nobody answers");
    }

    async fn office(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask(&self.offices, method, path, &self.service, &body).await
    }

    async fn shopper(&self, user: &str, method: &str, path: &str) -> Answer {
        let at: usize = user.trim_start_matches("u-").parse().unwrap();
        self.ask(&self.doors, method, path, &self.tokens[at], &Value::Null).await
    }

    /// One order's life, or a part of it.
    async fn play(&self, chance: &mut Chance, id: &str) {
        let first = self.pick(chance);
        let mut codes = vec![first.code.clone()];
        if chance.percent(30) {
            // A second one: the user's own or another's, stackable or not.
            codes.push(self.pick(chance).code);
        }
        codes.dedup();
        let mut basket = order(id, &first.user, &[("d-1", "c", "m-1", "70.01"), ("d-2", "c", "m-2", "50.00")]);
        basket["lines"][0]["quantity"] = (1 + chance.next(3)).into();
        let mut body = json!({"order": basket, "coupons": codes});
        if chance.percent(12) {
            body["lock_seconds"] = 1.into();
        }
        if chance.percent(3) {
            self.cancel(id).await;
        }
        let locked = self.office("POST", "/v1/redemptions", body.clone()).await;
        assert!([200, 201, 409, 422].contains(&locked.status), "{locked:?}");
        if locked.status >= 400 {
            return self.give(chance, &first).await;
        }
        if chance.percent(10) {
            let again = self.office("POST", "/v1/redemptions", body).await;
            assert!(again.status == 200 || again.code() == "redemption_cancelled", "{again:?}");
        }
        match chance.next(100) {
            0..55 => self.confirm(id, 1 + chance.next(2)).await,
            55..75 => self.cancel(id).await,
            75..85 => {
                self.cancel(id).await;
                self.confirm(id, 1).await;
            }
            // Forgotten, and perhaps paid too late.
            _ if chance.percent(50) => self.late(id, chance).await,
            _ => {}
        }
        for part in 0..chance.next(4) {
            self.refund(id, part, chance).await;
        }
    }

    fn pick(&self, chance: &mut Chance) -> Known {
        let coupons = self.coupons.lock().unwrap();
        coupons[chance.next(coupons.len() as u64) as usize].clone()
    }

    async fn confirm(&self, id: &str, times: u64) {
        for _ in 0..times {
            let answer = self.office("POST", &format!("/v1/redemptions/{id}/confirm"), Value::Null).await;
            assert!([200, 409].contains(&answer.status), "{answer:?}");
            if answer.status == 200 {
                self.told.lock().unwrap().confirmed.push(id.to_owned());
            }
        }
    }

    async fn cancel(&self, id: &str) {
        let answer = self.office("POST", &format!("/v1/redemptions/{id}/cancel"), Value::Null).await;
        assert!(answer.status == 200 || answer.code() == "redemption_used", "{answer:?}");
        if answer.status == 200 {
            self.told.lock().unwrap().cancelled.push(id.to_owned());
        }
    }

    /// Confirms once the lock has timed out, if it is a short one.
    async fn late(&self, id: &str, chance: &mut Chance) {
        for _ in 0..chance.next(200) {
            let read = self.office("GET", &format!("/v1/redemptions/{id}"), Value::Null).await;
            if read.json["status"] != "locked" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.confirm(id, 1).await;
    }

    async fn refund(&self, id: &str, part: u64, chance: &mut Chance) {
        let refund = format!("r-{id}-{part}");
        let mut body = json!({"refund_id": refund, "order_id": id, "reason": "changed their mind"});
        if chance.percent(60) {
            let line = 1 + chance.next(2);
            body["lines"] = json!([{"line_id": line.to_string(), "quantity": 1}]);
        }
        for _ in 0..1 + chance.next(2) {
            let answer = self.office("POST", "/v1/refunds", body.clone()).await;
            assert!([200, 201, 400, 404, 409].contains(&answer.status), "{answer:?}");
            if answer.status < 300 {
                let reversed = answer.json["reversed_total"].as_str().unwrap().to_owned();
                self.told.lock().unwrap().refunded.push((refund.clone(), reversed));
            }
        }
    }

    /// Offers a coupon, and what becomes of the offer.
    async fn give(&self, chance: &mut Chance, known: &Known) {
        if !chance.percent(40) {
            return;
        }
        let offer = self.shopper(&known.user, "POST", &format!("/v1/me/coupons/{}/gifts", known.code)).await;
        assert!([201, 404, 409].contains(&offer.status), "{offer:?}");
        let Some(token) = offer.json["token"].as_str() else { return };
        let other = format!("u-{}", chance.next(self.tokens.len() as u64));
        let (user, method, path) = match chance.next(10) {
            0..6 => (other.as_str(), "POST", format!("/v1/gifts/{token}/accept")),
            6..8 => (other.as_str(), "POST", format!("/v1/gifts/{token}/decline")),
            _ => (known.user.as_str(), "DELETE", format!("/v1/gifts/{token}")),
        };
        let done = self.shopper(user, method, &path).await;
        assert!([200, 204, 403, 404, 409].contains(&done.status), "{done:?}");
        if let (200, Some(code)) = (done.status, done.json["coupon"]["code"].as_str()) {
            let received = Known { code: code.to_owned(), user: other.clone() };
            self.told.lock().unwrap().received.push(received.clone());
            let mut coupons = self.coupons.lock().unwrap();
            if let Some(old) = coupons.iter_mut().find(|coupon| coupon.code == known.code) {
                *old = received;
            }
        }
    }
}

/// Templates of several manners, and every coupon of them in some user's hands.
async fn shop(till: &Till, size: &Size) -> Shop {
    let users = size.coupons / EACH;
    let mut templates = Vec::new();
    for policy in ["proportional", "clawback", "restore"] {
        let mut template = reduction();
        template["refund"] = json!({"partial": policy, "window_days": 30});
        templates.push(template);
    }
    let mut stackable = voucher("3.33");
    stackable["usage_rules"] = json!([{"rule_type": "STACKABILITY", "params": {"allow_stacking": true}}]);
    templates.push(stackable);
    let mut ids = Vec::new();
    for mut template in templates {
        template["stock"] = json!({"total": size.coupons});
        template["limits"] = json!({"per_user": EACH});
        template["gift"] = json!({"allowed": true, "max_hops": 3, "receiver_limit": false});
        ids.push(till.app.publish(template).await);
    }
    let mut coupons = Vec::new();
    for number in 0..size.coupons {
        let user = format!("u-{}", number % users);
        let code = till.claim(ids[number / users % ids.len()], &user).await;
        coupons.push(Known { code, user });
    }
    let both = 0..till.app.processes();
    Shop {
        offices: both.clone().map(|at| Client::new(till.app.gateway(at).internal_address())).collect(),
        doors: both.map(|at| Client::new(till.app.gateway(at).address())).collect(),
        service: till.service.clone(),
        tokens: (0..users).map(|user| till.app.token(&format!("u-{user}"))).collect(),
        coupons: Mutex::new(coupons),
        told: Mutex::default(),
        keys: AtomicU64::new(0),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_orders_do_and_whoever_dies_the_ledger_is_right() {
    let size = match std::env::var("FLOODGATE_ORDERS").as_deref() {
        Ok("full") => FULL,
        _ => QUICK,
    };
    let plan = TestApp::plan("orders").set("REDEMPTION_CHECKOUTS_LIMIT", 0);
    let mut till =
        Till::open(plan.process("gateway,flusher,worker").process("gateway,flusher,worker").start().await).await;
    let shop = Arc::new(shop(&till, &size).await);
    let seed = std::env::var("FLOODGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand_seed);
    println!("{} orders over {} coupons, seed {seed} (FLOODGATE_SEED)", size.orders, size.coupons);
    let played = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (shop, played) = (shop.clone(), played.clone());
            let orders = size.orders / CLIENTS;
            tokio::spawn(async move {
                let mut chance = Chance(seed.wrapping_mul(2 * client + 1) | 1);
                for number in 0..orders {
                    shop.play(&mut chance, &format!("o-{client}-{number}")).await;
                    played.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for kill in 0..size.kills {
        let due = size.orders * (kill as u64 + 1) / (size.kills as u64 + 1);
        until("orders are played", async || {
            played.load(Ordering::Relaxed) >= due || clients.iter().any(tokio::task::JoinHandle::is_finished)
        })
        .await;
        till.app.restart(kill % 2).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    // Short locks that nobody confirmed run out.
    until("locks time out", async || {
        till.number("SELECT count(*) FROM redemptions WHERE status = 'locked' AND lock_expires_at < now()").await == 0
    })
    .await;
    agree(&till, &shop).await;
    till.app.stop().await;
}

/// The stores hold what was told, every coupon went legal ways, and the numbers are those of a recount.
async fn agree(till: &Till, shop: &Shop) {
    let told = std::mem::take(&mut *shop.told.lock().unwrap());
    println!(
        "confirmed {}, cancelled {}, refunds {}, gifts {}",
        told.confirmed.len(),
        told.cancelled.len(),
        told.refunded.len(),
        told.received.len()
    );
    assert!(
        told.confirmed.len() > 20 && told.cancelled.len() > 20 && told.refunded.len() > 20,
        "too little was played"
    );
    assert!(!told.received.is_empty(), "nothing was given away");
    let sql = till.app.sql().await;
    let status = "SELECT status FROM redemptions WHERE order_id = $1";
    for order in &told.confirmed {
        let found: String = sql.query_one(status, &[order]).await.unwrap().get(0);
        assert!(["used", "refunded", "partially_refunded"].contains(&found.as_str()), "{order} is {found}");
    }
    for order in &told.cancelled {
        let found: String = sql.query_one(status, &[order]).await.unwrap().get(0);
        assert_eq!(found, "cancelled", "{order}");
    }
    let reversed = "SELECT trim_scale(reversed_total)::text FROM refunds WHERE refund_id = $1";
    for (refund, total) in &told.refunded {
        let found: String = sql.query_one(reversed, &[refund]).await.unwrap().get(0);
        let parse = |text: &str| text.parse::<rust_decimal::Decimal>().unwrap();
        assert_eq!(parse(&found), parse(total), "{refund}");
    }
    let twice = "SELECT count(*) FROM (SELECT template_id, serial FROM redemption_coupons
        WHERE state IN ('locked', 'used') GROUP BY 1, 2 HAVING count(*) > 1) d";
    assert_eq!(till.number(twice).await, 0);
    // Between two uses lies a step that gave the coupon back.
    let used_twice = "SELECT count(*) FROM (SELECT template_id, serial,
            count(*) FILTER (WHERE operation = 'confirm') - count(*) FILTER (WHERE operation IN ('restore', 'extend')) AS uses
        FROM coupon_operations GROUP BY 1, 2) o WHERE uses NOT IN (0, 1)";
    assert_eq!(till.number(used_twice).await, 0);
    assert_eq!(till.number("SELECT coalesce(sum(amount), 0)::int8 FROM settlement_entries").await, 0);
    for command in [["ledger", "check"], ["audit", "verify"]] {
        let done = till.app.command(&command);
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command:?}: {said}");
    }
}

fn rand_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64) | 1
}
