//! Answers that hold codes or tokens, encrypted for the table.
//!
//! Codes and tokens are computed, never stored: an answer that holds them is kept sealed (AES-SIV, RFC
//! 5297), bound to its owner and key, so that whoever reads or moves a row learns and gains nothing.

use aes_siv::aead::KeyInit;
use aes_siv::siv::Aes128Siv;

use crate::domain::code::CodeKey;

/// Seals answers and opens them again.
pub struct Seal {
    key: [u8; 32],
}

// === impl Seal ===

impl Seal {
    pub fn new(code_key: &CodeKey) -> Self {
        Seal { key: code_key.derive("floodgate remembered answers v1") }
    }

    pub(super) fn close(&self, owner: &str, key: &str, answer: &str) -> Vec<u8> {
        Aes128Siv::new(&self.key.into())
            .encrypt([owner, key], answer.as_bytes())
            .expect("AES-SIV takes any short plaintext")
    }

    /// `None` for what was not sealed for this owner and key.
    pub(super) fn open(&self, owner: &str, key: &str, sealed: &[u8]) -> Option<String> {
        String::from_utf8(Aes128Siv::new(&self.key.into()).decrypt([owner, key], sealed).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_opens_in_its_own_place_alone() {
        let seal = Seal::new(&CodeKey::new([3; 16]));
        let sealed = seal.close("u-1", "k-1", "{\"token\":\"4F7K\"}");
        assert!(!sealed.windows(4).any(|bytes| bytes == b"4F7K"));
        assert_eq!(seal.open("u-1", "k-1", &sealed).unwrap(), "{\"token\":\"4F7K\"}");
        for (owner, key) in [("u-2", "k-1"), ("u-1", "k-2"), ("u-1k-1", "")] {
            assert_eq!(seal.open(owner, key, &sealed), None);
        }
        assert_eq!(Seal::new(&CodeKey::new([4; 16])).open("u-1", "k-1", &sealed), None);
        assert_eq!(seal.open("u-1", "k-1", &sealed[..15]), None);
    }
}
