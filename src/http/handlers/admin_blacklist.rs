//! `/v1/admin/blacklist`: who may not claim. It binds every template, so only platform keys reach it.

use std::sync::Arc;

use hyper::Method;

use super::{no_body, number_cursor, page, query_word};
use crate::app::App;
use crate::catalog::blacklist::{self, Subject};
use crate::catalog::store::Scope;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Role, Route};
use crate::idempotency::{self, Begun};

const WRITERS: Access = Access::Roles(&[Role::Operator]);
const READERS: Access = Access::Roles(&[Role::Operator, Role::Support]);

const LIST_QUERY: &[(&str, &str)] = &[
    ("kind", r#"{"type":"string","enum":["user","ip","device"]}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];

pub fn routes() -> Vec<Route> {
    const LIST: &str = "/v1/admin/blacklist";
    const ONE: &str = "/v1/admin/blacklist/{id}";
    let route = |method, path, access, handler: Handler, summary| {
        Route::new(method, Door::Internal, path, access, handler, summary)
    };
    let block = "Block a user, an address or network, or a device; or change why and how long";
    vec![
        route(Method::POST, LIST, WRITERS, handler!(put), block)
            .takes("BlacklistEntry")
            .gives("BlacklistRecord")
            .with(&[201])
            .refuses(&["conflict"])
            .by_key(),
        route(Method::GET, LIST, READERS, handler!(list), "List the blacklist by id, perhaps of one kind")
            .asks(LIST_QUERY)
            .gives("BlacklistList"),
        route(Method::DELETE, ONE, WRITERS, handler!(delete), "Take an entry off the blacklist")
            .with(&[204])
            .refuses(&["not_found"])
            .by_key(),
    ]
}

async fn put(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    let body = request.json()?;
    let mut client = app.pg.get().await?;
    let mut reply = match idempotency::begin(&mut client, &request, "POST /v1/admin/blacklist").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let (entry, change) = blacklist::put(&**write.tx(), request.caller(), &app, &body).await?;
            write.commit(&change, Reply::Created(entry)).await?
        }
    };
    if let Reply::Created(entry) = &mut reply {
        blacklist::show_user(&app, entry);
    }
    Ok(reply)
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    let (limit, cursor) = request.page()?;
    let after = number_cursor(cursor)?.unwrap_or(0);
    let kind = query_word(&request, "kind", Subject::parse)?;
    let client = app.pg.get().await?;
    let (mut items, next) = blacklist::list(&**client, kind, after, limit).await?;
    items.iter_mut().for_each(|entry| blacklist::show_user(&app, entry));
    Ok(Reply::Ok(page(items, next)))
}

async fn delete(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    no_body(&request)?;
    let id = request.params.first().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| Problem::new("not_found", "there is no such entry"))?;
    let mut client = app.pg.get().await?;
    match idempotency::begin(&mut client, &request, "DELETE /v1/admin/blacklist/{id}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let change = blacklist::delete(&**write.tx(), id).await?;
            write.commit(&change, Reply::NoContent).await
        }
    }
}
