//! The state of topics at a fence, read from the logs: per key the last event, deleted keys left
//! out.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use super::interest::Interest;
use super::place::Rows;
use crate::model::{Fence, Row};
use crate::prefill::{LogSource, Page, Source, SourceError};
use crate::store::Store;
use crate::store::prefill::Position;

/// Reads the state from a place on. What it holds is a page of rows, bounded, and while it is open
/// eight bytes for each key.
pub(in crate::messages) struct State {
    source: LogSource,
    rows: Rows,
    page: VecDeque<Row>,
    next: Option<Position>,
    is_at_end: bool,
}

impl State {
    /// Opens the logs at the fence of a place. A log that has lost its beginning cannot tell its
    /// state: [`SourceError::Impossible`] says which, and what to do.
    pub(in crate::messages) async fn open(
        store: &Store,
        interest: &Interest,
        rows: Rows,
    ) -> Result<Self, SourceError> {
        let fence = fence(&rows);
        let source = LogSource::at(store, &fence, |realm| interest.filters(realm)).await?;
        let next = rows.read.clone().map(|(realm, sequence)| Position { realm, sequence });
        Ok(Self { source, rows, page: VecDeque::new(), next, is_at_end: false })
    }

    /// The event of the next row as consumers get it, and the place behind it; `None` at the end.
    /// An error leaves it where it was. Not to be dropped before its end.
    pub(in crate::messages) async fn next(
        &mut self,
    ) -> Result<Option<(Bytes, &Rows)>, SourceError> {
        while self.page.is_empty() && !self.is_at_end {
            let Page { rows, next, .. } = self.source.page(self.next.as_ref()).await?;
            self.page.extend(rows);
            self.is_at_end = next.is_none();
            self.next = next;
        }
        let Some(row) = self.page.pop_front() else { return Ok(None) };
        self.rows.rows += 1;
        self.rows.digest.add(&row.topic.realm, row.sequence);
        self.rows.read = Some((row.topic.realm, row.sequence));
        Ok(Some((row.json, &self.rows)))
    }

    /// The place that was reached.
    pub(in crate::messages) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// True when the next row, if there is one, is at hand.
    pub(in crate::messages) fn has_ready(&self) -> bool {
        !self.page.is_empty() || self.is_at_end
    }
}

impl Rows {
    /// What closes the state: its fence, how many rows it has, and a digest over them.
    pub(in crate::messages) fn manifest(&self) -> Value {
        json!({ "fence": fence(self), "rows": self.rows, "digest": self.digest.to_hex() })
    }
}

/// The sequences of a fence.
pub(in crate::messages) fn fence(rows: &Rows) -> Fence {
    rows.fence.iter().map(|(realm, mark)| (realm.clone(), mark.sequence)).collect()
}
