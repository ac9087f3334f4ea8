//! The subjects that a stream holds, complete although the server tells them in pages.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::link::Link;
use super::schedule::is_waiting;
use super::streams::missing;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{StreamName, Subject, SubjectFilter};

/// How far a page reaches back over the one before it, at first.
const OVERLAP: usize = 1000;
/// Against a server that never comes to an end.
const MOST_PAGES: usize = 100_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    total: usize,
    state: State,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: Option<BTreeMap<String, IgnoredAny>>,
}

/// See [`crate::driver::Driver::subjects`].
///
/// The server sorts, then cuts by offset, anew for each page; what vanishes in between shifts the
/// rest to the left. So each page reaches back over its predecessor: if it begins at or before
/// the last subject known, nothing between them was missed. Otherwise it reaches further back.
/// A subject that was there all the time is therefore found.
pub(super) async fn list(
    link: &Link,
    stream: &StreamName,
    filter: &SubjectFilter,
) -> Result<Vec<Subject>> {
    let mut found = BTreeSet::new();
    let (mut overlap, mut offset) = (OVERLAP, 0);
    for _ in 0..MOST_PAGES {
        let page = page(link, stream, filter, offset).await?;
        let subjects = page.state.subjects.unwrap_or_default();
        let connected = match (found.last(), subjects.first_key_value()) {
            (Some(last), Some((first, _))) => first <= last,
            (Some(_), None) => offset == 0,
            (None, _) => true,
        };
        if !connected && offset > 0 {
            overlap = overlap.saturating_mul(2);
            offset = offset.saturating_sub(overlap);
            continue;
        }
        let end = offset + subjects.len();
        found.extend(subjects.into_keys());
        if end >= page.total {
            let shown = found.iter().filter(|subject| !is_waiting(stream, subject));
            return Ok(shown.map(|subject| Subject::received(subject)).collect());
        }
        overlap = OVERLAP.min(end / 2);
        offset = end - overlap;
    }
    let what = format!("the subjects of stream {stream} change faster than they can be listed");
    Err(Error::new(ErrorKind::Unavailable, what))
}

async fn page(
    link: &Link,
    stream: &StreamName,
    filter: &SubjectFilter,
    offset: usize,
) -> Result<Page> {
    let request = json!({ "subjects_filter": filter.as_str(), "offset": offset });
    match link.api_repeated(&format!("STREAM.INFO.{stream}"), &request).await {
        Ok(page) => Ok(page),
        Err(failure) if failure.is_stream_missing() => Err(missing(stream)),
        Err(failure) => Err(failure.into_error(format!("list the subjects of stream {stream}"))),
    }
}
