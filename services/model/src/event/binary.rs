//! Events in CloudEvents binary mode: attributes in headers, data in the body.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::cloud_event::CloudEvent;
use super::fault::EventFault;
use super::{CONTENT_TYPE, PREFIX, attribute};
use crate::media_type::{Content, MediaType};
use crate::strict_json;

impl CloudEvent {
    /// Reads an event from headers (names in lower case) and a body.
    ///
    /// An **empty body is no data**, so the event is a tombstone: HTTP cannot tell the two apart.
    /// Whoever means empty data sends `"data": ""` in the JSON format.
    ///
    /// A body that is said to be JSON must be JSON that every parser reads; so must one without a
    /// media type that some parsers read as JSON.
    pub fn from_binary<'a>(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: Bytes,
    ) -> Result<Self, EventFault> {
        let mut attributes = BTreeMap::new();
        for (header, value) in headers {
            let name = match header.strip_prefix(PREFIX) {
                Some("datacontenttype") => {
                    let rule =
                        "is carried by the header content-type: leave ce-datacontenttype out";
                    return Err(EventFault::invalid("datacontenttype", rule));
                }
                Some(name) => name,
                None if header == CONTENT_TYPE => "datacontenttype",
                None => continue,
            };
            let bytes = attribute::read(header, value);
            let text = String::from_utf8(bytes).map_err(|_| {
                let rule = "is not UTF-8: percent-encode what is not visible ASCII";
                EventFault::invalid(name, rule)
            })?;
            if attributes.insert(name.to_owned(), text).is_some() {
                return Err(EventFault::invalid(name, "stands twice: leave one"));
            }
        }
        if !body.is_empty() {
            check_body(attributes.get("datacontenttype"), &body)?;
        }
        Self::check(attributes, Some(body).filter(|body| !body.is_empty()))
    }
}

fn check_body(declared: Option<&String>, body: &[u8]) -> Result<(), EventFault> {
    let is_json = match declared.filter(|declared| !declared.is_empty()) {
        Some(declared) => MediaType::parse(declared)
            .is_some_and(|media_type| media_type.content() == Content::Json),
        None => strict_json::is_loosely_json(body),
    };
    match strict_json::check(body) {
        Err(flaw) if is_json => {
            let way = "to keep it as it is, send it as application/octet-stream";
            Err(EventFault::unreadable(&flaw, way))
        }
        _ => Ok(()),
    }
}
