//! State behind its lock, and the journal of what was changed there.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::Journal;

/// State whose changes are noted in a journal.
pub(super) trait Journaled {
    fn journal(&self) -> &Journal;
}

/// Locked state. What was changed is handed on to the journal when this is let go.
#[derive(Debug)]
pub(super) struct Entered<'a, T: Journaled>(MutexGuard<'a, T>);

impl<'a, T: Journaled> Entered<'a, T> {
    pub(super) fn lock(state: &'a Mutex<T>) -> Self {
        // No section can panic half way through a change, so a poisoned lock is sound.
        Self(state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Journaled> Deref for Entered<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Journaled> DerefMut for Entered<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Journaled> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        self.0.journal().flush();
    }
}
