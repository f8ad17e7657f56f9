//! What an order would cost: for an order service, and for shoppers themselves.

use std::sync::Arc;

use hyper::Method;

use crate::admission::client::Headers;
use crate::app::App;
use crate::catalog::store::Scope;
use crate::clock::now_ms;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Role, Route};
use crate::quotes;
use crate::quotes::request::{Asker, QuoteRequest};

pub fn routes() -> Vec<Route> {
    let post = |path, door, access, handler: Handler, summary| {
        Route::new(Method::POST, door, path, access, handler, summary).gives("QuoteAnswer").refuses(&[
            "coupon_not_yours",
            "claim_lost",
            "set_aside",
            "overloaded",
        ])
    };
    let service = Access::Roles(&[Role::Service]);
    let mine = "What a cart costs with the shopper's coupons, and which to use; advisory";
    let anyones = "What an order costs with a user's coupons: the best of them, those given, or each by itself";
    vec![
        post("/v1/me/quotes", Door::Public, Access::Shopper, handler!(of_shopper), mine).takes("MyQuoteRequest"),
        post("/v1/quotes", Door::Internal, service, handler!(of_service), anyones).takes("QuoteRequest"),
    ]
}

async fn of_shopper(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let body = request.json()?;
    let shopper = request.shopper();
    let id = app.users.open(&shopper.user);
    let id = id.ok_or_else(|| Problem::new("internal", "the shopper's reference cannot be opened"))?;
    let asker = Asker { id: &id, facts: &shopper.facts, channel: Headers::of(&request.headers).channel()? };
    let quote = QuoteRequest::of_shopper(&body, now_ms(), &asker).map_err(Problem::invalid)?;
    Ok(Reply::Ok(quotes::answer(&app, None, quote).await?))
}

async fn of_service(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let quote = QuoteRequest::of_service(&request.json()?, now_ms()).map_err(Problem::invalid)?;
    Ok(Reply::Ok(quotes::answer(&app, Some(Scope::of(request.caller())), quote).await?))
}
