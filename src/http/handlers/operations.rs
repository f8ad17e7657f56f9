//! For those who run it: is it alive, is it ready, what does it count, what does it offer.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::app::App;
use crate::handler;
use crate::http::openapi;
use crate::http::problem::Problem;
use crate::http::route::{Access, Door, Handler, Reply, Request, Route};
use crate::telemetry;

pub fn routes() -> Vec<Route> {
    let get =
        |path, handler: Handler, summary| Route::new(Method::GET, Door::Internal, path, Access::Open, handler, summary);
    vec![
        get("/livez", handler!(livez), "Whether the process runs; asks no store").gives("Health"),
        get("/readyz", handler!(readyz), "Whether claims can be decided").gives("Health").with(&[200, 503]),
        get("/metrics", handler!(metrics), "Prometheus metrics").serves("text/plain"),
        get("/openapi.json", handler!(document), "This document").serves("application/json"),
        get("/docs", handler!(docs), "The document as a page").serves("text/html"),
    ]
}

async fn livez(_app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    Ok(Reply::Ok(json!({"status": "alive", "version": crate::faults::version()})))
}

/// Ready while the snapshot is loaded, the cell is open and no drain has begun: PostgreSQL or not.
async fn readyz(app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    let snapshot = app.snapshot.load().templates_version > 0;
    let cell = app.claims.cell.identity().is_some();
    let draining = app.draining();
    let body = json!({
        "status": if snapshot && cell && !draining { "ready" } else { "not_ready" },
        "snapshot_loaded": snapshot,
        "cell_open": cell,
        "draining": draining,
    });
    Ok(if snapshot && cell && !draining { Reply::Ok(body) } else { Reply::NotReady(body) })
}

async fn metrics(app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    app.report();
    Ok(Reply::Raw("text/plain; version=0.0.4", Bytes::from(telemetry::render())))
}

async fn document(_app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    Ok(Reply::Ok(openapi::document()))
}

async fn docs(_app: Arc<App>, _request: Request) -> Result<Reply, Problem> {
    Ok(Reply::Raw("text/html; charset=utf-8", Bytes::from(openapi::page())))
}
