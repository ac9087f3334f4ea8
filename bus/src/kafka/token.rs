//! The text that names one delivery of a message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::dotted::Dotted;
use crate::driver::LeaseToken;
use crate::error::{Error, ErrorKind, Result};

/// Where a message is, for a consumer: its stream or its retries, a partition, an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    /// True in the retry topic.
    pub(super) retry: bool,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// A delivery: by which member of the group, in which of its assignments, of what, which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) member: &'a str,
    pub(super) generation: u64,
    pub(super) slot: Slot,
    pub(super) attempt: u32,
}

impl<'a> Token<'a> {
    /// `<member>.<generation>.<s|r><partition>.<offset>.<attempt>`
    pub(super) fn write(&self) -> LeaseToken {
        let Self { member, generation, slot: Slot { retry, partition, offset }, attempt } = self;
        // A member's name is short; the numbers have at most 20, 10, 19 and 10 digits.
        let text = Dotted::<128>::new().text(member).dot().number(*generation);
        let text = text.dot().text(if *retry { "r" } else { "s" }).number(*partition);
        let text = text.dot().number(*offset).dot().number(*attempt);
        LeaseToken::from(text.as_str())
    }

    pub(super) fn read(token: &'a LeaseToken) -> Result<Self> {
        parse(token.as_str()).ok_or_else(|| {
            let text = token.as_str();
            let what = format!("{text:?} is no lease token of this backend: pass it unchanged");
            Error::invalid(what)
        })
    }
}

fn parse(text: &str) -> Option<Token<'_>> {
    let mut parts = text.split('.');
    let (member, generation) = (parts.next()?, parts.next()?.parse().ok()?);
    let place = parts.next()?;
    let (retry, partition) = match place.split_at_checked(1)? {
        ("s", partition) => (false, partition),
        ("r", partition) => (true, partition),
        _ => return None,
    };
    let slot =
        Slot { retry, partition: partition.parse().ok()?, offset: parts.next()?.parse().ok()? };
    let attempt = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(Token { member, generation, slot, attempt })
}

/// The refusal of a token whose lease is over.
pub(super) fn stale(token: &LeaseToken) -> Error {
    let text = token.as_str();
    let what = format!("the lease {text} is over: the message was settled or is delivered again");
    Error::new(ErrorKind::Stale, what)
}

/// Names a member as no other is named, so that its tokens are nobody else's.
pub(super) fn instance() -> Arc<str> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    static START: OnceLock<String> = OnceLock::new();
    let start = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}-{:x}", std::process::id(), since.as_micros())
    });
    format!("{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_of() {
        for retry in [false, true] {
            let slot = Slot { retry, partition: 7, offset: i64::MAX };
            let token =
                Token { member: "1f-18c0a5e-3", generation: u64::MAX, slot, attempt: u32::MAX };
            assert_eq!(Token::read(&token.write()).unwrap(), token);
        }
    }

    #[test]
    fn other_text_is_no_token() {
        for text in
            ["", "a", "17.2", "m.1.s0.5", "m.1.x0.5.1", "m.1.s.5.1", "m.1.s0.5.1.1", "m.1.é.1.1"]
        {
            let error = Token::read(&LeaseToken::from(text)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
