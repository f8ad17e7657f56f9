//! `/v1/admin/api-keys`: who may use the internal listener.

use std::sync::Arc;

use hyper::Method;

use super::{no_body, number_cursor, page};
use crate::app::App;
use crate::catalog::api_keys;
use crate::catalog::store::Scope;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, PAGE_QUERY, Reply, Request, Route};
use crate::idempotency::{self, Begun};

/// No role but `admin`, which every route admits.
const ADMINS: Access = Access::Roles(&[]);

pub fn routes() -> Vec<Route> {
    const LIST: &str = "/v1/admin/api-keys";
    const ONE: &str = "/v1/admin/api-keys/{id}";
    let route =
        |method, path, handler: Handler, summary| Route::new(method, Door::Internal, path, ADMINS, handler, summary);
    vec![
        route(Method::POST, LIST, handler!(create), "Make an API key; the key is shown in this answer only")
            .takes("ApiKey")
            .gives("ApiKeyShown")
            .with(&[201])
            .by_key(),
        route(Method::GET, LIST, handler!(list), "List API keys by id, without the keys")
            .asks(PAGE_QUERY)
            .gives("ApiKeyList"),
        route(Method::DELETE, ONE, handler!(revoke), "Revoke an API key, within a second and for good")
            .with(&[204])
            .refuses(&["not_found"])
            .by_key(),
    ]
}

async fn create(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let body = request.json()?;
    let mut client = app.pg.get().await?;
    let mut reply = match idempotency::begin(&mut client, &request, "POST /v1/admin/api-keys").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let (answer, change) = api_keys::create(&**write.tx(), request.caller(), &app.code_key, &body).await?;
            write.commit(&change, Reply::Created(answer)).await?
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
    let (items, next) = api_keys::list(&**client, Scope::of(request.caller()), after, limit).await?;
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
            let change = api_keys::revoke(&**write.tx(), Scope::of(request.caller()), id).await?;
            write.commit(&change, Reply::NoContent).await
        }
    }
}
