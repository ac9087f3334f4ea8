//! The bound on records that are on their way. A report of each record comes through here, so that
//! nothing is locked while nobody waits.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use tokio::sync::Notify;

use super::threads::closed;
use crate::error::Result;

/// How many records are on their way at most.
const PLACES: u32 = 10_000;

/// Counts records from when they are handed over until they are reported.
#[derive(Default)]
pub(super) struct Window {
    taken: AtomicU32,
    closed: AtomicBool,
    /// How many wait for `freed`.
    waiting: AtomicU32,
    freed: Notify,
}

impl Window {
    /// Takes a place, as soon as there is one; it is given back by dropping it, or by a report.
    pub(super) async fn enter(&self) -> Result<Place<'_>> {
        match self.try_enter()? {
            Some(place) => Ok(place),
            None => self.until(|| self.try_enter().transpose()).await?,
        }
    }

    /// Waits until `look` finds something, and looks after each report.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Listening before looking: a report in between is not missed.
            freed.as_mut().enable();
            if let Some(found) = look() {
                return Ok(found);
            }
            freed.await;
        }
    }

    /// A record was reported.
    pub(super) fn report(&self) {
        self.taken.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Refuses whoever comes, and waits until nothing is on its way.
    pub(super) async fn close(&self) {
        self.closed.store(true, SeqCst);
        self.freed.notify_waiters();
        // It cannot fail: what it waits for is no place.
        let _ = self.until(|| (self.taken.load(SeqCst) == 0).then_some(())).await;
    }

    fn try_enter(&self) -> Result<Option<Place<'_>>> {
        if self.closed.load(SeqCst) {
            return Err(closed());
        }
        let one_more = |taken: u32| (taken < PLACES).then_some(taken + 1);
        let entered = self.taken.fetch_update(SeqCst, SeqCst, one_more);
        Ok(entered.ok().map(|_| Place(Some(self))))
    }
}

/// A place in the window.
pub(super) struct Place<'a>(Option<&'a Window>);

impl Place<'_> {
    /// The record is on its way: its report gives the place back.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(window) = self.0 {
            window.report();
        }
    }
}

struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_full_window_waits_for_a_report_and_closing_for_all() {
        let window = Arc::new(Window::default());
        for _ in 0..PLACES {
            window.enter().await.unwrap().keep();
        }
        let waits = {
            let window = window.clone();
            tokio::spawn(async move { window.enter().await.map(Place::keep) })
        };
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        window.report();
        waits.await.unwrap().unwrap();
        drop(window.try_enter().unwrap());

        let late = {
            let window = window.clone();
            tokio::spawn(async move { window.enter().await.map(Place::keep) })
        };
        tokio::task::yield_now().await;
        let closing = {
            let window = window.clone();
            tokio::spawn(async move { window.close().await })
        };
        assert!(late.await.unwrap().is_err(), "whoever waits is told too");
        for _ in 0..PLACES {
            assert!(!closing.is_finished());
            window.report();
        }
        closing.await.unwrap();
        assert!(window.enter().await.is_err());
    }
}
