//! Who may not claim: users, addresses and networks, devices, with a reason and perhaps an end.
//!
//! Users are kept as their `UserRef`, devices as their keyed hash. Gateways have a change within a
//! poll of the snapshot.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio_postgres::{GenericClient, Row};

use crate::app::App;
use crate::audit::{self, Action, Change};
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::domain::user::{UserId, UserRef};
use crate::domain::window::{rfc3339, utc};
use crate::http::problem::Problem;
use crate::http::route::Caller;
use crate::limits::{BLACKLIST_MAX, DEVICE_ID_MAX, REASON_MAX};
use crate::pg::PgFault;

const LOCK: &str = include_str!("../sql/catalog/blacklist_lock.sql");
const PUT: &str = include_str!("../sql/catalog/blacklist_put.sql");
const COUNT: &str = include_str!("../sql/catalog/blacklist_count.sql");
const LIST: &str = include_str!("../sql/catalog/blacklist_list.sql");
const DELETE: &str = include_str!("../sql/catalog/blacklist_delete.sql");
const RAISE: &str = include_str!("../sql/catalog/versions_raise_blacklist.sql");

/// What an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    User,
    Ip,
    Device,
}

// === impl Subject ===

impl Subject {
    pub const WORDS: &[(&str, Subject)] = &[("user", Subject::User), ("ip", Subject::Ip), ("device", Subject::Device)];

    pub fn word(self) -> &'static str {
        match self {
            Subject::User => "user",
            Subject::Ip => "ip",
            Subject::Device => "device",
        }
    }

    pub fn parse(text: &str) -> Option<Subject> {
        Subject::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, subject)| *subject)
    }

    /// The form in which a value is stored and compared.
    fn seal(self, app: &App, value: &str) -> Option<String> {
        match self {
            Subject::User => UserId::parse(value).map(|user| app.users.seal(&user).as_str().to_owned()),
            Subject::Ip => parse_network(value).map(|network| network.to_string()),
            Subject::Device => {
                let fits = (1..=DEVICE_ID_MAX).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
                fits.then(|| format!("{:016x}", app.hashing.device(value)))
            }
        }
    }
}

/// Puts an entry on the list, or gives it a new reason and end. The answer shows the stored form:
/// see [`show_user`].
pub async fn put(
    client: &impl GenericClient,
    caller: &Caller,
    app: &App,
    body: &Value,
) -> Result<(Value, Change), Problem> {
    let wrong = &mut Complaints::default();
    let mut object = Object::body(body, wrong);
    object.need("kind", wrong);
    let kind = object.word("kind", Subject::WORDS, wrong);
    let text = object.need_text("value", wrong);
    let value = kind.zip(text).and_then(|(kind, text)| {
        let sealed = kind.seal(app, text);
        if sealed.is_none() {
            let detail = match kind {
                Subject::User => "must be a user's id: 1 to 64 characters of printable ASCII without spaces".into(),
                Subject::Ip => "must be an address or a network, as 192.0.2.7 or 2001:db8::/64".into(),
                Subject::Device => format!("must be a device's id: 1 to {DEVICE_ID_MAX} characters of printable ASCII"),
            };
            wrong.add("value", "value", detail);
        }
        sealed
    });
    let reason = object.need_text("reason", wrong).unwrap_or_default().trim();
    if object.has("reason") && (!(1..=REASON_MAX).contains(&reason.chars().count()) || !is_plain(reason)) {
        wrong.add("reason", "length", format!("must have 1 to {REASON_MAX} characters"));
    }
    let expires_at = object.time("expires_at", wrong).map(utc);
    object.finish(wrong);
    let (kind, value) = std::mem::take(wrong).or(kind.zip(value)).map_err(Problem::invalid)?;

    let entries: i64 = client.query_one(COUNT, &[]).await.map_err(PgFault::from)?.get(0);
    if entries >= BLACKLIST_MAX {
        return Err(Problem::new("conflict", format!("the blacklist is full: it holds {BLACKLIST_MAX} entries")));
    }
    let old = client.query_opt(LOCK, &[&kind.word(), &value]).await.map_err(PgFault::from)?;
    let row = client
        .query_one(PUT, &[&kind.word(), &value, &reason, &caller.key_id, &expires_at])
        .await
        .map_err(PgFault::from)?;
    if old.is_none() && !row.get::<_, bool>("is_new") {
        // Somebody else put it in between: what it was before is not known.
        return Err(PgFault::transient("a blacklist entry was put twice at once").into());
    }
    raise(client).await?;
    let (before, after) = (old.as_ref().map(write_row).unwrap_or_default(), write_row(&row));
    let subject = audit::Subject::BlacklistEntry(row.get("id"));
    let change = Change::new(Action::BlacklistPut, subject, before, after.clone());
    Ok((after, change))
}

/// Shows a user's id in the place of its reference. Devices stay hashed: nobody can turn that back.
pub fn show_user(app: &App, entry: &mut Value) {
    if entry["kind"] == "user"
        && let Some(user) = entry["value"].as_str().and_then(UserRef::from_store)
        && let Some(id) = app.users.open(&user)
    {
        entry["value"] = id.as_str().into();
    }
}

/// One page by id, and the cursor of the next.
pub async fn list(
    client: &impl GenericClient,
    kind: Option<Subject>,
    after: i64,
    limit: usize,
) -> Result<(Vec<Value>, Option<i64>), Problem> {
    let rows =
        client.query(LIST, &[&after, &(limit as i64 + 1), &kind.map(Subject::word)]).await.map_err(PgFault::from)?;
    let next = (rows.len() > limit).then(|| rows[limit - 1].get("id"));
    Ok((rows.iter().take(limit).map(write_row).collect(), next))
}

/// Takes an entry off the list.
pub async fn delete(client: &impl GenericClient, id: i64) -> Result<Change, Problem> {
    let gone = client.query_opt(DELETE, &[&id]).await.map_err(PgFault::from)?;
    let gone = gone.ok_or_else(|| Problem::new("not_found", "there is no such entry"))?;
    raise(client).await?;
    Ok(Change::new(Action::BlacklistDelete, audit::Subject::BlacklistEntry(id), write_row(&gone), Value::Null))
}

async fn raise(client: &impl GenericClient) -> Result<(), Problem> {
    client.execute(RAISE, &[]).await.map_err(PgFault::from)?;
    Ok(())
}

/// An address or a network in its shortest form; an IPv4 address in IPv6 clothes is IPv4.
fn parse_network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok().map(|network| network.trunc()),
    }
}

fn write_row(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i64>("id"),
        "kind": row.get::<_, &str>("kind"),
        "value": row.get::<_, &str>("value"),
        "reason": row.get::<_, &str>("reason"),
        "author_key_id": row.get::<_, i32>("author_key_id"),
        "expires_at": row.get::<_, Option<DateTime<Utc>>>("expires_at").map(time),
        "created_at": time(row.get("created_at")),
    })
}

fn time(at: DateTime<Utc>) -> String {
    rfc3339(Tz::UTC, at.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_one_form() {
        let form = |text| parse_network(text).map(|network| network.to_string());
        assert_eq!(form("192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(form("192.0.2.7/24").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(form("::ffff:192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(form("2001:db8::1/64").as_deref(), Some("2001:db8::/64"));
        for bad in ["", "192.0.2", "192.0.2.7/33", "host"] {
            assert_eq!(form(bad), None, "{bad}");
        }
    }
}
