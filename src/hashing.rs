//! 64-bit keyed hashes of what is compared but never shown: claim keys, addresses, devices.
//!
//! SipHash-1-3 under a key derived from the code key: the same in every process and version, and
//! nobody outside can make two keys collide on purpose.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::domain::code::CodeKey;
use crate::domain::user::UserRef;

/// The deployment's hash functions, one a purpose.
#[derive(Clone, Debug)]
pub struct Hashing {
    claim_key: SipHasher13,
    ip: SipHasher13,
    device: SipHasher13,
    user: SipHasher13,
}

// === impl Hashing ===

impl Hashing {
    pub fn new(key: &CodeKey) -> Self {
        let hasher = |purpose| {
            let derived = key.derive(purpose);
            SipHasher13::new_with_key(derived[..16].try_into().expect("16 of 32 bytes"))
        };
        Hashing {
            claim_key: hasher("floodgate claim keys v1"),
            ip: hasher("floodgate addresses v1"),
            device: hasher("floodgate devices v1"),
            user: hasher("floodgate users v1"),
        }
    }

    pub fn claim_key(&self, key: &str) -> u64 {
        hash(self.claim_key, key.as_bytes())
    }

    /// An IPv6 address counts by its /64.
    pub fn ip(&self, ip: IpAddr) -> u64 {
        match ip {
            IpAddr::V4(ip) => hash(self.ip, &ip.octets()),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => hash(self.ip, &ip.octets()),
                None => hash(self.ip, &ip.octets()[..8]),
            },
        }
    }

    /// For tables in memory; stores hold the reference itself.
    pub fn user(&self, user: &UserRef) -> u64 {
        hash(self.user, user.as_bytes())
    }

    pub fn device(&self, device: &str) -> u64 {
        hash(self.device, device.as_bytes())
    }
}

fn hash(mut hasher: SipHasher13, bytes: &[u8]) -> u64 {
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_pinned_and_ipv6_counts_by_64() {
        let hashing = Hashing::new(&CodeKey::new([1; 16]));
        let ip = |text: &str| hashing.ip(text.parse().unwrap());
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
        assert_ne!(hashing.claim_key("a"), hashing.device("a"));
        // Receipts in Redis and rows in PostgreSQL hold these numbers.
        assert_eq!(hashing.claim_key("order-1"), Hashing::new(&CodeKey::new([1; 16])).claim_key("order-1"));
    }
}
