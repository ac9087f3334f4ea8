//! The crate's one error: a kind to match on, a context to read, a source to follow.

use std::error::Error as StdError;
use std::fmt;

use crate::capability::{Capability, Support};

/// The result of every fallible operation of this crate.
///
/// ```
/// use bus::{Bus, Result, StreamConfig, StreamInfo};
///
/// async fn declare(bus: &Bus) -> Result<StreamInfo> {
///     let config = StreamConfig::parse("orders", &["orders.>"])?;
///     bus.ensure_stream(&config).await?.info().await
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// assert_eq!(declare(&bus).await?.last_sequence, 0);
/// # Ok(())
/// # }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, to what, and what to do next.
///
/// Match on [`Error::kind`]; the text is for people. `Display` prints the context only; walk
/// [`std::error::Error::source`] for what lies underneath. `Debug`, which is what a `main` that
/// fails and an `unwrap` print, has the kind, the context and all that lies underneath in a line.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// let missing = bus.stream("nowhere").await.err().expect("there is none");
/// assert!(missing.is_not_found() && !missing.is_retryable());
/// println!("{}", missing.context("open the log")); // for people
/// # Ok(())
/// # }
/// ```
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

/// The kinds of failure a caller can act on.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::{Error, ErrorKind};
///
/// fn worth_repeating(error: &Error) -> bool {
///     matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
/// }
/// assert!(!worth_repeating(&Error::invalid("the price is negative")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input can never work: a malformed name, a header that cannot be carried.
    Invalid,
    /// The stream, consumer, bucket or key does not exist.
    NotFound,
    /// A compare-and-set lost: someone else was faster.
    Conflict {
        /// The revision (or sequence) that stands now, where the backend tells it.
        current: Option<u64>,
    },
    /// It exists already, with a configuration that cannot be changed into the requested one.
    Mismatch,
    /// The backend cannot do this; nothing was attempted.
    Unsupported {
        /// What was asked for.
        capability: Capability,
        /// The backend that was asked.
        backend: &'static str,
    },
    /// The backend is away or changes its leader; nothing is known to have happened. Retry later.
    Unavailable,
    /// No answer within the limit: the operation may have happened. Retry with the same id.
    Timeout,
    /// A limit on bytes or messages is reached; nothing was stored.
    Full,
    /// The message is larger than the stream or the server accepts.
    TooLarge,
    /// The lease of this delivery is over: it was or will be delivered again.
    Stale,
    /// The bus or the subscription was closed by this process.
    Closed,
    /// The backend is inside this process and failed for good, because its disk did: nothing works
    /// any more, and what was not answered may have happened. End the process
    /// ([`crate::Bus::failed`]), and repeat with the same ids when it was started anew.
    Failed,
    /// Stored data is not what this crate wrote.
    Corrupt,
    /// Anything else the backend reported.
    Backend,
}

impl Error {
    /// An error of `kind`, described by `context` (lower case, no full stop, with a way out).
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same, keeping what caused it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }

    /// Shorthand for an [`ErrorKind::Invalid`] error.
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// Shorthand for an [`ErrorKind::NotFound`] error.
    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, context)
    }

    /// The same for a second listener, without what caused it.
    pub(crate) fn told(&self) -> Self {
        Self::new(self.kind, self.context.clone())
    }

    /// What to match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True when the same call may succeed later without a change by the caller:
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`].
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// True for [`ErrorKind::NotFound`].
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// True for [`ErrorKind::Conflict`].
    pub fn is_conflict(&self) -> bool {
        matches!(self.kind, ErrorKind::Conflict { .. })
    }

    /// Puts what the caller was doing in front of the context.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.context = format!("{doing}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        let mut below = self.source();
        while let Some(source) = below {
            write!(f, ": {source}")?;
            below = source.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Fails with [`ErrorKind::Unsupported`] unless `support` is native or emulated.
pub(crate) fn require(
    backend: &'static str,
    capability: Capability,
    support: Support,
    asked_by: impl fmt::Display,
) -> Result<()> {
    if support != Support::Unsupported {
        return Ok(());
    }
    Err(unsupported(backend, capability, asked_by))
}

/// The refusal of a backend that does not have `capability`, which `asked_by` asks for.
pub(crate) fn unsupported(
    backend: &'static str,
    capability: Capability,
    asked_by: impl fmt::Display,
) -> Error {
    Error::new(
        ErrorKind::Unsupported { capability, backend },
        format!(
            "{asked_by} asks for {capability}, which {backend} cannot give: \
             use another backend or drop the requirement"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_main_prints_is_the_whole_chain_in_a_line() {
        let refused = Error::new(ErrorKind::Unavailable, "connection refused");
        let error = Error::with_source(ErrorKind::Timeout, "publish to orders", refused);
        assert_eq!(error.to_string(), "publish to orders");
        let whole = "Timeout: publish to orders: connection refused";
        assert_eq!(format!("{error:?}"), whole);
    }
}
