//! The members of a JSON object in their order, values unread.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Names and values as they are written, quotes and escapes too: a name may hold what is no text.
pub(super) struct Members<'a>(pub(super) Vec<(&'a str, &'a str)>);

/// Why a text is no JSON object, and the member at which that shows.
pub(super) struct NoObject {
    pub(super) member: Option<String>,
    pub(super) error: serde_json::Error,
}

impl<'a> Members<'a> {
    /// Reads an object. What its values hold is not looked at beyond their being JSON.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, NoObject> {
        let mut at = None;
        let mut parser = serde_json::Deserializer::from_slice(json);
        let read = Object { at: &mut at }.deserialize(&mut parser);
        match read.and_then(|members| parser.end().map(|()| members)) {
            Ok(members) => Ok(Self(members)),
            Err(error) => {
                let member = at.and_then(|name| serde_json::from_str(name).ok());
                Err(NoObject { member, error })
            }
        }
    }
}

/// Remembers the member whose value is being read.
struct Object<'a, 'de> {
    at: &'a mut Option<&'de str>,
}

impl<'de> DeserializeSeed<'de> for Object<'_, 'de> {
    type Value = Vec<(&'de str, &'de str)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, 'de> {
    type Value = Vec<(&'de str, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<&RawValue>()? {
            *self.at = Some(name.get());
            let value = map.next_value::<&RawValue>()?;
            *self.at = None;
            members.push((name.get(), value.get()));
        }
        Ok(members)
    }
}
