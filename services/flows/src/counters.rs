//! What moves: counters that roles raise, and whoever started them reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counters of a flow in this process, in the order in which roles first named them. Cloning is
/// cheap, and clones are the same counters.
///
/// ```
/// use lockgate_flows::Counters;
///
/// let counters = Counters::default();
/// counters.counter("orders").add(2);
/// counters.counter("orders").add(1); // the same one
/// counters.gauge("makers").set(7);
/// let shown: Vec<_> = counters.read().iter().map(|one| (one.name, one.value)).collect();
/// assert_eq!(shown, [("orders", 3), ("makers", 7)]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<Vec<Named>>>);

#[derive(Debug)]
struct Named {
    name: &'static str,
    is_gauge: bool,
    value: Arc<AtomicU64>,
}

/// How much has moved: it only grows.
#[derive(Debug, Clone)]
pub struct Counter(Arc<AtomicU64>);

/// How much there is right now.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<AtomicU64>);

/// A counter or gauge as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its name.
    pub name: &'static str,
    /// True where it goes up and down, so that it has no rate.
    pub is_gauge: bool,
    /// What it stood at.
    pub value: u64,
}

impl Counters {
    /// The counter of this name, made when it is first asked for. Name it once and keep it: this
    /// takes a lock.
    pub fn counter(&self, name: &'static str) -> Counter {
        Counter(self.named(name, false))
    }

    /// The gauge of this name, made when it is first asked for.
    pub fn gauge(&self, name: &'static str) -> Gauge {
        Gauge(self.named(name, true))
    }

    /// All of them as they stand now.
    pub fn read(&self) -> Vec<Reading> {
        let read = |one: &Named| Reading {
            name: one.name,
            is_gauge: one.is_gauge,
            value: one.value.load(Ordering::Relaxed),
        };
        self.list().iter().map(read).collect()
    }

    fn named(&self, name: &'static str, is_gauge: bool) -> Arc<AtomicU64> {
        let mut list = self.list();
        if let Some(known) = list.iter().find(|one| one.name == name) {
            return known.value.clone();
        }
        let value = Arc::<AtomicU64>::default();
        list.push(Named { name, is_gauge, value: value.clone() });
        value
    }

    fn list(&self) -> MutexGuard<'_, Vec<Named>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    /// This many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// This many now.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// As it was last set.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
