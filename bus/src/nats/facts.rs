//! What has to be known of a stream to publish to it in other ways than the plain one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::link::Link;
use super::streams;
use crate::error::Result;
use crate::name::StreamName;

/// For how long what was seen is believed: others may change a stream.
const BELIEVED: Duration = Duration::from_secs(30);
/// At most this many streams are remembered.
const REMEMBERED: usize = 1024;

/// A stream, as far as a publisher must know it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) delayed: bool,
    pub(super) atomic: bool,
    pub(super) duplicate_window: Duration,
    pub(super) max_age: Option<Duration>,
    /// The largest message, with its headers as they travel.
    pub(super) max_message: Option<usize>,
}

/// Facts that were asked for lately.
#[derive(Default)]
pub(super) struct KnownFacts(Mutex<BTreeMap<StreamName, (Instant, Facts)>>);

impl KnownFacts {
    /// The facts of a stream, at most half a minute old.
    pub(super) async fn get(&self, link: &Link, stream: &StreamName) -> Result<Facts> {
        let known = self.lock().get(stream).copied();
        if let Some((_, facts)) = known.filter(|(seen, _)| seen.elapsed() < BELIEVED) {
            return Ok(facts);
        }
        self.look(link, stream).await
    }

    /// The facts as they are now.
    pub(super) async fn look(&self, link: &Link, stream: &StreamName) -> Result<Facts> {
        let config = streams::raw_info(link, stream).await?.config;
        let facts = Facts {
            delayed: config.allow_message_schedules,
            atomic: config.allow_atomic_publish,
            duplicate_window: config.duplicate_window,
            max_age: (!config.max_age.is_zero()).then_some(config.max_age),
            max_message: usize::try_from(config.max_message_size).ok().filter(|size| *size > 0),
        };
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(stream.clone(), (Instant::now(), facts));
        Ok(facts)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<StreamName, (Instant, Facts)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
