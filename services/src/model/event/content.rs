//! What a media type says about the bytes it labels.

/// How the bytes of a media type stand in a JSON event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// As JSON.
    Json,
    /// As a string.
    Text,
    /// In base64, whatever the bytes happen to be, so that a consumer meets one form only.
    Binary,
}

impl Content {
    /// Reads a media type, parameters allowed.
    pub(super) fn of(media_type: &str) -> Self {
        let lower = media_type.to_ascii_lowercase();
        let (essence, parameters) = lower.split_once(';').unwrap_or((&lower, ""));
        let (kind, subtype) = essence.trim().split_once('/').unwrap_or(("", ""));
        let suffix = subtype.rsplit_once('+').map_or(subtype, |(_, suffix)| suffix);
        match (kind, suffix) {
            (_, "json") => Self::Json,
            ("text", _) | (_, "xml" | "yaml" | "javascript" | "x-www-form-urlencoded") => {
                Self::Text
            }
            _ if parameters.trim().starts_with("charset=") => Self::Text,
            _ => Self::Binary,
        }
    }
}

/// True for text that can be a media type: `type/subtype`, then anything visible.
pub(super) fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+*'`|~".contains(&b);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let essence = text.split(';').next().unwrap_or_default().trim_ascii();
    text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "a/vnd.b+json"] {
            assert_eq!(Content::of(json), Content::Json, "{json}");
        }
        for text in ["text/plain", "application/xml", "image/svg+xml", "a/b; charset=utf-8"] {
            assert_eq!(Content::of(text), Content::Text, "{text}");
        }
        for binary in ["application/octet-stream", "application/protobuf", "", "nonsense"] {
            assert_eq!(Content::of(binary), Content::Binary, "{binary}");
        }
        assert!(is_media_type("application/json; charset=utf-8") && is_media_type("text/xml"));
        for bad in ["", "json", "/json", "a/", "a b/c", "a/b\u{e9}", "a/b;\n"] {
            assert!(!is_media_type(bad), "{bad:?}");
        }
    }
}
