//! Keys of the internal listener: made, shown once, listed, revoked, and told from each other.
//!
//! PostgreSQL holds the SHA-256 of a key, never the key. A key is the keyed hash of a random seed,
//! so that a repeated creation can show the same key without anyone having stored it. What was
//! found once is remembered until the catalog's counter says that keys have changed: a revoked key
//! is refused within a poll of the snapshot, a fifth of a second.

use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use hmac::{Hmac, Mac};
use quick_cache::sync::Cache;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, Row};

use super::store::Scope;
use crate::audit::{self, Action, Actor, Change, Origin, Subject};
use crate::config::Config;
use crate::domain::code::CodeKey;
use crate::domain::fields::{Complaints, Object, is_plain};
use crate::domain::template::Issuer;
use crate::domain::window::rfc3339;
use crate::http::problem::Problem;
use crate::http::route::{Caller, Role};
use crate::limits::{API_KEYS_CACHE_MAX, ID_MAX, KEY_NAME_MAX};
use crate::pg::{Pg, PgFault};

const INSERT: &str = include_str!("../sql/catalog/key_insert.sql");
const LIST: &str = include_str!("../sql/catalog/key_list.sql");
const LOCK: &str = include_str!("../sql/catalog/key_lock.sql");
const REVOKE: &str = include_str!("../sql/catalog/key_revoke.sql");
const FIND: &str = include_str!("../sql/catalog/key_find.sql");
const ADMIN_ENSURE: &str = include_str!("../sql/catalog/admin_key_ensure.sql");
const ADMIN_RETIRE: &str = include_str!("../sql/catalog/admin_key_retire.sql");
const RAISE: &str = include_str!("../sql/catalog/versions_raise_api_keys.sql");

const PREFIX: &str = "fgk_";
/// Longer than any key, our own or configured: what is longer is refused unread.
const KEY_BYTES_MAX: usize = 512;
/// The member of a stored answer that stands for the key.
const SEED: &str = "key_seed";

/// The keys that this process has met.
pub struct ApiKeys {
    pg: Pg,
    /// SHA-256 of a key, to who calls with it (`None`: nobody) as of a version of the keys.
    met: Cache<[u8; 32], (i64, Option<Caller>)>,
    /// `catalog_versions.api_keys` as last seen. What was met under another version is asked again.
    version: AtomicI64,
}

// === impl ApiKeys ===

impl ApiKeys {
    pub fn new(pg: Pg) -> Self {
        ApiKeys { pg, met: Cache::new(API_KEYS_CACHE_MAX), version: AtomicI64::new(0) }
    }

    /// Who calls with this key.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Problem> {
        let nobody = || Problem::new("unauthenticated", "the API key is not known or was revoked");
        if bearer.is_empty() || bearer.len() > KEY_BYTES_MAX {
            return Err(nobody());
        }
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        // Read before the row: what is found under an older version is not believed later.
        let version = self.version.load(Ordering::Acquire);
        if let Some((met, caller)) = self.met.get(&hash)
            && met == version
        {
            return caller.ok_or_else(nobody);
        }
        let client = self.pg.get().await?;
        let row = client.query_opt(FIND, &[&&hash[..]]).await.map_err(PgFault::from)?;
        let caller = row.map(|row| read_caller(&row)).transpose()?;
        self.met.insert(hash, (version, caller.clone()));
        caller.ok_or_else(nobody)
    }

    /// Forgets what was met before this version of the keys.
    pub fn saw_version(&self, version: i64) {
        self.version.store(version, Ordering::Release);
    }
}

/// Makes sure that the configured key of role admin exists, and that those before it do not.
pub async fn ensure_admin_key(pg: &Pg, config: &Config) -> Result<(), PgFault> {
    if config.auth.admin_key.is_empty() {
        return Ok(());
    }
    let hash: [u8; 32] = Sha256::digest(config.auth.admin_key.expose()).into();
    let mut client = pg.get().await?;
    let tx = client.begin().await?;
    let mut changes = Vec::new();
    for row in tx.rows(ADMIN_ENSURE, &[&&hash[..]]).await? {
        let (action, before) = match row.get::<_, Option<DateTime<Utc>>>("was_revoked_at") {
            None => (Action::ApiKeyCreate, Value::Null),
            Some(revoked_at) => {
                let mut before = write_row(&row);
                before["revoked_at"] = time(revoked_at).into();
                (Action::ApiKeyRestore, before)
            }
        };
        changes.push(Change::new(action, Subject::ApiKey(row.get("id")), before, write_row(&row)));
    }
    for row in tx.rows(ADMIN_RETIRE, &[&&hash[..]]).await? {
        let mut before = write_row(&row);
        before["revoked_at"] = Value::Null;
        changes.push(Change::new(Action::ApiKeyRevoke, Subject::ApiKey(row.get("id")), before, write_row(&row)));
    }
    for change in &changes {
        audit::record(&tx, &Origin::inner(Actor::Settings), change).await?;
    }
    if !changes.is_empty() {
        tx.change(RAISE, &[]).await?;
    }
    tx.commit().await
}

/// Makes a key. The answer holds its seed: [`show_key`] turns that into the key, for the caller only.
pub async fn create(
    client: &impl GenericClient,
    caller: &Caller,
    code_key: &CodeKey,
    body: &Value,
) -> Result<(Value, Change), Problem> {
    let wrong = &mut Complaints::default();
    let mut object = Object::body(body, wrong);
    let name = object.need_text("name", wrong).unwrap_or_default().trim();
    if object.has("name") && (!(1..=KEY_NAME_MAX).contains(&name.chars().count()) || !is_plain(name)) {
        wrong.add("name", "length", format!("must have 1 to {KEY_NAME_MAX} characters"));
    }
    object.need("role", wrong);
    let role = object.word("role", &Role::ALL.map(|role| (role.word(), role)), wrong);
    let owner_type = object.word("owner_type", Issuer::WORDS, wrong).unwrap_or(Issuer::Platform);
    let owner_id = object.text("owner_id", wrong).unwrap_or_default();
    if owner_type == Issuer::Platform && !owner_id.is_empty() {
        wrong.add("owner_id", "platform_has_none", "must be empty where the platform owns the key");
    }
    if owner_type != Issuer::Platform
        && (!(1..=ID_MAX).contains(&owner_id.chars().count())
            || owner_id.chars().any(|letter| letter.is_whitespace() || letter.is_control()))
    {
        let detail = format!("must name the {}: 1 to {ID_MAX} characters without spaces", owner_type.word());
        wrong.add("owner_id", "required", detail);
    }
    object.finish(wrong);
    let role = std::mem::take(wrong).or(role).map_err(Problem::invalid)?;
    if let (Some(own_type), Some(own_id)) = Scope::of(caller).params()
        && (own_type, own_id) != (owner_type.word(), owner_id)
    {
        return Err(Problem::new("forbidden", "the key makes keys of its own owner only"));
    }

    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(|error| PgFault::fault(format!("no random numbers: {error}")))?;
    let seed = URL_SAFE_NO_PAD.encode(seed);
    let hash: [u8; 32] = Sha256::digest(key_of(code_key, &seed)).into();
    let row = client
        .query_one(INSERT, &[&name, &role.word(), &owner_type.word(), &owner_id, &&hash[..], &caller.key_id])
        .await
        .map_err(PgFault::from)?;
    client.execute(RAISE, &[]).await.map_err(PgFault::from)?;
    let made = write_row(&row);
    let mut answer = made.clone();
    answer[SEED] = seed.into();
    Ok((answer, Change::new(Action::ApiKeyCreate, Subject::ApiKey(row.get("id")), Value::Null, made)))
}

/// Puts the key in the place of its seed.
pub fn show_key(code_key: &CodeKey, answer: &mut Value) {
    if let Some(members) = answer.as_object_mut()
        && let Some(Value::String(seed)) = members.remove(SEED)
    {
        members.insert("key".into(), key_of(code_key, &seed).into());
    }
}

/// One page by id, and the cursor of the next.
pub async fn list(
    client: &impl GenericClient,
    scope: Scope<'_>,
    after: i32,
    limit: usize,
) -> Result<(Vec<Value>, Option<i32>), Problem> {
    let (owner_type, owner_id) = scope.params();
    let rows =
        client.query(LIST, &[&after, &(limit as i64 + 1), &owner_type, &owner_id]).await.map_err(PgFault::from)?;
    let next = (rows.len() > limit).then(|| rows[limit - 1].get("id"));
    Ok((rows.iter().take(limit).map(write_row).collect(), next))
}

/// Revokes a key, for good.
pub async fn revoke(client: &impl GenericClient, scope: Scope<'_>, id: i32) -> Result<Change, Problem> {
    let (owner_type, owner_id) = scope.params();
    let found = client.query_opt(LOCK, &[&id, &owner_type, &owner_id]).await.map_err(PgFault::from)?;
    let before = write_row(&found.ok_or_else(|| Problem::new("not_found", "there is no such key"))?);
    let after = write_row(&client.query_one(REVOKE, &[&id]).await.map_err(PgFault::from)?);
    client.execute(RAISE, &[]).await.map_err(PgFault::from)?;
    Ok(Change::new(Action::ApiKeyRevoke, Subject::ApiKey(id), before, after))
}

fn key_of(code_key: &CodeKey, seed: &str) -> String {
    let secret = code_key.derive("floodgate api keys v1");
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).expect("HMAC takes a key of any length");
    mac.update(seed.as_bytes());
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn read_caller(row: &Row) -> Result<Caller, PgFault> {
    let role: &str = row.get("role");
    Ok(Caller {
        key_id: row.get("id"),
        role: Role::parse(role).ok_or_else(|| PgFault::fault(format!("an API key has the unknown role {role}")))?,
        owner_type: row.get("owner_type"),
        owner_id: row.get("owner_id"),
    })
}

fn write_row(row: &Row) -> Value {
    json!({
        "id": row.get::<_, i32>("id"),
        "name": row.get::<_, &str>("name"),
        "role": row.get::<_, &str>("role"),
        "owner_type": row.get::<_, &str>("owner_type"),
        "owner_id": row.get::<_, &str>("owner_id"),
        "created_at": time(row.get("created_at")),
        "created_by": row.get::<_, Option<i32>>("created_by"),
        "revoked_at": row.get::<_, Option<DateTime<Utc>>>("revoked_at").map(time),
    })
}

fn time(at: DateTime<Utc>) -> String {
    rfc3339(Tz::UTC, at.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_answer_holds_no_key_and_shows_the_same_key_again() {
        let code_key = CodeKey::new([3; 16]);
        let stored = json!({"id": 1, SEED: "c2VlZA"});
        let (mut first, mut again) = (stored.clone(), stored);
        show_key(&code_key, &mut first);
        show_key(&code_key, &mut again);
        assert_eq!(first, again);
        let key = first["key"].as_str().unwrap();
        assert!(key.starts_with(PREFIX) && key.len() == PREFIX.len() + 43, "{key}");
        assert!(first.get(SEED).is_none());
        assert_ne!(key, key_of(&CodeKey::new([4; 16]), "c2VlZA"));
    }
}
