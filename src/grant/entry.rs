//! The bytes of a queue entry: the grants of one batch, packed.
//!
//! The layout is in `lua/README.md`. The gateway packs a record a claim, the claim script puts
//! runs of them together, and here they are taken apart. Reading never trusts a length.

use std::fmt;

use crate::domain::ids::{EntryId, Epoch, Serial, TemplateId};
use crate::domain::window::Millis;
use crate::redis::cell::be;

/// One grant, borrowed from its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    pub template: TemplateId,
    pub serial: Serial,
    /// The epoch of the entry.
    pub epoch: Epoch,
    pub acquired: Millis,
    pub claim_key_hash: u64,
    /// A user reference, as the gateway sent it; not checked yet.
    pub user: &'a [u8],
    pub ip_hash: Option<u64>,
    pub device_hash: Option<u64>,
}

/// Why an entry cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEntry(pub &'static str);

/// The only layout there is.
const VERSION: u8 = 1;

const HAS_IP: u8 = 1;
const HAS_DEVICE: u8 = 2;

/// Appends a claim record: what the gateway sends with a claim, and finds on the queue as it is.
///
/// `user` has at most 255 bytes; a user reference has at most 107.
pub fn encode_claim_record(
    buf: &mut Vec<u8>,
    claim_key_hash: u64,
    user: &[u8],
    ip_hash: Option<u64>,
    device_hash: Option<u64>,
) {
    debug_assert!(user.len() <= 255);
    let flags = if ip_hash.is_some() { HAS_IP } else { 0 } | if device_hash.is_some() { HAS_DEVICE } else { 0 };
    buf.extend_from_slice(&claim_key_hash.to_be_bytes());
    buf.push(flags);
    buf.push(user.len() as u8);
    buf.extend_from_slice(user);
    for hash in [ip_hash, device_hash].into_iter().flatten() {
        buf.extend_from_slice(&hash.to_be_bytes());
    }
}

/// Packs grants of one time as the claim script does: grants whose serials follow each other are a run.
pub fn encode(acquired: Millis, grants: &[Grant<'_>]) -> Vec<u8> {
    let mut buf = vec![VERSION];
    buf.extend_from_slice(&(acquired as u64).to_be_bytes()[2..]);
    let mut at = 0;
    while at < grants.len() {
        let first = grants[at];
        let follows =
            |(i, grant): (usize, &Grant)| grant.template == first.template && grant.serial == first.serial + i as u64;
        let run = grants[at..].iter().enumerate().take(usize::from(u16::MAX)).take_while(|pair| follows(*pair)).count();
        buf.extend_from_slice(&first.template.0.to_be_bytes());
        buf.extend_from_slice(&first.serial.to_be_bytes()[3..]);
        buf.extend_from_slice(&(run as u16).to_be_bytes());
        for grant in &grants[at..at + run] {
            encode_claim_record(&mut buf, grant.claim_key_hash, grant.user, grant.ip_hash, grant.device_hash);
        }
        at += run;
    }
    buf
}

/// When an entry's grants were made, without reading further.
pub fn acquired(payload: &[u8]) -> Option<Millis> {
    Some(be(payload.get(1..7)?) as Millis)
}

/// Takes an entry's payload apart.
pub fn decode(id: EntryId, payload: &[u8]) -> Result<Vec<Grant<'_>>, BadEntry> {
    let mut rest = Reader(payload);
    if rest.number(1)? != u64::from(VERSION) {
        return Err(BadEntry("unknown version"));
    }
    let acquired = rest.number(6)? as Millis;
    let mut grants = Vec::new();
    while !rest.0.is_empty() {
        let template = TemplateId(rest.number(4)? as u32);
        if template.0 == 0 || template.0 > i32::MAX as u32 {
            return Err(BadEntry("no template id"));
        }
        let first = rest.number(5)?;
        let count = rest.number(2)?;
        if count == 0 {
            return Err(BadEntry("empty run"));
        }
        for offset in 0..count {
            let claim_key_hash = rest.number(8)?;
            let flags = rest.number(1)? as u8;
            if flags & !(HAS_IP | HAS_DEVICE) != 0 {
                return Err(BadEntry("unknown flags"));
            }
            let length = rest.number(1)? as usize;
            let user = rest.take(length)?;
            let ip_hash = if flags & HAS_IP != 0 { Some(rest.number(8)?) } else { None };
            let device_hash = if flags & HAS_DEVICE != 0 { Some(rest.number(8)?) } else { None };
            grants.push(Grant {
                template,
                serial: first + offset,
                epoch: id.epoch,
                acquired,
                claim_key_hash,
                user,
                ip_hash,
                device_hash,
            });
        }
    }
    if grants.is_empty() { Err(BadEntry("no grants")) } else { Ok(grants) }
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadEntry> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadEntry("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, length: usize) -> Result<u64, BadEntry> {
        Ok(be(self.take(length)?))
    }
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable entry: {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    const ID: EntryId = EntryId { epoch: 7, seq: 3 };

    #[test]
    fn the_bytes_are_those_of_the_contract() {
        let mut record = Vec::new();
        encode_claim_record(&mut record, 0x0102_0304_0506_0708, b"ann", Some(9), None);
        assert_eq!(record, b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x03ann\0\0\0\0\0\0\0\x09");
        let mut payload = b"\x01\0\0\0\0\x03\xe8\0\0\0\x05\0\0\0\0\x2a\0\x01".to_vec();
        payload.extend_from_slice(&record);
        let grants = decode(ID, &payload).unwrap();
        let expected = Grant {
            template: TemplateId(5),
            serial: 42,
            epoch: 7,
            acquired: 1000,
            claim_key_hash: 0x0102_0304_0506_0708,
            user: b"ann",
            ip_hash: Some(9),
            device_hash: None,
        };
        assert_eq!(grants, [expected]);
        for cut in 0..payload.len() {
            assert!(decode(ID, &payload[..cut]).is_err(), "{cut}");
        }
    }

    type Record = (u32, u64, u64, Vec<u8>, Option<u64>, Option<u64>);

    fn grants(records: &[Record], acquired: Millis) -> Vec<Grant<'_>> {
        let mut grants = Vec::new();
        for (template, serial, claim_key_hash, user, ip_hash, device_hash) in records {
            grants.push(Grant {
                template: TemplateId(*template),
                serial: *serial,
                epoch: ID.epoch,
                acquired,
                claim_key_hash: *claim_key_hash,
                user,
                ip_hash: *ip_hash,
                device_hash: *device_hash,
            });
        }
        grants
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let record = (
            1u32..4,
            1u64..50,
            any::<u64>(),
            vec(any::<u8>(), 0..20),
            option::of(any::<u64>()),
            option::of(any::<u64>()),
        );
        vec(record, 1..30)
    }

    proptest! {
        #[test]
        fn grants_survive_both_ways(records in records(), acquired in 0i64..1 << 48) {
            let grants = grants(&records, acquired);
            let payload = encode(acquired, &grants);
            prop_assert_eq!(decode(ID, &payload).unwrap(), grants);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), versioned in any::<bool>()) {
            if versioned && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode(ID, &bytes);
        }

        #[test]
        fn a_flipped_byte_never_panics(records in records(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = encode(5, &grants(&records, 5));
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(ID, &bytes);
        }
    }
}
