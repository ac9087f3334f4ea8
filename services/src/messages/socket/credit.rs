//! How much a client takes: what it granted, less what it was sent.

use super::super::queue::Room;

/// More than this at once counts as this.
const MAX_MESSAGES: u64 = 1_000_000;
const MAX_BYTES: u64 = 1 << 40;

/// Messages and bytes that may still be sent. The message that uses up the last bytes may be
/// larger than they are: at most one is in excess.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::messages) struct Credit {
    messages: u64,
    /// `None` until bytes are granted: they do not count.
    bytes: Option<u64>,
}

impl Credit {
    /// Adds to it.
    pub(in crate::messages) fn grant(&mut self, messages: u64, bytes: Option<u64>) {
        self.messages = self.messages.saturating_add(messages).min(MAX_MESSAGES);
        if let Some(bytes) = bytes {
            let sum = self.bytes.unwrap_or(0).saturating_add(bytes);
            self.bytes = Some(sum.min(MAX_BYTES));
        }
    }

    /// True when one more message may go.
    pub(super) fn allows(self) -> bool {
        self.messages > 0 && self.bytes != Some(0)
    }

    /// Uses it for a message that goes.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        let spent = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.map(|left| left.saturating_sub(spent));
    }

    /// What may be fetched for the client.
    pub(super) fn room(self) -> Room {
        let fit = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let bytes = self.bytes.map_or(usize::MAX, fit);
        Room { messages: fit(self.messages), bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Grant(u64, u64),
        Send(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5_u64, 0..3000_u64).prop_map(|(messages, bytes)| Step::Grant(messages, bytes)),
            (1..2000_usize).prop_map(Step::Send),
        ]
    }

    proptest! {
        #[test]
        fn never_more_is_sent_than_was_granted_but_for_the_last(
            steps in prop::collection::vec(step(), 0..200)
        ) {
            let mut credit = Credit::default();
            let (mut granted, mut sent) = ((0, 0), (0, 0));
            for step in steps {
                match step {
                    Step::Grant(messages, bytes) => {
                        credit.grant(messages, Some(bytes));
                        // What the last message took beyond the credit is not paid back.
                        granted = (granted.0 + messages, granted.1.max(sent.1) + bytes);
                    }
                    Step::Send(bytes) if credit.allows() => {
                        prop_assert!(sent.0 < granted.0 && sent.1 < granted.1);
                        credit.spend(bytes);
                        sent = (sent.0 + 1, sent.1 + bytes as u64);
                    }
                    Step::Send(_) => {
                        prop_assert!(sent.0 >= granted.0 || sent.1 >= granted.1);
                    }
                }
                prop_assert_eq!(credit.room().messages as u64, granted.0 - sent.0);
            }
        }
    }

    #[test]
    fn bytes_count_once_they_are_granted_and_too_much_is_cut() {
        let mut credit = Credit::default();
        assert!(!credit.allows());
        credit.grant(2, None);
        credit.spend(1 << 30);
        assert!(credit.allows());
        credit.grant(0, Some(10));
        credit.spend(3);
        assert!(!credit.allows(), "the messages are used up");
        credit.grant(u64::MAX, Some(u64::MAX));
        assert_eq!(credit, Credit { messages: MAX_MESSAGES, bytes: Some(MAX_BYTES) });
    }
}
