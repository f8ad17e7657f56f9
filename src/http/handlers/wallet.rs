//! A shopper's own: the wallet, one coupon, the claim center.

use std::sync::Arc;

use hyper::Method;

use super::query_word;
use crate::admission::client::{self, Headers};
use crate::app::App;
use crate::domain::coupon::CouponStatus;
use crate::domain::ids::TemplateId;
use crate::domain::outcome::ClaimOutcome;
use crate::gifts::passage;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Route};
use crate::wallet;
use crate::wallet::center::{self, Viewer};
use crate::wallet::page;

/// The query parameters of a user's coupons.
pub(super) const WALLET_QUERY: &[(&str, &str)] = &[
    ("status", r#"{"type":"string","enum":["unused","locked","offered","used","expired","revoked"]}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];
const CENTER_QUERY: &[(&str, &str)] = &[
    ("channel", r#"{"type":"string","maxLength":32}"#),
    ("cursor", r#"{"type":"string"}"#),
    ("limit", r#"{"type":"integer","minimum":1,"maximum":100,"default":20}"#),
];

pub fn routes() -> Vec<Route> {
    let get = |path, handler: Handler, summary| {
        Route::new(Method::GET, Door::Public, path, Access::Shopper, handler, summary)
    };
    vec![
        get("/v1/me/coupons", handler!(coupons), "The wallet, newest first").asks(WALLET_QUERY).gives("Wallet"),
        get("/v1/me/coupons/{code}", handler!(one), "One coupon by its code").gives("WalletCoupon").refuses(&[
            "coupon_not_found",
            "claim_lost",
            "set_aside",
        ]),
        get("/v1/claim-center", handler!(templates), "What may be claimed").asks(CENTER_QUERY).gives("ClaimCenter"),
        get("/v1/templates/{id}", handler!(template), "One template, and whether it may be claimed")
            .gives("ClaimableTemplate")
            .refuses(&["template_not_found"]),
    ]
}

async fn coupons(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let status = query_word(&request, "status", CouponStatus::parse)?;
    let asked = page::Asked { user: &request.shopper().user, status, templates: None, limit, cursor };
    let (coupons, next) = page::page(&app, &asked).await?;
    Ok(Reply::Ok(super::page(passage::shown(&app, &coupons).await?, next)))
}

async fn one(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let coupon = wallet::by_code(&app, &request.shopper().user, &request.params[0]).await?;
    Ok(Reply::Ok(passage::shown(&app, &[coupon]).await?.remove(0)))
}

async fn templates(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let (limit, cursor) = request.page()?;
    let viewer = viewer(&request)?;
    let (items, next) = center::page(&app, &viewer, limit, cursor).await?;
    Ok(Reply::Ok(super::page(items, next)))
}

async fn template(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let id = TemplateId::parse(&request.params[0]).ok_or_else(|| {
        Problem::of(ClaimOutcome::TemplateNotFound, format!("there is no template {}", request.params[0]))
    })?;
    Ok(Reply::Ok(center::one(&app, &viewer(&request)?, id).await?))
}

/// Who looks. A channel in the query stands for the header's.
fn viewer(request: &Request) -> Result<Viewer<'_>, Problem> {
    let channel = match request.query_value("channel") {
        Some(channel) => Some(client::queried_channel(channel)?),
        None => Headers::of(&request.headers).channel()?,
    };
    Ok(Viewer { shopper: request.shopper(), channel, ip: request.ip, device: Headers::of(&request.headers).device()? })
}
