//! Creating a stream unless it is there, and telling what of those that are there is of no use.

use async_nats::jetstream::stream::{Config, Info, RetentionPolicy};

use super::failure::Failure;
use super::link::Link;
use super::streams::{self, anywhere, raw_info};
use crate::config::{StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::error::{Error, ErrorKind, Result};
use crate::name::StreamName;

const NAME_IN_USE: u64 = 10058;
/// What the server says to a configuration that it cannot bring about.
pub(super) const INVALID_CONFIG: u64 = 10052;
/// Someone else may create or delete the stream between looking and acting.
pub(super) const ATTEMPTS: u32 = 5;

/// See [`crate::driver::Driver::create_stream`].
pub(super) async fn create(link: &Link, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
    let (name, wanted) = (&config.name, streams::wanted_of(link, config)?);
    let creation = create_raw(link, name, &wanted).await?;
    if let Creation::Exists(info) = &creation {
        check_usable(name, &info.config)?;
        if !info.config.allow_direct {
            // Needed by whoever asks for the state of many subjects at once.
            return Err(unusable(name, "it does not allow direct gets (allow_direct)"));
        }
    }
    creation.try_map(|info| streams::observed(name, info))
}

/// Creates the stream as it is `wanted` if there is none of its name, and changes nothing of one
/// that is there. The server takes a repetition of what it has for a creation.
pub(super) async fn create_raw(
    link: &Link,
    name: &StreamName,
    wanted: &Config,
) -> Result<Creation<Info>> {
    let doing = || format!("create stream {name}");
    let placement = wanted.placement.clone().filter(|placement| !anywhere(placement));
    let config = Config { placement, ..wanted.clone() };
    for _ in 0..ATTEMPTS {
        match raw_info(link, name).await {
            Ok(existing) => return Ok(Creation::Exists(existing)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.context(doing())),
        }
        match link.api_repeated(&format!("STREAM.CREATE.{name}"), &config).await {
            Ok(info) => return Ok(Creation::Created(info)),
            // Made by someone else since: look again.
            Err(Failure::Api(code, _)) if code.0 == NAME_IN_USE => {}
            Err(Failure::Api(code, why)) if code.0 == INVALID_CONFIG => {
                let what = format!("stream {name} cannot be created as it was asked for: {why}");
                return Err(Error::invalid(what));
            }
            Err(failure) => return Err(failure.into_error(doing())),
        }
    }
    Err(unsettled(name))
}

/// What to say when a stream comes and goes while it is being made.
pub(super) fn unsettled(name: &StreamName) -> Error {
    let what = format!("stream {name} is created and removed by others at this moment: try again");
    Error::new(ErrorKind::Unavailable, what)
}

/// Refuses a stream that answers publishes in another way than this crate reads, or not at all.
/// Others than this crate made it so.
pub(super) fn check_usable(name: &StreamName, has: &Config) -> Result<()> {
    let why = if has.mirror.is_some() {
        "it is a mirror, and takes no messages of its own"
    } else if has.sealed {
        "it is sealed, and takes no messages any more"
    } else if has.no_ack {
        "it acknowledges nothing (no_ack)"
    } else if has.retention == RetentionPolicy::Interest {
        "its retention is by interest, and drops what nobody waits for"
    } else if has.subject_transform.is_some() {
        "it stores messages under other subjects (subject_transform)"
    } else {
        return Ok(());
    };
    Err(unusable(name, why))
}

fn unusable(name: &StreamName, why: &str) -> Error {
    let what = format!("stream {name} exists and cannot be used: {why}: change it, or delete it");
    Error::new(ErrorKind::Mismatch, what)
}
