//! The object an event is about, escaped into one subject token.

use std::fmt;

use super::invalid::Invalid;

/// A longer key does not fit a subject once escaped.
pub(crate) const MAX_KEY_BYTES: usize = 256;
/// Stands for the empty key: `=` without two hexadecimal digits cannot come from the escaping.
const EMPTY: &str = "=";

/// The key of an event (CloudEvents `subject`): any text up to 256 bytes, empty allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Takes any text up to 256 bytes.
    pub fn new(key: impl Into<String>) -> Result<Self, Invalid> {
        let key = key.into();
        if key.len() <= MAX_KEY_BYTES {
            return Ok(Self(key));
        }
        Err(Invalid::new(format!(
            "subject has {} bytes: a key has at most {MAX_KEY_BYTES}",
            key.len()
        )))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as one subject token: `A-Z a-z 0-9 _ -` stand for themselves, every other byte is
    /// `=` and two upper-case hexadecimal digits, the empty key is `=`. Keep stable.
    pub fn to_token(&self) -> String {
        if self.0.is_empty() {
            return String::from(EMPTY);
        }
        let mut token = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if is_plain(byte) {
                token.push(char::from(byte));
            } else {
                token.push_str(&format!("={byte:02X}"));
            }
        }
        token
    }

    /// Reads a token back. Publishers outside Lockgate may write a token that
    /// [`Key::to_token`] would not: what is not an escape stands for itself, so that
    /// `a@b` and `a=40b` are the same key.
    pub fn from_token(token: &str) -> Self {
        if token == EMPTY {
            return Self(String::new());
        }
        let bytes = token.as_bytes();
        let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
        while let Some(&byte) = bytes.get(at) {
            match (byte, bytes.get(at + 1..at + 3).and_then(hex)) {
                (b'=', Some(escaped)) => {
                    plain.push(escaped);
                    at += 3;
                }
                _ => {
                    plain.push(byte);
                    at += 1;
                }
            }
        }
        Self(String::from_utf8(plain).unwrap_or_else(|_| token.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |d: u8| char::from(d).to_digit(16);
    let value = digit(*digits.first()?)? * 16 + digit(*digits.get(1)?)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_are_kept_stable() {
        let token = |key: &str| Key::new(key).unwrap().to_token();
        assert_eq!(token("anna"), "anna");
        assert_eq!(token(""), "=");
        assert_eq!(token("anna@example.org"), "anna=40example=2Eorg");
        assert_eq!(token("="), "=3D");
        assert_eq!(token("é"), "=C3=A9");
        assert!(Key::new("x".repeat(257)).is_err());
    }

    proptest! {
        #[test]
        fn every_key_survives_the_round_trip_as_one_token(key in ".{0,60}") {
            let key = Key::new(key).unwrap();
            let token = key.to_token();
            prop_assert!(bus::Subject::new(&token).is_ok() && !token.contains('.'));
            prop_assert_eq!(Key::from_token(&token), key);
        }

        #[test]
        fn any_token_of_a_foreign_publisher_reads_as_some_key(token in "[!-)+-\\-/-=?-~]{1,40}") {
            let key = Key::from_token(&token);
            prop_assert_eq!(Key::from_token(&key.to_token()), key);
        }
    }
}
