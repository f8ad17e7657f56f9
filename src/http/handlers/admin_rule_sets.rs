//! `/v1/admin/rule-sets`: usage rules that templates share by name.

use std::sync::Arc;

use hyper::Method;

use super::{if_match, no_body, number_cursor, page, revision_to_change};
use crate::app::App;
use crate::catalog::rule_sets::{self, SetRecord};
use crate::catalog::store::Scope;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, PAGE_QUERY, Reply, Request, Role, Route};
use crate::idempotency::{self, Begun};

const READERS: Access = Access::Roles(&[Role::Operator, Role::Support, Role::Auditor]);
const WRITERS: Access = Access::Roles(&[Role::Operator]);

const COLLECTION: &str = "/v1/admin/rule-sets";
const ITEM: &str = "/v1/admin/rule-sets/{id}";

pub fn routes() -> Vec<Route> {
    let read =
        |path, handler: Handler, summary| Route::new(Method::GET, Door::Internal, path, READERS, handler, summary);
    let write = |method, path, handler: Handler, summary| {
        Route::new(method, Door::Internal, path, WRITERS, handler, summary).by_key()
    };
    let change = "Change a rule set (JSON merge patch, If-Match); published templates keep their copy";
    vec![
        write(Method::POST, COLLECTION, handler!(create), "Make a named set of usage rules")
            .takes("RuleSet")
            .gives("RuleSetRecord")
            .with(&[201])
            .refuses(&["name_taken"]),
        read(COLLECTION, handler!(list), "List rule sets by id").asks(PAGE_QUERY).gives("RuleSetList"),
        read(ITEM, handler!(get), "Read a rule set").gives("RuleSetRecord").tagged().refuses(&["not_found"]),
        write(Method::PATCH, ITEM, handler!(patch), change)
            .takes("RuleSetPatch")
            .gives("RuleSetRecord")
            .tagged()
            .refuses(&["not_found", "precondition_required", "precondition_failed", "conflict", "name_taken"]),
        write(Method::DELETE, ITEM, handler!(delete), "Delete a rule set that no template names")
            .with(&[204])
            .refuses(&["not_found", "precondition_failed", "conflict"]),
    ]
}

async fn create(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let body = request.json()?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "POST /v1/admin/rule-sets").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (record, change) = rule_sets::create(&**write.tx(), request.caller(), &body).await?;
            write.commit(&change, Reply::Created(record.to_json())).await
        }
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let after = number_cursor(cursor)?.unwrap_or(0);
    let client = app.pg.get().await?;
    let (records, next) = rule_sets::list(&**client, Scope::of(request.caller()), after, limit).await?;
    Ok(Reply::Ok(page(records.iter().map(SetRecord::to_json).collect(), next)))
}

async fn get(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = set_id(&request)?;
    let client = app.pg.get().await?;
    let record = rule_sets::read(&**client, Scope::of(request.caller()), id).await?;
    Ok(Reply::OkTagged(record.to_json(), record.revision))
}

async fn patch(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = set_id(&request)?;
    let patch = request.json()?;
    let revision = revision_to_change(&request)?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "PATCH /v1/admin/rule-sets/{id}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (record, change) =
                rule_sets::patch(&**write.tx(), request.caller(), id, Some(revision), &patch).await?;
            write.commit(&change, Reply::OkTagged(record.to_json(), record.revision)).await
        }
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = set_id(&request)?;
    no_body(&request)?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "DELETE /v1/admin/rule-sets/{id}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let change = rule_sets::delete(&**write.tx(), request.caller(), id, if_match(&request)).await?;
            write.commit(&change, Reply::NoContent).await
        }
    }
}

fn set_id(request: &Request) -> Result<i32, Problem> {
    let id = request.params.first().and_then(|text| text.parse().ok());
    id.filter(|id| *id > 0).ok_or_else(rule_sets::not_found)
}
