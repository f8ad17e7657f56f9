//! Every administrative write, done once: same key and same request, same answer for 24 hours.
//!
//! One transaction holds the key, the change and the answer, so there is no moment at which one
//! exists without the others; the audit record is in it, too. A refused write leaves nothing behind, and its key is free again.
//! What follows the commit (bringing Redis to the revision) runs for repeats too: the first call
//! may have died in between. Without a key the transaction is the same, and nothing is remembered.

use sha2::{Digest, Sha256};

use crate::audit::{self, Change, Origin};
use crate::http::problem::Problem;
use crate::http::route::{Reply, Request};
use crate::limits::{CLAIM_KEY_MAX, IDEMPOTENCY_HOURS};
use crate::pg::{Connection, PgFault, Tx};

const CLAIM: &str = include_str!("../sql/catalog/idempotency_claim.sql");
const READ: &str = include_str!("../sql/catalog/idempotency_read.sql");
const ANSWER: &str = include_str!("../sql/catalog/idempotency_answer.sql");

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
    /// The API key and the Idempotency-Key that own the answer.
    owner: Option<(i32, String)>,
}

/// Begins the write `name` (as `PATCH /v1/admin/templates/{id}`) that `request` asks for.
///
/// Waits for a concurrent write under the same key, and then repeats its answer.
pub async fn begin<'a>(connection: &'a mut Connection, request: &Request, name: &str) -> Result<Begun<'a>, Problem> {
    let key = idempotency_key(request)?;
    let origin = request.origin();
    let tx = connection.begin().await?;
    let Some(key) = key else { return Ok(Begun::Fresh(Write { tx, origin, owner: None })) };

    let caller = request.caller().key_id;
    let fingerprint = fingerprint(request, name);
    let claimed = tx.row(CLAIM, &[&caller, &key, &&fingerprint[..], &IDEMPOTENCY_HOURS]).await?;
    if claimed.is_some() {
        return Ok(Begun::Fresh(Write { tx, origin, owner: Some((caller, key)) }));
    }
    let row = tx.query_one(READ, &[&caller, &key]).await.map_err(PgFault::from)?;
    if row.get::<_, &[u8]>("request_sha256") != fingerprint {
        let detail = "the Idempotency-Key belongs to another request: use a new key for each write";
        return Err(Problem::new("idempotency_mismatch", detail));
    }
    let (status, answer): (Option<i16>, Option<String>) = (row.get("status"), row.get("answer"));
    unpack(status, answer, row.get("revision")).map(Begun::Repeat)
}

// === impl Write ===

impl<'a> Write<'a> {
    /// The transaction that all of the change must go through.
    pub fn tx(&self) -> &Tx<'a> {
        &self.tx
    }

    /// Records the change, stores the answer, and makes both real.
    pub async fn commit(self, change: &Change, reply: Reply) -> Result<Reply, Problem> {
        audit::record(&self.tx, &self.origin, change).await?;
        if let Some((caller, key)) = &self.owner {
            let (status, answer, revision) = pack(&reply)?;
            self.tx.change(ANSWER, &[caller, key, &status, &answer, &revision]).await?;
        }
        self.tx.commit().await?;
        Ok(reply)
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
            Err(Problem::from(PgFault::fault("no administrative write answers with raw bytes or readiness")))
        }
    }
}

fn unpack(status: Option<i16>, answer: Option<String>, revision: Option<i64>) -> Result<Reply, Problem> {
    let wrong = || Problem::from(PgFault::fault("an answer in idempotency_keys cannot be read"));
    let body = answer.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| wrong())?;
    match (status, body, revision) {
        (Some(200), Some(body), Some(revision)) => Ok(Reply::OkTagged(body, revision)),
        (Some(200), Some(body), None) => Ok(Reply::Ok(body)),
        (Some(201), Some(body), _) => Ok(Reply::Created(body)),
        (Some(204), ..) => Ok(Reply::NoContent),
        _ => Err(wrong()),
    }
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
