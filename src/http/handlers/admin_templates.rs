//! `/v1/admin/templates`: a template's life in the hands of operators and approvers.

use std::sync::Arc;

use hyper::Method;
use serde_json::Value;

use super::{if_match, no_body, number_cursor, page, query_word, revision_to_change};
use crate::app::App;
use crate::catalog::lifecycle::{self, Action};
use crate::catalog::store::{self, Record, Scope};
use crate::catalog::{approvals, poller, publish};
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::domain::ids::{SERIAL_MAX, TemplateId};
use crate::domain::template::Status;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Role, Route};
use crate::idempotency::{self, Begun};
use crate::limits::REASON_MAX;

const READERS: Access = Access::Roles(&[Role::Operator, Role::Approver, Role::Support, Role::Auditor]);
const OPERATORS: Access = Access::Roles(&[Role::Operator]);
const APPROVERS: Access = Access::Roles(&[Role::Approver]);

const COLLECTION: &str = "/v1/admin/templates";
const ITEM: &str = "/v1/admin/templates/{id}";
const STOCK: &str = "/v1/admin/templates/{id}/stock";

const LIST_QUERY: &[(&str, &str)] = &[
    (
        "status",
        r#"{"type":"string","enum":["draft","pending_approval","approved","published","paused","stopped","finished"]}"#,
    ),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];

/// What every step of a template's life may meet; those that reach Redis may find it away.
const STEP: &[&str] = &["template_not_found", "precondition_failed", "conflict"];
const STEP_IN_REDIS: &[&str] = &["template_not_found", "precondition_failed", "conflict", "unavailable"];
const APPROVAL: &[&str] = &["template_not_found", "precondition_failed", "conflict", "four_eyes", "approved_elsewhere"];
const PATCH: &[&str] =
    &["template_not_found", "precondition_required", "precondition_failed", "conflict", "name_taken"];

pub fn routes() -> Vec<Route> {
    let read =
        |path, handler: Handler, summary| Route::new(Method::GET, Door::Internal, path, READERS, handler, summary);
    let write = |method, path, access, handler: Handler, summary| {
        Route::new(method, Door::Internal, path, access, handler, summary).by_key()
    };
    let step = |path, access, handler: Handler, summary, problems| {
        write(Method::POST, path, access, handler, summary).gives("TemplateRecord").tagged().refuses(problems)
    };
    let publish_says = "Publish: answered when Redis has it and it was read back";
    let patch_says =
        "Change a draft, or name, description and a later end of a published template (JSON merge patch, If-Match)";
    vec![
        write(Method::POST, COLLECTION, OPERATORS, handler!(create), "Make a draft")
            .takes("Template")
            .gives("TemplateRecord")
            .with(&[201])
            .refuses(&["name_taken"]),
        read(COLLECTION, handler!(list), "List templates by id, perhaps of one status")
            .asks(LIST_QUERY)
            .gives("TemplateList"),
        read(ITEM, handler!(get), "Read a template").gives("TemplateRecord").tagged().refuses(&["template_not_found"]),
        write(Method::PATCH, ITEM, OPERATORS, handler!(patch), patch_says)
            .takes("TemplatePatch")
            .gives("TemplateRecord")
            .tagged()
            .refuses(PATCH),
        write(Method::DELETE, ITEM, OPERATORS, handler!(delete), "Delete a draft").with(&[204]).refuses(STEP),
        step("/v1/admin/templates/{id}/submit", OPERATORS, handler!(submit), "Submit a draft for approval", STEP),
        step(
            "/v1/admin/templates/{id}/approve",
            APPROVERS,
            handler!(approve),
            "Approve, by a key that wrote none of it",
            APPROVAL,
        ),
        step("/v1/admin/templates/{id}/reject", APPROVERS, handler!(reject), "Send back to draft, with a reason", STEP)
            .takes("Reason"),
        step("/v1/admin/templates/{id}/publish", OPERATORS, handler!(publish), publish_says, STEP_IN_REDIS),
        step("/v1/admin/templates/{id}/pause", OPERATORS, handler!(pause), "Pause claiming", STEP_IN_REDIS),
        step("/v1/admin/templates/{id}/resume", OPERATORS, handler!(resume), "Resume claiming", STEP_IN_REDIS),
        step("/v1/admin/templates/{id}/stop", OPERATORS, handler!(stop), "Stop claiming for good", STEP_IN_REDIS),
        step(STOCK, OPERATORS, handler!(add_stock), "Add coupons", STEP_IN_REDIS).takes("StockAddition"),
    ]
}

async fn create(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let body = request.json()?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "POST /v1/admin/templates").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (record, change) = store::create(&**write.tx(), request.caller(), &app.config.pricing, &body).await?;
            write.commit(&change, Reply::Created(record.to_json())).await
        }
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let after = number_cursor::<u32>(cursor)?.filter(|id| *id <= i32::MAX as u32).map(TemplateId);
    let status = query_word(&request, "status", Status::parse)?;
    let client = app.pg.get().await?;
    let (records, next) = store::list(&**client, Scope::of(request.caller()), status, after, limit).await?;
    Ok(Reply::Ok(page(records.iter().map(Record::to_json).collect(), next)))
}

async fn get(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = template_id(&request)?;
    let client = app.pg.get().await?;
    let record = store::read(&**client, Scope::of(request.caller()), id).await?;
    Ok(Reply::OkTagged(record.to_json(), record.revision))
}

async fn patch(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = template_id(&request)?;
    let patch = request.json()?;
    let revision = revision_to_change(&request)?;
    let mut client = app.pg.get().await?;
    let reply = match idempotency::begin(&mut client, &request, "PATCH /v1/admin/templates/{id}").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let (record, change) =
                store::patch(&**write.tx(), request.caller(), &app.config.pricing, id, Some(revision), &patch).await?;
            write.commit(&change, tagged(&record)).await?
        }
    };
    drop(client);
    settled(&app, id, reply).await
}

async fn delete(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = template_id(&request)?;
    no_body(&request)?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "DELETE /v1/admin/templates/{id}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let change = store::delete(&**write.tx(), request.caller(), id, if_match(&request)).await?;
            write.commit(&change, Reply::NoContent).await
        }
    }
}

async fn submit(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Submit).await
}

async fn approve(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Approve).await
}

async fn reject(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Reject).await
}

async fn publish(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Publish).await
}

async fn pause(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Pause).await
}

async fn resume(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Resume).await
}

async fn stop(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    act(app, request, Action::Stop).await
}

async fn act(app: Arc<App>, request: Request, action: Action) -> Result<Reply, Problem> {
    let id = template_id(&request)?;
    let reason = match action {
        Action::Reject => Some(read_reason(&request)?),
        _ => {
            no_body(&request)?;
            None
        }
    };
    approvals::demand_keys(&app.config.approval, action)?;
    let name = format!("POST /v1/admin/templates/{{id}}/{}", action.word());
    let mut client = app.pg.get().await?;
    let reply = match idempotency::begin(&mut client, &request, &name).await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let revision = if_match(&request);
            let (record, change) = lifecycle::act(
                &**write.tx(),
                request.caller(),
                &app.config.pricing,
                id,
                revision,
                action,
                reason.as_deref(),
            )
            .await?;
            approvals::follow(&**write.tx(), &app.config.approval, action, &record, write.origin()).await?;
            write.commit(&change, tagged(&record)).await?
        }
    };
    drop(client);
    settled(&app, id, reply).await
}

async fn add_stock(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = template_id(&request)?;
    let body = request.json()?;
    let wrong = &mut Complaints::default();
    let mut object = Object::body(&body, wrong);
    object.need("add", wrong);
    let add = object.whole("add", 1, SERIAL_MAX as i64, wrong);
    object.finish(wrong);
    let add = std::mem::take(wrong).or(add).map_err(Problem::invalid)?;

    let mut client = app.pg.get().await?;
    let reply = match idempotency::begin(&mut client, &request, "POST /v1/admin/templates/{id}/stock").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let (record, change) =
                lifecycle::add_stock(&**write.tx(), request.caller(), id, if_match(&request), add).await?;
            write.commit(&change, tagged(&record)).await?
        }
    };
    drop(client);
    settled(&app, id, reply).await
}

/// What follows the commit, for repeats too: Redis is brought to the revision, or it is said that
/// it does not have it yet. The answer then shows the revision that both hold.
async fn settled(app: &App, id: TemplateId, mut reply: Reply) -> Result<Reply, Problem> {
    if let Reply::OkTagged(body, revision) = &mut reply
        && body["status"].as_str().and_then(Status::parse).is_some_and(store::is_live)
    {
        publish::bring(app, id).await?;
        // This process knows it with the answer; the others within worker.snapshot_poll_ms.
        poller::load_once(app).await?;
        body["redis_revision"] = Value::from(*revision);
    }
    Ok(reply)
}

fn tagged(record: &Record) -> Reply {
    Reply::OkTagged(record.to_json(), record.revision)
}

fn template_id(request: &Request) -> Result<TemplateId, Problem> {
    request.params.first().and_then(|text| TemplateId::parse(text)).ok_or_else(store::not_found)
}

fn read_reason(request: &Request) -> Result<String, Problem> {
    let body = request.json()?;
    let wrong = &mut Complaints::default();
    let mut object = Object::body(&body, wrong);
    let reason = object.need_text("reason", wrong).unwrap_or_default().trim();
    if object.has("reason") && (!(1..=REASON_MAX).contains(&reason.chars().count()) || !is_plain(reason)) {
        wrong.add("reason", "length", format!("must have 1 to {REASON_MAX} characters"));
    }
    object.finish(wrong);
    std::mem::take(wrong).or(Some(reason.to_owned())).map_err(Problem::invalid)
}
