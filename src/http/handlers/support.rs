//! What support and other systems read of users and their coupons.

use std::sync::Arc;

use hyper::Method;

use super::wallet::WALLET_QUERY;
use super::{number_cursor, query_word};
use crate::app::App;
use crate::catalog::store::Scope;
use crate::domain::coupon::CouponStatus;
use crate::domain::user::{USER_ID_MAX, UserId};
use crate::gifts::passage;
use crate::handler;
use crate::http::problem::{FieldError, Problem};
use crate::http::route::{Access, Door, Handler, PAGE_QUERY, Reply, Request, Role, Route};
use crate::wallet::{history, page};

const READERS: Access = Access::Roles(&[Role::Service, Role::Support]);

pub fn routes() -> Vec<Route> {
    let get =
        |path, handler: Handler, summary| Route::new(Method::GET, Door::Internal, path, READERS, handler, summary);
    vec![
        get("/v1/users/{user_id}/coupons", handler!(coupons), "A user's coupons, newest first")
            .asks(WALLET_QUERY)
            .gives("Wallet"),
        get("/v1/coupons/{code}/history", handler!(of_code), "A coupon by any of its codes, and what happened to it")
            .asks(PAGE_QUERY)
            .gives("CouponHistory")
            .refuses(&["coupon_not_found", "claim_lost", "set_aside"]),
    ]
}

async fn coupons(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let status = query_word(&request, "status", CouponStatus::parse)?;
    let user = UserId::parse(&request.params[0]).ok_or_else(|| {
        let detail = format!("must have 1 to {USER_ID_MAX} printable ASCII characters without space");
        Problem::invalid(vec![FieldError { field: "user_id".into(), code: "malformed", detail }])
    })?;
    let templates = Scope::of(request.caller()).templates(&app.snapshot.load());
    let asked = page::Asked { user: &app.users.seal(&user), status, templates, limit, cursor };
    let (coupons, next) = page::page(&app, &asked).await?;
    Ok(Reply::Ok(super::page(passage::shown(&app, &coupons).await?, next)))
}

async fn of_code(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let after = number_cursor(cursor)?.unwrap_or(0);
    let scope = Scope::of(request.caller());
    Ok(Reply::Ok(history::of_code(&app, scope, &request.params[0], after, limit).await?))
}
