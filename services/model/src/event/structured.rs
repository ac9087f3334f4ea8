//! Events in the CloudEvents JSON format 1.0.2: one, or a batch.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::value::RawValue;

use super::cloud_event::CloudEvent;
use super::fault::EventFault;
use super::members::Members;
use crate::limits::MAX_BATCH_EVENTS;
use crate::media_type::{Content, MediaType};
use crate::strict_json;

/// The attributes the specification names, all of which are text.
const TEXT_ATTRIBUTES: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

impl CloudEvent {
    /// Reads one event, `application/cloudevents+json`.
    ///
    /// `data` is kept as it is written (digits, order of members, members that stand twice, white
    /// space). JSON that strict parsers refuse is refused with the field at fault: see
    /// `strict_json`. `"data": null` is the JSON value null; only an event with neither `data`
    /// nor `data_base64` is a tombstone.
    pub fn from_json(json: &[u8]) -> Result<Self, EventFault> {
        let members = Members::read(json).map_err(|fault| {
            let due = if fault.member.is_some() { "JSON" } else { "a JSON object" };
            EventFault::malformed(fault.member, format!("is not {due}: {}", fault.error))
        })?;
        event_of(members)
    }

    /// Reads a batch, `application/cloudevents-batch+json`; a fault names the event by its place,
    /// for example `events[3].id`.
    pub fn from_json_batch(json: &[u8]) -> Result<Vec<Self>, EventFault> {
        let events: Vec<&RawValue> = serde_json::from_slice(json).map_err(|error| {
            let problem = format!("is not in a JSON array, which a batch is: {error}");
            EventFault::malformed(None, problem)
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

fn event_of(members: Members<'_>) -> Result<CloudEvent, EventFault> {
    let (mut attributes, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in members.0 {
        let name = read_name(name)?;
        if !seen.insert(name.clone()) {
            return Err(EventFault::invalid(name, "stands twice: leave one"));
        }
        match name.as_str() {
            "data" => data = Some(value),
            "data_base64" => data_base64 = Some(value),
            // The format says that an attribute of null is an attribute that is not set.
            _ if value == "null" => {}
            _ => {
                let text = attribute_text(&name, value)?;
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

/// The name of a member. One that is no text is shown as it was written.
fn read_name(json: &str) -> Result<String, EventFault> {
    strict_json::string(json).map_err(|flaw| {
        let shown: String = json.trim_matches('"').chars().take(80).collect();
        let why = flaw.map_or_else(|| String::from("is not a string"), |flaw| flaw.to_string());
        EventFault::invalid(shown, format!("is the name of a member that {why}"))
    })
}

/// Extensions may be booleans and integers; as headers carry text, text is what they become.
fn attribute_text(name: &str, json: &str) -> Result<String, EventFault> {
    let flaw = match strict_json::string(json) {
        Ok(text) => return Ok(text),
        Err(flaw) => flaw,
    };
    let number = json.strip_prefix('-').unwrap_or(json);
    let scalar = matches!(json, "true" | "false") || number.bytes().all(|b| b.is_ascii_digit());
    let rule = match flaw {
        Some(flaw) => flaw.to_string(),
        None if TEXT_ATTRIBUTES.contains(&name) => String::from("is not a string: write it as one"),
        None if scalar => return Ok(json.to_owned()),
        None => String::from(
            "is not a string, a boolean or an integer: put structured values into the data",
        ),
    };
    Err(EventFault::invalid(name, rule))
}

/// The bytes that `data` stands for: JSON text, or the characters of a string if the media type is
/// not JSON. Says the media type where the format implies it.
fn encode(json: &str, attributes: &mut BTreeMap<String, String>) -> Result<Bytes, EventFault> {
    let declared = attributes.get("datacontenttype").filter(|declared| !declared.is_empty());
    let Some(declared) = declared else {
        attributes.insert("datacontenttype".into(), "application/json".into());
        return as_json(json);
    };
    let media_type = MediaType::parse(declared);
    if media_type.as_ref().is_some_and(|media_type| !media_type.is_utf8()) {
        let rule = "names another charset than UTF-8, in which the data of a JSON event is: leave \
                    the charset out, or send the bytes as data_base64";
        return Err(EventFault::invalid("datacontenttype", format!("is {declared:?} and {rule}")));
    }
    if media_type.is_some_and(|media_type| media_type.content() == Content::Json) {
        return as_json(json);
    }
    strict_json::string(json).map(Bytes::from).map_err(|flaw| {
        let problem = match flaw {
            Some(flaw) => flaw.to_string(),
            None => format!("is not a string although datacontenttype is {declared:?}"),
        };
        EventFault::invalid("data", format!("{problem}: write a string or use data_base64"))
    })
}

fn as_json(json: &str) -> Result<Bytes, EventFault> {
    match strict_json::check(json.as_bytes()) {
        Ok(json) => Ok(Bytes::copy_from_slice(json.as_bytes())),
        Err(flaw) => {
            Err(EventFault::unreadable(&flaw, "to keep it as it is, send the bytes as data_base64"))
        }
    }
}

/// The bytes as they are: under a JSON media type too, as a consumer gets them in base64 again
/// unless every parser reads them.
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
