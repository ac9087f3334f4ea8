//! Why a route stopped for the moment. It begins again by itself, from where its position is.

use rdkafka::error::KafkaError;

/// Why a route, or a command on it, did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The log's side.
    #[error("the log: {0}")]
    Log(#[from] bus::Error),
    /// Kafka's side.
    #[error("kafka: {doing}: {source}")]
    Kafka {
        /// What was being done.
        doing: String,
        /// What Kafka says.
        source: KafkaError,
    },
    /// Somebody else has written the position: this process reads no more.
    #[error("another process carries {0} now: this one lets go")]
    Fenced(String),
    /// It must be looked at anew, and why.
    #[error("{0}")]
    Again(String),
}

impl Failure {
    /// A failure of Kafka while something was done.
    pub(crate) fn kafka(doing: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let doing = doing.into();
        move |source| Self::Kafka { doing, source }
    }

    /// Whether repeating it later may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Log(error) => error.is_retryable(),
            Self::Kafka { .. } | Self::Fenced(_) | Self::Again(_) => true,
        }
    }
}
