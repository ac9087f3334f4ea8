//! Names and values of CloudEvents attributes, and how a header carries a value.

use super::CONTENT_TYPE;

/// The specification recommends 20; a longer name is unusual, not wrong.
const MAX_NAME_BYTES: usize = 64;

/// True for a name the specification allows: lower-case letters and digits.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed)
}

/// The first character that no attribute may hold: a control character or a Unicode noncharacter
/// (CloudEvents 1.0.2, type system, String).
pub(super) fn forbidden(value: &str) -> Option<char> {
    let nonchar = |c: char| {
        let code = u32::from(c);
        code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    };
    value.chars().find(|c| c.is_control() || nonchar(*c))
}

/// A value as a header carries it (CloudEvents HTTP binding 1.0.2, section 3.1.3.2): space, `"`,
/// `%` and everything outside visible ASCII is percent-encoded.
pub(super) fn to_header(value: &str) -> String {
    let mut header = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            header.push(char::from(byte));
        } else {
            header.push_str(&format!("%{byte:02X}"));
        }
    }
    header
}

/// The bytes of the attribute that the header `name` (in lower case) carries. The media type is the
/// one attribute that a header of its own carries as it is.
pub(super) fn read(name: &str, header: &[u8]) -> Vec<u8> {
    if name == CONTENT_TYPE {
        return header.trim_ascii().to_vec();
    }
    from_header(header)
}

/// The bytes of a value read from a header: quotes around it and escapes in them are taken off,
/// then percent-encoding. A `%` that begins no escape stands for itself.
fn from_header(header: &[u8]) -> Vec<u8> {
    let unquoted = unquote(header.trim_ascii());
    let (mut value, mut at) = (Vec::with_capacity(unquoted.len()), 0);
    while let Some(&byte) = unquoted.get(at) {
        match (byte, unquoted.get(at + 1..at + 3).and_then(hex)) {
            (b'%', Some(escaped)) => {
                value.push(escaped);
                at += 3;
            }
            _ => {
                value.push(byte);
                at += 1;
            }
        }
    }
    value
}

fn unquote(header: &[u8]) -> Vec<u8> {
    let [b'"', inner @ .., b'"'] = header else { return header.to_vec() };
    let (mut unquoted, mut escaped) = (Vec::with_capacity(inner.len()), false);
    for &byte in inner {
        escaped = byte == b'\\' && !escaped;
        if !escaped {
            unquoted.push(byte);
        }
    }
    unquoted
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_values_are_those_of_the_http_binding() {
        assert_eq!(to_header("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(from_header(b"Euro%20%E2%82%AC%20%F0%9F%98%80"), "Euro € 😀".as_bytes());
        assert_eq!(from_header(br#""a \"b\" \\ c""#), br#"a "b" \ c"#);
        assert_eq!(from_header(b"100% %zz %4"), b"100% %zz %4");
    }

    #[test]
    fn names_and_characters_are_checked() {
        for bad in ["", "Id", "data_base64", "a-b", "é", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("traceparent") && is_name("a1"));
        assert_eq!(forbidden("a\u{85}"), Some('\u{85}'));
        assert_eq!(forbidden("\u{FFFE}"), Some('\u{FFFE}'));
        assert_eq!(forbidden("anna, é, 😀"), None);
    }

    proptest! {
        #[test]
        fn every_value_survives_the_header(value in "\\PC{0,40}") {
            let header = to_header(&value);
            prop_assert!(header.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(from_header(header.as_bytes()), value.as_bytes());
        }
    }
}
