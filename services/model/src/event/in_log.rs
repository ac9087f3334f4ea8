//! What a message of a log says of its event, in whichever content mode it was written
//! (CloudEvents NATS binding 1.0.2, section 3). Nothing of it can fail: what cannot be used is left
//! out, and the log knows what to say instead.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bus::Headers;
use data_encoding::BASE64;

use super::members::Members;
use super::{CONTENT_TYPE, PREFIX, attribute, json};
use crate::media_type::{Content, MediaType};
use crate::strict_json;

/// The attributes without which an object is not taken for an event by its shape.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// Said by the message itself, or meaningless in the format of delivery.
const NOT_TAKEN: [&str; 5] = ["specversion", "subject", "topic", "logsequence", "data"];
/// Empty is not set.
const NEVER_EMPTY: [&str; 6] = ["id", "source", "type", "time", "datacontenttype", "dataschema"];

/// What was understood of a message.
#[derive(Default)]
pub(super) struct Told<'a> {
    /// Every usable attribute; of a repeated one, the first.
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) data: Held<'a>,
}

/// The data as the message holds them.
#[derive(Default)]
pub(super) enum Held<'a> {
    /// None: the event deletes its key.
    #[default]
    None,
    /// Bytes of the attribute `datacontenttype`.
    Bytes(Cow<'a, [u8]>),
    /// The member `data` of an event in the JSON format, as it is written.
    Member(&'a str),
}

/// How the data are written in the JSON format.
pub(super) enum Shown<'a> {
    None,
    Json(Cow<'a, str>),
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
}

impl<'a> Told<'a> {
    /// Reads a message. It is in structured mode when its `content-type` says so or, without that
    /// header and without one that begins with `ce-`, when it has the shape of an event of version
    /// 1.0. Otherwise it is in binary mode. The binding has no batch mode: a batch is data.
    pub(super) fn read(headers: &Headers, payload: Option<&'a [u8]>) -> Self {
        let structured = payload.and_then(|payload| structured(headers, payload));
        structured.unwrap_or_else(|| {
            let data = payload.map_or(Held::None, |payload| Held::Bytes(payload.into()));
            Self { attributes: from_headers(headers), data }
        })
    }

    fn add(&mut self, name: &str, text: String) {
        let unset = text.is_empty() && NEVER_EMPTY.contains(&name);
        if attribute::is_name(name) && !NOT_TAKEN.contains(&name) && !unset {
            self.attributes.entry(name.to_owned()).or_insert(text);
        }
    }
}

/// True when the message deletes its key.
pub(super) fn is_tombstone(headers: &Headers, payload: Option<&[u8]>) -> bool {
    let Some(payload) = payload else { return true };
    structured(headers, payload).is_some_and(|told| matches!(told.data, Held::None))
}

fn from_headers(headers: &Headers) -> BTreeMap<String, String> {
    let (mut told, mut content_type) = (Told::default(), None);
    for (header, value) in headers.iter() {
        let header = header.to_ascii_lowercase();
        // What is not UTF-8 once decoded is no value (section 3.1.3.2).
        let Ok(text) = String::from_utf8(attribute::read(&header, value)) else { continue };
        match header.strip_prefix(PREFIX) {
            Some(name) => told.add(name, text),
            None if header == CONTENT_TYPE => content_type = content_type.or(Some(text)),
            None => {}
        }
    }
    // The binding names `ce-datacontenttype`; what comes over HTTP has the other.
    if let Some(content_type) = content_type {
        told.add("datacontenttype", content_type);
    }
    told.attributes
}

/// The event in a message of structured mode.
fn structured<'a>(headers: &Headers, payload: &'a [u8]) -> Option<Told<'a>> {
    let (mut content_type, mut has_attributes) = (None, false);
    for (header, value) in headers.iter() {
        let begins = |prefix: &str| {
            header.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        has_attributes |= begins(PREFIX);
        if header.eq_ignore_ascii_case(CONTENT_TYPE) {
            content_type = content_type.or(Some(value));
        }
    }
    match content_type {
        Some(value) => {
            let media_type = std::str::from_utf8(value).ok().and_then(MediaType::parse)?;
            let formats = ["application/cloudevents+json", "application/cloudevents"];
            formats.contains(&media_type.essence()).then(|| of_members(payload))?
        }
        None if has_attributes => None,
        None => {
            // Most of what comes without headers is plain data: not worth a parse.
            let named = payload.windows(13).any(|at| at == b"\"specversion\"");
            let members = named.then(|| Members::read(payload).ok())??;
            has_shape(&members).then(|| of_members(payload))?
        }
    }
}

fn has_shape(members: &Members<'_>) -> bool {
    let of = |wanted: &str| {
        let named = |name: &str| strict_json::string(name).is_ok_and(|name| name == wanted);
        let member = members.0.iter().find(|(name, _)| named(name));
        member.and_then(|(_, value)| strict_json::string(value).ok())
    };
    REQUIRED.iter().all(|name| of(name).is_some_and(|value| !value.is_empty()))
        && of("specversion").is_some_and(|version| version == "1.0")
}

fn of_members(payload: &[u8]) -> Option<Told<'_>> {
    let mut told = Told::default();
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in Members::read(payload).ok()?.0 {
        match strict_json::string(name).unwrap_or_default().as_str() {
            "data" => data = data.or(Some(value)),
            "data_base64" => data_base64 = data_base64.or(Some(value)),
            name => {
                if let Some(text) = scalar(value) {
                    told.add(name, text);
                }
            }
        }
    }
    told.data = match (data, data_base64.filter(|value| *value != "null")) {
        (Some(json), _) => Held::Member(json),
        (None, Some(base64)) => {
            let text = strict_json::string(base64).ok()?;
            Held::Bytes(BASE64.decode(text.as_bytes()).ok()?.into())
        }
        (None, None) => Held::None,
    };
    Some(told)
}

/// The text of an attribute: of a string, and of what an extension may be besides.
fn scalar(json: &str) -> Option<String> {
    let number = json.strip_prefix('-').unwrap_or(json);
    if matches!(json, "true" | "false") || number.bytes().all(|b| b.is_ascii_digit()) {
        return Some(json.to_owned());
    }
    strict_json::string(json).ok()
}

impl<'a> Held<'a> {
    /// How the data are written, and the media type to say with them: the one that is declared, or
    /// what they look like. What is said to be JSON and is not JSON that every parser reads is
    /// bytes, so that no reader stops at it.
    pub(super) fn shown(self, declared: Option<String>) -> (Option<String>, Shown<'a>) {
        match self {
            Self::None => (declared, Shown::None),
            Self::Bytes(bytes) => match declared {
                Some(declared) => {
                    let content = MediaType::parse(&declared).map(|it| it.content());
                    (Some(declared), show(bytes, content.unwrap_or(Content::Binary)))
                }
                None => {
                    let (media_type, content) = guess(&bytes);
                    (Some(media_type.to_owned()), show(bytes, content))
                }
            },
            Self::Member(json) => {
                // The JSON format implies it.
                let declared = declared.unwrap_or_else(|| String::from("application/json"));
                let content = MediaType::parse(&declared).map(|it| it.characters());
                (Some(declared), show_member(json, content.unwrap_or(Content::Binary)))
            }
        }
    }
}

fn guess(bytes: &[u8]) -> (&'static str, Content) {
    if strict_json::is_loosely_json(bytes) {
        ("application/json", Content::Json)
    } else if std::str::from_utf8(bytes).is_ok() {
        ("text/plain", Content::Text)
    } else {
        ("application/octet-stream", Content::Binary)
    }
}

fn show(bytes: Cow<'_, [u8]>, content: Content) -> Shown<'_> {
    match (content, bytes) {
        (Content::Json, Cow::Borrowed(bytes)) => {
            json::one_line(bytes).map_or(Shown::Binary(bytes.into()), Shown::Json)
        }
        (Content::Json, Cow::Owned(bytes)) => {
            let json = json::one_line(&bytes).map(|json| Shown::Json(json.into_owned().into()));
            json.unwrap_or(Shown::Binary(bytes.into()))
        }
        (Content::Text, Cow::Borrowed(bytes)) => {
            let text = std::str::from_utf8(bytes);
            text.map_or(Shown::Binary(bytes.into()), |text| Shown::Text(text.into()))
        }
        (Content::Text, Cow::Owned(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => Shown::Text(text.into()),
            Err(error) => Shown::Binary(error.into_bytes().into()),
        },
        (Content::Binary, bytes) => Shown::Binary(bytes),
    }
}

/// Characters need no encoding; what is no string under a media type of text stays what it is.
fn show_member(json: &str, content: Content) -> Shown<'_> {
    match (content, strict_json::string(json)) {
        (Content::Text, Ok(text)) => Shown::Text(text.into()),
        (Content::Binary, Ok(text)) => Shown::Binary(text.into_bytes().into()),
        _ => show(json.as_bytes().into(), Content::Json),
    }
}
