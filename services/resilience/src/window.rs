//! The last calls, counted.

use std::collections::VecDeque;

/// How one call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

/// The last `size` calls, and how many of them failed or were slow. Every step costs the same.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    size: usize,
    calls: VecDeque<Call>,
    failed: usize,
    slow: usize,
}

impl Window {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self { size, calls: VecDeque::with_capacity(size), failed: 0, slow: 0 }
    }

    pub(crate) fn push(&mut self, call: Call) {
        if self.calls.len() == self.size
            && let Some(oldest) = self.calls.pop_front()
        {
            self.failed -= usize::from(oldest.failed);
            self.slow -= usize::from(oldest.slow);
        }
        self.failed += usize::from(call.failed);
        self.slow += usize::from(call.slow);
        self.calls.push_back(call);
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The share of calls that failed; 0 of none.
    pub(crate) fn failure_rate(&self) -> f64 {
        rate(self.failed, self.calls.len())
    }

    /// The share of calls that were slow; 0 of none.
    pub(crate) fn slow_rate(&self) -> f64 {
        rate(self.slow, self.calls.len())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a window is far smaller than 2^52")]
fn rate(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
