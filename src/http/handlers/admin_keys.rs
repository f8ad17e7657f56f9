//! `/v1/admin/api-keys`: who may use the internal listener.

use std::sync::Arc;

use hyper::Method;

use super::{no_body, number_cursor, page};
use crate::app::App;
use crate::catalog::api_keys;
use crate::catalog::idempotency::{self, Begun};
use crate::catalog::store::Scope;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, PAGE_QUERY, Reply, Request, Route};

/// No role but `admin`, which every route admits.
const ADMINS: Access = Access::Roles(&[]);

pub fn routes() -> Vec<Route> {
    let route = |method, path, handler, summary, body, answer, query, statuses, problems, idempotent_by_key| Route {
        method,
        path,
        door: Door::Internal,
        access: ADMINS,
        handler,
        summary,
        body,
        answer,
        query,
        statuses,
        problems,
        idempotent_by_key,
    };
    vec![
        route(
            Method::POST,
            "/v1/admin/api-keys",
            handler!(create),
            "Make an API key; the key is shown in this answer only",
            "ApiKey",
            "ApiKeyShown",
            &[],
            &[201],
            &[],
            true,
        ),
        route(
            Method::GET,
            "/v1/admin/api-keys",
            handler!(list),
            "List API keys by id, without the keys",
            "",
            "ApiKeyList",
            PAGE_QUERY,
            &[200],
            &[],
            false,
        ),
        route(
            Method::DELETE,
            "/v1/admin/api-keys/{id}",
            handler!(revoke),
            "Revoke an API key, within a second and for good",
            "",
            "",
            &[],
            &[204],
            &["not_found"],
            true,
        ),
    ]
}

async fn create(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let body = request.json()?;
    let mut client = app.pg.get().await?;
    let mut reply = match idempotency::begin(&mut client, &request, "POST /v1/admin/api-keys").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let answer = api_keys::create(write.tx(), request.caller(), &app.code_key, &body).await?;
            write.commit(Reply::Created(answer)).await?
        }
    };
    if let Reply::Created(answer) = &mut reply {
        api_keys::show_key(&app.code_key, answer);
    }
    Ok(reply)
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let after = number_cursor(cursor)?.unwrap_or(0);
    let client = app.pg.get().await?;
    let (items, next) = api_keys::list(&*client, Scope::of(request.caller()), after, limit).await?;
    Ok(Reply::Ok(page(items, next)))
}

async fn revoke(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    no_body(&request)?;
    let id = request.params.first().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| Problem::new("not_found", "there is no such key"))?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "DELETE /v1/admin/api-keys/{id}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            api_keys::revoke(write.tx(), Scope::of(request.caller()), id).await?;
            write.commit(Reply::NoContent).await
        }
    }
}
