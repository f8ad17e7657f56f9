//! Approval by another system, against a real receiver: asked by a signed request, answered by one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use floodgate::clock::now_ms;
use floodgate::webhook::{self, Signer};
use hyper::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::app::{Plan, TestApp, coupons, until};
use super::support::wire::Answer;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// What a receiver does instead of answering.
const HANG: u16 = 0;
const HANG_UP: u16 = 1;

/// An approval flow's front door.
struct Flow {
    address: String,
    /// The status that it answers, or what it does instead.
    answers: Arc<AtomicU16>,
    messages: Arc<Mutex<Vec<Message>>>,
}

#[derive(Clone, Debug)]
struct Message {
    headers: HashMap<String, String>,
    body: String,
}

impl Flow {
    async fn open(answers: u16) -> Flow {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answers, messages) = (Arc::new(AtomicU16::new(answers)), Arc::new(Mutex::new(Vec::new())));
        let flow = Flow { address, answers: answers.clone(), messages: messages.clone() };
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let message = read(&mut stream).await;
                messages.lock().unwrap().push(message);
                match answers.load(Ordering::Relaxed) {
                    HANG => open.push(stream),
                    HANG_UP => drop(stream),
                    status => {
                        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            }
        });
        flow
    }

    fn plan(&self, name: &str) -> Plan {
        TestApp::plan(name)
            .set("APPROVAL_MODE", "external")
            .set("APPROVAL_URL", format!("http://{}/hooks/approval?from=floodgate", self.address))
            .set("APPROVAL_SECRET", SECRET)
            .set("APPROVAL_TIMEOUT_MS", 300)
            .set("APPROVAL_RETRY_MIN_MS", 50)
            .set("APPROVAL_RETRY_MAX_MS", 200)
    }

    fn answers(&self, status: u16) {
        self.answers.store(status, Ordering::Relaxed);
    }

    fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    async fn until_asked(&self, times: usize) {
        until("it is asked", async || self.messages().len() >= times).await;
    }
}

async fn read(stream: &mut TcpStream) -> Message {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines();
        assert_eq!(lines.next().unwrap(), "POST /hooks/approval?from=floodgate HTTP/1.1");
        let pairs = lines.map(|line| line.split_once(": ").unwrap());
        let headers: HashMap<String, String> =
            pairs.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        if body.len() == headers["content-length"].parse::<usize>().unwrap() {
            return Message { headers, body: body.to_owned() };
        }
    }
}

impl Message {
    fn id(&self) -> &str {
        &self.headers[webhook::ID]
    }

    fn approval(&self) -> Value {
        serde_json::from_str::<Value>(&self.body).unwrap()["data"].clone()
    }

    /// As a receiver does with the secret.
    fn verify(&self) {
        let mut headers = HeaderMap::new();
        for name in [webhook::ID, webhook::TIMESTAMP, webhook::SIGNATURE] {
            headers.insert(name, self.headers[name].parse().unwrap());
        }
        let signer = Signer::new(SECRET).unwrap();
        assert_eq!(signer.verify(&headers, self.body.as_bytes(), now_ms() / 1000, 60), Ok(self.id()));
    }
}

/// An answer under a message's id, signed at a moment with a secret.
async fn answer(app: &TestApp, to: i64, id: &str, at_s: i64, secret: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let signature = Signer::new(secret).unwrap().sign(id, at_s, body.as_bytes());
    let at = at_s.to_string();
    let headers = [(webhook::ID, id), (webhook::TIMESTAMP, &at), (webhook::SIGNATURE, &signature)];
    app.gateway(0).office.send("POST", &format!("/v1/approvals/{to}"), &headers, body).await.unwrap()
}

async fn decide(app: &TestApp, id: i64, body: Value) -> Answer {
    answer(app, id, &format!("approval-{id}"), now_ms() / 1000, SECRET, &body).await
}

async fn status(app: &TestApp, id: i64) -> Value {
    let (author, _) = app.keys();
    app.call(author, "GET", &format!("/v1/admin/templates/{id}"), &[], Value::Null).await.json["status"].clone()
}

#[tokio::test]
async fn a_submission_is_asked_for_until_it_arrives_and_its_answer_decides() {
    let flow = Flow::open(500).await;
    let app = flow.plan("approvals-decide").start().await;
    let (author, approver) = app.keys();
    let id = app.draft(coupons(5)).await;
    let submitted = app.act(author, id, "submit").await;
    assert_eq!(submitted.json["status"], "pending_approval");

    // A fault, a hang-up, no answer at all: it comes again, the same message to the letter.
    flow.until_asked(2).await;
    flow.answers(HANG_UP);
    flow.until_asked(4).await;
    flow.answers(HANG);
    flow.until_asked(6).await;
    flow.answers(204);
    let sql = app.sql().await;
    let delivered = "SELECT count(*) FROM approval_requests WHERE delivered_at IS NOT NULL AND next_attempt_at IS NULL";
    until("it has arrived", async || sql.query_one(delivered, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    let messages = flow.messages();
    for message in &messages {
        message.verify();
        assert_eq!((message.id(), &message.body), (messages[0].id(), &messages[0].body));
    }
    let asked = messages[0].approval();
    let approval = asked["approval_id"].as_i64().unwrap();
    assert_eq!(messages[0].id(), format!("approval-{approval}"));
    assert_eq!((&asked["template"], &asked["submitted_by"]), (&submitted.json, &json!("key:2")));
    assert!(app.gateway(0).metric("floodgate_approval_failures_total").await.unwrap() >= 6.0);

    // Keys do not approve here.
    let refused = app.act(approver, id, "approve").await;
    assert_eq!((refused.status, refused.code()), (409, "approved_elsewhere"));

    // Nor does who cannot sign, or signed long ago, or answered another question.
    let (yes, now, name) = (json!({"decision": "approved", "by": "li.wei"}), now_ms() / 1000, messages[0].id());
    let path = format!("/v1/approvals/{approval}");
    let unsigned = app.gateway(0).office.send("POST", &path, &[], yes.to_string());
    let wrongs = [
        unsigned.await.unwrap(),
        answer(&app, approval, name, now, "another-secret-of-enough-length", &yes).await,
        answer(&app, approval, name, now - 301, SECRET, &yes).await,
        answer(&app, approval, name, now + 330, SECRET, &yes).await,
        answer(&app, approval, "approval-99", now, SECRET, &yes).await,
    ];
    for wrong in wrongs {
        assert_eq!((wrong.status, wrong.code()), (401, "unauthenticated"), "{wrong:?}");
    }
    assert_eq!(decide(&app, approval, json!({"decision": "perhaps"})).await.code(), "invalid_request");
    assert_eq!(decide(&app, approval, json!({"decision": "approved", "revision": 1})).await.code(), "conflict");
    assert_eq!(decide(&app, 99, yes.clone()).await.code(), "not_found");
    assert_eq!(status(&app, id).await, "pending_approval");

    let done = decide(&app, approval, json!({"decision": "approved", "by": "li.wei", "revision": 2})).await;
    assert_eq!((done.status, &done.json["state"], &done.json["by"]), (200, &json!("approved"), &json!("li.wei")));
    assert_eq!(status(&app, id).await, "approved");
    // The same again is the same; the opposite is too late.
    assert_eq!(decide(&app, approval, yes).await.json, done.json);
    let late = decide(&app, approval, json!({"decision": "rejected", "reason": "no"})).await;
    assert_eq!((late.code(), &late.json["state"]), ("conflict", &json!("approved")));
    assert_eq!(app.act(author, id, "publish").await.json["status"], "published");

    let recorded = "SELECT actor, ip, after FROM audit_log WHERE action = 'template.approve'";
    let row = sql.query_one(recorded, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("approval", "127.0.0.1"));
    let after: Value = row.get(2);
    assert_eq!(after["approval"], json!({"id": approval, "by": "li.wei", "reason": null}));
    assert_eq!((&after["status"], &after["approver_key_id"]), (&json!("approved"), &Value::Null));
    app.stop().await;
}

#[tokio::test]
async fn an_answer_to_an_older_submission_decides_nothing() {
    let flow = Flow::open(200).await;
    let app = flow.plan("approvals-older").start().await;
    let (author, approver) = app.keys();
    let id = app.draft(coupons(5)).await;
    app.act(author, id, "submit").await;
    flow.until_asked(1).await;
    let first = flow.messages()[0].approval()["approval_id"].as_i64().unwrap();
    // The author's mistake: an approver sends it back, it is changed and submitted anew.
    let path = format!("/v1/admin/templates/{id}");
    let back = app.call(approver, "POST", &format!("{path}/reject"), &[], json!({"reason": "wrong stock"})).await;
    assert_eq!(back.json["status"], "draft");
    let late = decide(&app, first, json!({"decision": "approved"})).await;
    assert_eq!((late.status, late.code()), (409, "conflict"), "{late:?}");
    assert_eq!(app.patch(id, json!({"stock": {"total": 500_000}})).await.status, 200);
    app.act(author, id, "submit").await;
    let late = decide(&app, first, json!({"decision": "approved"})).await;
    assert_eq!((late.code(), &late.json["state"]), ("conflict", &json!("withdrawn")), "{late:?}");
    assert_eq!(status(&app, id).await, "pending_approval");

    flow.until_asked(2).await;
    let second = flow.messages().last().unwrap().approval();
    assert_eq!(second["template"]["stock"]["total"], 500_000);
    let second = second["approval_id"].as_i64().unwrap();
    let done = decide(&app, second, json!({"decision": "rejected", "reason": "over budget", "by": "wang.fang"})).await;
    assert_eq!((done.status, &done.json["state"]), (200, &json!("rejected")), "{done:?}");
    let read = app.call(author, "GET", &path, &[], Value::Null).await.json;
    assert_eq!((&read["status"], &read["reject_reason"]), (&json!("draft"), &json!("over budget")));
    // A draft that was sent back may go; its requests stay, and are answered as before.
    assert_eq!(app.call(author, "DELETE", &path, &[], Value::Null).await.status, 204);
    assert_eq!(decide(&app, second, json!({"decision": "rejected", "reason": "over budget"})).await.json, done.json);
    app.stop().await;
}

#[tokio::test]
async fn a_killed_worker_asks_again() {
    let flow = Flow::open(HANG).await;
    let mut app = flow.plan("approvals-killed").process("gateway,flusher").process("worker").start().await;
    let (author, _) = app.keys();
    let author = author.to_owned();
    let first = app.draft(coupons(5)).await;
    app.act(&author, first, "submit").await;
    flow.until_asked(1).await;
    // In the middle of the attempt; and another submission while nobody sends.
    app.kill9(1);
    let second = app.draft(coupons(5)).await;
    app.act(&author, second, "submit").await;
    flow.answers(200);
    app.restart(1).await;
    let sql = app.sql().await;
    let open = "SELECT count(*) FROM approval_requests WHERE delivered_at IS NULL";
    until("both have arrived", async || sql.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0).await;
    let templates: Vec<i64> =
        flow.messages().iter().map(|message| message.approval()["template"]["id"].as_i64().unwrap()).collect();
    assert!(templates.contains(&first) && templates.contains(&second), "{templates:?}");
    let again = flow.messages().iter().filter(|message| message.id() == flow.messages()[0].id()).count();
    assert!(again >= 2, "the one whose attempt was cut came again");
    app.stop().await;
}

#[tokio::test]
async fn without_a_flow_keys_approve() {
    let app = TestApp::start("approvals-keys").await;
    let answered = decide(&app, 1, json!({"decision": "approved"})).await;
    assert_eq!((answered.status, answered.code()), (409, "conflict"), "{answered:?}");
    app.publish(coupons(1)).await;
    app.stop().await;
}
