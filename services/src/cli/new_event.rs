//! A CloudEvent made from what was typed.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::failure::Failure;
use super::raw::{Members, one_line};
use crate::model::{Key, Topic};
use crate::platform::Entropy;

/// What an event carries.
#[derive(Debug)]
pub(super) enum Body {
    /// JSON, as it is written.
    Json(Box<RawValue>),
    Text(String),
    /// Nothing: it deletes its key.
    Tombstone,
}

impl Body {
    /// JSON if it parses, else text.
    pub(super) fn from_text(text: &str) -> Self {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(json) => Self::Json(json.to_owned()),
            Err(_) => Self::Text(text.to_owned()),
        }
    }

    /// Why text that begins as JSON does is not JSON; none for everything else.
    pub(super) fn suspicion(&self) -> Option<String> {
        let Self::Text(text) = self else { return None };
        let start = text.trim_start();
        let bare = start.strip_prefix('\'').unwrap_or(start);
        let begins = bare.starts_with(['{', '[']) || start.starts_with('"');
        let error = serde_json::from_str::<&RawValue>(text).err().filter(|_| begins)?;
        Some(error.to_string().replace(" at line 1 column ", " at column "))
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
struct Short<'a> {
    topic: String,
    #[serde(default)]
    key: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    id: Option<String>,
}

/// `null` is data like any other; only a missing field is none.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// A structured CloudEvent, as it is written.
#[derive(Serialize)]
struct Structured<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

impl Defaults {
    /// Events of `source`, with random ids.
    pub(super) fn new(source: String) -> Self {
        Self { source, entropy: Entropy::system() }
    }

    /// The structured CloudEvent of a line: as it stands when it says `specversion`, else made
    /// from topic, key and data.
    pub(super) fn line(&self, line: &str) -> Result<Box<RawValue>, Failure> {
        let not_understood = |error: serde_json::Error| {
            // What was parsed is one line; its number in the file is said by the caller.
            let error = error.to_string().replace(" at line 1 column ", " at column ");
            Failure::new(format!(
                "this is neither a CloudEvent nor {{\"topic\",\"key\",\"data\"}}: {error}"
            ))
        };
        let members: Members<'_> = serde_json::from_str(line).map_err(not_understood)?;
        if members.get("specversion").is_some() {
            return raw(&one_line(line.trim()));
        }
        let Short { topic, key, data, id } = serde_json::from_str(line).map_err(not_understood)?;
        let body = data.map_or(Body::Tombstone, |data| Body::Json(data.to_owned()));
        self.event(NewEvent { topic, key, body, id })
    }

    /// The structured CloudEvent of `new`. Its type is its topic.
    pub(super) fn event(&self, new: NewEvent) -> Result<Box<RawValue>, Failure> {
        let NewEvent { topic, key, body, id } = new;
        let topic: Topic = topic.parse().map_err(|wrong| Failure::new(format!("topic {wrong}")))?;
        let key = Key::new(key).map_err(|wrong| Failure::new(wrong.to_string()))?;
        let id = match id {
            Some(id) => id,
            None => self.entropy.uid().map_err(|error| Failure::new(error.to_string()))?,
        };
        let (datacontenttype, data) = match &body {
            Body::Json(json) => (Some("application/json"), Some(Data::Json(json))),
            Body::Text(text) => (Some("text/plain"), Some(Data::Text(text))),
            Body::Tombstone => (None, None),
        };
        let event = Structured {
            specversion: "1.0",
            id: &id,
            source: &self.source,
            kind: topic.to_string(),
            subject: key.as_str(),
            datacontenttype,
            data,
        };
        let text =
            serde_json::to_string(&event).map_err(|error| Failure::new(error.to_string()))?;
        raw(&text)
    }
}

fn raw(text: &str) -> Result<Box<RawValue>, Failure> {
    let raw = RawValue::from_string(text.to_owned());
    raw.map_err(|error| Failure::new(format!("this is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaults() -> Defaults {
        Defaults { source: "/s".into(), entropy: Entropy::seeded(1) }
    }

    fn line(text: &str) -> Result<Value, Failure> {
        defaults().line(text).map(|event| serde_json::from_str(event.get()).unwrap())
    }

    #[test]
    fn a_short_line_becomes_a_cloud_event() {
        let event = line(r#"{"topic":"a.b","key":"k","data":null,"id":"7"}"#).unwrap();
        assert_eq!(
            event,
            json!({"specversion":"1.0","id":"7","source":"/s","type":"a.b","subject":"k",
                "datacontenttype":"application/json","data":null})
        );
        let tombstone = line(r#"{"topic":"a.b","key":"k"}"#).unwrap();
        assert!(tombstone.get("data").is_none() && tombstone["id"].as_str().unwrap().len() == 16);
        assert!(tombstone.get("datacontenttype").is_none());
    }

    #[test]
    fn a_cloud_event_stays_as_it_is_and_anything_else_is_refused() {
        let whole = r#"{"type":"a.b","specversion":"1.0","id":"1","source":"/x","n":1,"n":2.50}"#;
        assert_eq!(defaults().line(whole).unwrap().get(), whole);
        for bad in ["", "[]", "{", r#"{"topic":"a"}"#, r#"{"topic":"a.b","typo":1}"#] {
            assert!(defaults().line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digits_and_order_stay_whichever_way_data_come_in() {
        let data = r#"{"z":1,"n":12345678901234567890123,"amount":1.10,"e":1E2,"z":"\ud800"}"#;
        let short = format!(r#"{{"topic":"a.b","data":{data}}}"#);
        assert!(defaults().line(&short).unwrap().get().ends_with(&format!(r#""data":{data}}}"#)));
        let Body::Json(json) = Body::from_text(&format!(" {data}\n")) else { panic!("is JSON") };
        assert_eq!(json.get(), data);
    }

    #[test]
    fn data_is_json_or_else_text_and_what_looks_like_json_is_suspicious() {
        let suspicion = |text: &str| Body::from_text(text).suspicion();
        for fine in [r#"{"a":1}"#, "hello", "", "12:30", "it's {", "1e400", "'tis"] {
            assert_eq!(suspicion(fine), None, "{fine}");
        }
        for odd in ["{a:1}", "[1,]", "'{\"a\":1}'", "\"open", " {'a': 1}", "{\"a\":NaN}"] {
            let why = suspicion(odd).unwrap();
            assert!(why.contains("at column"), "{odd}: {why}");
        }
        assert_eq!(Body::Tombstone.suspicion(), None);
    }
}
