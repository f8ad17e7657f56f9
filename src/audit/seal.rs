//! How a record is bound to all before it.
//!
//! Two hashes a position. The record's is a plain SHA-256 of its content: whoever reads the log can
//! compute it. The chain's is an HMAC over the position before and this record, under a key that is
//! derived from the code key: whoever has only the database can neither alter nor continue the chain.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::domain::code::CodeKey;
use crate::pg::PgFault;

pub type Hash = [u8; 32];

/// What stands before the first position.
pub const BEGINNING: Hash = [0; 32];

/// The key of the chain.
#[derive(Clone)]
pub struct ChainKey([u8; 32]);

/// A record's content as it is stored. Its id is no part of it: the chain binds that.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub at: DateTime<Utc>,
    pub actor: String,
    pub ip: Option<String>,
    pub request_id: Option<String>,
    pub action: String,
    pub subject: String,
    /// JSON, to the letter.
    pub before: Option<String>,
    pub after: Option<String>,
}

// === impl ChainKey ===

impl ChainKey {
    pub fn new(code_key: &CodeKey) -> Self {
        ChainKey(code_key.derive("floodgate audit chain v1"))
    }

    /// The hash of the position that follows `previous` and seals `record_hash` of record `id`.
    pub fn chain(&self, previous: &Hash, id: i64, record_hash: &Hash) -> Hash {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(previous);
        mac.update(&id.to_be_bytes());
        mac.update(record_hash);
        mac.finalize().into_bytes().into()
    }
}

// === impl Content ===

impl Content {
    /// Of a row with the columns of `audit_log`, `before` and `after` as text.
    pub fn read(row: &Row) -> Content {
        Content {
            at: row.get("at"),
            actor: row.get("actor"),
            ip: row.get("ip"),
            request_id: row.get("request_id"),
            action: row.get("action"),
            subject: row.get("subject"),
            before: row.get("before"),
            after: row.get("after"),
        }
    }

    /// SHA-256 over all fields, each behind its length, so that none runs into the next.
    pub fn hash(&self) -> Hash {
        let mut hash = Sha256::new();
        hash.update(b"floodgate audit record v1");
        hash.update(self.at.timestamp_micros().to_be_bytes());
        let always = [&self.actor, &self.action, &self.subject].map(|text| Some(text.as_str()));
        let perhaps = [&self.ip, &self.request_id, &self.before, &self.after].map(|text| text.as_deref());
        for field in always.into_iter().chain(perhaps) {
            match field {
                Some(text) => {
                    hash.update((text.len() as u64).to_be_bytes());
                    hash.update(text);
                }
                None => hash.update(u64::MAX.to_be_bytes()),
            }
        }
        hash.finalize().into()
    }
}

/// A hash as a column holds it.
pub fn read_hash(row: &Row, column: &str) -> Result<Hash, PgFault> {
    let bytes: &[u8] = row.get(column);
    bytes
        .try_into()
        .map_err(|_| PgFault::fault(format!("{column} of the audit chain has {} bytes, not 32", bytes.len())))
}

/// As 64 hexadecimal digits.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            at: DateTime::from_timestamp_micros(1_750_000_000_000_001).unwrap(),
            actor: "key:7".into(),
            ip: Some("192.0.2.1".into()),
            request_id: None,
            action: "template.stop".into(),
            subject: "template:1".into(),
            before: Some("{}".into()),
            after: None,
        }
    }

    #[test]
    fn every_field_counts_and_none_runs_into_the_next() {
        let base = content();
        let others = [
            Content { at: DateTime::from_timestamp_micros(1_750_000_000_000_002).unwrap(), ..base.clone() },
            Content { actor: "key:8".into(), ..base.clone() },
            Content { ip: None, ..base.clone() },
            Content { request_id: Some(String::new()), ..base.clone() },
            Content { action: "template.sto".into(), subject: "ptemplate:1".into(), ..base.clone() },
            Content { before: None, after: Some("{}".into()), ..base.clone() },
            Content { after: Some("{}".into()), ..base.clone() },
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(other.hash(), base.hash(), "{at}");
        }
        assert_eq!(base.hash(), content().hash());
        // Computed by another program. A change of this function would call every sealed record flipped.
        assert_eq!(hex(&base.hash()), "c1b60cf21f3ef6baf510abf172ff9f72fd65ba005d404bcf5582dc74d53b09de");
    }

    #[test]
    fn the_chain_binds_key_order_and_id() {
        let key = ChainKey::new(&CodeKey::new([1; 16]));
        let record = content().hash();
        let first = key.chain(&BEGINNING, 1, &record);
        assert_eq!(first, ChainKey::new(&CodeKey::new([1; 16])).chain(&BEGINNING, 1, &record));
        assert_ne!(first, ChainKey::new(&CodeKey::new([2; 16])).chain(&BEGINNING, 1, &record));
        assert_ne!(first, key.chain(&BEGINNING, 2, &record));
        assert_ne!(first, key.chain(&first, 1, &record));
    }
}
