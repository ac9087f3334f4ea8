//! The invariants, held against what a consumer saw.

use std::collections::{BTreeMap, BTreeSet};

use lockgate::model::{Fence, Manifest, Realm, RowsDigest};

use super::truth::{Event, State, Truth};

/// Which invariant of the handover was broken, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Violation(pub(crate) &'static str, pub(crate) String);

/// What a consumer in stream mode saw, in order.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    PrefillStart { fence: Fence },
    Message { realm: Realm, event: Event },
    PrefillEnd { manifest: Manifest },
    Expired,
}

/// Holds a stream against the truth. `open` tells for each message whether the record said, when
/// it arrived, that the prefill was complete.
pub(crate) fn check_stream(steps: &[Step], truth: &Truth, prefilled: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let segments: Vec<&[Step]> =
        steps.split(|step| matches!(step, Step::Expired)).filter(|s| !s.is_empty()).collect();
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        check_segment(segment, truth, prefilled, is_last, &mut found);
    }
    if segments.is_empty() {
        found.push(Violation("I2", "nothing was delivered".into()));
    }
    found
}

fn check_segment(
    steps: &[Step],
    truth: &Truth,
    prefilled: bool,
    is_last: bool,
    found: &mut Vec<Violation>,
) {
    let mut fence = None;
    let (mut rows, mut live, mut state) = (Vec::new(), BTreeMap::new(), State::new());
    let mut closed = !prefilled;
    for step in steps {
        match step {
            Step::PrefillStart { fence: at } if fence.is_none() => fence = Some(at.clone()),
            // The connection broke before the first row: there was nothing to resume after.
            Step::PrefillStart { fence: at } if fence.as_ref() == Some(at) && rows.is_empty() => {}
            Step::PrefillStart { .. } => {
                found.push(Violation("I4", "a second prefill began without a word".into()));
            }
            Step::Message { realm, event } => {
                if prefilled && fence.is_none() {
                    let what = format!("{realm} {} before the prefill", event.sequence);
                    found.push(Violation("I5", what));
                }
                if closed {
                    live.entry(realm.clone()).or_insert_with(Vec::new).push(event.clone());
                } else {
                    rows.push((realm.clone(), event.clone()));
                }
                event.apply(realm, &mut state);
            }
            Step::PrefillEnd { manifest } => {
                closed = true;
                check_manifest(manifest, &rows, found);
            }
            Step::Expired => {}
        }
    }
    let Some(fence) = fence.or_else(|| (!prefilled).then(Fence::new)) else {
        if is_last {
            found.push(Violation("I6", "the prefill never began".into()));
        }
        return;
    };
    if is_last && !closed {
        found.push(Violation("I6", "the prefill never ended".into()));
    }
    if closed && prefilled {
        check_rows(&rows, &truth.state_at(&fence), found);
    }
    check_live(&live, truth, &fence, is_last && prefilled, found);
    if is_last && prefilled && state != truth.state() {
        found.push(Violation("I1", format!("built {state:?}, the source is {:?}", truth.state())));
    }
}

fn check_rows(rows: &[(Realm, Event)], expected: &State, found: &mut Vec<Violation>) {
    let mut seen = BTreeMap::new();
    for (realm, event) in rows {
        let place = (realm.clone(), event.place.clone());
        if seen.insert(place, (event.sequence, event.body.clone())).is_some() {
            found.push(Violation("I4", format!("row {realm} {} came twice", event.place)));
        }
    }
    if seen != *expected {
        found.push(Violation("I1", format!("prefilled {seen:?}, the state was {expected:?}")));
    }
}

fn check_manifest(manifest: &Manifest, rows: &[(Realm, Event)], found: &mut Vec<Violation>) {
    let mut digest = RowsDigest::default();
    rows.iter().for_each(|(realm, event)| digest.add(realm, event.sequence));
    if manifest.rows != rows.len() as u64 || manifest.digest != digest.to_hex() {
        let what = format!("{} rows came, the manifest says {}", rows.len(), manifest.rows);
        found.push(Violation("I1", what));
    }
}

/// Live events of a realm are exactly those after the fence, in log order: that is I2, I3 and I4
/// at once; the message says which.
fn check_live(
    live: &BTreeMap<Realm, Vec<Event>>,
    truth: &Truth,
    fence: &Fence,
    complete: bool,
    found: &mut Vec<Violation>,
) {
    for (realm, events) in &truth.logs {
        let fence = fence.get(realm).copied().unwrap_or(0);
        let got: Vec<u64> =
            live.get(realm).into_iter().flatten().map(|event| event.sequence).collect();
        if got.iter().collect::<BTreeSet<_>>().len() < got.len() {
            found.push(Violation("I4", format!("{realm}: delivered twice in {got:?}")));
        }
        if got.windows(2).any(|pair| pair[0] > pair[1]) {
            found.push(Violation("I3", format!("{realm}: not in order: {got:?}")));
        }
        if got.iter().any(|sequence| *sequence <= fence) {
            found.push(Violation("I3", format!("{realm}: older than the fence {fence}: {got:?}")));
        }
        let expected: Vec<u64> =
            events.iter().map(|event| event.sequence).filter(|at| *at > fence).collect();
        let until = if complete { expected.len() } else { got.len().min(expected.len()) };
        if complete && got != expected || !complete && got[..until] != expected[..until] {
            found.push(Violation("I2", format!("{realm}: got {got:?} of {expected:?}")));
        }
    }
}

/// What a consumer in queue mode saw, in order.
#[derive(Debug, Clone)]
pub(crate) enum QueueStep {
    Delivered {
        prefill: bool,
        realm: Realm,
        event: Event,
    },
    /// The server has said that this delivery is done.
    Acked {
        prefill: bool,
        realm: Realm,
        sequence: u64,
    },
}

/// Holds the deliveries of a queue against the truth.
pub(crate) fn check_queue(steps: &[QueueStep], truth: &Truth, fence: &Fence) -> Vec<Violation> {
    let mut found = Vec::new();
    let state_at_fence = truth.state_at(fence);
    let mut newest: BTreeMap<(Realm, String), u64> = BTreeMap::new();
    let mut acked = BTreeSet::new();
    let (mut rows, mut live, mut state) = (State::new(), BTreeSet::new(), State::new());
    for step in steps {
        let (prefill, realm, event) = match step {
            QueueStep::Delivered { prefill, realm, event } => (*prefill, realm, event),
            QueueStep::Acked { prefill, realm, sequence } => {
                acked.insert((*prefill, realm.clone(), *sequence));
                continue;
            }
        };
        let place = (realm.clone(), event.place.clone());
        let what = format!("{realm} {} ({})", event.sequence, event.place);
        if acked.contains(&(prefill, realm.clone(), event.sequence)) {
            found.push(Violation("I4", format!("{what} came again after its ack")));
        }
        if newest.get(&place).is_some_and(|newest| *newest > event.sequence) {
            found.push(Violation("I3", format!("{what} came after {}", newest[&place])));
        }
        newest.insert(place.clone(), event.sequence);
        if prefill && !live.is_empty() {
            found.push(Violation("I5", format!("row {what} came after a live event")));
        }
        if prefill {
            rows.insert(place, (event.sequence, event.body.clone()));
        } else {
            live.insert((realm.clone(), event.sequence));
        }
        event.apply(realm, &mut state);
    }
    if rows != state_at_fence {
        found
            .push(Violation("I1", format!("prefilled {rows:?}, the state was {state_at_fence:?}")));
    }
    for realm in truth.logs.keys() {
        let fence = fence.get(realm).copied().unwrap_or(0);
        for event in truth.after(realm, fence) {
            if !live.contains(&(realm.clone(), event.sequence)) {
                found.push(Violation("I2", format!("{realm} {} never came", event.sequence)));
            }
        }
    }
    if state != truth.state() {
        found.push(Violation("I1", format!("built {state:?}, the source is {:?}", truth.state())));
    }
    found
}
