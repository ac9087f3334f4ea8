//! The key of a record as the last token of an event's subject.
//!
//! The same escaping as the rest of Lockgate uses: `A-Z a-z 0-9 _ -` stand for themselves, every
//! other byte is `=` and two upper-case hexadecimal digits, the empty key is `=`.

use super::Unfit;

/// A longer key does not fit a subject once escaped.
pub const MAX_KEY_BYTES: usize = 256;
const EMPTY: &str = "=";

/// The token of a key.
pub(super) fn to_token(key: &[u8]) -> Result<String, Unfit> {
    if key.len() > MAX_KEY_BYTES {
        let bytes = key.len();
        return Err(Unfit(format!("its key has {bytes} bytes: an event's has {MAX_KEY_BYTES}")));
    }
    if key.is_empty() {
        return Ok(EMPTY.to_owned());
    }
    let mut token = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    Ok(token)
}

/// The key of a token, whoever wrote it: what is no escape stands for itself.
pub(super) fn from_token(token: &str) -> Vec<u8> {
    if token == EMPTY {
        return Vec::new();
    }
    let bytes = token.as_bytes();
    let (mut key, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
        match (byte, digit(at + 1).zip(digit(at + 2))) {
            (b'=', Some((high, low))) => {
                key.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                key.push(byte);
                at += 1;
            }
        }
    }
    key
}
