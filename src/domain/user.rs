//! The one way in which a user id reaches Redis and PostgreSQL.
//!
//! A [`UserRef`] is the id itself, or its deterministic encryption (AES-SIV, RFC 5297), so that
//! equal ids stay equal and search by equality works. Which of the two is fixed at `migrate`:
//! a deployment that mixed them would count one user twice.

use std::fmt;

use aes_siv::aead::KeyInit;
use aes_siv::siv::Aes128Siv;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::code::CodeKey;

/// The longest user id, in bytes.
pub const USER_ID_MAX: usize = 64;

/// The longest [`UserRef`]: 16 bytes of SIV and 64 of id, in base 64.
pub const USER_REF_MAX: usize = 107;

/// A user's id as the shop knows it: 1 to 64 characters of printable ASCII without space.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

/// A user's id as the stores know it: 1 to 107 characters of printable ASCII.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserRef(Box<str>);

/// Turns ids into references, and back for those who may read them.
pub struct UserCodec {
    key: Option<[u8; 32]>,
}

// === impl UserId ===

impl UserId {
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=USER_ID_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| UserId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// User ids are personal data: they never appear in logs.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(hidden)")
    }
}

// === impl UserRef ===

impl UserRef {
    /// Takes a reference as it was read from a store.
    pub fn from_store(text: &str) -> Option<Self> {
        let fits = (1..=USER_REF_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| UserRef(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for UserRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserRef(hidden)")
    }
}

// === impl UserCodec ===

impl UserCodec {
    /// Ids are stored as they are.
    pub fn plain() -> Self {
        UserCodec { key: None }
    }

    /// Ids are stored encrypted, under a key derived from the code key.
    pub fn encrypted(code_key: &CodeKey) -> Self {
        UserCodec { key: Some(code_key.derive("floodgate user ids v1")) }
    }

    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    pub fn seal(&self, id: &UserId) -> UserRef {
        let Some(key) = &self.key else { return UserRef(id.0.clone()) };
        let sealed = Aes128Siv::new(key.into())
            .encrypt([[]; 0] as [[u8; 0]; 0], id.0.as_bytes())
            .expect("AES-SIV takes any short plaintext");
        UserRef(URL_SAFE_NO_PAD.encode(sealed).into())
    }

    /// The id behind a reference. `None` if it was not made with this key.
    pub fn open(&self, reference: &UserRef) -> Option<UserId> {
        let Some(key) = &self.key else { return UserId::parse(&reference.0) };
        let sealed = URL_SAFE_NO_PAD.decode(reference.0.as_bytes()).ok()?;
        let id = Aes128Siv::new(key.into()).decrypt([[]; 0] as [[u8; 0]; 0], &sealed).ok()?;
        UserId::parse(std::str::from_utf8(&id).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_both_ways(text in "[!-~]{1,64}") {
            let id = UserId::parse(&text).unwrap();
            for codec in [UserCodec::plain(), UserCodec::encrypted(&CodeKey::new([3; 16]))] {
                let reference = codec.seal(&id);
                prop_assert!(reference.as_str().len() <= USER_REF_MAX);
                prop_assert_eq!(codec.seal(&id), reference.clone());
                prop_assert_eq!(codec.open(&reference).unwrap(), id.clone());
                prop_assert_eq!(UserRef::from_store(reference.as_str()).unwrap(), reference);
            }
        }
    }

    #[test]
    fn an_encrypted_reference_does_not_hold_the_id() {
        let codec = UserCodec::encrypted(&CodeKey::new([3; 16]));
        let reference = codec.seal(&UserId::parse("u-1234567").unwrap());
        assert!(!reference.as_str().contains("1234567"));
        assert!(UserCodec::encrypted(&CodeKey::new([4; 16])).open(&reference).is_none());
    }

    #[test]
    fn ids_are_printable_ascii_without_space() {
        for bad in ["", " ", "a b", "ü", "a\n", &"x".repeat(65)] {
            assert!(UserId::parse(bad).is_none(), "{bad:?}");
        }
    }
}
