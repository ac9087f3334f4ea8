//! A CloudEvent from a publisher, checked.

use std::collections::BTreeMap;

use bus::Message;
use bytes::Bytes;

use super::fault::EventFault;
use super::{CONTENT_TYPE, PREFIX, attribute, timestamp};
use crate::limits::{MAX_ATTRIBUTES_BYTES, MAX_EVENT_BYTES, MAX_ID_BYTES};
use crate::{Key, MediaType, Topic, names};

/// The only version of the specification there is an encoding for.
const VERSION: &str = "1.0";

/// A CloudEvent (specification 1.0.2) that can be stored: its attributes are valid, it has a topic
/// and a key, and it fits. Data is kept byte for byte; an event without data is a tombstone, which
/// is not the same as empty data.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudEvent {
    topic: Topic,
    key: Key,
    /// Every attribute, `specversion` and `datacontenttype` too, as text.
    attributes: BTreeMap<String, String>,
    data: Option<Bytes>,
}

impl CloudEvent {
    /// Checks what a parser read. Attributes that are empty and may be left out are left out.
    pub(super) fn check(
        mut attributes: BTreeMap<String, String>,
        data: Option<Bytes>,
    ) -> Result<Self, EventFault> {
        for optional in ["subject", "time", "datacontenttype", "dataschema"] {
            if attributes.get(optional).is_some_and(String::is_empty) {
                attributes.remove(optional);
            }
        }
        for (name, value) in &attributes {
            check_attribute(name, value)?;
        }
        check_version(&attributes)?;
        check_identity(&attributes, "id")?;
        check_identity(&attributes, "source")?;
        check_present(&attributes, "type")?;
        check_forms(&attributes)?;
        check_size(&attributes, data.as_deref())?;
        let (topic, key) = (topic_of(&attributes)?, key_of(&attributes)?);
        Ok(Self { topic, key, attributes, data })
    }

    /// The attribute `id`: with [`CloudEvent::source`] it names the event.
    pub fn id(&self) -> &str {
        self.attribute("id").unwrap_or_default()
    }

    /// The attribute `source`.
    pub fn source(&self) -> &str {
        self.attribute("source").unwrap_or_default()
    }

    /// Where it belongs: the extension `topic`, or else `type`.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The object it is about: the attribute `subject`, or the empty key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The value of an attribute as text, if it is set.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// The data; `None` for a tombstone.
    pub fn data(&self) -> Option<&Bytes> {
        self.data.as_ref()
    }

    /// The event as its log stores it: CloudEvents binary mode, with `source` and `id` as the
    /// message id, so that publishing it again inside the duplicate window changes nothing.
    pub fn to_message(&self) -> Result<Message, bus::Error> {
        let mut message = Message::tombstone(names::event_subject(&self.topic, &self.key)?)?;
        message.payload = self.data.clone();
        for (name, value) in &self.attributes {
            if name == "datacontenttype" {
                message.headers.append(CONTENT_TYPE, value.clone())?;
            } else {
                let header = format!("{PREFIX}{name}");
                message.headers.append(header, attribute::to_header(value))?;
            }
        }
        let [source, id] = [self.source(), self.id()].map(attribute::to_header);
        Ok(message.key(self.key.as_str()).id(format!("{source} {id}")))
    }
}

fn check_attribute(name: &str, value: &str) -> Result<(), EventFault> {
    if !attribute::is_name(name) {
        let rule = "is not an attribute: a name is 1 to 64 characters of a-z 0-9";
        return Err(EventFault::invalid(name, rule));
    }
    if name == "data" {
        let rule = "is no attribute: in binary mode the data are the body";
        return Err(EventFault::invalid(name, rule));
    }
    if name == "logsequence" {
        return Err(EventFault::invalid(name, "is set by the log: leave it out"));
    }
    match attribute::forbidden(value) {
        None => Ok(()),
        Some(char) => Err(EventFault::invalid(
            name,
            format!("holds the character {char:?}, which no attribute may hold: take it out"),
        )),
    }
}

fn check_version(attributes: &BTreeMap<String, String>) -> Result<(), EventFault> {
    check_present(attributes, "specversion")?;
    match attributes.get("specversion").map(String::as_str) {
        Some(VERSION) => Ok(()),
        other => {
            let found = other.unwrap_or_default();
            let problem = format!("is {found:?}: only {VERSION:?} is understood");
            Err(EventFault::invalid("specversion", problem))
        }
    }
}

/// `source` and `id` become one message id: no white space in `source`, neither too long.
fn check_identity(
    attributes: &BTreeMap<String, String>,
    name: &'static str,
) -> Result<(), EventFault> {
    check_present(attributes, name)?;
    let value = attributes.get(name).map_or("", String::as_str);
    if value.len() > MAX_ID_BYTES {
        let problem = format!("has {} bytes: at most {MAX_ID_BYTES}", value.len());
        return Err(EventFault::invalid(name, problem));
    }
    if name == "source" && value.contains(char::is_whitespace) {
        let problem = format!("is {value:?}: a URI reference has no white space");
        return Err(EventFault::invalid(name, problem));
    }
    Ok(())
}

fn check_present(
    attributes: &BTreeMap<String, String>,
    name: &'static str,
) -> Result<(), EventFault> {
    match attributes.get(name).map(String::as_str) {
        None => Err(EventFault::invalid(name, "is missing: every event needs it")),
        Some("") => Err(EventFault::invalid(name, "is empty: every event needs it")),
        Some(_) => Ok(()),
    }
}

/// The attributes that have a form of their own.
fn check_forms(attributes: &BTreeMap<String, String>) -> Result<(), EventFault> {
    if let Some(time) = attributes.get("time")
        && !timestamp::is_rfc3339(time)
    {
        let example = "2026-01-31T12:00:00Z";
        let problem = format!("is {time:?}: write an RFC 3339 time, for example {example}");
        return Err(EventFault::invalid("time", problem));
    }
    if let Some(media_type) = attributes.get("datacontenttype")
        && MediaType::parse(media_type).is_none()
    {
        let problem = format!("is {media_type:?}: write a media type, for example text/plain");
        return Err(EventFault::invalid("datacontenttype", problem));
    }
    Ok(())
}

fn check_size(
    attributes: &BTreeMap<String, String>,
    data: Option<&[u8]>,
) -> Result<(), EventFault> {
    let stored = |(name, value): (&String, &String)| {
        PREFIX.len() + name.len() + attribute::to_header(value).len()
    };
    let header_bytes: usize = attributes.iter().map(stored).sum();
    if header_bytes > MAX_ATTRIBUTES_BYTES {
        return Err(EventFault::too_large(format!(
            "has {header_bytes} bytes of attributes once encoded: at most {MAX_ATTRIBUTES_BYTES}, \
             put more into the data"
        )));
    }
    let bytes = header_bytes + data.map_or(0, <[u8]>::len);
    if bytes > MAX_EVENT_BYTES {
        return Err(EventFault::too_large(format!(
            "has {bytes} bytes: at most {MAX_EVENT_BYTES}, store more elsewhere and refer to it"
        )));
    }
    Ok(())
}

fn topic_of(attributes: &BTreeMap<String, String>) -> Result<Topic, EventFault> {
    const RULE: &str = "a topic is realm.topic, each 1 to 64 characters of a-z 0-9 _ -, \
                        for example orders.created";
    if let Some(topic) = attributes.get("topic") {
        let wrong = |_| EventFault::invalid("topic", format!("is {topic:?}: {RULE}"));
        return topic.parse().map_err(wrong);
    }
    let kind = attributes.get("type").map_or("", String::as_str);
    kind.parse().map_err(|_| {
        let problem = format!("is {kind:?} and the extension topic is not set: {RULE}");
        EventFault::invalid("type", format!("{problem}; set topic to keep this type"))
    })
}

fn key_of(attributes: &BTreeMap<String, String>) -> Result<Key, EventFault> {
    Key::new(attributes.get("subject").cloned().unwrap_or_default()).map_err(|invalid| {
        let sentence = invalid.to_string();
        let problem = sentence.strip_prefix("subject ").unwrap_or(&sentence);
        EventFault::invalid("subject", problem)
    })
}
