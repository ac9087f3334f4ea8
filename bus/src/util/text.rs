//! Text that is shared, wherever its bytes came from.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use bytestring::ByteString;

/// Immutable text that is cheap to clone: made here, or received and kept without a copy.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    Made(Arc<str>),
    Received(ByteString),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Made(text) => text,
            Self::Received(text) => text,
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Made(Arc::from(text))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Made(Arc::from(text))
    }
}

impl From<ByteString> for Text {
    fn from(text: ByteString) -> Self {
        Self::Received(text)
    }
}

// By the text alone: where it came from makes no difference.

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_origin_makes_no_difference() {
        let (made, received) = (Text::from("a.b"), Text::from(ByteString::from_static("a.b")));
        assert_eq!(made, received);
        assert!(HashSet::from([made.clone()]).contains(&received));
        assert_eq!(Text::from("a").cmp(&received), Ordering::Less);
    }
}
