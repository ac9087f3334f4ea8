//! Every problem an API can answer with.

use axum::http::StatusCode;

/// The kind of a problem. Its slug ends the problem's `type` and is kept stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The body is not what its media type says.
    MalformedBody,
    /// A resume token that was never given out.
    InvalidToken,
    /// A field of the input breaks a rule; `field` names it.
    InvalidInput,
    /// An event breaks a rule; `field` names the part of it.
    InvalidEvent,
    /// A token or secret is needed, or the one given is wrong.
    Unauthorized,
    /// The token is known and not good for this.
    Forbidden,
    /// The realm does not exist, and events may not make it.
    RealmNotAllowed,
    /// A page of another origin may not use this API.
    OriginRefused,
    /// The request was meant for another host.
    HostRefused,
    /// There is no such path.
    UnknownPath,
    /// There is no such subscription, or whatever else the path names.
    NotFound,
    /// The path does not take this method.
    MethodNotAllowed,
    /// It exists and differs, or someone else was faster.
    Conflict,
    /// What the request refers to is over: a delivery whose lease has ended.
    Stale,
    /// The state cannot be told: a log has lost its beginning.
    HistoryIncomplete,
    /// `If-Match` names another version.
    PreconditionFailed,
    /// The path is a WebSocket, and the request does not ask for one as it should.
    UpgradeRequired,
    /// The body is larger than a body may be.
    BodyTooLarge,
    /// The event is larger than an event may be.
    EventTooLarge,
    /// The batch has more events than a batch may have.
    BatchTooLarge,
    /// The body's media type is not one this path reads.
    UnsupportedMediaType,
    /// The body's content coding is not one that is read here.
    UnsupportedEncoding,
    /// The body's transfer coding is not one that is read here.
    UnsupportedTransfer,
    /// The process has as many requests or streams at work as it takes.
    Busy,
    /// The bus is away.
    Unavailable,
    /// Another process serves this now: ask again, and reach it or its successor.
    ServedElsewhere,
    /// No answer in time; a request that changes something may have done so.
    Timeout,
    /// Some events of a batch were stored and some were not.
    PartlyPublished,
    /// A limit on stored bytes is reached.
    Full,
    /// A fault on our side.
    Internal,
}

impl ProblemKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 30] = [
        Self::MalformedBody,
        Self::InvalidToken,
        Self::InvalidInput,
        Self::InvalidEvent,
        Self::Unauthorized,
        Self::Forbidden,
        Self::RealmNotAllowed,
        Self::OriginRefused,
        Self::HostRefused,
        Self::UnknownPath,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::Stale,
        Self::HistoryIncomplete,
        Self::PreconditionFailed,
        Self::UpgradeRequired,
        Self::BodyTooLarge,
        Self::EventTooLarge,
        Self::BatchTooLarge,
        Self::UnsupportedMediaType,
        Self::UnsupportedEncoding,
        Self::UnsupportedTransfer,
        Self::Busy,
        Self::Unavailable,
        Self::ServedElsewhere,
        Self::Timeout,
        Self::PartlyPublished,
        Self::Full,
        Self::Internal,
    ];

    /// The end of the problem's `type`.
    pub fn slug(self) -> &'static str {
        self.entry().0
    }

    /// The problem's `title`.
    pub fn title(self) -> &'static str {
        self.entry().1
    }

    /// The status it is answered with.
    pub fn status(self) -> StatusCode {
        self.entry().2
    }

    /// True when the same request may succeed later, unchanged.
    pub fn is_retryable(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    fn entry(self) -> (&'static str, &'static str, StatusCode) {
        use StatusCode as S;
        match self {
            Self::MalformedBody => ("malformed-body", "malformed body", S::BAD_REQUEST),
            Self::InvalidToken => ("invalid-token", "invalid resume token", S::BAD_REQUEST),
            Self::InvalidInput => ("invalid-input", "invalid input", S::UNPROCESSABLE_ENTITY),
            Self::InvalidEvent => ("invalid-event", "invalid event", S::UNPROCESSABLE_ENTITY),
            Self::Unauthorized => ("unauthorized", "credentials needed", S::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "not allowed with this token", S::FORBIDDEN),
            Self::RealmNotAllowed => ("realm-not-allowed", "realm not allowed", S::FORBIDDEN),
            Self::OriginRefused => ("origin-refused", "origin not allowed", S::FORBIDDEN),
            Self::HostRefused => ("host-refused", "host not served here", S::MISDIRECTED_REQUEST),
            Self::UnknownPath => ("unknown-path", "no such path", S::NOT_FOUND),
            Self::NotFound => ("not-found", "not found", S::NOT_FOUND),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "method not allowed", S::METHOD_NOT_ALLOWED)
            }
            Self::Conflict => ("conflict", "conflict", S::CONFLICT),
            Self::Stale => ("stale", "too late", S::CONFLICT),
            Self::HistoryIncomplete => {
                ("history-incomplete", "the state is not known", S::CONFLICT)
            }
            Self::PreconditionFailed => {
                ("precondition-failed", "another version stands now", S::PRECONDITION_FAILED)
            }
            Self::UpgradeRequired => {
                ("upgrade-required", "no WebSocket handshake", S::UPGRADE_REQUIRED)
            }
            Self::BodyTooLarge => ("body-too-large", "body too large", S::PAYLOAD_TOO_LARGE),
            Self::EventTooLarge => ("event-too-large", "event too large", S::PAYLOAD_TOO_LARGE),
            Self::BatchTooLarge => ("batch-too-large", "too many events", S::PAYLOAD_TOO_LARGE),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", "media type not read here", S::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::UnsupportedEncoding => {
                ("unsupported-encoding", "encoding not read here", S::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::UnsupportedTransfer => {
                ("unsupported-transfer", "transfer coding not read here", S::NOT_IMPLEMENTED)
            }
            Self::Busy => ("busy", "too many requests at work", S::SERVICE_UNAVAILABLE),
            Self::Unavailable => ("unavailable", "the bus is away", S::SERVICE_UNAVAILABLE),
            Self::ServedElsewhere => {
                ("served-elsewhere", "served by another process", S::SERVICE_UNAVAILABLE)
            }
            Self::Timeout => ("timeout", "no answer in time", S::SERVICE_UNAVAILABLE),
            Self::PartlyPublished => {
                ("partly-published", "not every event was stored", S::SERVICE_UNAVAILABLE)
            }
            Self::Full => ("full", "no room left", S::INSUFFICIENT_STORAGE),
            Self::Internal => ("internal", "a fault on our side", S::INTERNAL_SERVER_ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn slugs_are_unique_and_can_stand_in_a_url() {
        let slugs: BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        let plain = |slug: &&str| slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(slugs.iter().all(plain));
    }
}
