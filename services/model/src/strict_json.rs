//! JSON that every parser reads, told apart from JSON that only some do.
//!
//! RFC 8259 lets a text hold what a parser may refuse: half of a surrogate pair (section 8.2), a
//! number beyond a double (section 6), nesting beyond what a parser bounds (section 9). I-JSON
//! (RFC 7493) rules out the first two. What passes here is read by strict parsers in every
//! language, wherever an answer of ours puts it.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::limits::MAX_JSON_DEPTH;

/// What strict parsers refuse in a text, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// What sort of flaw.
    pub kind: FlawKind,
    /// From the root of the text, for example `.names[3]`; empty for the root.
    pub path: String,
    /// It is in the name of a member of what stands at `path`.
    in_name: bool,
}

/// What sort of text strict parsers refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlawKind {
    /// It is not JSON at all; with the parser's sentence.
    Malformed(String),
    /// Half of a surrogate pair.
    Surrogate,
    /// A number beyond the range of a double.
    Number,
    /// Nesting beyond [`MAX_JSON_DEPTH`].
    Depth,
}

/// The text without the white space around it, if every parser reads it.
pub fn check(bytes: &[u8]) -> Result<&str, Flaw> {
    let malformed =
        |why: String| Flaw { kind: FlawKind::Malformed(why), path: String::new(), in_name: false };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        malformed(format!("it is not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    // JSON's own white space, which is less than Unicode's.
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let mut trail = Trail::default();
    let mut parser = serde_json::Deserializer::from_str(text);
    let walked = Walk { trail: &mut trail, depth: 0 }.deserialize(&mut parser);
    match walked.and_then(|()| parser.end()) {
        Ok(()) => Ok(text),
        Err(error) => Err(trail.flaw(&error)),
    }
}

/// True when the text is JSON for a parser that takes what strict ones refuse.
pub fn is_loosely_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes).is_ok()
}

/// The text of a JSON string, whose fault is told by name.
pub fn string(json: &str) -> Result<String, Option<FlawKind>> {
    serde_json::from_str(json).map_err(|error| json.starts_with('"').then(|| kind_of(&error)))
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match (self.path.as_str(), self.in_name) {
            ("", false) => Ok(()),
            (path, false) => write!(f, " (at ${path})"),
            (path, true) => write!(f, " (in the name of a member of ${path})"),
        }
    }
}

impl fmt::Display for FlawKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "is not JSON: {why}"),
            Self::Surrogate => f.write_str(
                "holds half of a surrogate pair, one of \\ud800 to \\udfff alone, which is no \
                 character",
            ),
            Self::Number => f.write_str(
                "holds a number beyond the range of a double, about 1.8e308: write it as a string",
            ),
            Self::Depth => {
                write!(f, "is nested deeper than {MAX_JSON_DEPTH} levels: flatten it")
            }
        }
    }
}

/// The sentences are serde_json's; a test holds them.
fn kind_of(error: &serde_json::Error) -> FlawKind {
    let sentence = error.to_string();
    let begins = |text: &str| sentence.starts_with(text);
    if begins("lone leading surrogate in hex escape") || begins("unexpected end of hex escape") {
        FlawKind::Surrogate
    } else if begins("number out of range") {
        FlawKind::Number
    } else if begins(TOO_DEEP) || begins("recursion limit exceeded") {
        FlawKind::Depth
    } else {
        FlawKind::Malformed(sentence)
    }
}

const TOO_DEEP: &str = "nested too deep";

/// Where in a text the parser is. After a fault it stays there.
#[derive(Default)]
struct Trail {
    steps: Vec<Step>,
    /// The names of the steps, one after the other.
    names: String,
    in_name: bool,
}

enum Step {
    Index(usize),
    /// A name that begins here in `names`.
    Name(usize),
}

impl Trail {
    fn enter_member(&mut self, name: &str) {
        self.steps.push(Step::Name(self.names.len()));
        self.names.push_str(name);
    }

    fn back(&mut self) {
        if let Some(Step::Name(from)) = self.steps.pop() {
            self.names.truncate(from);
        }
    }

    fn flaw(&self, error: &serde_json::Error) -> Flaw {
        let (mut path, mut end) = (String::new(), self.names.len());
        let mut parts = Vec::with_capacity(self.steps.len());
        for step in self.steps.iter().rev() {
            parts.push(match step {
                Step::Index(at) => format!("[{at}]"),
                Step::Name(from) => {
                    let name = self.names.get(*from..end).unwrap_or_default();
                    end = *from;
                    named(name)
                }
            });
        }
        // A path longer than this helps nobody, and nesting may be as deep as a body is long.
        for part in parts.iter().rev() {
            if path.len() + part.len() > 200 {
                path.push_str("...");
                break;
            }
            path.push_str(part);
        }
        Flaw { kind: kind_of(error), path, in_name: self.in_name }
    }
}

fn named(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut part = String::new();
    if !name.is_empty() && name.chars().all(is_plain) {
        part.extend([".", name]);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(part, "[{name:?}]");
    }
    part
}

/// Walks through one value and keeps nothing of it.
struct Walk<'a> {
    trail: &'a mut Trail,
    depth: usize,
}

impl Walk<'_> {
    fn deeper<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_JSON_DEPTH { Err(E::custom(TOO_DEEP)) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.deeper::<A::Error>()?;
        for at in 0.. {
            self.trail.steps.push(Step::Index(at));
            let walk = Walk { trail: &mut *self.trail, depth: self.depth };
            let walked = seq.next_element_seed(walk)?;
            self.trail.back();
            if walked.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.deeper::<A::Error>()?;
        loop {
            self.trail.in_name = true;
            if map.next_key_seed(Name(&mut *self.trail))?.is_none() {
                self.trail.in_name = false;
                return Ok(());
            }
            self.trail.in_name = false;
            map.next_value_seed(Walk { trail: &mut *self.trail, depth: self.depth })?;
            self.trail.back();
        }
    }
}

/// Takes the name of a member as the next step.
struct Name<'a>(&'a mut Trail);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.enter_member(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flaw(json: &str) -> (FlawKind, String) {
        let flaw = check(json.as_bytes()).unwrap_err();
        (flaw.kind.clone(), flaw.to_string())
    }

    #[test]
    fn what_strict_parsers_refuse_is_told_with_its_place() {
        for (json, kind, place) in [
            (r#""\ud800""#, FlawKind::Surrogate, "character"),
            (r#"{"a":["x","\udc00\ud800"]}"#, FlawKind::Surrogate, "(at $.a[1])"),
            (r#"{"a":{"\ud800":1}}"#, FlawKind::Surrogate, "(in the name of a member of $.a)"),
            (r#"{"a b":[[{"\uD83D":1}]]}"#, FlawKind::Surrogate, r#"of $["a b"][0][0])"#),
            (r#"["\uD83D\u0041"]"#, FlawKind::Surrogate, "(at $[0])"),
            ("1e999", FlawKind::Number, "as a string"),
            (r#"{"a":1,"n":[-1e400]}"#, FlawKind::Number, "(at $.n[0])"),
            (&format!("[1{}]", "0".repeat(400)), FlawKind::Number, "(at $[0])"),
        ] {
            let (found, sentence) = flaw(json);
            assert_eq!(found, kind, "{json}");
            assert!(sentence.contains(place), "{json}: {sentence}");
        }
        for not_json in ["", " ", "{", "nonsense", "{\"a\":NaN}", "1 2", "[1,]", "\u{feff}1"] {
            assert!(matches!(flaw(not_json).0, FlawKind::Malformed(_)), "{not_json:?}");
        }
        assert!(check(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_is_taken_up_to_its_bound() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(nested(MAX_JSON_DEPTH).as_bytes()).is_ok());
        for depth in [MAX_JSON_DEPTH + 1, 128, 200, 100_000] {
            let (kind, sentence) = flaw(&nested(depth));
            assert_eq!(kind, FlawKind::Depth, "{depth}");
            assert!(sentence.len() < 400, "{sentence}");
        }
        let members = r#"{"a":"#.repeat(MAX_JSON_DEPTH + 1) + "1" + &"}".repeat(MAX_JSON_DEPTH + 1);
        assert_eq!(flaw(&members).0, FlawKind::Depth);
    }

    #[test]
    fn what_is_unusual_and_readable_passes_unchanged() {
        for json in [
            r#"{"a":1,"a":2}"#,
            "12345678901234567890123",
            "-0",
            "1.10",
            "1E2",
            "0.1000000000000000055511151231257827",
            "1e-999",
            "0e999",
            r#""\u0000 \uD83D\uDE00 \u00e9""#,
            r#"{"":null}"#,
        ] {
            assert_eq!(check(format!("\r\n {json}\t").as_bytes()), Ok(json));
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_read_by_a_strict_parser(json in r#"[\[\]{},:"\\ud8c0e9.a-]{0,12}"#) {
            let strict = serde_json::from_str::<serde_json::Value>(&json).is_ok();
            prop_assert_eq!(check(json.as_bytes()).is_ok(), strict);
            if strict {
                prop_assert!(is_loosely_json(json.as_bytes()));
            }
        }
    }
}
