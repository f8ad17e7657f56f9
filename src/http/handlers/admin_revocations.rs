//! `/v1/admin/revocations`: coupons taken back by an operator.

use std::sync::Arc;

use hyper::Method;

use super::{number_cursor, page, query_word};
use crate::app::App;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Role, Route};
use crate::idempotency::{self, Begun};
use crate::upkeep::revocation::{self, Progress};

const WRITERS: Access = Access::Roles(&[Role::Operator]);
const READERS: Access = Access::Roles(&[Role::Operator, Role::Support, Role::Auditor]);

const LIST_QUERY: &[(&str, &str)] = &[
    ("status", r#"{"type":"string","enum":["pending","running","done"]}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];
const CREATE: &[&str] =
    &["coupon_not_found", "template_not_found", "conflict", "claim_lost", "set_aside", "unavailable"];

pub fn routes() -> Vec<Route> {
    const LIST: &str = "/v1/admin/revocations";
    let route = |method, path, access, handler: Handler, summary| {
        Route::new(method, Door::Internal, path, access, handler, summary)
    };
    let revoke = "Revoke a coupon at once, or a user's or a stopped template's coupons in the background. Revoked \
                  coupons still count for the limits of claims";
    vec![
        route(Method::POST, LIST, WRITERS, handler!(create), revoke)
            .takes("Revocation")
            .gives("RevocationRecord")
            .with(&[201])
            .refuses(CREATE)
            .by_key(),
        route(Method::GET, LIST, READERS, handler!(list), "List revocations, newest first, perhaps of one status")
            .asks(LIST_QUERY)
            .gives("RevocationList"),
        route(Method::GET, "/v1/admin/revocations/{id}", READERS, handler!(get), "Read how far a revocation has come")
            .gives("RevocationRecord")
            .refuses(&["not_found"]),
    ]
}

async fn create(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let ask = revocation::parse(&app, &request.json()?)?;
    revocation::await_row(&app, &ask).await?;
    let mut client = app.pg.get().await?;
    let mut reply = match idempotency::begin(&mut client, &request, "POST /v1/admin/revocations").await? {
        Begun::Repeat(reply) => reply,
        Begun::Fresh(write) => {
            let (made, change) = revocation::create(&app, write.tx(), request.caller(), &ask).await?;
            write.commit(&change, Reply::Created(made)).await?
        }
    };
    if let Reply::Created(made) = &mut reply {
        revocation::show(&app, made);
    }
    Ok(reply)
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let before = number_cursor(cursor)?.unwrap_or(i64::MAX);
    let progress = query_word(&request, "status", Progress::parse)?;
    let client = app.pg.get().await?;
    let (mut items, next) = revocation::list(&client, request.caller(), progress, before, limit).await?;
    items.iter_mut().for_each(|made| revocation::show(&app, made));
    Ok(Reply::Ok(page(items, next)))
}

async fn get(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = request.params.first().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| Problem::new("not_found", "there is no such revocation"))?;
    let client = app.pg.get().await?;
    let mut found = revocation::read(&client, request.caller(), id).await?;
    revocation::show(&app, &mut found);
    Ok(Reply::Ok(found))
}
