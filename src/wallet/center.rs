//! The claim center: templates with what this user may do, decided as a claim would be.
//!
//! What it says is a reading of one moment: only the claim itself decides.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cell_closed;
use crate::admission::identity::Shopper;
use crate::app::App;
use crate::catalog::snapshot::LiveTemplate;
use crate::claim::engine::Held;
use crate::domain::ids::TemplateId;
use crate::domain::outcome::ClaimOutcome;
use crate::domain::template::Status;
use crate::domain::window::{Day, Millis, rfc3339};
use crate::gateway::code_of;
use crate::http::problem::Problem;
use crate::redis::cell::{Holding, read_holdings};

/// Who looks, and through what.
pub struct Viewer<'a> {
    pub shopper: &'a Shopper,
    pub channel: Option<&'a str>,
    pub ip: std::net::IpAddr,
    pub device: Option<&'a str>,
}

/// One template as this user sees it.
pub async fn one(app: &App, viewer: &Viewer<'_>, id: TemplateId) -> Result<Value, Problem> {
    let template = app.snapshot.load().templates.get(&id).cloned();
    let template =
        template.ok_or_else(|| Problem::of(ClaimOutcome::TemplateNotFound, format!("there is no template {id}")))?;
    let mut seen = look(app, viewer, &[template]).await?;
    Ok(seen.remove(0))
}

/// The page of templates behind `cursor` whose claim window is not over, in order of id.
pub async fn page(
    app: &App,
    viewer: &Viewer<'_>,
    limit: usize,
    cursor: Option<&str>,
) -> Result<(Vec<Value>, Option<String>), Problem> {
    let behind = match cursor {
        None => 0,
        Some(text) => {
            TemplateId::parse(text)
                .ok_or_else(|| Problem::of(ClaimOutcome::InvalidRequest, "cursor is none that this list gave"))?
                .0
        }
    };
    let now = app.claims.cell.redis_now().unwrap_or_else(crate::clock::now_ms);
    let snapshot = app.snapshot.load();
    let mut open: Vec<Arc<LiveTemplate>> = snapshot
        .templates
        .values()
        .filter(|template| template.id.0 > behind && is_listed(template, viewer.channel, now))
        .cloned()
        .collect();
    open.sort_by_key(|template| template.id);
    let more = open.len() > limit;
    open.truncate(limit);
    let next = open.last().filter(|_| more).map(|template| template.id.to_string());
    Ok((look(app, viewer, &open).await?, next))
}

fn is_listed(template: &LiveTemplate, channel: Option<&str>, now: Millis) -> bool {
    let channels = template.definition.audience.as_ref().map_or(&[][..], |audience| &audience.channels);
    let for_channel =
        channels.is_empty() || channel.is_none_or(|channel| channels.iter().any(|known| known == channel));
    !template.freed && template.status != Status::Stopped && now < template.definition.claim_window.1 && for_channel
}

async fn look(app: &App, viewer: &Viewer<'_>, templates: &[Arc<LiveTemplate>]) -> Result<Vec<Value>, Problem> {
    if templates.is_empty() {
        return Ok(Vec::new());
    }
    let identity = app.claims.cell.identity().ok_or_else(cell_closed)?;
    let ids: Vec<TemplateId> = templates.iter().map(|template| template.id).collect();
    let user = &viewer.shopper.user;
    let (now, holdings) = read_holdings(&app.redis, &app.keys, &identity, Some(user), &ids).await?;
    Ok(templates.iter().zip(holdings).map(|(template, holding)| show(app, viewer, template, &holding, now)).collect())
}

fn show(app: &App, viewer: &Viewer<'_>, template: &LiveTemplate, holding: &Holding, now: Millis) -> Value {
    let definition = &template.definition;
    let refusal = refusal(app, viewer, template, holding, now);
    let zone = definition.timezone;
    let held: Vec<Value> = holding
        .receipts
        .iter()
        .map(|receipt| {
            let held = Held { serial: receipt.serial, epoch: receipt.epoch, acquired: receipt.acquired };
            json!({
                "code": code_of(app, template.id, &held),
                "serial": held.serial,
                "acquired_at": rfc3339(zone, held.acquired),
            })
        })
        .collect();
    json!({
        "id": template.id.0,
        "name": definition.name,
        "description": definition.description,
        "kind": definition.kind.word(),
        "value": definition.value,
        "currency": definition.currency,
        "usage_rules": definition.usage_rules,
        "terms": template.terms.as_ref().map_or(Vec::new(), |terms| terms.explain(None)),
        "claim_window": {
            "starts_at": rfc3339(zone, definition.claim_window.0),
            "ends_at": rfc3339(zone, definition.claim_window.1),
        },
        "limits": {"per_user": definition.limits.per_user, "per_user_daily": definition.limits.per_user_daily},
        "claimable": refusal.is_none(),
        "reason": refusal.map(ClaimOutcome::code),
        "remaining": definition.stock.total.map(|_| holding.remaining),
        "held": held,
        "server_time": rfc3339(zone, now),
    })
}

/// The first refusal, in order of precedence, that a claim would meet now; quotas aside.
fn refusal(
    app: &App,
    viewer: &Viewer<'_>,
    template: &LiveTemplate,
    holding: &Holding,
    now: Millis,
) -> Option<ClaimOutcome> {
    let definition = &template.definition;
    let (starts, ends) = definition.claim_window;
    let day = Day::of(definition.timezone, now);
    let today = holding.receipts.iter().filter(|receipt| day.contains(receipt.acquired)).count() as u32;
    let device = viewer.device.map(|device| app.hashing.device(device));
    let given_today = if holding.day == day.start { holding.day_count } else { 0 };
    let audience_holds = definition
        .audience
        .as_ref()
        .is_none_or(|audience| audience.check(&viewer.shopper.facts, viewer.channel, now).is_ok());
    let refusals = [
        (matches!(template.status, Status::Paused | Status::Stopped), ClaimOutcome::TemplateInactive),
        (matches!(holding.state, 2 | 3), ClaimOutcome::TemplateInactive),
        (now < starts, ClaimOutcome::NotStarted),
        (now >= ends || template.freed || holding.state == 9, ClaimOutcome::Ended),
        (
            app.snapshot.load().blacklist.blocks(&viewer.shopper.user, Some(viewer.ip), device, now),
            ClaimOutcome::Blocked,
        ),
        (app.config.throttle.device_required && viewer.device.is_none(), ClaimOutcome::DeviceRequired),
        (!audience_holds, ClaimOutcome::NotEligible),
        (holding.receipts.len() as u32 >= definition.limits.per_user, ClaimOutcome::UserLimitReached),
        (definition.limits.per_user_daily.is_some_and(|limit| today >= limit), ClaimOutcome::UserDailyLimitReached),
        (holding.state != 0 && holding.remaining == 0, ClaimOutcome::SoldOut),
        (definition.stock.daily.is_some_and(|limit| given_today >= limit), ClaimOutcome::DailyLimitReached),
        (holding.state == 0, ClaimOutcome::Unavailable),
    ];
    refusals.into_iter().find(|(applies, _)| *applies).map(|(_, outcome)| outcome)
}
