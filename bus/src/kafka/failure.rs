//! What Kafka's many errors mean to a caller.

use std::fmt::Display;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{Error, ErrorKind};

/// The error for a caller who was `doing` something.
pub(super) fn failed(doing: impl Display, error: KafkaError) -> Error {
    let what = format!("{doing}: {}", advice(code(&error), &error));
    Error::with_source(code(&error).map_or(ErrorKind::Backend, kind), what, error)
}

/// The same for the code alone, as topics report it.
pub(super) fn refused(doing: impl Display, code: Code) -> Error {
    Error::with_source(kind(code), format!("{doing}: {}", advice(Some(code), &code)), code)
}

/// The code underneath, also where the client library does not tell it.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// True when the client library goes on by itself: the error is news, and no verdict.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    !matches!(error, KafkaError::MessageConsumptionFatal(_))
        && code(error).is_some_and(|code| kind(code) == ErrorKind::Unavailable)
}

fn kind(code: Code) -> ErrorKind {
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId
        | Code::GroupIdNotFound
        | Code::ResourceNotFound => ErrorKind::NotFound,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            ErrorKind::TooLarge
        }
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::TimedOutQueue
        | Code::NotEnoughReplicasAfterAppend => ErrorKind::Timeout,
        Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => ErrorKind::Invalid,
        Code::TopicAlreadyExists => ErrorKind::Mismatch,
        Code::BadMessage | Code::BadCompression | Code::InvalidMessage => ErrorKind::Corrupt,
        Code::Fenced | Code::ProducerFenced | Code::AssignmentLost | Code::IllegalGeneration => {
            ErrorKind::Stale
        }
        Code::KafkaStorageError => ErrorKind::Full,
        Code::DestroyBroker | Code::PurgeQueue | Code::PurgeInflight => ErrorKind::Closed,
        _ if is_away(code) => ErrorKind::Unavailable,
        _ => ErrorKind::Backend,
    }
}

/// True for a broker that is away, or that is not the one to ask at this moment.
fn is_away(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::WaitCache
            | Code::WaitingForCoordinator
            | Code::Retry
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotController
            | Code::NotEnoughReplicas
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::ThrottlingQuotaExceeded
            | Code::EligibleLeadersNotAvailable
    )
}

fn advice(code: Option<Code>, error: &dyn Display) -> String {
    match code {
        Some(code) if is_away(code) => {
            format!("the broker is away ({error}): it is connected to again as soon as it is back")
        }
        Some(code) if kind(code) == ErrorKind::Timeout => {
            format!("no answer in time ({error}); a write may have happened")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kind_a_caller_can_act_on() {
        let kind = |code| failed("publish", KafkaError::MessageProduction(code)).kind();
        assert_eq!(kind(Code::AllBrokersDown), ErrorKind::Unavailable);
        assert_eq!(kind(Code::MessageTimedOut), ErrorKind::Timeout);
        assert_eq!(kind(Code::UnknownTopicOrPartition), ErrorKind::NotFound);
        assert_eq!(kind(Code::MessageSizeTooLarge), ErrorKind::TooLarge);
        assert_eq!(kind(Code::BadCompression), ErrorKind::Corrupt);
        assert_eq!(kind(Code::Unknown), ErrorKind::Backend);
        let admin = failed("ensure", KafkaError::AdminOp(Code::InvalidReplicationFactor));
        assert_eq!(admin.kind(), ErrorKind::Invalid);
    }
}
