//! Writing JSON text by hand, so that writing cannot fail and data is copied as it stands.

use std::borrow::Cow;

use crate::strict_json;

/// A JSON object under construction.
pub(super) struct Object(String);

impl Object {
    /// An object with room for about `bytes`.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Adds a member whose value is text.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        push_string(&mut self.0, value);
    }

    /// Adds a member whose value is JSON already.
    pub(super) fn json(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }

    /// The text of the object.
    pub(super) fn finish(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0
    }

    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        push_string(&mut self.0, name);
        self.0.push(':');
    }
}

/// The bytes as JSON on one line, if they are JSON that every parser reads. JSON allows a line
/// break between tokens only, where a space means the same.
pub(super) fn one_line(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let json = strict_json::check(bytes).ok()?;
    // By bytes: each event is looked through once a reader that catches up.
    if [b'\n', b'\r'].iter().any(|end| json.as_bytes().contains(end)) {
        return Some(Cow::Owned(json.replace(['\n', '\r'], " ")));
    }
    Some(Cow::Borrowed(json))
}

fn push_string(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut plain_from = 0;
    // What is escaped is ASCII, so that every cut is between characters.
    for (at, byte) in text.bytes().enumerate() {
        if !(byte.is_ascii_control() || matches!(byte, b'"' | b'\\')) {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        if matches!(byte, b'"' | b'\\') {
            out.push('\\');
            out.push(char::from(byte));
        } else {
            out.push_str("\\u00");
            out.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_put_on_one_line_and_nothing_else_is_taken() {
        assert_eq!(
            one_line(b" {\n\"b\": 1.00,\r\n\"a\":\"\\n\"}\n").unwrap(),
            r#"{ "b": 1.00,  "a":"\n"}"#
        );
        for bad in [&b""[..], b"{", b"a", b"1 2", b"\"\xff\"", b"1e999", b"[\"\\ud800\"]"] {
            assert_eq!(one_line(bad), None);
        }
        assert_eq!(Object::with_capacity(0).finish(), "{}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(name: String, value: String) {
            let mut object = Object::with_capacity(0);
            object.text(&name, &value);
            let json = object.finish();
            prop_assert!(!json.contains(['\n', '\r']));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read[&name].as_str(), Some(value.as_str()));
        }
    }
}
