//! A shopper gives a coupon away, or is given one.

use std::sync::Arc;

use hyper::Method;
use serde_json::json;

use super::{no_body, number_cursor, query_word};
use crate::admission::client::Headers;
use crate::app::App;
use crate::gifts::passage::Passage;
use crate::gifts::{self, Direction, Party, closing, offer};
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Route};
use crate::idempotency::{self, Begun};

const OFFER: &str = "/v1/me/coupons/{code}/gifts";
const LIST: &str = "/v1/me/gifts";
const ACCEPT: &str = "/v1/gifts/{token}/accept";
const DECLINE: &str = "/v1/gifts/{token}/decline";
const WITHDRAW: &str = "/v1/gifts/{token}";

const LIST_QUERY: &[(&str, &str)] = &[
    ("direction", r#"{"type":"string","enum":["given","received"],"default":"given"}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];

pub fn routes() -> Vec<Route> {
    let route = |method, path, handler: Handler, summary| {
        Route::new(method, Door::Public, path, Access::Shopper, handler, summary)
    };
    vec![
        route(Method::POST, OFFER, handler!(make), "Offer a coupon to whoever is given the token")
            .gives("GiftOffered")
            .with(&[201])
            .refuses(&[
                "coupon_not_found",
                "coupon_locked",
                "coupon_offered",
                "coupon_used",
                "coupon_expired",
                "coupon_revoked",
                "gift_not_allowed",
                "blocked",
                "claim_lost",
                "set_aside",
            ])
            .by_key(),
        route(Method::GET, LIST, handler!(list), "What the shopper gave away or was given, newest first")
            .asks(LIST_QUERY)
            .gives("GiftList"),
        route(Method::POST, ACCEPT, handler!(accept), "Accept a gift: its coupon is the shopper's, under a new code")
            .gives("GiftAccepted")
            .refuses(&["gift_not_found", "gift_closed", "own_gift", "gift_limit_reached", "blocked"])
            .by_key(),
        route(Method::POST, DECLINE, handler!(decline), "Decline a gift: its coupon is its giver's again")
            .gives("Gift")
            .refuses(&["gift_not_found", "gift_closed", "own_gift"])
            .by_key(),
        route(Method::DELETE, WITHDRAW, handler!(withdraw), "Withdraw a gift of one's own that nobody has accepted")
            .gives("Gift")
            .refuses(&["gift_not_found", "gift_closed"])
            .by_key(),
    ]
}

async fn make(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    no_body(&request)?;
    let giver = party(&request)?;
    let name = offer::ready(&app, &giver, &request.params[0]).await?;
    let mut client = app.pg.get().await?;
    match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/me/coupons/{code}/gifts").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (gift, change) = offer::offer(&app, write.tx(), &giver, name).await?;
            let token = app.gift_tokens.encode(gift.id);
            let answer = json!({"gift": gift.to_json(&app, Direction::Given), "token": token});
            write.commit(&change, Reply::Created(answer)).await
        }
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let direction = query_word(&request, "direction", Direction::parse)?.unwrap_or(Direction::Given);
    let before = number_cursor(cursor)?;
    let (gifts, next) = gifts::page(&app, &request.shopper().user, direction, limit, before).await?;
    Ok(Reply::Ok(super::page(gifts.iter().map(|gift| gift.to_json(&app, direction)).collect(), next)))
}

async fn accept(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    no_body(&request)?;
    let gift = gifts::of_token(&app, &request.params[0]).await?;
    let receiver = closing::receiver(&app, &gift, &party(&request)?).await?;
    let mut client = app.pg.get().await?;
    match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/gifts/{token}/accept").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (gift, coupon, change) = closing::accept(&app, write.tx(), &gift, &receiver).await?;
            let coupon = Passage::through(&gift).show(&app, &coupon);
            let answer = json!({"gift": gift.to_json(&app, Direction::Received), "coupon": coupon});
            write.commit(&change, Reply::Ok(answer)).await
        }
    }
}

async fn decline(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    no_body(&request)?;
    let gift = gifts::of_token(&app, &request.params[0]).await?;
    let mut client = app.pg.get().await?;
    match idempotency::begin_sealed(&app.seal, &mut client, &request, "POST /v1/gifts/{token}/decline").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (gift, change) = closing::decline(&app, write.tx(), &gift, &request.shopper().user).await?;
            write.commit(&change, Reply::Ok(gift.to_json(&app, Direction::Received))).await
        }
    }
}

async fn withdraw(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    no_body(&request)?;
    let gift = gifts::of_token(&app, &request.params[0]).await?;
    let mut client = app.pg.get().await?;
    match idempotency::begin_sealed(&app.seal, &mut client, &request, "DELETE /v1/gifts/{token}").await? {
        Begun::Repeat(reply) => Ok(reply),
        Begun::Fresh(write) => {
            let (gift, change) = closing::withdraw(&app, write.tx(), &gift, &request.shopper().user).await?;
            write.commit(&change, Reply::Ok(gift.to_json(&app, Direction::Given))).await
        }
    }
}

fn party(request: &Request) -> Result<Party<'_>, Problem> {
    let device = Headers::of(&request.headers).device()?;
    Ok(Party { user: &request.shopper().user, ip: request.ip, device })
}
