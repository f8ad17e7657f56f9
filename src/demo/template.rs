//! What the demo has on sale: one template, without quotas, for years.
//!
//! It goes the way of every template: written by one key, approved by another, published.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::App;
use crate::audit::{self, Actor, Origin};
use crate::catalog::lifecycle::{Action, act};
use crate::catalog::publish::{NotYet, bring};
use crate::catalog::{api_keys, store};
use crate::clock::now_ms;
use crate::domain::ids::TemplateId;
use crate::domain::window::rfc3339;
use crate::http::problem::Problem;
use crate::http::route::{Caller, Role};
use crate::pg::PgFault;

const NAME: &str = "Floodgate demo: 满100减20";
const STOCK: u64 = 1_000_000;
const YEARS_MS: i64 = 5 * 365 * 86_400_000;
/// How long the cell may take to open.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The template's id. It is made, approved by another key than its author's, and published the
/// first time, and found again by its name afterwards. Returns when it can be claimed.
pub async fn ensure_demo_template(app: Arc<App>) -> Result<u32, String> {
    // The service does this, too, but perhaps not yet.
    api_keys::ensure_admin_key(&app.pg, &app.config).await.map_err(|fault| fault.to_string())?;
    let id = match find(&app).await.map_err(|fault| fault.to_string())? {
        Some(id) => id,
        None => make(&app).await.map_err(|problem| format!("the demo's template was refused: {}", problem.detail))?,
    };
    let claimable = async {
        loop {
            match bring(&app, id).await {
                Ok(()) if is_known(&app, id) => return Ok(()),
                Ok(()) | Err(NotYet::NotOpen) => {}
                Err(not_yet) => tracing::debug!(?not_yet, "the demo's template is not in Redis yet"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, claimable).await {
        Ok(done) => done.map(|()| id.0),
        Err(_) => Err("the cell did not open within a minute; the log above says why".into()),
    }
}

/// Whether this process' gateway can decide claims of it.
fn is_known(app: &App, id: TemplateId) -> bool {
    app.claims.cell.identity().is_some() && app.snapshot.load().templates.contains_key(&id)
}

async fn find(app: &App) -> Result<Option<TemplateId>, PgFault> {
    let client = app.pg.get().await?;
    let row = client.query_opt(include_str!("../sql/catalog/demo_template.sql"), &[&NAME]).await?;
    Ok(row.map(|row| TemplateId(row.get::<_, i32>(0) as u32)))
}

async fn make(app: &App) -> Result<TemplateId, Problem> {
    // The service makes it too, at the same moment.
    api_keys::ensure_admin_key(&app.pg, &app.config).await?;
    let approver = app.api_keys.authenticate(app.config.auth.admin_key.expose()).await?;
    let mut client = app.pg.get().await?;
    let tx = client.begin().await?;
    let key = json!({"name": "demo author", "role": "operator", "owner_type": "platform", "owner_id": ""});
    let (key, made) = api_keys::create(&*tx, &approver, &app.code_key, &key).await?;
    let author = Caller {
        key_id: key["id"].as_i64().unwrap_or_default() as i32,
        role: Role::Operator,
        owner_type: "platform".into(),
        owner_id: String::new(),
    };
    let settings = &app.config.pricing;
    let by = |caller: &Caller| Origin::inner(Actor::Key(caller.key_id));
    audit::record(&tx, &by(&approver), &made).await?;
    let (template, made) = store::create(&*tx, &author, settings, &definition()).await?;
    audit::record(&tx, &by(&author), &made).await?;
    let steps = [(&author, Action::Submit), (&approver, Action::Approve), (&author, Action::Publish)];
    for (caller, action) in steps {
        let (_, made) = act(&*tx, caller, settings, template.id, None, action, None).await?;
        audit::record(&tx, &by(caller), &made).await?;
    }
    tx.commit().await?;
    Ok(template.id)
}

fn definition() -> Value {
    let zone = chrono_tz::Asia::Shanghai;
    let now = now_ms();
    json!({
        "name": NAME,
        "kind": "full_reduction",
        "value": {"amount": "20.00"},
        "usage_rules": [{"rule_type": "MINIMUM_SPEND", "params": {"amount": "100.00"}, "priority": 0}],
        "distribution": ["claim"],
        "timezone": zone.name(),
        "stock": {"total": STOCK},
        "limits": {"per_user": 1},
        "claim_window": {"starts_at": rfc3339(zone, now - 60_000), "ends_at": rfc3339(zone, now + YEARS_MS)},
        "validity": {"type": "relative", "days": 7},
        "quotas": false,
    })
}
