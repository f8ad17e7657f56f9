//! What the demo has on sale: one template, without quotas, for years.
//!
//! It goes the way of every template: written by one key, approved by another, published, brought to
//! Redis and read back.

use std::sync::Arc;
use std::time::Duration;

use chrono::{Months, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::app::App;
use crate::catalog::lifecycle::{Action, act};
use crate::catalog::{api_keys, publish, store};
use crate::domain::ids::TemplateId;
use crate::http::problem::Problem;
use crate::http::route::{Caller, Role};
use crate::pg::PgFault;

const FIND: &str = include_str!("../sql/demo/template_find.sql");
/// By this it is found again.
const NAME: &str = "Demo: 20 off 100";
const STOCK: u32 = 1_000_000;
const MONTHS: Months = Months::new(120);
/// The cell must be opened first; replaying many rows takes its time.
const OPEN_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// The template's id. It is made and published the first time and found by its name afterwards; in
/// either case this process' gateway is ready to give it out when this returns.
pub async fn ensure_demo_template(app: Arc<App>) -> Result<u32, String> {
    api_keys::ensure_admin_key(&app.pg, &app.config).await.map_err(|fault| fault.to_string())?;
    let id = match find(&app).await.map_err(|fault| fault.to_string())? {
        Some(id) => id,
        None => make(&app).await.map_err(|problem| format!("{}: {}", problem.code, problem.detail))?,
    };
    wait_until_claimable(&app, id).await?;
    Ok(id.0)
}

async fn find(app: &App) -> Result<Option<TemplateId>, PgFault> {
    let row = app.pg.get().await?.query_opt(FIND, &[&NAME]).await?;
    Ok(row.map(|row| TemplateId(row.get::<_, i32>("id") as u32)))
}

/// All in one transaction: a demo that is killed here makes it next time.
async fn make(app: &App) -> Result<TemplateId, Problem> {
    let author = app.api_keys.authenticate(app.config.auth.admin_key.expose()).await?;
    let mut client = app.pg.get().await?;
    let tx = client.transaction().await.map_err(PgFault::from)?;
    // Nobody is shown this key: approving the demo's template is all that it ever does.
    let key = json!({"name": "demo approver", "role": "approver", "owner_type": "platform", "owner_id": ""});
    let key = api_keys::create(&*tx, &author, &app.code_key, &key).await?;
    let approver = Caller {
        key_id: key["id"].as_i64().unwrap_or_default() as i32,
        role: Role::Approver,
        owner_type: author.owner_type.clone(),
        owner_id: author.owner_id.clone(),
    };
    let id = store::create(&*tx, &author, &definition()).await?.id;
    act(&*tx, &author, id, None, Action::Submit, None).await?;
    act(&*tx, &approver, id, None, Action::Approve, None).await?;
    act(&*tx, &author, id, None, Action::Publish, None).await?;
    tx.commit().await.map_err(PgFault::from)?;
    Ok(id)
}

fn definition() -> Value {
    let now = Utc::now();
    json!({
        "name": NAME,
        "description": "Made by floodgate demo.",
        "kind": "full_reduction",
        "value": {"amount": "20.00"},
        "usage_rules": [{"rule_type": "MINIMUM_SPEND", "params": {"amount": "100.00"}, "priority": 0}],
        "stock": {"total": STOCK},
        "limits": {"per_user": 1},
        "claim_window": {"starts_at": now.to_rfc3339(), "ends_at": (now + MONTHS).to_rfc3339()},
        "validity": {"type": "relative", "days": 30},
        "quotas": false,
    })
}

/// Redis has the template, and this process' snapshot and cell know it.
async fn wait_until_claimable(app: &App, id: TemplateId) -> Result<(), String> {
    let give_up = Instant::now() + OPEN_MAX;
    loop {
        let why = match publish::bring(app, id).await {
            Ok(()) if app.claims.cell.identity().is_some() && app.snapshot.load().templates.contains_key(&id) => return Ok(()),
            Ok(()) => "the gateway does not know it yet".to_owned(),
            Err(reason) => reason.to_string(),
        };
        if Instant::now() > give_up {
            return Err(format!("the demo's template is not on sale: {why}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
