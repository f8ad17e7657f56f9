//! Approval by another system: asked when a template is submitted, answered by a signed call.
//!
//! The question is a row written by the transaction that submits: there is no submission that is
//! not asked, whoever dies. A worker sends it until it has arrived (`id` stays the same, so that the
//! receiver can tell a repeat). The answer names the question by the same `webhook-id`, which its
//! signature covers: an answer to one question is none to another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

use super::lifecycle::{self, Action};
use super::store::{self, Record, Scope};
use crate::app::App;
use crate::audit::{self, Origin};
use crate::clock::now_ms;
use crate::config::{self, ApprovalMode, ms};
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::domain::ids::TemplateId;
use crate::domain::window::rfc3339;
use crate::http::problem::Problem;
use crate::limits::{APPROVALS_AT_ONCE_MAX, ID_MAX, REASON_MAX};
use crate::pg::{PgFault, Pooled};
use crate::telemetry::metrics;
use crate::webhook::{Signer, Target};

const NEXT_ID: &str = include_str!("../sql/catalog/approval_next_id.sql");
const INSERT: &str = include_str!("../sql/catalog/approval_insert.sql");
const WITHDRAW: &str = include_str!("../sql/catalog/approval_withdraw.sql");
const READ: &str = include_str!("../sql/catalog/approval_read.sql");
const LOCK: &str = include_str!("../sql/catalog/approval_lock.sql");
const DECIDE: &str = include_str!("../sql/catalog/approval_decide.sql");
const DUE: &str = include_str!("../sql/catalog/approval_due.sql");
const DELIVERED: &str = include_str!("../sql/catalog/approval_delivered.sql");
const FAILED: &str = include_str!("../sql/catalog/approval_failed.sql");
const WAITING: &str = include_str!("../sql/catalog/approval_waiting.sql");

/// Between looks at what is to be sent.
const PAUSE: Duration = Duration::from_millis(500);

/// What the other system decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub approved: bool,
    pub reason: Option<String>,
    /// As the other system names them.
    pub by: Option<String>,
    /// The revision that was decided about, if the answer says it.
    pub revision: Option<i64>,
}

/// Refuses a key's approval where another system approves.
pub fn demand_keys(settings: &config::Approval, action: Action) -> Result<(), Problem> {
    if settings.mode == ApprovalMode::External && action == Action::Approve {
        let detail = "approval.mode is external: the approval flow answers by POST /v1/approvals/{id}";
        return Err(Problem::new("approved_elsewhere", detail));
    }
    Ok(())
}

/// What a step of a template means to its approval, in the transaction of the step: `record` is the
/// template after it.
pub async fn follow(
    client: &impl GenericClient,
    settings: &config::Approval,
    action: Action,
    record: &Record,
    origin: &Origin,
) -> Result<(), Problem> {
    match action {
        Action::Submit if settings.mode == ApprovalMode::External => ask(client, record, origin).await,
        Action::Approve | Action::Reject => {
            client.execute(WITHDRAW, &[&record.id.as_i32()]).await.map_err(PgFault::from)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn ask(client: &impl GenericClient, record: &Record, origin: &Origin) -> Result<(), Problem> {
    let id: i64 = client.query_one(NEXT_ID, &[]).await.map_err(PgFault::from)?.get(0);
    let body = json!({
        "type": "template.approval_requested",
        "timestamp": rfc3339(Tz::UTC, now_ms()),
        "data": {
            "approval_id": id,
            "answer_to": format!("/v1/approvals/{id}"),
            "submitted_by": origin.actor.to_string(),
            "template": record.to_json(),
        },
    });
    let body = body.to_string();
    client.execute(INSERT, &[&id, &record.id.as_i32(), &record.revision, &body]).await.map_err(PgFault::from)?;
    Ok(())
}

/// Reads an answer's body.
pub fn parse(body: &Value) -> Result<Decision, Problem> {
    let wrong = &mut Complaints::default();
    let mut object = Object::body(body, wrong);
    object.need("decision", wrong);
    let approved = object.word("decision", &[("approved", true), ("rejected", false)], wrong);
    let mut text = |name: &'static str, max: usize, wrong: &mut Complaints| {
        let text = object.text(name, wrong).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if text.as_ref().is_some_and(|text| text.chars().count() > max || !is_plain(text)) {
            wrong.add(name, "length", format!("must have at most {max} characters"));
        }
        text
    };
    let (reason, by) = (text("reason", REASON_MAX, wrong), text("by", ID_MAX, wrong));
    let revision = object.whole("revision", 1, i64::MAX, wrong);
    if approved == Some(false) && reason.is_none() {
        wrong.add("reason", "required", "must say why it was rejected");
    }
    object.finish(wrong);
    let decision = approved.map(|approved| Decision { approved, reason, by, revision });
    std::mem::take(wrong).or(decision).map_err(Problem::invalid)
}

/// The `webhook-id` of a request, and of its answer.
pub fn message_id(id: i64) -> String {
    format!("approval-{id}")
}

/// Carries a decision out, once: the same again is answered as it stands.
pub async fn decide(app: &App, origin: &Origin, id: i64, decision: &Decision) -> Result<Value, Problem> {
    let unknown = || Problem::new("not_found", "there is no such approval request");
    let mut connection: Pooled<'_> = app.pg.get().await?;
    let tx = connection.begin().await?;
    let template = tx.row(READ, &[&id]).await?.ok_or_else(unknown)?;
    let template = TemplateId(template.get::<_, i32>(0) as u32);
    // The template before its request, as everyone who changes both.
    let record = store::lock(&*tx, Scope::everyone(), template).await;
    let request = tx.row(LOCK, &[&id]).await?.ok_or_else(unknown)?;
    let (state, revision): (&str, i64) = (request.get("state"), request.get("revision"));
    if decision.revision.is_some_and(|told| told != revision) {
        let detail = format!("revision {revision} was submitted, and the decision is about another one");
        return Err(Problem::new("conflict", detail).with("revision", revision));
    }
    let decided = if decision.approved { "approved" } else { "rejected" };
    if state == decided {
        return Ok(write(&request));
    }
    if state != "pending" {
        return Err(Problem::new("conflict", format!("the request is {state} already")).with("state", state));
    }
    let (_, mut change) =
        lifecycle::decide(&*tx, record?, revision, &app.config.pricing, decision.approved, decision.reason.as_deref())
            .await?;
    change.after["approval"] = json!({"id": id, "by": decision.by, "reason": decision.reason});
    let done = tx.row(DECIDE, &[&id, &decided, &decision.reason, &decision.by]).await?;
    let done = done.ok_or_else(|| PgFault::fault("a locked approval request changed under its lock"))?;
    audit::record(&tx, origin, &change).await?;
    tx.commit().await?;
    Ok(write(&done))
}

fn write(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "template_id": row.get::<_, i32>("template_id"),
        "revision": row.get::<_, i64>("revision"),
        "state": row.get::<_, &str>("state"),
        "reason": row.get::<_, Option<&str>>("reason"),
        "by": row.get::<_, Option<&str>>("decided_by"),
        "decided_at": row.get::<_, Option<DateTime<Utc>>>("decided_at").map(|at| rfc3339(Tz::UTC, at.timestamp_millis())),
    })
}

/// Sends what is to be sent. Never returns; it outlives its errors, and says them once.
pub async fn run(app: Arc<App>) {
    let settings = &app.config.approval;
    let (Some(target), Some(signer)) = (Target::parse(&settings.url), Signer::new(settings.secret.expose())) else {
        // The settings are checked: there is nobody to send to.
        return;
    };
    let mut trouble: Option<String> = None;
    loop {
        if let Some(done) = send_once(&app, &target, &signer).await {
            let now = done.err();
            match &now {
                Some(reason) if now != trouble => {
                    tracing::warn!(%reason, "approval requests do not arrive; they are sent again");
                }
                None if trouble.is_some() => tracing::info!("over: approval requests do not arrive"),
                _ => {}
            }
            trouble = now;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One round: what is due, at once, each with its time. `None`: nothing was due.
async fn send_once(app: &App, target: &Target, signer: &Signer) -> Option<Result<(), String>> {
    match send_due(app, target, signer).await {
        Ok(sent) => sent,
        Err(fault) => Some(Err(fault.to_string())),
    }
}

async fn send_due(app: &App, target: &Target, signer: &Signer) -> Result<Option<Result<(), String>>, PgFault> {
    let settings = &app.config.approval;
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let (lease, first, most) =
        (seconds(settings.timeout_ms), seconds(settings.retry_min_ms), seconds(settings.retry_max_ms));
    // The connection goes back while the other system takes its time.
    let due = app.pg.get().await?.rows(DUE, &[&lease, &first, &most, &APPROVALS_AT_ONCE_MAX]).await?;
    let sent = due.iter().map(|row| {
        let (id, body): (i64, String) = (row.get("id"), row.get("body"));
        let timeout = ms(settings.timeout_ms);
        async move {
            let message = message_id(id);
            (id, target.post(signer, &message, now_ms() / 1000, Bytes::from(body), timeout).await)
        }
    });
    let sent = futures_util::future::join_all(sent).await;
    let client = app.pg.get().await?;
    let mut outcome = (!sent.is_empty()).then_some(Ok(()));
    for (id, arrived) in sent {
        match arrived {
            Ok(()) => client.rows(DELIVERED, &[&id]).await?,
            Err(why) => {
                metrics().approval_failures.increment(1);
                client.rows(FAILED, &[&id, &why]).await?;
                outcome = Some(Err(format!("{}: {why}", settings.url)));
                continue;
            }
        };
    }
    let waiting = client.row(WAITING, &[]).await?.map_or(0, |row| row.get::<_, i64>(0));
    metrics().approvals_waiting.set(waiting as f64);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_read_strictly() {
        let read = |body: Value| parse(&body);
        let approved = read(json!({"decision": "APPROVED", "by": "li.wei", "revision": 3})).unwrap();
        assert_eq!(approved, Decision { approved: true, reason: None, by: Some("li.wei".into()), revision: Some(3) });
        assert!(!read(json!({"decision": "rejected", "reason": "too much"})).unwrap().approved);
        for wrong in [
            json!({}),
            json!({"decision": "maybe"}),
            json!({"decision": "rejected"}),
            json!({"decision": "approved", "reason": "x".repeat(REASON_MAX + 1)}),
            json!({"decision": "approved", "by": "li\u{7}wei"}),
            json!({"decision": "approved", "revision": 0}),
            json!({"decision": "approved", "other": 1}),
        ] {
            assert_eq!(read(wrong.clone()).unwrap_err().code, "invalid_request", "{wrong}");
        }
    }
}
