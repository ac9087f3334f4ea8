//! A CloudEvent made from what was typed.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use crate::model::{Key, Topic};
use crate::platform::Entropy;

/// What an event carries.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    Json(Value),
    Text(String),
    /// Nothing: it deletes its key.
    Tombstone,
}

impl Body {
    /// JSON if it parses, else text.
    pub(super) fn from_text(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(value) => Self::Json(value),
            Err(_) => Self::Text(text.to_owned()),
        }
    }
}

/// An event to make.
#[derive(Debug)]
pub(super) struct NewEvent {
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) body: Body,
    pub(super) id: Option<String>,
}

/// What an event gets that does not say otherwise.
pub(super) struct Defaults {
    source: String,
    entropy: Entropy,
}

/// A line of the short kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    topic: String,
    #[serde(default)]
    key: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    id: Option<String>,
}

/// `null` is data like any other; only a missing field is none.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Defaults {
    /// Events of `source`, with random ids.
    pub(super) fn new(source: String) -> Self {
        Self { source, entropy: Entropy::system() }
    }

    /// The structured CloudEvent of a line: as it stands when it says `specversion`, else made
    /// from topic, key and data.
    pub(super) fn line(&self, line: &str) -> Result<Value, Failure> {
        let not_understood = |error: serde_json::Error| {
            // What was parsed is one line; its number in the file is said by the caller.
            let error = error.to_string().replace(" at line 1 column ", " at column ");
            Failure::new(format!(
                "this is neither a CloudEvent nor {{\"topic\",\"key\",\"data\"}}: {error}"
            ))
        };
        let value: Value = serde_json::from_str(line).map_err(not_understood)?;
        if value.get("specversion").is_some() {
            return Ok(value);
        }
        let Short { topic, key, data, id } =
            serde_json::from_value(value).map_err(not_understood)?;
        let body = data.map_or(Body::Tombstone, Body::Json);
        self.event(NewEvent { topic, key, body, id })
    }

    /// The structured CloudEvent of `new`. Its type is its topic.
    pub(super) fn event(&self, new: NewEvent) -> Result<Value, Failure> {
        let NewEvent { topic, key, body, id } = new;
        let topic: Topic = topic.parse().map_err(|wrong| Failure::new(format!("topic {wrong}")))?;
        let key = Key::new(key).map_err(|wrong| Failure::new(wrong.to_string()))?;
        let id = match id {
            Some(id) => id,
            None => self.entropy.uid().map_err(|error| Failure::new(error.to_string()))?,
        };
        let mut event = Map::new();
        let mut set = |name: &str, value: Value| event.insert(name.to_owned(), value);
        set("specversion", json!("1.0"));
        set("id", json!(id));
        set("source", json!(self.source));
        set("type", json!(topic.to_string()));
        if !key.as_str().is_empty() {
            set("subject", json!(key.as_str()));
        }
        match body {
            Body::Json(value) => {
                set("datacontenttype", json!("application/json"));
                set("data", value);
            }
            Body::Text(text) => {
                set("datacontenttype", json!("text/plain"));
                set("data", json!(text));
            }
            Body::Tombstone => {}
        }
        Ok(Value::Object(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { source: "/s".into(), entropy: Entropy::seeded(1) }
    }

    #[test]
    fn a_short_line_becomes_a_cloud_event() {
        let event = defaults().line(r#"{"topic":"a.b","key":"k","data":null,"id":"7"}"#).unwrap();
        assert_eq!(
            event,
            json!({"specversion":"1.0","id":"7","source":"/s","type":"a.b","subject":"k",
                "datacontenttype":"application/json","data":null})
        );
        let tombstone = defaults().line(r#"{"topic":"a.b","key":"k"}"#).unwrap();
        assert!(tombstone.get("data").is_none() && tombstone["id"].as_str().unwrap().len() == 16);
    }

    #[test]
    fn a_cloud_event_stays_as_it_is_and_anything_else_is_refused() {
        let whole = r#"{"specversion":"1.0","id":"1","source":"/x","type":"a.b","extra":true}"#;
        assert_eq!(defaults().line(whole).unwrap(), serde_json::from_str::<Value>(whole).unwrap());
        for bad in ["", "[]", "{", r#"{"topic":"a"}"#, r#"{"topic":"a.b","typo":1}"#] {
            assert!(defaults().line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn data_is_json_or_else_text() {
        assert_eq!(Body::from_text("{\"a\":1}"), Body::Json(json!({"a":1})));
        assert_eq!(Body::from_text("hello"), Body::Text("hello".into()));
    }
}
