//! `/v1/redemptions` and `/v1/refunds`: an order service locks, confirms, cancels and refunds.
//!
//! Orders mix coupons of many issuers, so only keys of the platform reach them.

use std::sync::Arc;

use hyper::Method;

use super::no_body;
use crate::app::App;
use crate::catalog::store::Scope;
use crate::clock::now_ms;
use crate::domain::fields::is_plain;
use crate::handler;
use crate::http::problem::{FieldError, Problem};
use crate::http::route::{Access, Door, Handler, Reply, Request, Role, Route};
use crate::idempotency::{self, Begun};
use crate::limits::{ORDER_ATTEMPTS_MAX, ORDER_ID_MAX};
use crate::redemption::confirm::{self, Confirmed};
use crate::redemption::lock::{self, Attempt};
use crate::redemption::refund::request::RefundRequest;
use crate::redemption::refund::{self, Refunded};
use crate::redemption::release;
use crate::redemption::request::LockRequest;
use crate::{redemption, wallet};

const WRITERS: Access = Access::Roles(&[Role::Service]);
const READERS: Access = Access::Roles(&[Role::Service, Role::Support]);

pub fn routes() -> Vec<Route> {
    const LOCK: &str = "/v1/redemptions";
    const ONE: &str = "/v1/redemptions/{order_id}";
    const CONFIRM: &str = "/v1/redemptions/{order_id}/confirm";
    const CANCEL: &str = "/v1/redemptions/{order_id}/cancel";
    const REFUNDS: &str = "/v1/refunds";
    let route = |method, path, access, handler: Handler, summary| {
        Route::new(method, Door::Internal, path, access, handler, summary).gives("Redemption")
    };
    vec![
        route(Method::POST, LOCK, WRITERS, handler!(take), "Lock coupons for an order, all or none, and price it")
            .takes("RedemptionRequest")
            .with(&[201, 200])
            .refuses(&[
                "coupon_locked",
                "coupon_used",
                "coupon_not_yours",
                "coupon_expired",
                "coupon_revoked",
                "price_changed",
                "use_limit_reached",
                "redemption_cancelled",
                "not_applicable",
                "claim_lost",
                "set_aside",
            ])
            .by_key(),
        route(Method::GET, ONE, READERS, handler!(read), "The redemption of an order")
            .refuses(&["redemption_not_found"]),
        route(Method::POST, CONFIRM, WRITERS, handler!(confirm), "The order is paid: its coupons are used")
            .refuses(&["redemption_not_found", "redemption_cancelled", "late_confirm_conflict"])
            .by_key(),
        route(Method::POST, CANCEL, WRITERS, handler!(cancel), "The order is cancelled: its coupons are free again")
            .refuses(&["redemption_used"])
            .by_key(),
        route(Method::POST, REFUNDS, WRITERS, handler!(pay_back), "The order is refunded, whole or by line")
            .takes("RefundRequest")
            .gives("Refund")
            .with(&[201, 200])
            .refuses(&["redemption_not_found", "conflict"])
            .by_key(),
    ]
}

async fn take(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    let lock = LockRequest::parse(&request.json()?, now_ms(), &app.config.redemption).map_err(Problem::invalid)?;
    let named = lock::names(&app, &lock)?;
    let actor = request.origin().actor.to_string();
    for _ in 0..ORDER_ATTEMPTS_MAX {
        let mut client = app.pg.get().await?;
        let missing = match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/redemptions").await? {
            Begun::Repeat(reply) => return Ok(reply),
            Begun::Fresh(write) => match lock::attempt(&app, write.tx(), &lock, &named, &actor).await? {
                Attempt::New(answer, change) => {
                    return write.commit(&change, Reply::Created(answer)).await;
                }
                Attempt::Repeat(answer, done) => return write.commit(&done, Reply::Ok(answer)).await,
                Attempt::Missing(missing) => missing,
                Attempt::Again => continue,
            },
        };
        drop(client);
        // Granted a moment ago, perhaps; else the refusal says what is known of them.
        let user = app.users.seal(&lock.order.user_id);
        wallet::settle::settled(&app, &user, &missing).await?;
        wallet::by_names(&app, &user, &missing).await?;
    }
    Err(changing())
}

async fn read(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    Ok(Reply::Ok(redemption::read(&app, order_id(&request)?).await?))
}

async fn confirm(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    no_body(&request)?;
    let (order, actor) = (order_id(&request)?, request.origin().actor.to_string());
    let mut client = app.pg.get().await?;
    let name = "POST /v1/redemptions/{order_id}/confirm";
    match idempotency::begin_sealed(&app.seal, &mut client, &request, name).await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => match confirm::confirm(&app, write.tx(), order, &actor).await? {
            Confirmed::Done(answer, change) => write.commit(&change, Reply::Ok(answer)).await,
            Confirmed::Conflict(problem, change) => {
                write.commit_refused(&change).await?;
                Err(problem)
            }
        },
    }
}

async fn cancel(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    no_body(&request)?;
    let (order, actor) = (order_id(&request)?, request.origin().actor.to_string());
    let mut client = app.pg.get().await?;
    match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/redemptions/{order_id}/cancel").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (answer, change) = release::cancel(&app, write.tx(), order, &actor).await?;
            write.commit(&change, Reply::Ok(answer)).await
        }
    }
}

async fn pay_back(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    Scope::of(request.caller()).demand_platform()?;
    let asked = RefundRequest::parse(&request.json()?).map_err(Problem::invalid)?;
    let actor = request.origin().actor.to_string();
    for _ in 0..ORDER_ATTEMPTS_MAX {
        let mut client = app.pg.get().await?;
        match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/refunds").await? {
            Begun::Repeat(reply) => return Ok(reply),
            Begun::Fresh(write) => match refund::refund(&app, write.tx(), &asked, &actor).await? {
                Refunded::Now(answer, change) => return write.commit(&change, Reply::Created(answer)).await,
                Refunded::Before(answer, done) => return write.commit(&done, Reply::Ok(answer)).await,
                Refunded::Again => {}
            },
        }
    }
    Err(changing())
}

fn changing() -> Problem {
    Problem::new("unavailable", "the order was changing at the same time; ask again").retry_after_ms(1000)
}

/// The order of the path: an id that an order can have.
fn order_id(request: &Request) -> Result<&str, Problem> {
    let order = &request.params[0];
    if is_plain(order) && (1..=ORDER_ID_MAX).contains(&order.chars().count()) {
        return Ok(order);
    }
    let detail = format!("must have 1 to {ORDER_ID_MAX} characters, none of them a control character");
    Err(Problem::invalid(vec![FieldError { field: "order_id".into(), code: "length", detail }]))
}
