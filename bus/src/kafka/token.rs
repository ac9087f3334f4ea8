//! What names one delivery of a message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

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
    /// `<member>.<generation>.<place>.<offset>.<attempt>`
    pub(super) fn write(member: Arc<str>, generation: u64, slot: Slot, attempt: u32) -> LeaseToken {
        // What the broker says is not negative; the retry topic has the odd places.
        let place = u64::from(slot.partition.unsigned_abs()) << 1 | u64::from(slot.retry);
        let numbers = [generation, place, slot.offset.unsigned_abs(), attempt.into()];
        LeaseToken::numbered(Some(member), numbers)
    }

    pub(super) fn read(token: &'a LeaseToken) -> Result<Self> {
        parse(token).ok_or_else(|| {
            let text = token.as_str();
            let what = format!("{text:?} is no lease token of this backend: pass it unchanged");
            Error::invalid(what)
        })
    }
}

fn parse(token: &LeaseToken) -> Option<Token<'_>> {
    let (Some(member), [generation, place, offset, attempt]) = token.as_numbered()? else {
        return None;
    };
    let slot = Slot {
        retry: place & 1 == 1,
        partition: (place >> 1).try_into().ok()?,
        offset: offset.try_into().ok()?,
    };
    Some(Token { member, generation, slot, attempt: attempt.try_into().ok()? })
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
            let slot = Slot { retry, partition: i32::MAX, offset: i64::MAX };
            let (member, generation, attempt) = ("1f-18c0a5e-3", u64::MAX, u32::MAX);
            let token = Token::write(member.into(), generation, slot, attempt);
            let read = Token { member, generation, slot, attempt };
            assert_eq!(Token::read(&token).unwrap(), read);
            assert_eq!(Token::read(&LeaseToken::from(token.as_str())).unwrap(), read);
        }
    }

    #[test]
    fn other_text_is_no_token() {
        for text in ["", "a", "17.2", "m.1.0.5", "m.1.x.5.1", "m.1.0.5.4294967296"] {
            let error = Token::read(&LeaseToken::from(text)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
        }
    }
}
