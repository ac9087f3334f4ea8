//! What stands in the way of records and does not pass by itself: a batch that cannot be
//! decompressed, a topic that may not be read any more. The client library asks again for ever, so
//! that it is kept here for those who fetch.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::time::Instant;

use super::desk::Part;
use super::failure::{code, failed};
use super::shared::Names;
use crate::error::{Error, ErrorKind};

/// The client library reports it about ten times a second: gone after this without a report.
const LASTS: Duration = Duration::from_secs(5);
/// Fewer reports may be a broker that changes its mind.
const REPORTS: u64 = 3;
/// How often it is logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What was reported last, and how often so far.
#[derive(Debug)]
pub(super) struct Trouble {
    kind: ErrorKind,
    what: String,
    count: u64,
    last: Instant,
    logged: Instant,
}

impl Trouble {
    /// True for an error that comes again until somebody does something.
    pub(super) fn is_one(error: &KafkaError) -> bool {
        matches!(
            code(error),
            Some(
                Code::BadMessage
                    | Code::BadCompression
                    | Code::NotImplemented
                    | Code::InvalidMessage
                    | Code::UnsupportedCompressionType
                    | Code::MessageSizeTooLarge
                    | Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
            )
        )
    }

    /// One more report of it, or the first.
    fn again(before: Option<Self>, error: &Error) -> Self {
        let now = Instant::now();
        let (count, logged) = before.map_or((0, None), |known| (known.count, Some(known.logged)));
        Self {
            kind: error.kind(),
            what: error.to_string(),
            count: count + 1,
            last: now,
            logged: logged.filter(|at| now.duration_since(*at) < LOG_EVERY).unwrap_or(now),
        }
    }

    /// What a call that got nothing fails with, as long as it lasts.
    fn error(&self) -> Option<Error> {
        let lasts = self.count >= REPORTS && self.last.elapsed() < LASTS;
        lasts.then(|| {
            let what = format!(
                "{} (seen {} times): nothing behind it is delivered; remove what cannot be read, \
                 or move the consumer past it",
                self.what, self.count
            );
            Error::new(self.kind, what)
        })
    }
}

/// What a report says of which partition, or of the topic as a whole.
pub(super) fn unreadable(of: &Names, part: Option<Part>, error: KafkaError) -> Error {
    let at = match part {
        Some(part) => format!("partition {} of topic {}", part.1, of.topic(part)),
        None => format!("topic {}", of.topic((false, 0))),
    };
    failed(format!("consumer {} cannot read {at}", of.consumer), error)
}

/// What stands in the way, by partition: `None` for the topic as a whole.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Option<Part>, Trouble>);

impl Troubles {
    /// Counts one more report.
    pub(super) fn note(&mut self, part: Option<Part>, error: &Error) {
        let before = self.0.remove(&part).filter(|known| known.what == error.to_string());
        let trouble = Trouble::again(before, error);
        if trouble.logged == trouble.last {
            tracing::error!(count = trouble.count, %error, "unreadable");
        }
        self.0.insert(part, trouble);
    }

    /// What a call that got nothing fails with, as long as any of it lasts.
    pub(super) fn error(&self) -> Option<Error> {
        self.0.values().find_map(Trouble::error)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn partitions_that_cannot_be_read_are_told_of_and_forgotten() {
        let mut troubles = Troubles::default();
        let bad = |partition: i32| Error::new(ErrorKind::Corrupt, format!("part {partition}"));
        for _ in 0..REPORTS {
            assert!(troubles.error().is_none(), "it may pass");
            // Two in turns: neither makes the other one new.
            troubles.note(Some((false, 0)), &bad(0));
            troubles.note(Some((false, 1)), &bad(1));
        }
        let error = troubles.error().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("part 0"), "{error}");
        tokio::time::advance(LASTS).await;
        assert!(troubles.error().is_none());
    }
}
