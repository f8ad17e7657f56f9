//! A gift on its way: its number, where it stands, and the token that opens it.
//!
//! A token is one AES-128 block under a key of its own: the gift's number and 64 zero bits. It is
//! computed when the offer is made and never stored. A made-up one opens as a number once in 2^64
//! guesses, and whoever reads the table cannot make one.

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};

use super::code::{CodeKey, from_base32, to_base32};

/// The number of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GiftId(pub u64);

/// Turns offers into tokens, and back.
pub struct GiftTokens {
    cipher: Aes128,
}

/// Where an offer stands. All but the first are ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiftState {
    Offered,
    /// The coupon is the receiver's.
    Accepted,
    Declined,
    /// Taken back by its giver.
    Withdrawn,
    /// Nobody took it in time.
    Returned,
    /// The coupon was revoked meanwhile.
    Revoked,
}

// === impl GiftId ===

impl GiftId {
    /// The value as PostgreSQL stores it.
    pub fn as_i64(self) -> i64 {
        self.0 as i64
    }
}

// === impl GiftTokens ===

impl GiftTokens {
    pub fn new(key: &CodeKey) -> Self {
        let derived = key.derive("floodgate gift tokens v1");
        let key: [u8; 16] = derived[..16].try_into().expect("16 of 32 bytes");
        GiftTokens { cipher: Aes128::new(&key.into()) }
    }

    pub fn encode(&self, gift: GiftId) -> String {
        let mut block = (u128::from(gift.0) << 64).to_be_bytes().into();
        self.cipher.encrypt_block(&mut block);
        to_base32(u128::from_be_bytes(block.into()))
    }

    /// Opens a token. `None` for whatever is no token of this deployment.
    pub fn decode(&self, text: &str) -> Option<GiftId> {
        let mut block = from_base32(text)?.to_be_bytes().into();
        self.cipher.decrypt_block(&mut block);
        let opened = u128::from_be_bytes(block.into());
        let number = (opened >> 64) as u64;
        (opened as u64 == 0 && (1..=i64::MAX as u64).contains(&number)).then_some(GiftId(number))
    }
}

// === impl GiftState ===

impl GiftState {
    const WORDS: [(&str, GiftState); 6] = [
        ("offered", GiftState::Offered),
        ("accepted", GiftState::Accepted),
        ("declined", GiftState::Declined),
        ("withdrawn", GiftState::Withdrawn),
        ("returned", GiftState::Returned),
        ("revoked", GiftState::Revoked),
    ];

    /// As the table and the contract have it.
    pub fn word(self) -> &'static str {
        GiftState::WORDS[self as usize].0
    }

    pub fn parse(text: &str) -> Option<Self> {
        GiftState::WORDS.iter().find(|(word, _)| *word == text).map(|(_, state)| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> GiftTokens {
        GiftTokens::new(&CodeKey::from_hex("000102030405060708090a0b0c0d0e0f").unwrap())
    }

    proptest! {
        #[test]
        fn a_token_opens_as_its_gift_alone(number in 1..=i64::MAX as u64, at in 0usize..26, to in 0usize..32) {
            let token = tokens().encode(GiftId(number));
            prop_assert_eq!(tokens().decode(&token), Some(GiftId(number)));
            prop_assert_eq!(tokens().decode(&token.to_lowercase()), Some(GiftId(number)));
            prop_assert_eq!(GiftTokens::new(&CodeKey::new([7; 16])).decode(&token), None);
            let mut bytes = token.clone().into_bytes();
            bytes[at] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[to];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assume!(changed != token);
            prop_assert_eq!(tokens().decode(&changed), None);
        }
    }

    #[test]
    fn codes_and_gift_zero_are_no_tokens() {
        for none in ["", "46NMMV8VVF87FDXEXAC839H6RY", &tokens().encode(GiftId(0)), &tokens().encode(GiftId(u64::MAX))]
        {
            assert_eq!(tokens().decode(none), None, "{none}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for (at, (word, state)) in GiftState::WORDS.into_iter().enumerate() {
            assert_eq!((state as usize, state.word(), GiftState::parse(word)), (at, word, Some(state)));
        }
    }
}
