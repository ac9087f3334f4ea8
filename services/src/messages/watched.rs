//! A value that many follow, woken in the order in which they began to wait.
//!
//! It does what tokio's `watch` does, except that `watch` wakes its receivers in an order drawn by
//! chance, which a simulation could not replay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The writing side. Followers may outlive it.
#[derive(Debug)]
pub(super) struct Watched<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    value: Mutex<Versioned<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Versioned<T> {
    version: u64,
    value: T,
}

impl<T: Clone> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        let value = Mutex::new(Versioned { version: 0, value });
        Self(Arc::new(Shared { value, changed: Notify::new() }))
    }

    /// The value now.
    pub(super) fn get(&self) -> T {
        self.0.lock().value.clone()
    }

    /// Changes the value; followers are woken if `change` says that it did.
    pub(super) fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let changed = {
            let mut shared = self.0.lock();
            let changed = change(&mut shared.value);
            shared.version += u64::from(changed);
            changed
        };
        if changed {
            self.0.changed.notify_waiters();
        }
    }

    /// Replaces the value and wakes every follower.
    pub(super) fn set(&self, value: T) {
        self.change(|old| {
            *old = value;
            true
        });
    }

    /// A follower for which the value now is no change.
    pub(super) fn follow(&self) -> Follower<T> {
        let seen = self.0.lock().version;
        Follower { shared: self.0.clone(), seen }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Versioned<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading side.
#[derive(Debug, Clone)]
pub(super) struct Follower<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T: Clone> Follower<T> {
    /// The value now; leaves open whether it is a change.
    pub(super) fn get(&self) -> T {
        self.shared.lock().value.clone()
    }

    /// Makes the value now no change any more.
    pub(super) fn mark_seen(&mut self) {
        self.seen = self.shared.lock().version;
    }

    /// Waits for a change that was neither returned for nor marked as seen. May be dropped and
    /// called again.
    pub(super) async fn changed(&mut self) {
        loop {
            // Registered before the look, so that a change between the two is not missed.
            let mut notified = std::pin::pin!(self.shared.changed.notified());
            notified.as_mut().enable();
            let version = self.shared.lock().version;
            if version != self.seen {
                self.seen = version;
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_change_is_returned_for_once_and_never_missed() {
        let watched = Watched::new(1);
        let mut follower = watched.follow();
        assert_eq!(follower.changed().now_or_never(), None);
        watched.set(2);
        watched.set(3);
        assert_eq!(follower.changed().now_or_never(), Some(()));
        assert_eq!((follower.get(), follower.changed().now_or_never()), (3, None));
        watched.change(|_| false);
        assert_eq!(follower.changed().now_or_never(), None);
        watched.set(4);
        follower.mark_seen();
        assert_eq!(follower.changed().now_or_never(), None);
    }

    #[test]
    fn followers_wake_in_the_order_in_which_they_wait() {
        use futures_util::StreamExt;
        use futures_util::stream::FuturesUnordered;
        let watched = Watched::new(());
        let mut waiting: FuturesUnordered<_> = (0..20)
            .map(|at| {
                let mut follower = watched.follow();
                async move {
                    follower.changed().await;
                    at
                }
            })
            .collect();
        assert_eq!(waiting.next().now_or_never(), None);
        watched.set(());
        let woken: Vec<u32> = waiting.collect::<Vec<_>>().now_or_never().unwrap();
        assert_eq!(woken, (0..20).collect::<Vec<_>>());
    }
}
