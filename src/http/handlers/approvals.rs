//! `/v1/approvals/{id}`: where an approval flow answers. Its signature proves who calls: it has no key.

use std::sync::Arc;

use hyper::Method;

use crate::app::App;
use crate::audit::{Actor, Origin};
use crate::catalog::approvals;
use crate::clock::now_ms;
use crate::config::ApprovalMode;
use crate::handler;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Reply, Request, Route};
use crate::webhook::{Signer, Unbelieved};

pub fn routes() -> Vec<Route> {
    let says = "Answer of an approval flow, signed as Standard Webhooks says, under the webhook-id of the request";
    let path = "/v1/approvals/{id}";
    vec![
        Route::new(Method::POST, Door::Internal, path, Access::Open, handler!(decide), says)
            .takes("ApprovalDecision")
            .gives("Approval")
            .refuses(&[
                "invalid_request",
                "unauthenticated",
                "not_found",
                "conflict",
                "template_not_found",
                "payload_too_large",
                "unsupported_media_type",
                "request_timeout",
                "unavailable",
            ]),
    ]
}

async fn decide(app: Arc<App>, request: Request) -> Result<Reply, Problem> {
    let settings = &app.config.approval;
    let signer = match settings.mode {
        ApprovalMode::External => Signer::new(settings.secret.expose()),
        ApprovalMode::FourEyes => None,
    };
    let signer = signer.ok_or_else(|| Problem::new("conflict", "approval.mode is four_eyes: keys approve here"))?;
    let unbelieved = |reason| {
        let detail = match reason {
            Unbelieved::Headers => "send webhook-id, webhook-timestamp and webhook-signature",
            Unbelieved::Signature => "the signature is none of this body under the secret of approval.secret",
            Unbelieved::Stale => "the message was signed too long ago or too far ahead: sign it anew",
        };
        Problem::new("unauthenticated", detail)
    };
    let tolerance = settings.tolerance_s as i64;
    let message = signer.verify(&request.headers, &request.body, now_ms() / 1000, tolerance).map_err(unbelieved)?;
    let id = request.params.first().and_then(|text| text.parse::<i64>().ok());
    let id = id.ok_or_else(|| Problem::new("not_found", "there is no such approval request"))?;
    if message != approvals::message_id(id) {
        let detail = format!("an answer carries the webhook-id of its request: {}", approvals::message_id(id));
        return Err(Problem::new("unauthenticated", detail));
    }
    let decision = approvals::parse(&request.json()?)?;
    let origin = Origin { actor: Actor::Approval, ip: Some(request.ip), request_id: Some(request.request_id.clone()) };
    Ok(Reply::Ok(approvals::decide(&app, &origin, id, &decision).await?))
}
