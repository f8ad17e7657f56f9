//! Every write but a claim, done once: same key and same request, same answer for 24 hours.
//!
//! One transaction holds the key, the change and the answer, so there is no moment at which one
//! exists without the others; the audit record is in it, too. A refused write leaves nothing behind,
//! and its key is free again.
//! What follows the commit (bringing Redis to the revision) runs for repeats too: the first call
//! may have died in between. Without a key the transaction is the same, and nothing is remembered.
//!
//! An answer belongs to the API key or the shopper that asked for it: the same Idempotency-Key of
//! another is another.
//!
//! # Layout
//! - this file: a write from its key to its answer
//! - [`seal`]: answers that hold codes or tokens, encrypted for the table

pub mod seal;

use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::audit::{self, Actor, Change, Origin};
use crate::http::problem::Problem;
use crate::http::route::{Reply, Request};
use crate::limits::{CLAIM_KEY_MAX, IDEMPOTENCY_HOURS};
use crate::pg::{Connection, PgFault, Tx};

pub use seal::Seal;

/// Deletes answers whose time is over.
pub const SWEEP: &str = include_str!("sql/idempotency/sweep.sql");

const CLAIM: &str = include_str!("sql/idempotency/claim.sql");
const READ: &str = include_str!("sql/idempotency/read.sql");
const RENEW: &str = include_str!("sql/idempotency/renew.sql");
const FORGET: &str = include_str!("sql/idempotency/forget.sql");
const ANSWER: &str = include_str!("sql/idempotency/answer.sql");

/// Looks at a key that goes away between two statements: deleted, or renewed by somebody else.
const LOOKS_MAX: usize = 5;

/// What has become of a write that begins.
pub enum Begun<'a> {
    /// It was done before: its answer.
    Repeat(Reply),
    /// It is to be done now, in this transaction.
    Fresh(Write<'a>),
}

/// A write under way. Dropped without [`Write::commit`], it has never happened.
pub struct Write<'a> {
    tx: Tx<'a>,
    /// Who writes, for the audit record.
    origin: Origin,
    /// Where the answer goes; without an Idempotency-Key nowhere.
    place: Option<Place<'a>>,
}

/// Where an answer is kept.
struct Place<'a> {
    /// Its row, once it was taken.
    id: i64,
    owner: Actor,
    key: String,
    /// With what it is sealed.
    seal: Option<&'a Seal>,
}

/// Begins the write `name` (as `PATCH /v1/admin/templates/{id}`) that `request` asks for.
///
/// Waits for a concurrent write under the same key, and then repeats its answer.
pub async fn begin<'a>(connection: &'a mut Connection, request: &Request, name: &str) -> Result<Begun<'a>, Problem> {
    begin_with(None, connection, request, name).await
}

/// The same for a write whose answer holds codes or tokens: it is remembered sealed.
pub async fn begin_sealed<'a>(
    seal: &'a Seal,
    connection: &'a mut Connection,
    request: &Request,
    name: &str,
) -> Result<Begun<'a>, Problem> {
    begin_with(Some(seal), connection, request, name).await
}

async fn begin_with<'a>(
    seal: Option<&'a Seal>,
    connection: &'a mut Connection,
    request: &Request,
    name: &str,
) -> Result<Begun<'a>, Problem> {
    let key = idempotency_key(request)?;
    let origin = request.origin();
    let tx = connection.begin().await?;
    let Some(key) = key else { return Ok(Begun::Fresh(Write { tx, origin, place: None })) };

    let mut place = Place { id: 0, owner: origin.actor.clone(), key, seal };
    let fingerprint = fingerprint(request, name);
    let (api_key, user) = columns(&place.owner)?;
    for _ in 0..LOOKS_MAX {
        let mut taken = tx.row(CLAIM, &[&api_key, &user, &place.key, &&fingerprint[..]]).await?;
        if taken.is_none() {
            let Some(row) = tx.row(READ, &[&api_key, &user, &place.key, &IDEMPOTENCY_HOURS]).await? else { continue };
            if !row.get::<_, bool>("over") {
                return place.repeat(&row, fingerprint).map(Begun::Repeat);
            }
            let id: i64 = row.get("id");
            taken = tx.row(RENEW, &[&id, &&fingerprint[..], &IDEMPOTENCY_HOURS]).await?;
        }
        if let Some(row) = taken {
            place.id = row.get("id");
            return Ok(Begun::Fresh(Write { tx, origin, place: Some(place) }));
        }
    }
    Err(PgFault::transient("an Idempotency-Key changed hands too often").into())
}

// === impl Write ===

impl<'a> Write<'a> {
    /// The transaction that all of the change must go through.
    pub fn tx(&self) -> &Tx<'a> {
        &self.tx
    }

    /// Who writes, and from where.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Records the change, stores the answer, and makes both real.
    pub async fn commit(self, change: &Change, reply: Reply) -> Result<Reply, Problem> {
        audit::record(&self.tx, &self.origin, change).await?;
        if let Some(place) = &self.place {
            let (status, body, revision) = pack(&reply)?;
            let (answer, sealed) = match (place.seal, body) {
                (Some(seal), Some(body)) => (None, Some(seal.close(&place.owner.to_string(), &place.key, &body))),
                (_, body) => (body, None),
            };
            self.tx.change(ANSWER, &[&place.id, &status, &answer, &sealed, &revision]).await?;
        }
        self.tx.commit().await?;
        Ok(reply)
    }

    /// Records a change that a refusal leaves behind, and makes it real. The key is free again.
    pub async fn commit_refused(self, change: &Change) -> Result<(), Problem> {
        audit::record(&self.tx, &self.origin, change).await?;
        if let Some(place) = &self.place {
            self.tx.change(FORGET, &[&place.id]).await?;
        }
        Ok(self.tx.commit().await?)
    }
}

// === impl Place ===

impl Place<'_> {
    /// The answer that is kept here, if it is one to this request.
    fn repeat(&self, row: &Row, fingerprint: [u8; 32]) -> Result<Reply, Problem> {
        if row.get::<_, &[u8]>("request_sha256") != fingerprint {
            let detail = "the Idempotency-Key belongs to another request: use a new key for each write";
            return Err(Problem::new("idempotency_mismatch", detail));
        }
        let body = match (row.get::<_, Option<&[u8]>>("sealed"), self.seal) {
            (None, _) => row.get("answer"),
            (Some(sealed), Some(seal)) => {
                Some(seal.open(&self.owner.to_string(), &self.key, sealed).ok_or_else(unreadable)?)
            }
            (Some(_), None) => return Err(unreadable()),
        };
        unpack(row.get("status"), body, row.get("revision"))
    }
}

/// An owner as the table has it: an API key, or a user.
fn columns(owner: &Actor) -> Result<(Option<i32>, Option<String>), PgFault> {
    match owner {
        Actor::Key(id) => Ok((Some(*id), None)),
        Actor::User(user) => Ok((None, Some(user.as_str().to_owned()))),
        Actor::Worker(_) | Actor::Cli | Actor::Settings | Actor::Approval => {
            Err(PgFault::fault("no request with an Idempotency-Key comes from there"))
        }
    }
}

fn idempotency_key(request: &Request) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers.get("idempotency-key") else { return Ok(None) };
    let fits = |key: &&str| (1..=CLAIM_KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match value.to_str().ok().filter(fits) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::new(
            "invalid_request",
            format!("Idempotency-Key must have 1 to {CLAIM_KEY_MAX} characters of printable ASCII without spaces"),
        )),
    }
}

/// Method and path, the path's values, and the body, each with its length.
fn fingerprint(request: &Request, name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let pieces = std::iter::once(name.as_bytes()).chain(request.params.iter().map(String::as_bytes));
    for piece in pieces.chain([&request.body[..]]) {
        hash.update((piece.len() as u64).to_be_bytes());
        hash.update(piece);
    }
    hash.finalize().into()
}

fn pack(reply: &Reply) -> Result<(i16, Option<String>, Option<i64>), Problem> {
    match reply {
        Reply::Ok(body) => Ok((200, Some(body.to_string()), None)),
        Reply::OkTagged(body, revision) => Ok((200, Some(body.to_string()), Some(*revision))),
        Reply::Created(body) => Ok((201, Some(body.to_string()), None)),
        Reply::NoContent => Ok((204, None, None)),
        Reply::Raw(..) | Reply::NotReady(_) => {
            Err(Problem::from(PgFault::fault("no write answers with raw bytes or readiness")))
        }
    }
}

fn unpack(status: Option<i16>, answer: Option<String>, revision: Option<i64>) -> Result<Reply, Problem> {
    let body = answer.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| unreadable())?;
    match (status, body, revision) {
        (Some(200), Some(body), Some(revision)) => Ok(Reply::OkTagged(body, revision)),
        (Some(200), Some(body), None) => Ok(Reply::Ok(body)),
        (Some(201), Some(body), _) => Ok(Reply::Created(body)),
        (Some(204), ..) => Ok(Reply::NoContent),
        _ => Err(unreadable()),
    }
}

fn unreadable() -> Problem {
    Problem::from(PgFault::fault("an answer in idempotency_keys cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_survives_its_storing() {
        for reply in [
            Reply::Ok(json!({"a": 1})),
            Reply::OkTagged(json!({"a": "b"}), 7),
            Reply::Created(json!({"id": 1})),
            Reply::NoContent,
        ] {
            let (status, answer, revision) = pack(&reply).unwrap();
            assert_eq!(unpack(Some(status), answer, revision).unwrap(), reply);
        }
    }
}
