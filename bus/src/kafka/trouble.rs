//! What stands in the way of records and does not pass by itself: a batch that cannot be
//! decompressed, a topic that may not be read any more. The client library asks again for ever, so
//! that it is kept here for those who fetch.

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

    /// Counts one more report.
    pub(super) fn note(
        known: &mut Option<Self>,
        of: &Names,
        part: Option<Part>,
        error: KafkaError,
    ) {
        let at = match part {
            Some(part) => format!("partition {} of topic {}", part.1, of.topic(part)),
            None => format!("topic {}", of.topic((false, 0))),
        };
        let error = failed(format!("consumer {} cannot read {at}", of.consumer), error);
        let now = Instant::now();
        let before = known.take().filter(|known| known.what == error.to_string());
        let (count, logged) = before.map_or((0, None), |known| (known.count, Some(known.logged)));
        let again = logged.filter(|logged| logged.elapsed() < LOG_EVERY);
        if again.is_none() {
            tracing::error!(consumer = %of.consumer, count = count + 1, %error, "unreadable");
        }
        *known = Some(Self {
            kind: error.kind(),
            what: error.to_string(),
            count: count + 1,
            last: now,
            logged: again.unwrap_or(now),
        });
    }

    /// What a call that got nothing fails with, as long as it lasts.
    pub(super) fn error(&self) -> Option<Error> {
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
