//! Where subjects are made: those of outgoing messages, and those that tokens hold.

use async_nats::Subject;
use bytestring::ByteString;

use crate::arena::Arena;

impl Arena {
    pub(super) fn subject(&mut self, text: &str) -> Subject {
        Subject::from_utf8(self.copy(text.as_bytes())).unwrap_or_else(|_| Subject::from(text))
    }

    pub(super) fn text(&mut self, text: &str) -> ByteString {
        let copy = self.copy(text.as_bytes());
        ByteString::try_from(copy).unwrap_or_else(|_| ByteString::from(text))
    }
}
