//! Where the state at a sequence stands in a stream: sequences, without the messages.
//!
//! Few subjects are listed and looked up. For many, an ephemeral consumer that starts with the last
//! message of each subject tells them all in one pass, without bodies; what of it lies behind the
//! sequence was written since, and only that is looked up. A listing would have the server sort all
//! subjects anew for each of its pages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Info, RetentionPolicy};
use tokio::time::Instant;

use super::failure::Failure;
use super::feed::Feed;
use super::link::Link;
use super::state::{LastEnd, last_at};
use super::{streams, subjects};
use crate::config::Start;
use crate::driver::Tell;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{StreamName, Subject, SubjectFilter};

/// Up to here a stream's subjects are listed.
const FEW: u64 = 1000;
/// Subjects that are looked up together.
const PAGE: usize = 1000;
/// Between two messages of the pass; the server's own look comes before the first.
const LIMIT: Duration = Duration::from_secs(15);

/// See [`crate::driver::Driver::state`].
pub(super) async fn state(
    link: &Arc<Link>,
    last_end: &LastEnd,
    stream: &StreamName,
    filters: &[SubjectFilter],
    up_to: u64,
    tell: &mut Tell<'_>,
) -> Result<()> {
    if up_to == 0 {
        return Ok(());
    }
    let look = Look { link, last_end, stream, up_to };
    let info = streams::raw_info(link, stream).await?;
    // The copy that a consumer reads may lag behind the leader, and would not say so.
    let listed = info.state.subjects_count <= FEW
        || info.config.num_replicas > 1
        || info.config.retention == RetentionPolicy::WorkQueue;
    if listed { look.list(filters, tell).await } else { look.pass(filters, tell).await }
}

struct Look<'a> {
    link: &'a Arc<Link>,
    last_end: &'a LastEnd,
    stream: &'a StreamName,
    up_to: u64,
}

impl Look<'_> {
    async fn list(&self, filters: &[SubjectFilter], tell: &mut Tell<'_>) -> Result<()> {
        let all = [SubjectFilter::all()];
        let filters = if filters.is_empty() { &all[..] } else { filters };
        let mut found = BTreeSet::new();
        for filter in filters {
            found.extend(subjects::list(self.link, self.stream, filter).await?);
        }
        let found: Vec<Subject> = found.into_iter().collect();
        for page in found.chunks(PAGE) {
            self.look_up(page, tell).await?;
        }
        Ok(())
    }

    async fn look_up(&self, subjects: &[Subject], tell: &mut Tell<'_>) -> Result<()> {
        let Self { link, last_end, stream, up_to } = self;
        for message in last_at(link, last_end, stream, subjects, *up_to).await? {
            tell(message.subject.as_str(), message.sequence);
        }
        Ok(())
    }

    async fn pass(&self, filters: &[SubjectFilter], tell: &mut Tell<'_>) -> Result<()> {
        let (link, stream) = (self.link, self.stream);
        let mut feed = Feed::outlines(link.clone(), stream, filters, Start::LastPerSubject).await?;
        // Asked after the consumer was made: the last of each subject as it saw them is not
        // beyond this.
        let info: Info = streams::raw_info(link, stream).await?;
        let end = info.state.last_sequence;
        let mut written_since = Vec::new();
        let mut reached = 0;
        while !feed.is_exhausted() && reached < end {
            let Some(item) = feed.next(Instant::now() + LIMIT).await? else {
                return Err(Failure::Lost.into_error(format!("read the state of {stream}")));
            };
            if !feed.is_unbroken() {
                let what = format!("the connection was lost while the state of {stream} was read");
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            reached = item.sequence;
            if item.sequence <= self.up_to {
                tell(item.message.subject.as_str(), item.sequence);
                continue;
            }
            written_since.push(Subject::received(&item.message.subject));
            if written_since.len() >= PAGE {
                self.look_up(&std::mem::take(&mut written_since), tell).await?;
            }
        }
        self.look_up(&written_since, tell).await
    }
}
