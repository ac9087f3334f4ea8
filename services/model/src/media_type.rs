//! Media types: what they say about the bytes they label.

use mediatype::MediaType as Parsed;
use mediatype::ReadParams;

/// How the bytes of a media type stand in a JSON event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// As JSON.
    Json,
    /// As a string.
    Text,
    /// In base64, whatever the bytes happen to be, so that a consumer meets one form only.
    Binary,
}

/// A media type that was understood: `type/subtype` and parameters, which may stand in any order,
/// quoted or not, in any case (RFC 9110, section 8.3.1). Of the parameters only `charset` has a
/// meaning here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    essence: String,
    /// `type` and what counts of the subtype: its suffix where it has one.
    kind: (String, String),
    has_charset: bool,
    is_utf8: bool,
}

impl MediaType {
    /// Reads a media type; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        const MAX_BYTES: usize = 256;
        // HTTP takes white space off a header's ends; an attribute still has it.
        let text = text.trim_matches([' ', '\t']);
        let printable = |b: u8| b.is_ascii_graphic() || b == b' ' || b == b'\t';
        if text.len() > MAX_BYTES || !text.bytes().all(printable) {
            return None;
        }
        let parsed = Parsed::parse(text).ok()?;
        let lower = |text: &str| text.to_ascii_lowercase();
        let (kind, subtype) = (lower(parsed.ty.as_str()), lower(parsed.subty.as_str()));
        let suffix = parsed.suffix.map(|suffix| lower(suffix.as_str()));
        let essence = match &suffix {
            Some(suffix) => format!("{kind}/{subtype}+{suffix}"),
            None => format!("{kind}/{subtype}"),
        };
        let charset = mediatype::names::CHARSET;
        let mut charsets = parsed.params().filter(|(name, _)| *name == charset).peekable();
        let has_charset = charsets.peek().is_some();
        let is_utf8 = charsets.all(|(_, value)| {
            let value = value.unquoted_str().to_ascii_lowercase();
            ["utf-8", "utf8", "us-ascii"].contains(&value.as_str())
        });
        let kind = (kind, suffix.unwrap_or(subtype));
        Some(Self { essence, kind, has_charset, is_utf8 })
    }

    /// `type/subtype` in lower case, without parameters.
    pub fn essence(&self) -> &str {
        &self.essence
    }

    /// True for `application/json`, and for everything that ends in `+json`.
    pub fn is_json(&self) -> bool {
        self.kind.1 == "json"
    }

    /// False when it names a character encoding other than UTF-8, of which ASCII is a part.
    pub fn is_utf8(&self) -> bool {
        self.is_utf8
    }

    /// How bytes under it stand in a JSON event. JSON and text in another encoding than UTF-8 are
    /// bytes: to read them as UTF-8 would make other characters of them.
    pub fn content(&self) -> Content {
        if !self.is_utf8 { Content::Binary } else { self.characters() }
    }

    /// The same of what stands in a JSON text already, where no encoding has a part in it.
    pub fn characters(&self) -> Content {
        const TEXTS: [&str; 4] = ["xml", "yaml", "javascript", "x-www-form-urlencoded"];
        let (kind, subtype) = (self.kind.0.as_str(), self.kind.1.as_str());
        if self.is_json() {
            Content::Json
        } else if kind == "text" || TEXTS.contains(&subtype) || self.has_charset {
            Content::Text
        } else {
            Content::Binary
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(media_type: &str) -> Content {
        MediaType::parse(media_type).unwrap_or_else(|| panic!("{media_type}")).content()
    }

    #[test]
    fn media_types_are_told_apart_whatever_their_parameters() {
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "a/vnd.b+json",
            "application/vnd.x+JSON;v=1;Charset=\"UTF-8\"",
            "application/json; v=\"a;charset=latin1\"",
            "application/json; v=\"a\\\"b\"; charset=utf8;",
            "application/json ;\tcharset=us-ascii ",
        ] {
            assert_eq!(content(json), Content::Json, "{json}");
        }
        for text in [
            "text/plain",
            "application/xml",
            "image/svg+xml",
            "a/b; charset=utf-8",
            "a/b; v=1; CHARSET=\"utf-8\"",
        ] {
            assert_eq!(content(text), Content::Text, "{text}");
        }
        for binary in [
            "application/octet-stream",
            "application/protobuf",
            "a/b; xcharset=utf-8",
            "text/plain; charset=iso-8859-1",
            "application/json; v=1; charset=\"utf-16\"",
            "text/plain; charset=utf-8; charset=latin1",
        ] {
            assert_eq!(content(binary), Content::Binary, "{binary}");
        }
        let known = MediaType::parse("Application/CloudEvents+JSON; charset=latin1").unwrap();
        assert_eq!(known.essence(), "application/cloudevents+json");
        assert_eq!((known.is_json(), known.is_utf8()), (true, false));
        assert_eq!(known.characters(), Content::Json);
    }

    #[test]
    fn what_is_no_media_type_is_none() {
        let long = format!("a/{}", "b".repeat(300));
        for bad in
            ["", "json", "/json", "a/", "a b/c", "a/b\u{e9}", "a/b;\n", "a/b; charset", &long]
        {
            assert_eq!(MediaType::parse(bad), None, "{bad:?}");
        }
    }
}
