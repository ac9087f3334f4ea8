//! JSON as it is written: a terminal tool passes on what it does not have to understand, with its
//! digits, the order of its members, and whatever stands twice.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of a JSON object in their order, values unread.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The first member of this name, as it is written.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get())
    }

    /// The first member of this name if it is text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// JSON on one line. A line break stands between tokens only, where a space means the same.
pub(super) fn one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_and_values_are_left_alone() {
        let text = r#"{"n":1.10,"a":"x","a":2,"bad":"\ud800"}"#;
        let members: Members<'_> = serde_json::from_str(text).unwrap();
        assert_eq!((members.get("n"), members.get("none")), (Some("1.10"), None));
        assert_eq!((members.text("a").as_deref(), members.text("n")), (Some("x"), None));
        assert_eq!((members.get("bad"), members.text("bad")), (Some(r#""\ud800""#), None));
        assert!(serde_json::from_str::<Members<'_>>("[]").is_err());
        assert_eq!(one_line("{\r\n\"a\": 1}"), "{  \"a\": 1}");
    }
}
