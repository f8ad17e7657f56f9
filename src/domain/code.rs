//! A coupon's public name: 26 Crockford base-32 characters.
//!
//! A code is one AES-128 block under the deployment's code key. It is never stored: it is
//! computed from (template, serial, epoch, gift generation) and opened again with the key.
//! The 32 check bits are zero, so a guess opens as a coupon once in 4 billion, and what opens
//! must still exist and be the asker's.
//!
//! The code key never rotates: every code ever shown depends on it.

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::ids::{Epoch, SERIAL_MAX, Serial, TemplateId};

/// Characters in a code: 128 bits in groups of five, the top two bits of the first always zero.
pub const CODE_LEN: usize = 26;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What a code names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CouponName {
    pub template: TemplateId,
    pub serial: Serial,
    /// The epoch in which the serial was granted: tells a coupon from one that a failover lost.
    pub epoch: Epoch,
    /// How often the coupon was given away; each passage ends the code before it.
    pub gift: u8,
}

/// The deployment's secret: 128 bits, from which the keys of other purposes are derived.
#[derive(Clone)]
pub struct CodeKey {
    secret: [u8; 16],
    cipher: Aes128,
}

// === impl CodeKey ===

impl CodeKey {
    pub fn new(secret: [u8; 16]) -> Self {
        CodeKey { secret, cipher: Aes128::new(&secret.into()) }
    }

    /// Reads 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.trim().as_bytes();
        if text.len() != 32 {
            return None;
        }
        let mut secret = [0u8; 16];
        for (byte, pair) in secret.iter_mut().zip(text.chunks(2)) {
            let high = (pair[0] as char).to_digit(16)?;
            let low = (pair[1] as char).to_digit(16)?;
            *byte = (high * 16 + low) as u8;
        }
        Some(CodeKey::new(secret))
    }

    /// A key for another purpose (user ids, claim key hashes): HMAC-SHA256 of the purpose.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.secret).expect("HMAC takes any key length");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Tells one key from another without telling the key: 8 bytes, stored at `migrate`.
    pub fn fingerprint(&self) -> i64 {
        let derived = self.derive("floodgate code key fingerprint v1");
        i64::from_be_bytes(derived[..8].try_into().expect("8 of 32 bytes"))
    }

    pub fn encode(&self, name: CouponName) -> String {
        debug_assert!(name.serial <= SERIAL_MAX);
        let mut block = [0u8; 16];
        block[0..4].copy_from_slice(&name.template.0.to_be_bytes());
        block[4..9].copy_from_slice(&name.serial.to_be_bytes()[3..]);
        block[9..11].copy_from_slice(&name.epoch.to_be_bytes());
        block[11] = name.gift;
        let mut block = block.into();
        self.cipher.encrypt_block(&mut block);
        to_base32(u128::from_be_bytes(block.into()))
    }

    /// Opens a code. `None` for whatever is no code of this deployment.
    ///
    /// Lower case and the usual misreadings (`O` for 0, `I` and `L` for 1) are accepted.
    pub fn decode(&self, text: &str) -> Option<CouponName> {
        let mut block = from_base32(text)?.to_be_bytes().into();
        self.cipher.decrypt_block(&mut block);
        let block: [u8; 16] = block.into();
        if block[12..16] != [0; 4] {
            return None;
        }
        let mut serial = [0u8; 8];
        serial[3..].copy_from_slice(&block[4..9]);
        let name = CouponName {
            template: TemplateId(u32::from_be_bytes(block[0..4].try_into().ok()?)),
            serial: u64::from_be_bytes(serial),
            epoch: u16::from_be_bytes([block[9], block[10]]),
            gift: block[11],
        };
        let possible = (1..=i32::MAX as u32).contains(&name.template.0) && name.serial > 0 && name.epoch > 0;
        possible.then_some(name)
    }
}

impl std::fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeKey(hidden)")
    }
}

/// 128 bits as 26 Crockford base-32 characters, most significant first.
pub fn to_base32(value: u128) -> String {
    let mut text = [0u8; CODE_LEN];
    let mut rest = value;
    for slot in text.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    std::str::from_utf8(&text).expect("the alphabet is ASCII").to_owned()
}

/// The inverse of [`to_base32`]. `None` for a wrong length, a foreign character, or spare bits set.
pub fn from_base32(text: &str) -> Option<u128> {
    if text.len() != CODE_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for (position, byte) in text.bytes().enumerate() {
        let digit = digit_of(byte)?;
        if position == 0 && digit > 7 {
            return None;
        }
        value = value << 5 | digit as u128;
    }
    Some(value)
}

fn digit_of(byte: u8) -> Option<u8> {
    let byte = match byte.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|&letter| letter == byte).map(|index| index as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> CodeKey {
        CodeKey::from_hex("000102030405060708090a0b0c0d0e0f").unwrap()
    }

    proptest! {
        #[test]
        fn a_code_opens_as_what_it_was_made_of(template in 1..=i32::MAX as u32, serial in 1..=SERIAL_MAX, epoch in 1..=u16::MAX, gift: u8) {
            let name = CouponName { template: TemplateId(template), serial, epoch, gift };
            let code = key().encode(name);
            prop_assert_eq!(code.len(), CODE_LEN);
            prop_assert_eq!(key().decode(&code), Some(name));
            prop_assert_eq!(key().decode(&code.to_lowercase()), Some(name));
            prop_assert_eq!(CodeKey::new([7; 16]).decode(&code), None);
        }

        #[test]
        fn a_changed_character_is_no_code(serial in 1..=SERIAL_MAX, at in 0..CODE_LEN, to in 0usize..32) {
            let code = key().encode(CouponName { template: TemplateId(7), serial, epoch: 1, gift: 0 });
            let mut bytes = code.clone().into_bytes();
            bytes[at] = ALPHABET[to];
            let changed = String::from_utf8(bytes).unwrap();
            prop_assume!(changed != code);
            prop_assert_eq!(key().decode(&changed), None);
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for bad in
            ["", "4F7K", "UUUUUUUUUUUUUUUUUUUUUUUUUU", "80000000000000000000000000", "日本語日本語日本語日本語xx"]
        {
            assert_eq!(key().decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_layout_of_a_code_is_pinned() {
        // A change of this string breaks every code that shoppers hold.
        let code = key().encode(CouponName { template: TemplateId(7), serial: 123, epoch: 1, gift: 0 });
        assert_eq!(code, PINNED);
    }

    const PINNED: &str = "46NMMV8VVF87FDXEXAC839H6RY";

    #[test]
    fn a_key_is_32_hex_digits() {
        assert!(CodeKey::from_hex("00").is_none());
        assert!(CodeKey::from_hex("zz0102030405060708090a0b0c0d0e0f").is_none());
        assert!(CodeKey::from_hex(" 000102030405060708090A0B0C0D0E0F\n").is_some());
    }
}
