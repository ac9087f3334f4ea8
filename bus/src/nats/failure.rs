//! Why a request got no useful answer, and what that means to a caller.

use std::fmt::Display;

use async_nats::jetstream;
use async_nats::{PublishErrorKind, RequestErrorKind};

use crate::error::{Error, ErrorKind};

// Codes of the JetStream API (nats-server, `server/errors.json`).
const INSUFFICIENT_RESOURCES: u64 = 10023;
const CLUSTER_NOT_AVAILABLE: u64 = 10008;
const CONSUMER_NOT_FOUND: u64 = 10014;
const STORAGE_EXCEEDED: u64 = 10047;
const MEMORY_EXCEEDED: u64 = 10028;
const MESSAGE_TOO_LARGE: u64 = 10054;
const STREAM_NOT_FOUND: u64 = 10059;
const WRONG_LAST_SEQUENCE: u64 = 10071;
const WRONG_LAST_SEQUENCE_NO_VALUE: u64 = 10164;
const STORE_FAILED: u64 = 10077;
const STREAM_OFFLINE: u64 = 10118;
const TWIN_IN_PROCESS: u64 = 10158;
const SUBJECT_OVERLAP: u64 = 10065;
const MAX_CONSUMERS: u64 = 10026;
const FILTERS_OVERLAP: u64 = 10138;
const FILTERS_OVERLAP_AMONG_CONSUMERS: u64 = 10100;
const NO_PLACE: u64 = 10005;
const WORK_QUEUE_START: u64 = 10101;
const SCHEDULE_TARGET: u64 = 10190;

/// Why a request got no useful answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody listens: no stream, no consumer, no leader, or no JetStream. Nothing happened.
    NoResponders,
    /// There is no connection; nothing was sent.
    Away,
    /// No answer came: it may have happened.
    Lost,
    /// The server said no.
    Api(jetstream::ErrorCode, String),
    /// Larger than the server takes; nothing was sent.
    TooLarge(String),
    /// This process closed the bus.
    Closed,
    /// The answer or the request cannot be understood.
    Malformed(String),
}

impl Failure {
    /// True when the same request may go through later and certainly had no effect.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::NoResponders => true,
            Self::Api(code, text) => {
                let away = code.0 == NO_PLACE && text.contains("offline");
                away || matches!(code.0, CLUSTER_NOT_AVAILABLE | STREAM_OFFLINE | TWIN_IN_PROCESS)
            }
            _ => false,
        }
    }

    pub(super) fn is_stream_missing(&self) -> bool {
        matches!(self, Self::Api(code, _) if code.0 == STREAM_NOT_FOUND)
    }

    pub(super) fn is_consumer_missing(&self) -> bool {
        matches!(self, Self::Api(code, _) if code.0 == CONSUMER_NOT_FOUND)
    }

    /// True when a compare-and-set lost.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Api(code, _)
                if code.0 == WRONG_LAST_SEQUENCE || code.0 == WRONG_LAST_SEQUENCE_NO_VALUE
        )
    }

    /// The sequence a lost compare-and-set was told, where the server tells it.
    pub(super) fn current(&self) -> Option<u64> {
        match self {
            Self::Api(code, text) if code.0 == WRONG_LAST_SEQUENCE => {
                text.rsplit(' ').next().and_then(|last| last.parse().ok())
            }
            _ => None,
        }
    }

    /// The error for a caller who was `doing` something.
    pub(super) fn into_error(self, doing: impl Display) -> Error {
        let kind = self.kind();
        let what = match self {
            Self::NoResponders => String::from(
                "nobody answers at the server: a leader is being elected, or jetstream is off",
            ),
            Self::Away => {
                String::from("the server is away: it is connected to again as soon as it is back")
            }
            Self::Lost => String::from("no answer in time; a write may have happened"),
            Self::Api(code, text) => format!("{text} ({})", code.0),
            Self::TooLarge(text) | Self::Malformed(text) => text,
            Self::Closed => String::from("the bus was closed"),
        };
        Error::new(kind, format!("{doing}: {what}"))
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoResponders | Self::Away => ErrorKind::Unavailable,
            Self::Lost => ErrorKind::Timeout,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Closed => ErrorKind::Closed,
            Self::Malformed(_) => ErrorKind::Backend,
            Self::Api(code, text) => match code.0 {
                STREAM_NOT_FOUND | CONSUMER_NOT_FOUND => ErrorKind::NotFound,
                WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_NO_VALUE => {
                    ErrorKind::Conflict { current: self.current() }
                }
                MESSAGE_TOO_LARGE => ErrorKind::TooLarge,
                INSUFFICIENT_RESOURCES | STORAGE_EXCEEDED | MEMORY_EXCEEDED | MAX_CONSUMERS => {
                    ErrorKind::Full
                }
                STORE_FAILED if text.contains("maximum") => ErrorKind::Full,
                CLUSTER_NOT_AVAILABLE | STREAM_OFFLINE | TWIN_IN_PROCESS => ErrorKind::Unavailable,
                NO_PLACE if text.contains("offline") => ErrorKind::Unavailable,
                SUBJECT_OVERLAP
                | NO_PLACE
                | FILTERS_OVERLAP
                | FILTERS_OVERLAP_AMONG_CONSUMERS
                | WORK_QUEUE_START
                | SCHEDULE_TARGET => ErrorKind::Invalid,
                _ => ErrorKind::Backend,
            },
        }
    }
}

impl From<async_nats::RequestError> for Failure {
    fn from(error: async_nats::RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NoResponders,
            RequestErrorKind::TimedOut => Self::Lost,
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge(error.to_string()),
            RequestErrorKind::InvalidSubject => Self::Malformed(error.to_string()),
            RequestErrorKind::Other => Self::Closed,
        }
    }
}

impl From<async_nats::PublishError> for Failure {
    fn from(error: async_nats::PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge(error.to_string()),
            PublishErrorKind::InvalidSubject => Self::Malformed(error.to_string()),
            PublishErrorKind::Send => Self::Closed,
        }
    }
}

impl From<jetstream::Error> for Failure {
    fn from(error: jetstream::Error) -> Self {
        let text = error.to_string();
        // The display carries both codes behind the description; the caller prints one of them.
        let text = text.split(" (code ").next().unwrap_or(&text).to_owned();
        Self::Api(error.error_code(), text)
    }
}
