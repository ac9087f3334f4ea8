//! What the consumer received, held against what was published.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::model::{Manifest, Realm, RowsDigest};

/// One event, as far as the books need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) place: String,
    /// `None` deletes the key.
    pub(super) data: Option<String>,
}

impl Entry {
    /// Reads a CloudEvent; the sequence is the log's, or given where the event does not know it.
    pub(super) fn read(event: &Value, sequence: Option<u64>) -> Option<Self> {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let sequence = sequence.or_else(|| text("logsequence")?.parse().ok())?;
        let place = format!("{} {}", text("type")?, text("subject").unwrap_or_default());
        Some(Self { sequence, place, data: event.get("data").map(ToString::to_string) })
    }
}

/// The books of a run.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) published: Vec<Entry>,
    pub(super) fence: u64,
    pub(super) rows: Vec<Entry>,
    pub(super) manifest: Option<Manifest>,
    pub(super) live: Vec<Entry>,
}

/// The outcome, one line a promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    pub(super) checks: Vec<Check>,
}

/// One promise and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) promise: &'static str,
    pub(super) kept: bool,
    pub(super) detail: String,
}

impl Books {
    /// Holds every promise against the books.
    pub(super) fn audit(&self, realm: &Realm) -> Verdict {
        let checks = vec![
            self.prefill_is_the_state(),
            self.manifest_fits(realm),
            self.no_gap(),
            self.no_duplicate(),
            self.order_per_key(),
            self.same_end(),
        ];
        Verdict { passed: checks.iter().all(|check| check.kept), checks }
    }

    fn prefill_is_the_state(&self) -> Check {
        let until_fence = self.published.iter().filter(|entry| entry.sequence <= self.fence);
        let (expected, got) = (state(until_fence), state(self.rows.iter()));
        Check {
            promise: "prefill is the state at the fence",
            kept: expected == got && got.len() == self.rows.len(),
            detail: format!("{} rows at sequence {}", self.rows.len(), self.fence),
        }
    }

    fn manifest_fits(&self, realm: &Realm) -> Check {
        let mut digest = RowsDigest::default();
        self.rows.iter().for_each(|row| digest.add(realm, row.sequence));
        let fits = |manifest: &Manifest| {
            manifest.rows == self.rows.len() as u64 && manifest.digest == digest.to_hex()
        };
        Check {
            promise: "the manifest's digest fits",
            kept: self.manifest.as_ref().is_some_and(fits),
            detail: digest.to_hex().chars().take(16).collect(),
        }
    }

    fn no_gap(&self) -> Check {
        let got: BTreeSet<u64> = self.live.iter().map(|entry| entry.sequence).collect();
        let after_fence = || self.published.iter().filter(|entry| entry.sequence > self.fence);
        let missing = after_fence().filter(|entry| !got.contains(&entry.sequence)).count();
        let expected = after_fence().count();
        Check {
            promise: "no gap",
            kept: missing == 0,
            detail: format!("{} of {expected} later changes came", expected - missing),
        }
    }

    fn no_duplicate(&self) -> Check {
        let distinct: BTreeSet<u64> = self.live.iter().map(|entry| entry.sequence).collect();
        let repeated = self.live.len() - distinct.len();
        let stale = self.live.iter().filter(|entry| entry.sequence <= self.fence).count();
        Check {
            promise: "no duplicate",
            kept: repeated == 0 && stale == 0,
            detail: format!("{repeated} repeated, {stale} that the prefill held already"),
        }
    }

    fn order_per_key(&self) -> Check {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        let mut inversions = 0;
        for entry in self.rows.iter().chain(&self.live) {
            let seen = newest.entry(&entry.place).or_default();
            inversions += usize::from(*seen >= entry.sequence);
            *seen = entry.sequence;
        }
        Check {
            promise: "never older after newer",
            kept: inversions == 0,
            detail: format!("{inversions} inversions over {} keys", newest.len()),
        }
    }

    fn same_end(&self) -> Check {
        let built = state(self.rows.iter().chain(&self.live));
        let expected = state(self.published.iter());
        Check {
            promise: "the consumer's state is the source's",
            kept: built == expected,
            detail: format!("{} keys", built.len()),
        }
    }
}

fn state<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<&'a str, &'a str> {
    let mut state = BTreeMap::new();
    for entry in entries {
        match &entry.data {
            Some(data) => state.insert(entry.place.as_str(), data.as_str()),
            None => state.remove(entry.place.as_str()),
        };
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, place: &str, data: Option<&str>) -> Entry {
        Entry { sequence, place: place.into(), data: data.map(Into::into) }
    }

    fn sound() -> Books {
        let rows = vec![entry(3, "a", Some("2"))];
        let mut digest = RowsDigest::default();
        digest.add(&Realm::new("directory").unwrap(), 3);
        Books {
            published: vec![
                entry(1, "a", Some("1")),
                entry(2, "b", None),
                entry(3, "a", Some("2")),
                entry(4, "b", Some("3")),
                entry(5, "a", None),
            ],
            fence: 3,
            manifest: Some(Manifest {
                generation: 1,
                fence: [(Realm::new("directory").unwrap(), 3)].into(),
                rows: 1,
                digest: digest.to_hex(),
            }),
            rows,
            live: vec![entry(4, "b", Some("3")), entry(5, "a", None)],
        }
    }

    fn broken(change: impl FnOnce(&mut Books)) -> Vec<&'static str> {
        let mut books = sound();
        change(&mut books);
        let verdict = books.audit(&Realm::new("directory").unwrap());
        verdict.checks.iter().filter(|check| !check.kept).map(|check| check.promise).collect()
    }

    #[test]
    fn sound_books_pass_and_each_fault_is_named() {
        assert!(broken(|_| {}).is_empty());
        assert!(
            broken(|b| {
                b.live.remove(0);
            })
            .contains(&"no gap")
        );
        assert!(broken(|b| b.live.push(b.live[1].clone())).contains(&"no duplicate"));
        assert!(broken(|b| b.live.swap(0, 1)).is_empty(), "other keys may be interleaved");
        assert!(
            broken(|b| b.live.insert(0, entry(2, "a", None))).contains(&"never older after newer")
        );
        assert!(broken(|b| b.rows.clear()).contains(&"prefill is the state at the fence"));
        assert!(broken(|b| b.manifest = None).contains(&"the manifest's digest fits"));
    }
}
