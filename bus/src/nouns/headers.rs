//! An ordered multimap of header names and values.

use bytes::Bytes;

use crate::error::{Error, Result};

/// Message headers: names compare without regard to case, repeats and their order are kept.
///
/// Order between *different* names is kept by the embedded backend and Kafka; NATS keeps only the
/// order of the values of one name.
///
/// A value that a backend cannot carry (NATS: one that is not UTF-8, or has white space at an end)
/// makes the publish fail with [`crate::ErrorKind::Invalid`]; it is never changed.
///
/// What arrives from Kafka may have headers that [`Headers::append`] takes from nobody: any text as
/// a name, any bytes as a value, or no value at all. They are kept, and a copy that is published to
/// Kafka has them again; NATS refuses such a name or value. A value that is null reads as an empty
/// one everywhere but in [`Headers::entries`], and is an empty one once it was on a backend that
/// has no null.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// let mut headers = bus::Headers::new();
/// headers.append("ce-type", "order.created")?;
/// headers.append("tag", "a")?;
/// headers.append("tag", "b")?;
/// assert_eq!(headers.get("CE-Type"), Some("order.created"));
/// assert_eq!(headers.values("tag").count(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, Eq)]
pub struct Headers(Vec<(String, Option<Bytes>)>);

/// What a null reads as.
static EMPTY: Bytes = Bytes::new();

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value behind those the name has. A name is 1 to 256 visible ASCII characters
    /// without a colon; a value has no CR or LF. Anything else is [`crate::ErrorKind::Invalid`].
    pub fn append(&mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Result<()> {
        let (name, value) = (name.into(), value.into());
        let named = !name.is_empty() && name.len() <= 256;
        if !named || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err(Error::invalid(format!(
                "header name {name:?} is not 1 to 256 visible ASCII characters without a colon"
            )));
        }
        if value.iter().any(|b| *b == b'\r' || *b == b'\n') {
            return Err(Error::invalid(format!("the value of header {name} has a line break")));
        }
        self.0.push((name, Some(value)));
        Ok(())
    }

    /// Adds a header without a value, which only Kafka tells from one with an empty value. The same
    /// rules for the name as in [`Headers::append`].
    pub fn append_null(&mut self, name: impl Into<String>) -> Result<()> {
        self.append(name, Bytes::new())?;
        if let Some((_, value)) = self.0.last_mut() {
            *value = None;
        }
        Ok(())
    }

    /// Adds what another program has stored, whatever it is.
    pub(crate) fn append_received(&mut self, name: impl Into<String>, value: Option<Bytes>) {
        self.0.push((name.into(), value));
    }

    /// Replaces every value of the name by one. The same rules as [`Headers::append`].
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Result<()> {
        let name = name.into();
        self.remove(&name);
        self.append(name, value)
    }

    /// The first value of the name that is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.find_map(|(_, value)| std::str::from_utf8(value.as_ref().unwrap_or(&EMPTY)).ok())
    }

    /// Every value of the name, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Takes out every value of the name and returns the first.
    pub fn remove(&mut self, name: &str) -> Option<Bytes> {
        let first = self.values(name).next().cloned();
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        first
    }

    /// Every name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.entries().map(|(name, value)| (name, value.unwrap_or(&EMPTY)))
    }

    /// The same, with `None` for a value that is null.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Equal when every name has the same values in the same order, whatever the order between names.
/// A null equals itself only.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let of = |headers: &Self, name: &str| {
            let named = headers.entries().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            named.map(|(_, value)| value.cloned()).collect::<Vec<_>>()
        };
        self.len() == other.len()
            && self.0.iter().all(|(name, _)| of(self, name) == of(other, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_keep_their_order_and_case_does_not_matter() {
        let mut headers = Headers::new();
        headers.append("ce-id", "1").unwrap();
        headers.append("CE-Id", "2").unwrap();
        assert_eq!(headers.values("ce-ID").count(), 2);
        assert_eq!(headers.get("Ce-Id"), Some("1"));
        headers.set("ce-id", "3").unwrap();
        assert_eq!((headers.len(), headers.get("ce-id")), (1, Some("3")));
    }

    #[test]
    fn null_is_no_empty_value_but_reads_like_one() {
        let (mut null, mut empty) = (Headers::new(), Headers::new());
        null.append_null("a").unwrap();
        empty.append("a", "").unwrap();
        assert!(null != empty && null == null.clone());
        assert_eq!((null.get("a"), null.values("a").count()), (Some(""), 1));
        assert_eq!(null.iter().collect::<Vec<_>>(), empty.iter().collect::<Vec<_>>());
        assert_eq!(null.entries().collect::<Vec<_>>(), [("a", None)]);
        assert!(null.append_null("a b").is_err() && null.len() == 1);
        assert_eq!(null.remove("A"), Some(Bytes::new()));
    }

    #[test]
    fn what_a_protocol_cannot_carry_is_refused() {
        let mut headers = Headers::new();
        assert!(headers.append("", "x").is_err() && headers.append("a:b", "x").is_err());
        assert!(headers.append("a b", "x").is_err() && headers.append("a", "x\r\ny").is_err());
        assert!(headers.is_empty());
    }
}
