//! A template's life: draft, approval by another's eyes, publication, pause, stop, more stock.
//!
//! Only the row in PostgreSQL changes here; [`publish`](super::publish) brings Redis after it.

use serde_json::Value;
use tokio_postgres::GenericClient;

use super::store::{self, Record, Scope, conflict, demand_one, demand_revision};
use super::{checks, rule_sets};
use crate::audit::{self, Change, Subject};
use crate::domain::ids::{SERIAL_MAX, TemplateId};
use crate::domain::template::{Definition, Status, Stock};
use crate::http::problem::{FieldError, Problem};
use crate::http::route::Caller;
use crate::pg::PgFault;
use crate::pricing::Settings;

const MOVE: &str = include_str!("../sql/catalog/template_move.sql");
const RESTOCK: &str = include_str!("../sql/catalog/template_restock.sql");
const COPY_RULES: &str = include_str!("../sql/catalog/template_copy_rules.sql");
const RANGE: &str = include_str!("../sql/catalog/range_insert.sql");

/// The only cell that one Redis has.
const CELL: i16 = 0;

/// What can be done to a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Submit,
    Approve,
    Reject,
    Publish,
    Pause,
    Resume,
    Stop,
}

// === impl Action ===

impl Action {
    pub const ALL: [Action; 7] =
        [Action::Submit, Action::Approve, Action::Reject, Action::Publish, Action::Pause, Action::Resume, Action::Stop];

    /// The last segment of its path.
    pub fn word(self) -> &'static str {
        match self {
            Action::Submit => "submit",
            Action::Approve => "approve",
            Action::Reject => "reject",
            Action::Publish => "publish",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Stop => "stop",
        }
    }

    fn audited(self) -> audit::Action {
        match self {
            Action::Submit => audit::Action::TemplateSubmit,
            Action::Approve => audit::Action::TemplateApprove,
            Action::Reject => audit::Action::TemplateReject,
            Action::Publish => audit::Action::TemplatePublish,
            Action::Pause => audit::Action::TemplatePause,
            Action::Resume => audit::Action::TemplateResume,
            Action::Stop => audit::Action::TemplateStop,
        }
    }

    /// The next state, where the action is legal. What is finished is published, and sold or over.
    pub fn next(self, status: Status) -> Option<Status> {
        match (self, status) {
            (Action::Submit, Status::Draft) => Some(Status::PendingApproval),
            (Action::Approve, Status::PendingApproval) => Some(Status::Approved),
            (Action::Reject, Status::PendingApproval | Status::Approved) => Some(Status::Draft),
            (Action::Publish, Status::Approved) => Some(Status::Published),
            (Action::Pause, Status::Published | Status::Finished) => Some(Status::Paused),
            (Action::Resume, Status::Paused) => Some(Status::Published),
            (Action::Stop, Status::Published | Status::Finished | Status::Paused) => Some(Status::Stopped),
            _ => None,
        }
    }
}

/// Takes a template to its next state. `reason` is a rejection's.
pub async fn act(
    client: &impl GenericClient,
    caller: &Caller,
    settings: &Settings,
    id: TemplateId,
    revision: Option<i64>,
    action: Action,
    reason: Option<&str>,
) -> Result<(Record, Change), Problem> {
    let record = store::lock(client, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    let Some(next) = action.next(record.status) else {
        let detail = format!("a template that is {} takes no {}", record.status.word(), action.word());
        return Err(conflict(&record, &detail));
    };
    if record.freed_at.is_some() {
        return Err(conflict(&record, "the template ended long ago and cannot change its state"));
    }
    if action == Action::Approve && (caller.key_id == record.author || record.editors.contains(&caller.key_id)) {
        let detail = "a key that wrote the template cannot approve it, whatever its role";
        return Err(Problem::new("four_eyes", detail));
    }
    if matches!(action, Action::Submit | Action::Approve | Action::Publish) {
        let definition = settle_rules(client, Some(caller), &record, action).await?;
        checks::demand(&definition, settings).map_err(Problem::invalid)?;
    }
    if action == Action::Publish {
        let serials = record.definition.stock.total.unwrap_or(SERIAL_MAX) as i64;
        client.execute(RANGE, &[&id.as_i32(), &serials, &CELL]).await.map_err(PgFault::from)?;
    }
    go(client, &record, action, next, Some(caller.key_id), reason).await
}

/// Carries out what another system decided about a submitted template, locked as `record`: no key of
/// ours approves, so none is named.
pub async fn decide(
    client: &impl GenericClient,
    record: Record,
    submitted: i64,
    settings: &Settings,
    approved: bool,
    reason: Option<&str>,
) -> Result<(Record, Change), Problem> {
    if record.status != Status::PendingApproval || record.revision != submitted {
        let detail = "the template is not what was submitted any more";
        return Err(conflict(&record, detail).with("revision", record.revision));
    }
    if !approved {
        return go(client, &record, Action::Reject, Status::Draft, None, reason).await;
    }
    let definition = settle_rules(client, None, &record, Action::Approve).await?;
    checks::demand(&definition, settings).map_err(Problem::invalid)?;
    go(client, &record, Action::Approve, Status::Approved, None, None).await
}

async fn go(
    client: &impl GenericClient,
    record: &Record,
    action: Action,
    next: Status,
    who: Option<i32>,
    reason: Option<&str>,
) -> Result<(Record, Change), Problem> {
    let id = record.id;
    let changed = client
        .execute(MOVE, &[&id.as_i32(), &record.revision, &record.status.word(), &next.word(), &who, &reason])
        .await
        .map_err(PgFault::from)?;
    demand_one(changed)?;
    store::raise(client).await?;
    let now = store::read(client, Scope::everyone(), id).await?;
    let change = Change::new(action.audited(), Subject::Template(id), record.to_json(), now.to_json());
    Ok((now, change))
}

/// Takes the rules of the template's set when it is submitted. From then on they are what was
/// submitted: what is approved and published is no other, and nobody approves rules of their own.
/// Returns the definition as it goes on.
async fn settle_rules(
    client: &impl GenericClient,
    caller: Option<&Caller>,
    record: &Record,
    action: Action,
) -> Result<Definition, Problem> {
    let definition = record.definition.clone();
    let Some(set) = rule_sets::named_by(client, &definition).await? else { return Ok(definition) };
    if action == Action::Approve && caller.is_some_and(|caller| set.editors.contains(&caller.key_id)) {
        let detail = "a key that wrote the template's rule set cannot approve it, whatever its role";
        return Err(Problem::new("four_eyes", detail));
    }
    if set.set.usage_rules == definition.usage_rules {
        return Ok(definition);
    }
    if action != Action::Submit {
        let detail = "the rule set has changed since the template was submitted: reject it and submit it again";
        return Err(conflict(record, detail));
    }
    let definition = Definition { usage_rules: set.set.usage_rules, ..definition };
    let copied = client.execute(COPY_RULES, &[&record.id.as_i32(), &record.revision, &definition.to_json()]).await;
    demand_one(copied.map_err(PgFault::from)?)?;
    Ok(definition)
}

/// Adds `add` coupons behind the last serial, and raises the stock generation: latches are void.
pub async fn add_stock(
    client: &impl GenericClient,
    caller: &Caller,
    id: TemplateId,
    revision: Option<i64>,
    add: i64,
) -> Result<(Record, Change), Problem> {
    let record = store::lock(client, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    if !matches!(record.status, Status::Published | Status::Paused | Status::Finished) {
        let detail = format!("a template that is {} takes no stock: change the draft", record.status.word());
        return Err(conflict(&record, &detail));
    }
    if record.freed_at.is_some() {
        return Err(conflict(&record, "the template ended long ago and takes no stock"));
    }
    let Some(total) = record.definition.stock.total else {
        return Err(conflict(&record, "the template's stock is unlimited"));
    };
    let Some(total) = total.checked_add(add as u64).filter(|total| *total <= SERIAL_MAX) else {
        let detail = format!("a template has at most {SERIAL_MAX} coupons");
        return Err(Problem::invalid(vec![FieldError { field: "add".into(), code: "out_of_range", detail }]));
    };
    let mut definition = record.definition.clone();
    definition.stock = Stock { total: Some(total), ..definition.stock };
    let status = if record.status == Status::Finished { Status::Published } else { record.status };
    client.execute(RANGE, &[&id.as_i32(), &add, &CELL]).await.map_err(PgFault::from)?;
    let written: Value = definition.to_json();
    let changed = client
        .execute(RESTOCK, &[&id.as_i32(), &record.revision, &written, &status.word()])
        .await
        .map_err(PgFault::from)?;
    demand_one(changed)?;
    store::raise(client).await?;
    let now = store::read(client, Scope::of(caller), id).await?;
    let action = audit::Action::TemplateAddStock;
    let change = Change::new(action, Subject::Template(id), record.to_json(), now.to_json());
    Ok((now, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_steps_are_these_and_no_others() {
        let legal = [
            (Status::Draft, Action::Submit, Status::PendingApproval),
            (Status::PendingApproval, Action::Approve, Status::Approved),
            (Status::PendingApproval, Action::Reject, Status::Draft),
            (Status::Approved, Action::Reject, Status::Draft),
            (Status::Approved, Action::Publish, Status::Published),
            (Status::Published, Action::Pause, Status::Paused),
            (Status::Published, Action::Stop, Status::Stopped),
            (Status::Paused, Action::Resume, Status::Published),
            (Status::Paused, Action::Stop, Status::Stopped),
            (Status::Finished, Action::Pause, Status::Paused),
            (Status::Finished, Action::Stop, Status::Stopped),
        ];
        for (_, status) in Status::WORDS {
            for action in Action::ALL {
                let expected = legal.iter().find(|step| (step.0, step.1) == (*status, action)).map(|step| step.2);
                assert_eq!(action.next(*status), expected, "{status:?} {action:?}");
            }
        }
    }
}
