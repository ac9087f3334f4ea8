//! A value that many follow.
//!
//! Like tokio's `watch`, but waiters are woken in the order in which they came: that one spreads
//! them over eight lists at random, and a simulation could not be replayed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value and who waits for it. Cheap to clone.
pub(super) struct Watched<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// The value and how often it has changed.
    value: Mutex<(T, u64)>,
    changed: Notify,
}

/// Sees every latest change once.
pub(super) struct Follower<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T: Clone> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Shared { value: Mutex::new((value, 0)), changed: Notify::new() }))
    }

    /// The value now.
    pub(super) fn get(&self) -> T {
        self.0.lock().0.clone()
    }

    /// Changes the value where `change` says that it has, and wakes whoever waits.
    pub(super) fn update(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut value = self.0.lock();
        if change(&mut value.0) {
            value.1 += 1;
            drop(value);
            self.0.changed.notify_waiters();
        }
    }

    /// Follows the value from now on.
    pub(super) fn follow(&self) -> Follower<T> {
        let seen = self.0.lock().1;
        Follower { shared: self.0.clone(), seen }
    }
}

impl<T: Clone> Follower<T> {
    /// The value now; a change is not thereby seen.
    pub(super) fn get(&self) -> T {
        self.shared.lock().0.clone()
    }

    /// Counts what has changed until now as seen.
    pub(super) fn see(&mut self) {
        self.seen = self.shared.lock().1;
    }

    /// Waits for a change that was not seen, and sees it.
    pub(super) async fn changed(&mut self) {
        loop {
            // Made before the look, so that a change right after it wakes it.
            let changed = self.shared.changed.notified();
            let count = self.shared.lock().1;
            if count != self.seen {
                self.seen = count;
                return;
            }
            changed.await;
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, (T, u64)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Follower<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}
