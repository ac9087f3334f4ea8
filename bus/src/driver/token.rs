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
    parts: Parts,
    /// The text, once somebody asked for it.
    whole: OnceLock<Box<str>>,
}

/// What a token is put together from. Most tokens never travel, and then it never is.
#[derive(Clone)]
enum Parts {
    Text(Text),
    Marked(ByteString, Arc<str>),
    Numbered(Option<Arc<str>>, Numbers),
}

/// Up to four.
#[derive(Clone, Copy)]
struct Numbers {
    all: [u64; 4],
    count: u8,
}

impl LeaseToken {
    /// The token as text, which [`LeaseToken::from`] takes back.
    pub fn as_str(&self) -> &str {
        match &self.parts {
            Parts::Text(text) => text,
            Parts::Marked(text, mark) => self.whole.get_or_init(|| [text, &**mark].concat().into()),
            Parts::Numbered(scope, numbers) => {
                self.whole.get_or_init(|| spell(scope.as_deref(), numbers))
            }
        }
    }

    /// A token that a backend received; kept without a copy.
    pub fn received(token: ByteString) -> Self {
        Self::of(Parts::Text(Text::from(token)))
    }

    /// The same, with `mark` behind it: where many tokens end alike, none is put together before
    /// it travels.
    pub fn marked(token: ByteString, mark: Arc<str>) -> Self {
        Self::of(Parts::Marked(token, mark))
    }

    /// What [`LeaseToken::marked`] was given; nothing for a token that has travelled.
    pub fn as_marked(&self) -> Option<(&ByteString, &Arc<str>)> {
        match &self.parts {
            Parts::Marked(text, mark) => Some((text, mark)),
            _ => None,
        }
    }

    /// A token of up to four numbers, which may mean something only within `scope`:
    /// `<scope>.<number>.<number>`. It is not written before it travels. More than four do not
    /// compile.
    pub fn numbered<const N: usize>(scope: Option<Arc<str>>, numbers: [u64; N]) -> Self {
        const { assert!(N <= 4, "a token has at most four numbers") };
        let mut all = [0; 4];
        all.iter_mut().zip(numbers).for_each(|(into, number)| *into = number);
        Self::of(Parts::Numbered(scope, Numbers { all, count: N as u8 }))
    }

    /// What [`LeaseToken::numbered`] was given, also of a token that has travelled; nothing for
    /// one that does not end in so many numbers.
    pub fn as_numbered<const N: usize>(&self) -> Option<(Option<&str>, [u64; N])> {
        match &self.parts {
            Parts::Numbered(scope, Numbers { all, count }) if usize::from(*count) == N => {
                Some((scope.as_deref(), *all.first_chunk()?))
            }
            _ => read(self.as_str()),
        }
    }

    fn of(parts: Parts) -> Self {
        Self { parts, whole: OnceLock::new() }
    }
}

fn spell(scope: Option<&str>, Numbers { all, count }: &Numbers) -> Box<str> {
    let mut text = String::from(scope.unwrap_or_default());
    for (at, number) in all.iter().take(usize::from(*count)).enumerate() {
        if at > 0 || scope.is_some() {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(*number));
    }
    text.into()
}

fn read<const N: usize>(text: &str) -> Option<(Option<&str>, [u64; N])> {
    let mut parts = text.rsplitn(N + 1, '.');
    let mut numbers = [0; N];
    for number in numbers.iter_mut().rev() {
        *number = parts.next()?.parse().ok()?;
    }
    Some((parts.next(), numbers))
}

impl From<&str> for LeaseToken {
    fn from(token: &str) -> Self {
        Self::of(Parts::Text(Text::from(token)))
    }
}

impl From<String> for LeaseToken {
    fn from(token: String) -> Self {
        Self::of(Parts::Text(Text::from(token)))
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

    #[test]
    fn numbers_come_back_from_the_text() {
        let numbers = [7, u64::MAX];
        for (scope, text) in [(None, ""), (Some("m-1"), "m-1."), (Some("a.1"), "a.1.")] {
            let token = LeaseToken::numbered(scope.map(Arc::from), numbers);
            assert_eq!(token.as_numbered(), Some((scope, numbers)));
            assert_eq!(token.as_str(), format!("{text}7.{}", u64::MAX));
            let travelled = LeaseToken::from(token.as_str());
            assert_eq!(travelled.as_numbered(), Some((scope, numbers)));
            assert_eq!((travelled == token, token.as_numbered::<4>()), (true, None));
        }
        for other in ["", "m", "m.1", "1.x", "1.-4", "1.18446744073709551616", "1.é", "1."] {
            assert_eq!(LeaseToken::from(other).as_numbered::<2>(), None, "{other}");
        }
    }
}
