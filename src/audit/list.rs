//! Records for auditors, newest first, by what was changed, by whom, how and when.
//!
//! Every page looks at a bounded number of records: one filter chooses the index, the others are
//! laid over what it gives. A page may so be short, or empty, and yet have a next one.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Actor;
use crate::domain::user::{UserCodec, UserId, UserRef};
use crate::domain::window::rfc3339;
use crate::limits::AUDIT_LOOKED_AT_MAX;
use crate::pg::{Connection, PgFault};

const ALL: &str = include_str!("../sql/audit/list_all.sql");
const BY_ACTION: &str = include_str!("../sql/audit/list_by_action.sql");
const BY_ACTOR: &str = include_str!("../sql/audit/list_by_actor.sql");
const BY_SUBJECT: &str = include_str!("../sql/audit/list_by_subject.sql");

/// What begins an actor who is a shopper.
const USER: &str = "user:";

/// What is asked for. Absent parts hold for all.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub subject: Option<String>,
    /// As it is stored: see [`stored_actor`].
    pub actor: Option<String>,
    pub action: Option<String>,
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub until: Option<DateTime<Utc>>,
    pub after: Option<Place>,
}

/// A record's place in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub at: DateTime<Utc>,
    pub id: i64,
}

/// One page, and the place behind which the next begins.
pub async fn list(
    client: &Connection,
    users: &UserCodec,
    question: &Question,
    limit: usize,
) -> Result<(Vec<Value>, Option<Place>), PgFault> {
    let Question { subject, actor, action, from, until, after } = question;
    let (at, id) = (after.map(|place| place.at), after.map(|place| place.id));
    let given = limit as i64;
    // Where no further filter is laid over it, what is looked at is what is given.
    let (statement, further, is_filtered): (_, Vec<&(dyn ToSql + Sync)>, _) = match (subject, actor, action) {
        (Some(subject), ..) => (BY_SUBJECT, vec![subject, action, actor], action.is_some() || actor.is_some()),
        (None, Some(actor), _) => (BY_ACTOR, vec![actor, action], action.is_some()),
        (None, None, Some(action)) => (BY_ACTION, vec![action], false),
        (None, None, None) => (ALL, Vec::new(), false),
    };
    let looked_at = if is_filtered { AUDIT_LOOKED_AT_MAX } else { given };
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![from, until, &at, &id, &looked_at, &given];
    params.extend(further);
    let rows = client.rows(statement, &params).await?;
    let found: Vec<&Row> = rows.iter().filter(|row| row.get::<_, Option<i64>>("id").is_some()).collect();
    let items = found.iter().map(|row| write(row, users)).collect();
    let next = match (found.last(), rows.first()) {
        (Some(last), _) if found.len() == limit => Some(Place { at: last.get("at"), id: last.get("id") }),
        (_, Some(row)) if row.get::<_, i64>("looked_at") == looked_at => {
            Some(Place { at: row.get("last_at"), id: row.get("last_id") })
        }
        _ => None,
    };
    Ok((items, next))
}

/// The stored form of an actor who is asked for: `user:` names a shopper as the shop knows them.
pub fn stored_actor(users: &UserCodec, actor: &str) -> Option<String> {
    match actor.strip_prefix(USER) {
        Some(id) => UserId::parse(id).map(|id| Actor::User(users.seal(&id)).to_string()),
        None => Some(actor.to_owned()),
    }
}

fn write(row: &Row, users: &UserCodec) -> Value {
    let actor: &str = row.get("actor");
    let user = actor.strip_prefix(USER).and_then(UserRef::from_store).and_then(|user| users.open(&user));
    json!({
        "id": row.get::<_, i64>("id"),
        "position": row.get::<_, Option<i64>>("position"),
        "at": rfc3339(Tz::UTC, row.get::<_, DateTime<Utc>>("at").timestamp_millis()),
        "actor": user.map_or(actor.to_owned(), |user| format!("{USER}{}", user.as_str())),
        "ip": row.get::<_, Option<&str>>("ip"),
        "request_id": row.get::<_, Option<&str>>("request_id"),
        "action": row.get::<_, &str>("action"),
        "subject": row.get::<_, &str>("subject"),
        "before": row.get::<_, Option<Value>>("before"),
        "after": row.get::<_, Option<Value>>("after"),
    })
}

// === impl Place ===

impl Place {
    /// Of a cursor that a list gave.
    pub fn parse(cursor: &str) -> Option<Place> {
        let (micros, id) = cursor.split_once('.')?;
        Some(Place { at: DateTime::from_timestamp_micros(micros.parse().ok()?)?, id: id.parse().ok()? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at.timestamp_micros(), self.id)
    }
}
