//! The text by which a delivery is settled, wherever that is done.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use bytestring::ByteString;

use crate::text::Text;

/// Names one delivery of one message to one consumer, in the backend's own words. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// use std::time::Duration;
/// use bus::{LeaseToken, Settlement};
///
/// let delivery = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// let text = delivery.token().as_str().to_owned(); // over a wire, to whoever does the work
///
/// // There, with a consumer bound to the same name:
/// let there = bus.bind("orders", "billing").await?;
/// there.settle(&LeaseToken::from(text), Settlement::Ack).await?;
/// assert_eq!(billing.info().await?.settled_sequence, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LeaseToken {
    text: Text,
    /// Stands behind the text.
    mark: Option<Arc<str>>,
    /// Both, once somebody asked for that.
    whole: OnceLock<Box<str>>,
}

impl LeaseToken {
    /// The token as text, which [`LeaseToken::from`] takes back.
    pub fn as_str(&self) -> &str {
        match &self.mark {
            None => &self.text,
            Some(mark) => self.whole.get_or_init(|| [&self.text, &**mark].concat().into()),
        }
    }

    /// A token that a backend received; kept without a copy.
    pub fn received(token: ByteString) -> Self {
        Self { text: Text::from(token), mark: None, whole: OnceLock::new() }
    }

    /// The same, with `mark` behind it: where many tokens end alike, none is put together before
    /// it travels.
    pub fn marked(token: ByteString, mark: Arc<str>) -> Self {
        Self { mark: Some(mark), ..Self::received(token) }
    }

    /// What [`LeaseToken::marked`] was given; nothing for a token that has travelled.
    pub fn as_marked(&self) -> Option<(&ByteString, &Arc<str>)> {
        match (&self.text, &self.mark) {
            (Text::Received(text), Some(mark)) => Some((text, mark)),
            _ => None,
        }
    }
}

impl From<&str> for LeaseToken {
    fn from(token: &str) -> Self {
        Self { text: Text::from(token), mark: None, whole: OnceLock::new() }
    }
}

impl From<String> for LeaseToken {
    fn from(token: String) -> Self {
        Self { text: Text::from(token), mark: None, whole: OnceLock::new() }
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeaseToken").field(&self.as_str()).finish()
    }
}

// By the whole text alone: what it was put together from makes no difference.

impl PartialEq for LeaseToken {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for LeaseToken {}

impl Hash for LeaseToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_behind_the_text_and_is_told_apart_until_it_travels() {
        let marked = LeaseToken::marked(ByteString::from_static("a.1"), Arc::from("#p.0"));
        assert_eq!(marked.as_str(), "a.1#p.0");
        assert_eq!(marked, LeaseToken::from("a.1#p.0"));
        let (text, mark) = marked.as_marked().unwrap();
        assert_eq!((&**text, &**mark), ("a.1", "#p.0"));
        assert!(LeaseToken::from(marked.as_str()).as_marked().is_none());
    }
}
