//! Events in CloudEvents binary mode: attributes in headers, data in the body.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::cloud_event::CloudEvent;
use super::fault::EventFault;
use super::{CONTENT_TYPE, PREFIX, attribute};

impl CloudEvent {
    /// Reads an event from headers (names in lower case) and a body.
    ///
    /// An **empty body is no data**, so the event is a tombstone: HTTP cannot tell the two apart.
    /// Whoever means empty data sends `"data": ""` in the JSON format.
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
            let text = String::from_utf8(attribute::read(name, value)).map_err(|_| {
                let rule = "is not UTF-8: percent-encode what is not visible ASCII";
                EventFault::invalid(name, rule)
            })?;
            if attributes.insert(name.to_owned(), text).is_some() {
                return Err(EventFault::invalid(name, "stands twice: leave one"));
            }
        }
        Self::check(attributes, Some(body).filter(|body| !body.is_empty()))
    }
}
