//! Events in the CloudEvents JSON format 1.0.2: one, or a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::cloud_event::CloudEvent;
use super::content::Content;
use super::fault::EventFault;
use crate::limits::MAX_BATCH_EVENTS;

/// The attributes the specification names, all of which are text.
const TEXT_ATTRIBUTES: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

impl CloudEvent {
    /// Reads one event, `application/cloudevents+json`.
    ///
    /// `data` is kept as it is written (digits, order of members, white space). `"data": null` is
    /// the JSON value null; only an event with neither `data` nor `data_base64` is a tombstone.
    pub fn from_json(json: &[u8]) -> Result<Self, EventFault> {
        let members: Members<'_> = serde_json::from_slice(json)
            .map_err(|error| EventFault::malformed(format!("is not a JSON object: {error}")))?;
        members.into_event()
    }

    /// Reads a batch, `application/cloudevents-batch+json`; a fault names the event by its place,
    /// for example `events[3].id`.
    pub fn from_json_batch(json: &[u8]) -> Result<Vec<Self>, EventFault> {
        let events: Vec<&RawValue> = serde_json::from_slice(json).map_err(|error| {
            EventFault::malformed(format!("is not in a JSON array, which a batch is: {error}"))
        })?;
        if events.len() > MAX_BATCH_EVENTS {
            return Err(EventFault::too_many(format!(
                "has {} events: at most {MAX_BATCH_EVENTS}, send the rest in another",
                events.len()
            )));
        }
        let numbered = events.iter().enumerate();
        numbered
            .map(|(at, event)| {
                Self::from_json(event.get().as_bytes()).map_err(|fault| fault.in_batch(at))
            })
            .collect()
    }
}

/// The members of a JSON object in their order, values unread.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl Members<'_> {
    fn into_event(self) -> Result<CloudEvent, EventFault> {
        let (mut attributes, mut seen) = (BTreeMap::new(), BTreeSet::new());
        let (mut data, mut data_base64) = (None, None);
        for (name, value) in self.0 {
            if !seen.insert(name.clone()) {
                return Err(EventFault::invalid(name, "stands twice: leave one"));
            }
            match name.as_str() {
                "data" => data = Some(value.get()),
                "data_base64" => data_base64 = Some(value.get()),
                // The format says that an attribute of null is an attribute that is not set.
                _ if value.get() == "null" => {}
                _ => {
                    let text = attribute_text(&name, value.get())?;
                    attributes.insert(name, text);
                }
            }
        }
        let data = match (data, data_base64) {
            (None, None) => None,
            (None, Some(base64)) => decode(base64)?,
            (Some(json), None) => Some(encode(json, &mut attributes)?),
            (Some(_), Some(_)) => {
                let problem = "stands beside data: an event has one of the two";
                return Err(EventFault::invalid("data_base64", problem));
            }
        };
        CloudEvent::check(attributes, data)
    }
}

/// Extensions may be booleans and integers; as headers carry text, text is what they become.
fn attribute_text(name: &str, json: &str) -> Result<String, EventFault> {
    if let Ok(text) = serde_json::from_str::<String>(json) {
        return Ok(text);
    }
    let number = json.strip_prefix('-').unwrap_or(json);
    let scalar = matches!(json, "true" | "false") || number.bytes().all(|b| b.is_ascii_digit());
    if scalar && !TEXT_ATTRIBUTES.contains(&name) {
        return Ok(json.to_owned());
    }
    let rule = if TEXT_ATTRIBUTES.contains(&name) {
        "is not a string: write it as one"
    } else {
        "is not a string, a boolean or an integer: put structured values into the data"
    };
    Err(EventFault::invalid(name, rule))
}

/// The bytes that `data` stands for: JSON text, or the characters of a string if the media type is
/// not JSON. Says the media type where the format implies it.
fn encode(json: &str, attributes: &mut BTreeMap<String, String>) -> Result<Bytes, EventFault> {
    let declared = attributes.get("datacontenttype").filter(|declared| !declared.is_empty());
    match declared.map(|declared| (declared, Content::of(declared))) {
        None => {
            attributes.insert("datacontenttype".into(), "application/json".into());
            Ok(Bytes::copy_from_slice(json.as_bytes()))
        }
        Some((_, Content::Json)) => Ok(Bytes::copy_from_slice(json.as_bytes())),
        Some((declared, Content::Text | Content::Binary)) => {
            serde_json::from_str::<String>(json).map(Bytes::from).map_err(|_| {
                let problem = format!("is not a string although datacontenttype is {declared:?}");
                EventFault::invalid("data", format!("{problem}: write a string or use data_base64"))
            })
        }
    }
}

fn decode(json: &str) -> Result<Option<Bytes>, EventFault> {
    if json == "null" {
        return Ok(None);
    }
    let text: Option<String> = serde_json::from_str(json).ok();
    match text.and_then(|text| BASE64.decode(text.as_bytes()).ok()) {
        Some(bytes) => Ok(Some(bytes.into())),
        None => Err(EventFault::invalid("data_base64", "is not a string of padded base64")),
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is a JSON object")
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
