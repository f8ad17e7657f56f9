//! Templates as PostgreSQL has them: made, read, listed, changed as drafts, deleted as drafts.
//!
//! A change locks the template's row, decides, and writes under the revision it decided by. It
//! raises the template's revision and the catalog's in the same transaction.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

use super::snapshot::{LiveTemplate, Snapshot};
use super::{checks, rule_sets};
use crate::audit::{Action, Change, Subject};
use crate::clock::now_ms;
use crate::domain::ids::TemplateId;
use crate::domain::template::{self, Definition, Issuer, Status};
use crate::domain::window::{rfc3339, utc};
use crate::http::problem::Problem;
use crate::http::route::{Caller, Role};
use crate::pg::PgFault;
use crate::pricing::Settings;

const INSERT: &str = include_str!("../sql/catalog/template_insert.sql");
const READ: &str = include_str!("../sql/catalog/template_read.sql");
const LOCK: &str = include_str!("../sql/catalog/template_lock.sql");
const LIST: &str = include_str!("../sql/catalog/template_list.sql");
const PATCH: &str = include_str!("../sql/catalog/template_patch.sql");
const DELETE: &str = include_str!("../sql/catalog/template_delete.sql");
const RAISE: &str = include_str!("../sql/catalog/versions_raise_templates.sql");

/// A template with its life so far.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: TemplateId,
    pub definition: Definition,
    pub status: Status,
    pub revision: i64,
    /// The revision that Redis is known to hold.
    pub redis_revision: i64,
    pub stock_generation: i32,
    pub author: i32,
    /// Every key that wrote any of it: none of them may approve it.
    pub editors: Vec<i32>,
    pub approver: Option<i32>,
    pub reject_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub published_at: Option<DateTime<Utc>>,
    /// Its keys in Redis are freed, or about to be: it can neither be extended nor restocked.
    pub freed_at: Option<DateTime<Utc>>,
}

/// Whose templates a key may see.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Issuer and its id; `None`: everyone's.
    owner: Option<(&'a str, &'a str)>,
}

// === impl Scope ===

impl<'a> Scope<'a> {
    pub fn of(caller: &'a Caller) -> Self {
        let is_platform = caller.owner_type == "platform";
        Scope { owner: (!is_platform).then_some((&*caller.owner_type, &*caller.owner_id)) }
    }

    /// For what no key asks for.
    pub fn everyone() -> Self {
        Scope { owner: None }
    }

    /// Both parameters of a statement that is bound to an owner.
    pub fn params(&self) -> (Option<&'a str>, Option<&'a str>) {
        self.owner.unzip()
    }

    /// Whether a template that was ever published is one that the key may see.
    pub fn sees(&self, snapshot: &Snapshot, id: TemplateId) -> bool {
        self.owner.is_none() || snapshot.templates.get(&id).is_some_and(|template| self.owns(&template.definition))
    }

    /// The templates, of those that were ever published, that the key may see; `None`: all.
    pub fn templates(&self, snapshot: &Snapshot) -> Option<Vec<i32>> {
        let own = |template: &&Arc<LiveTemplate>| self.owns(&template.definition);
        self.owner?;
        Some(snapshot.templates.values().filter(own).map(|template| template.id.as_i32()).collect())
    }

    fn owns(&self, definition: &Definition) -> bool {
        self.owner.is_none_or(|owner| owner == (definition.issuer.word(), &*definition.issuer_id))
    }

    /// Refuses keys of merchants and streamers what concerns everyone.
    pub fn demand_platform(&self) -> Result<(), Problem> {
        match self.owner {
            None => Ok(()),
            Some(_) => Err(Problem::new("forbidden", "only a key of the platform may do this")),
        }
    }
}

// === impl Record ===

impl Record {
    /// As the HTTP contract shows it: the definition, and the life so far.
    pub fn to_json(&self) -> Value {
        let time = |at: DateTime<Utc>| rfc3339(self.definition.timezone, at.timestamp_millis());
        let mut body = self.definition.to_json();
        let life = json!({
            "id": self.id.0,
            "status": self.status.word(),
            "revision": self.revision,
            "redis_revision": self.redis_revision,
            "author_key_id": self.author,
            "approver_key_id": self.approver,
            "reject_reason": self.reject_reason,
            "created_at": time(self.created_at),
            "updated_at": time(self.updated_at),
            "published_at": self.published_at.map(time),
            "terms": checks::sentences(&self.definition),
            "warnings": checks::warnings(&self.definition),
        });
        let (Some(members), Value::Object(life)) = (body.as_object_mut(), life) else {
            unreachable!("both are objects")
        };
        members.extend(life);
        body
    }

    /// Whether it was ever published: then Redis must have it too.
    pub fn is_live(&self) -> bool {
        is_live(self.status)
    }

    fn from_row(row: &Row) -> Result<Record, PgFault> {
        let id = TemplateId(row.get::<_, i32>("id") as u32);
        Ok(Record {
            id,
            definition: read_definition(id, &row.get("definition"))?,
            status: read_status(id, row.get("status"))?,
            revision: row.get("revision"),
            redis_revision: row.get("redis_revision"),
            stock_generation: row.get("stock_generation"),
            author: row.get("author_key_id"),
            editors: row.get("editor_key_ids"),
            approver: row.get("approver_key_id"),
            reject_reason: row.get("reject_reason"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
            published_at: row.get("published_at"),
            freed_at: row.get("freed_at"),
        })
    }
}

/// Whether a template in this state was ever published.
pub fn is_live(status: Status) -> bool {
    match status {
        Status::Draft | Status::PendingApproval | Status::Approved => false,
        Status::Published | Status::Paused | Status::Stopped | Status::Finished => true,
    }
}

/// A definition that was checked when it was stored. That it cannot be read is a fault of ours.
pub(super) fn read_definition(id: TemplateId, stored: &Value) -> Result<Definition, PgFault> {
    Definition::from_store(stored).map_err(|errors| {
        let fields: Vec<_> = errors.iter().map(|error| format!("{} {}", error.field, error.code)).collect();
        PgFault::fault(format!("the definition of template {id} cannot be read: {}", fields.join(", ")))
    })
}

pub(super) fn read_status(id: TemplateId, stored: &str) -> Result<Status, PgFault> {
    Status::parse(stored).ok_or_else(|| PgFault::fault(format!("template {id} has the unknown status {stored}")))
}

/// A body with the issuer that it does not name: the key's owner.
pub(super) fn with_owner(caller: &Caller, body: &Value) -> Value {
    let mut body = body.clone();
    if let (Some(members), (Some(issuer), Some(id))) = (body.as_object_mut(), Scope::of(caller).params())
        && !members.contains_key("issuer")
        && !members.contains_key("issuer_id")
    {
        members.insert("issuer".into(), issuer.into());
        members.insert("issuer_id".into(), id.into());
    }
    body
}

/// Makes a draft. What the body does not say of the issuer, the key's owner says.
pub async fn create(
    client: &impl GenericClient,
    caller: &Caller,
    settings: &Settings,
    body: &Value,
) -> Result<(Record, Change), Problem> {
    let whole = checks::with_presets(with_owner(caller, body), settings);
    let mut definition = checks::parse(&whole, now_ms(), settings).map_err(Problem::invalid)?;
    check_issuer(caller, definition.issuer, &definition.issuer_id)?;
    rule_sets::copy(client, &mut definition, names_rules(body)).await?;
    checks::demand(&definition, settings).map_err(Problem::invalid)?;
    let (starts_at, ends_at) = window(&definition);
    let row = client
        .query_one(
            INSERT,
            &[
                &definition.issuer.word(),
                &definition.issuer_id,
                &definition.name,
                &definition.to_json(),
                &starts_at,
                &ends_at,
                &caller.key_id,
            ],
        )
        .await
        .map_err(name_taken)?;
    let id = TemplateId(row.get::<_, i32>("id") as u32);
    raise(client).await?;
    let now = read(client, Scope::of(caller), id).await?;
    let change = Change::new(Action::TemplateCreate, Subject::Template(id), Value::Null, now.to_json());
    Ok((now, change))
}

/// A template that the caller may see.
pub async fn read(client: &impl GenericClient, scope: Scope<'_>, id: TemplateId) -> Result<Record, Problem> {
    find(client, READ, scope, id).await
}

/// As [`read`], and nobody else changes it until the transaction ends.
pub async fn lock(client: &impl GenericClient, scope: Scope<'_>, id: TemplateId) -> Result<Record, Problem> {
    find(client, LOCK, scope, id).await
}

/// One page by id, and the cursor of the next.
pub async fn list(
    client: &impl GenericClient,
    scope: Scope<'_>,
    status: Option<Status>,
    after: Option<TemplateId>,
    limit: usize,
) -> Result<(Vec<Record>, Option<TemplateId>), Problem> {
    let (issuer, issuer_id) = scope.params();
    let after = after.map_or(0, TemplateId::as_i32);
    let rows = client
        .query(LIST, &[&after, &(limit as i64 + 1), &issuer, &issuer_id, &status.map(Status::word)])
        .await
        .map_err(PgFault::from)?;
    let records = rows.iter().take(limit).map(Record::from_row).collect::<Result<Vec<_>, _>>()?;
    let next = if rows.len() > limit { records.last().map(|record| record.id) } else { None };
    Ok((records, next))
}

/// Lays a merge patch over a template: over a draft freely, over a published one within its limits.
/// `revision` is the one that the caller has seen; `None` matches any.
pub async fn patch(
    client: &impl GenericClient,
    caller: &Caller,
    settings: &Settings,
    id: TemplateId,
    revision: Option<i64>,
    patch: &Value,
) -> Result<(Record, Change), Problem> {
    let record = lock(client, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    let patched = match record.status {
        Status::Draft => {
            let mut patched = template::draft_with(&record.definition, patch)
                .and_then(|body| checks::parse(&body, now_ms(), settings))
                .map_err(Problem::invalid)?;
            if (patched.issuer, &patched.issuer_id) != (record.definition.issuer, &record.definition.issuer_id) {
                check_issuer(caller, patched.issuer, &patched.issuer_id)?;
            }
            rule_sets::copy(client, &mut patched, names_rules(patch)).await?;
            checks::demand(&patched, settings).map_err(Problem::invalid)?;
            patched
        }
        Status::PendingApproval | Status::Approved => {
            return Err(conflict(
                &record,
                "a template that waits for approval or publication cannot change: reject it",
            ));
        }
        Status::Published | Status::Paused | Status::Stopped | Status::Finished => {
            template::patch_published(&record.definition, patch).map_err(Problem::invalid)?
        }
    };
    let is_extended = patched.claim_window.1 > record.definition.claim_window.1;
    if is_extended && record.freed_at.is_some() {
        return Err(conflict(&record, "the template ended long ago and cannot be opened again"));
    }
    // A later end opens it again; where it has none left, the worker marks it finished once more.
    let reopens = record.status == Status::Finished && is_extended;
    let status = if reopens { Status::Published } else { record.status };
    let (starts_at, ends_at) = window(&patched);
    let changed = client
        .execute(
            PATCH,
            &[
                &id.as_i32(),
                &record.revision,
                &patched.issuer.word(),
                &patched.issuer_id,
                &patched.name,
                &patched.to_json(),
                &starts_at,
                &ends_at,
                &status.word(),
                &caller.key_id,
            ],
        )
        .await
        .map_err(name_taken)?;
    demand_one(changed)?;
    raise(client).await?;
    let now = read(client, Scope::of(caller), id).await?;
    let change = Change::new(Action::TemplatePatch, Subject::Template(id), record.to_json(), now.to_json());
    Ok((now, change))
}

/// Deletes a draft.
pub async fn delete(
    client: &impl GenericClient,
    caller: &Caller,
    id: TemplateId,
    revision: Option<i64>,
) -> Result<Change, Problem> {
    let record = lock(client, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    if record.status != Status::Draft {
        return Err(conflict(&record, "only a draft can be deleted"));
    }
    demand_one(client.execute(DELETE, &[&id.as_i32(), &record.revision]).await.map_err(PgFault::from)?)?;
    raise(client).await?;
    Ok(Change::new(Action::TemplateDelete, Subject::Template(id), record.to_json(), Value::Null))
}

/// Tells every gateway that templates have changed. Last in a transaction: the row is everyone's.
pub(super) async fn raise(client: &impl GenericClient) -> Result<(), Problem> {
    client.execute(RAISE, &[]).await.map_err(PgFault::from)?;
    Ok(())
}

pub(super) fn demand_revision(record: &Record, revision: Option<i64>) -> Result<(), Problem> {
    match revision {
        Some(seen) if seen != record.revision => {
            let detail = format!("the template is at revision {}: read it again", record.revision);
            Err(Problem::new("precondition_failed", detail).with("revision", record.revision))
        }
        _ => Ok(()),
    }
}

/// The row is locked and was read under this revision: anything but one changed row is a fault.
pub(super) fn demand_one(changed: u64) -> Result<(), Problem> {
    if changed == 1 { Ok(()) } else { Err(PgFault::fault("a locked template changed under its lock").into()) }
}

pub(super) fn conflict(record: &Record, detail: &str) -> Problem {
    Problem::new("conflict", detail).with("template_status", record.status.word())
}

async fn find(
    client: &impl GenericClient,
    statement: &str,
    scope: Scope<'_>,
    id: TemplateId,
) -> Result<Record, Problem> {
    let (issuer, issuer_id) = scope.params();
    match client.query_opt(statement, &[&id.as_i32(), &issuer, &issuer_id]).await.map_err(PgFault::from)? {
        Some(row) => Ok(Record::from_row(&row)?),
        None => Err(not_found()),
    }
}

pub fn not_found() -> Problem {
    Problem::new("template_not_found", "there is no such template")
}

/// A merchant's or streamer's key makes its own templates, a platform's the platform's; `admin` any.
pub(super) fn check_issuer(caller: &Caller, issuer: Issuer, issuer_id: &str) -> Result<(), Problem> {
    let is_own = issuer.word() == caller.owner_type && issuer_id == caller.owner_id;
    if is_own || (caller.role == Role::Admin && caller.owner_type == "platform") {
        return Ok(());
    }
    Err(Problem::new("forbidden", "the key makes what is its own owner's only"))
}

/// Whether a body or a patch brings rules of its own.
fn names_rules(body: &Value) -> bool {
    body.get("usage_rules").is_some_and(|rules| !rules.is_null())
}

fn window(definition: &Definition) -> (DateTime<Utc>, DateTime<Utc>) {
    (utc(definition.claim_window.0), utc(definition.claim_window.1))
}

fn name_taken(error: tokio_postgres::Error) -> Problem {
    let fault = PgFault::from(error);
    if fault.violates("coupon_templates_name") {
        return Problem::new("name_taken", "the issuer has another template of this name");
    }
    fault.into()
}
