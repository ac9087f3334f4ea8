//! Names that are valid on every backend, because they cannot be built otherwise.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

const MAX_NAME_BYTES: usize = 128;
const MAX_SUBJECT_BYTES: usize = 1024;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 128 characters of `A-Z a-z 0-9 _ -`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name; anything else is [`crate::ErrorKind::Invalid`].
            pub fn new(name: impl AsRef<str>) -> Result<Self> {
                check_name($what, name.as_ref())?;
                Ok(Self(Arc::from(name.as_ref())))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;
            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }
    };
}

name!(
    /// The name of a stream.
    ///
    /// ```
    /// # fn main() -> Result<(), bus::Error> {
    /// use bus::StreamName;
    ///
    /// assert_eq!(StreamName::new("orders")?.as_str(), "orders");
    /// assert!(StreamName::new("orders.created").is_err(), "a dot is for subjects");
    /// # Ok(())
    /// # }
    /// ```
    StreamName,
    "stream name"
);
name!(
    /// The name of a durable consumer.
    ///
    /// ```
    /// # fn main() -> Result<(), bus::Error> {
    /// use bus::ConsumerName;
    ///
    /// assert_eq!(ConsumerName::new("billing")?.as_str(), "billing");
    /// assert!(ConsumerName::new("billing service").is_err(), "no backend takes a space");
    /// # Ok(())
    /// # }
    /// ```
    ConsumerName,
    "consumer name"
);
name!(
    /// The name of a key-value bucket.
    ///
    /// ```
    /// # fn main() -> Result<(), bus::Error> {
    /// use bus::BucketName;
    ///
    /// assert_eq!(BucketName::new("state")?.as_str(), "state");
    /// assert!(BucketName::new("").is_err(), "not empty");
    /// # Ok(())
    /// # }
    /// ```
    BucketName,
    "bucket name"
);

fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES;
    if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} {name:?} is not 1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 _ -"
    )))
}

/// Where a message belongs: tokens joined by dots, for example `orders.created`.
///
/// No token is empty and none holds white space, a control character, `*` or `>`; at most 1024
/// bytes. A key of a bucket is a subject too. Only what others have stored may break these rules
/// (see [`Subject::received`]).
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::Subject;
///
/// let subject = Subject::new("orders.created")?;
/// assert_eq!(subject.tokens().collect::<Vec<_>>(), ["orders", "created"]);
/// assert!(Subject::new("orders.*").is_err(), "one is published to, not a pattern");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Parses a subject; anything else is [`crate::ErrorKind::Invalid`].
    pub fn new(subject: impl AsRef<str>) -> Result<Self> {
        let subject = subject.as_ref();
        check_tokens(subject)?;
        if subject.split('.').any(|token| token == "*" || token == ">") {
            return Err(Error::invalid(format!(
                "subject {subject:?} has a wildcard: name one subject to publish to"
            )));
        }
        Ok(Self(Arc::from(subject)))
    }

    /// A subject as a backend delivered it, taken as it is: for drivers.
    ///
    /// Other clients publish to subjects that [`Subject::new`] refuses, such as `events.x*y` or
    /// one of 4096 bytes. They are stored by then, and to refuse one would stop whoever reads the
    /// stream.
    pub fn received(subject: &str) -> Self {
        Self(Arc::from(subject))
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens between the dots.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Subject {
    type Error = Error;
    fn try_from(subject: &str) -> Result<Self> {
        Self::new(subject)
    }
}

impl TryFrom<String> for Subject {
    type Error = Error;
    fn try_from(subject: String) -> Result<Self> {
        Self::new(subject)
    }
}

/// A pattern over subjects: `*` stands for one token, a last `>` for one or more.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::SubjectFilter;
///
/// let filter = SubjectFilter::new("orders.*.paid")?;
/// assert!(filter.matches("orders.42.paid") && !filter.matches("orders.42.lost"));
/// assert!(filter.overlaps(&SubjectFilter::new("orders.>")?));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectFilter(Arc<str>);

impl SubjectFilter {
    /// Parses a filter; anything else is [`crate::ErrorKind::Invalid`].
    pub fn new(filter: impl AsRef<str>) -> Result<Self> {
        let filter = filter.as_ref();
        check_tokens(filter)?;
        let last = filter.split('.').count() - 1;
        if filter.split('.').enumerate().any(|(at, token)| token == ">" && at != last) {
            return Err(Error::invalid(format!(
                "filter {filter:?} has \">\" before its end: it stands for all remaining tokens"
            )));
        }
        Ok(Self(Arc::from(filter)))
    }

    /// The filter that every subject matches.
    pub fn all() -> Self {
        Self(Arc::from(">"))
    }

    /// Every subject below the name: `<name>.>`.
    pub(crate) fn below(name: &StreamName) -> Self {
        Self(Arc::from(format!("{name}.>")))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when `subject` matches.
    pub fn matches(&self, subject: &str) -> bool {
        // Every message meets it, so that it goes by bytes and token by token only at a wildcard.
        let (mut pattern, mut rest) = (self.0.as_bytes(), subject.as_bytes());
        while let Some((first, behind)) = pattern.split_first() {
            pattern = behind;
            rest = match (first, rest.split_first()) {
                (b'>', _) => return true,
                (b'*', _) => {
                    let token = rest.iter().position(|byte| *byte == b'.');
                    rest.split_at(token.unwrap_or(rest.len())).1
                }
                (literal, Some((byte, left))) if literal == byte => left,
                _ => return false,
            };
        }
        rest.is_empty()
    }

    /// True when every subject that matches `other` matches this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) | (Some(">"), Some(_)) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(own), Some(token)) if own == token => {}
                _ => return false,
            }
        }
    }

    /// True when some subject matches both filters.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (None, _) | (_, None) => return false,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for SubjectFilter {
    type Error = Error;
    fn try_from(filter: &str) -> Result<Self> {
        Self::new(filter)
    }
}

impl TryFrom<String> for SubjectFilter {
    type Error = Error;
    fn try_from(filter: String) -> Result<Self> {
        Self::new(filter)
    }
}

impl From<&Subject> for SubjectFilter {
    fn from(subject: &Subject) -> Self {
        Self(subject.0.clone())
    }
}

/// True for a well-formed subject of ASCII alone. Nearly every one is: a single pass for those.
fn is_plain(subject: &str) -> bool {
    let mut before = b'.';
    let whole = subject.bytes().all(|byte| {
        let starts_empty = byte == b'.' && before == b'.';
        before = byte;
        !starts_empty && byte.is_ascii_graphic() && byte != b'*' && byte != b'>'
    });
    whole && before != b'.' && subject.len() <= MAX_SUBJECT_BYTES
}

fn check_tokens(subject: &str) -> Result<()> {
    if is_plain(subject) {
        return Ok(());
    }
    let problem = if subject.is_empty() {
        "is empty"
    } else if subject.len() > MAX_SUBJECT_BYTES {
        "is longer than 1024 bytes"
    } else if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "has white space or a control character"
    } else if subject.split('.').any(str::is_empty) {
        "has an empty token"
    } else if subject.split('.').any(|t| t.len() > 1 && t.contains(['*', '>'])) {
        "mixes a wildcard with text in one token"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("subject {subject:?} {problem}: write tokens joined by dots")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_a_backend_would() {
        for bad in ["", "a.b", "a b", "a*", "é", &"x".repeat(129)] {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(StreamName::new("events-directory_1").unwrap().as_str(), "events-directory_1");
    }

    #[test]
    fn subjects_refuse_wildcards_and_empty_tokens() {
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a.b*", "a\n"] {
            assert!(Subject::new(bad).is_err(), "{bad:?}");
        }
        assert!(Subject::new("events.directory.user.anna=40b").is_ok());
    }

    #[test]
    fn what_others_stored_is_taken_as_it_is() {
        for foreign in ["events.x*y", "a..b", "a.*", &"x".repeat(4096)] {
            assert!(Subject::new(foreign).is_err(), "{foreign:?}");
            assert_eq!(Subject::received(foreign).as_str(), foreign);
        }
        assert_eq!(Subject::received("a.b"), Subject::new("a.b").unwrap());
    }

    #[test]
    fn filters_match_as_the_nats_documentation_says() {
        let matches = |f: &str, s: &str| SubjectFilter::new(f).unwrap().matches(s);
        assert!(matches("a.*", "a.b") && !matches("a.*", "a") && !matches("a.*", "a.b.c"));
        assert!(matches("a.>", "a.b") && matches("a.>", "a.b.c") && !matches("a.>", "a"));
        assert!(matches(">", "a") && matches("*.b", "a.b") && !matches("a.b", "a.c"));
        assert!(SubjectFilter::new("a.>.b").is_err());
    }

    #[test]
    fn filters_match_token_by_token() {
        fn by_token(filter: &[&str], subject: &[&str]) -> bool {
            match (filter, subject) {
                ([], []) => true,
                ([">", ..], [_, ..]) => true,
                ([first, filter @ ..], [token, subject @ ..]) => {
                    (*first == "*" || first == token) && by_token(filter, subject)
                }
                _ => false,
            }
        }
        // What others stored may have empty tokens, and wildcards that are none.
        let tokens = ["", "a", "ab", "*", ">"];
        let texts = |size| {
            (0..size).fold(vec![String::new()], |texts, at| {
                let dot = if at == 0 { "" } else { "." };
                let longer = |text: &String| tokens.map(|token| format!("{text}{dot}{token}"));
                texts.iter().flat_map(longer).collect()
            })
        };
        let texts: Vec<String> = (1..=3).flat_map(texts).collect();
        let filters: Vec<_> =
            texts.iter().filter_map(|text| SubjectFilter::new(text).ok()).collect();
        for (filter, subject) in filters.iter().flat_map(|f| texts.iter().map(move |s| (f, s))) {
            let (left, right) = (filter.as_str().split('.'), subject.split('.'));
            let wanted = by_token(&left.collect::<Vec<_>>(), &right.collect::<Vec<_>>());
            assert_eq!(filter.matches(subject), wanted, "{filter} and {subject:?}");
        }
    }

    #[test]
    fn a_filter_covers_what_it_matches_all_of() {
        let covers = |a: &str, b: &str| {
            SubjectFilter::new(a).unwrap().covers(&SubjectFilter::new(b).unwrap())
        };
        for (wide, narrow) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("a.>", "a.*.c"),
            (">", "a"),
            ("a.>", "a.>"),
            ("*.>", "a.*"),
        ] {
            assert!(covers(wide, narrow), "{wide} and {narrow}");
        }
        for (narrow, wide) in [
            ("a.b", "a.*"),
            ("a.*", "a.>"),
            ("a.>", "a"),
            ("a.*", "a.b.c"),
            ("a.*", ">"),
            ("a", "b"),
        ] {
            assert!(!covers(narrow, wide), "{narrow} and {wide}");
        }
    }

    #[test]
    fn overlap_is_symmetric_and_right() {
        let overlaps = |a: &str, b: &str| {
            let (a, b) = (SubjectFilter::new(a).unwrap(), SubjectFilter::new(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        assert!(overlaps("a.*", "a.b") && overlaps("a.>", "a.b.c") && overlaps("*.b", "a.*"));
        assert!(!overlaps("a.b", "a.c") && !overlaps("a.*", "a.b.c") && !overlaps("a.>", "a"));
    }
}
