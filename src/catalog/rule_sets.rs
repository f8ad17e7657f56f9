//! Rule sets as PostgreSQL has them, and their rules on the way into templates.
//!
//! A set may change while templates name it: drafts take its rules when they are written and when
//! they are submitted. What was submitted is what is approved and published: a set that changed in
//! between sends the template back. What is published keeps its copy.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};

use super::checks;
use super::store::{Scope, check_issuer, with_owner};
use crate::audit::{Action, Change, Subject};
use crate::domain::fields::Complaints;
use crate::domain::rule_set::RuleSet;
use crate::domain::template::{self, Definition, Issuer};
use crate::domain::window::rfc3339;
use crate::http::problem::{FieldError, Problem};
use crate::http::route::Caller;
use crate::pg::PgFault;

const INSERT: &str = include_str!("../sql/catalog/rule_set_insert.sql");
const READ: &str = include_str!("../sql/catalog/rule_set_read.sql");
const LOCK: &str = include_str!("../sql/catalog/rule_set_lock.sql");
const NAMED: &str = include_str!("../sql/catalog/rule_set_named.sql");
const LIST: &str = include_str!("../sql/catalog/rule_set_list.sql");
const PATCH: &str = include_str!("../sql/catalog/rule_set_patch.sql");
const DELETE: &str = include_str!("../sql/catalog/rule_set_delete.sql");

/// A rule set with its life so far.
#[derive(Clone, Debug)]
pub struct SetRecord {
    pub id: i32,
    pub set: RuleSet,
    pub revision: i64,
    pub author: i32,
    /// Every key that wrote any of it: none of them may approve a template that names it.
    pub editors: Vec<i32>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

// === impl SetRecord ===

impl SetRecord {
    pub fn to_json(&self) -> Value {
        let time = |at: DateTime<Utc>| rfc3339(Tz::UTC, at.timestamp_millis());
        let mut body = self.set.to_json();
        body["id"] = self.id.into();
        body["revision"] = self.revision.into();
        body["author_key_id"] = self.author.into();
        body["created_at"] = time(self.created_at).into();
        body["updated_at"] = time(self.updated_at).into();
        body
    }

    fn from_row(row: &Row) -> Result<SetRecord, PgFault> {
        let issuer: &str = row.get("issuer");
        Ok(SetRecord {
            id: row.get("id"),
            set: RuleSet {
                name: row.get("name"),
                description: row.get("description"),
                issuer: Issuer::parse(issuer)
                    .ok_or_else(|| PgFault::fault(format!("a rule set has the unknown issuer {issuer}")))?,
                issuer_id: row.get("issuer_id"),
                usage_rules: row.get("usage_rules"),
            },
            revision: row.get("revision"),
            author: row.get("author_key_id"),
            editors: row.get("editor_key_ids"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        })
    }
}

/// Makes a set. What the body does not say of the issuer, the key's owner says.
pub async fn create(
    client: &impl GenericClient,
    caller: &Caller,
    body: &Value,
) -> Result<(SetRecord, Change), Problem> {
    let set = checked(RuleSet::parse(&with_owner(caller, body)), body)?;
    check_issuer(caller, set.issuer, &set.issuer_id)?;
    let row = client
        .query_one(
            INSERT,
            &[&set.issuer.word(), &set.issuer_id, &set.name, &set.description, &set.usage_rules, &caller.key_id],
        )
        .await
        .map_err(refused)?;
    let now = SetRecord::from_row(&row)?;
    let change = Change::new(Action::RuleSetCreate, Subject::RuleSet(now.id), Value::Null, now.to_json());
    Ok((now, change))
}

/// A set that the caller may see.
pub async fn read(client: &impl GenericClient, scope: Scope<'_>, id: i32) -> Result<SetRecord, Problem> {
    find(client, READ, scope, id).await
}

/// One page by id, and the cursor of the next.
pub async fn list(
    client: &impl GenericClient,
    scope: Scope<'_>,
    after: i32,
    limit: usize,
) -> Result<(Vec<SetRecord>, Option<i32>), Problem> {
    let (issuer, issuer_id) = scope.params();
    let rows = client.query(LIST, &[&after, &(limit as i64 + 1), &issuer, &issuer_id]).await.map_err(PgFault::from)?;
    let records = rows.iter().take(limit).map(SetRecord::from_row).collect::<Result<Vec<_>, _>>()?;
    let next = if rows.len() > limit { records.last().map(|record| record.id) } else { None };
    Ok((records, next))
}

/// Lays a merge patch over a set, under the revision that the caller has seen.
pub async fn patch(
    client: &impl GenericClient,
    caller: &Caller,
    id: i32,
    revision: Option<i64>,
    patch: &Value,
) -> Result<(SetRecord, Change), Problem> {
    let record = find(client, LOCK, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    let set = checked(record.set.patch(patch), patch)?;
    let row = client
        .query_one(PATCH, &[&id, &record.revision, &set.name, &set.description, &set.usage_rules, &caller.key_id])
        .await
        .map_err(refused)?;
    let now = SetRecord::from_row(&row)?;
    let change = Change::new(Action::RuleSetPatch, Subject::RuleSet(id), record.to_json(), now.to_json());
    Ok((now, change))
}

/// Deletes a set that no template names.
pub async fn delete(
    client: &impl GenericClient,
    caller: &Caller,
    id: i32,
    revision: Option<i64>,
) -> Result<Change, Problem> {
    let record = find(client, LOCK, Scope::of(caller), id).await?;
    demand_revision(&record, revision)?;
    client.execute(DELETE, &[&id, &record.revision]).await.map_err(refused)?;
    Ok(Change::new(Action::RuleSetDelete, Subject::RuleSet(id), record.to_json(), Value::Null))
}

/// Copies the rules of the set that a draft names, if it names one. `given`: the draft's writer sent
/// rules, too; they must be the set's.
pub async fn copy(client: &impl GenericClient, definition: &mut Definition, given: bool) -> Result<(), Problem> {
    let Some(record) = named_by(client, definition).await? else { return Ok(()) };
    let is_other = definition.usage_rules != record.set.usage_rules;
    if given && is_other && definition.usage_rules.as_array().is_some_and(|rules| !rules.is_empty()) {
        let detail = "must be absent or empty where rule_set names the rules".to_owned();
        return Err(Problem::invalid(vec![FieldError { field: "usage_rules".into(), code: "rule_set_named", detail }]));
    }
    definition.usage_rules = record.set.usage_rules;
    Ok(())
}

/// The set that a definition names, kept as it is until the transaction ends.
pub async fn named_by(client: &impl GenericClient, definition: &Definition) -> Result<Option<SetRecord>, Problem> {
    let Some(name) = &definition.rule_set else { return Ok(None) };
    let row = client
        .query_opt(NAMED, &[&definition.issuer.word(), &definition.issuer_id, name])
        .await
        .map_err(PgFault::from)?;
    match row {
        Some(row) => Ok(Some(SetRecord::from_row(&row)?)),
        None => {
            let detail = "the template's issuer has no rule set of this name".to_owned();
            Err(Problem::invalid(vec![FieldError { field: "rule_set".into(), code: "unknown_value", detail }]))
        }
    }
}

pub fn not_found() -> Problem {
    Problem::new("not_found", "there is no such rule set")
}

/// A set whose rules exist; of a body that is wrong elsewhere, what its rules hide is said, too.
fn checked(parsed: Result<RuleSet, Vec<FieldError>>, body: &Value) -> Result<RuleSet, Problem> {
    match parsed {
        Ok(set) => checks::of_set(&set.usage_rules).map(|()| set).map_err(Problem::invalid),
        Err(mut errors) => {
            let wrong = &mut Complaints::default();
            let rules = body.get("usage_rules").map(|rules| template::read_rules(rules, wrong));
            if let Some(rules) = rules.filter(|_| wrong.is_empty()) {
                errors.extend(checks::of_set(&rules).err().unwrap_or_default());
            }
            Err(Problem::invalid(errors))
        }
    }
}

fn demand_revision(record: &SetRecord, revision: Option<i64>) -> Result<(), Problem> {
    match revision {
        Some(seen) if seen != record.revision => {
            let detail = format!("the rule set is at revision {}: read it again", record.revision);
            Err(Problem::new("precondition_failed", detail).with("revision", record.revision))
        }
        _ => Ok(()),
    }
}

async fn find(client: &impl GenericClient, statement: &str, scope: Scope<'_>, id: i32) -> Result<SetRecord, Problem> {
    let (issuer, issuer_id) = scope.params();
    match client.query_opt(statement, &[&id, &issuer, &issuer_id]).await.map_err(PgFault::from)? {
        Some(row) => Ok(SetRecord::from_row(&row)?),
        None => Err(not_found()),
    }
}

fn refused(error: tokio_postgres::Error) -> Problem {
    let fault = PgFault::from(error);
    if fault.violates("rule_sets_name") {
        return Problem::new("name_taken", "the issuer has another rule set of this name");
    }
    if fault.violates("coupon_templates_rule_set") {
        return Problem::new("conflict", "templates name the rule set: it can be neither deleted nor renamed");
    }
    fault.into()
}
