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
    /// One of the events of an answer.
    Delivered {
        /// The same for all events of one answer.
        answer: u64,
        attempt: u64,
        prefill: bool,
        realm: Realm,
        event: Event,
    },
    /// The client has asked for this delivery to be settled and does not know yet what came of it.
    Acking { prefill: bool, realm: Realm, sequence: u64 },
    /// The server has said that this delivery is done.
    Acked { prefill: bool, realm: Realm, sequence: u64 },
    /// What follows is of another generation than what came before.
    Generation(u64),
}

/// Holds the deliveries of a queue's last generation against the truth.
pub(crate) fn check_queue(steps: &[QueueStep], truth: &Truth, fence: &Fence) -> Vec<Violation> {
    let mut found = Vec::new();
    let state_at_fence = truth.state_at(fence);
    let (mut rows, mut live, mut state) = (State::new(), BTreeSet::new(), State::new());
    let mut runs = Runs::default();
    for step in of_last_generation(steps) {
        let QueueStep::Delivered { prefill, realm, event, .. } = step else {
            runs.take(step, truth, fence, &mut found);
            continue;
        };
        runs.take(step, truth, fence, &mut found);
        if *prefill && !live.is_empty() {
            let what = format!("row {realm} {} came after a live event", event.sequence);
            found.push(Violation("I5", what));
        }
        if *prefill {
            rows.insert((realm.clone(), event.place.clone()), (event.sequence, event.body.clone()));
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

/// A replica may be behind and speak of an older one in between.
fn of_last_generation(steps: &[QueueStep]) -> impl Iterator<Item = &QueueStep> {
    let of = |step: &QueueStep| match step {
        QueueStep::Generation(of) => Some(*of),
        _ => None,
    };
    let last = steps.iter().filter_map(of).max().unwrap_or(1);
    let mut now = 1;
    steps.iter().filter(move |step| {
        now = of(step).unwrap_or(now);
        now == last
    })
}

type Place = (bool, Realm, String);
type Id = (bool, Realm, u64);

/// The rule of queue mode (I3 and I4): what an answer holds of a key is a run. It begins at the
/// first event of the key that is not settled and holds those that follow, without a gap. What the
/// server has said to be settled never comes again; of what was asked to be settled without an
/// answer, nobody knows. A redelivery raises the attempt.
#[derive(Default)]
struct Runs {
    answer: Option<u64>,
    /// The last of each key in the present answer.
    last: BTreeMap<Place, u64>,
    attempts: BTreeMap<Id, u64>,
    asked: BTreeSet<Id>,
    acked: BTreeSet<Id>,
}

impl Runs {
    fn take(&mut self, step: &QueueStep, truth: &Truth, fence: &Fence, found: &mut Vec<Violation>) {
        match step {
            QueueStep::Acking { prefill, realm, sequence } => {
                self.asked.insert((*prefill, realm.clone(), *sequence));
            }
            QueueStep::Acked { prefill, realm, sequence } => {
                self.acked.insert((*prefill, realm.clone(), *sequence));
            }
            QueueStep::Generation(_) => {}
            QueueStep::Delivered { answer, attempt, prefill, realm, event } => {
                if self.answer != Some(*answer) {
                    self.answer = Some(*answer);
                    self.last.clear();
                }
                let id = (*prefill, realm.clone(), event.sequence);
                let row = if *prefill { "row " } else { "" };
                let what = format!("{row}{realm} {} ({})", event.sequence, event.place);
                if self.acked.contains(&id) {
                    found.push(Violation("I4", format!("{what} came again after its ack")));
                }
                let before = self.attempts.insert(id, *attempt);
                if before.is_some_and(|before| before >= *attempt) {
                    found.push(Violation(
                        "I4",
                        format!("{what}: attempt {attempt} after {before:?}"),
                    ));
                }
                if !prefill {
                    let after = fence.get(realm).copied().unwrap_or(0);
                    let of_key: Vec<u64> = truth
                        .after(realm, after)
                        .filter(|other| other.place == event.place)
                        .map(|other| other.sequence)
                        .collect();
                    self.in_order(&of_key, realm, event, &what, found);
                }
            }
        }
    }

    fn in_order(
        &mut self,
        of_key: &[u64],
        realm: &Realm,
        event: &Event,
        what: &str,
        found: &mut Vec<Violation>,
    ) {
        let place = (false, realm.clone(), event.place.clone());
        let may_be_settled = |sequence: &u64| {
            let id = (false, realm.clone(), *sequence);
            self.acked.contains(&id) || self.asked.contains(&id)
        };
        let skipped: Vec<u64> = match self.last.get(&place) {
            // Within a run nothing is left out.
            Some(last) => {
                of_key.iter().filter(|s| *s > last && **s < event.sequence).copied().collect()
            }
            None => {
                let before = of_key.iter().take_while(|sequence| **sequence < event.sequence);
                before.filter(|sequence| !may_be_settled(sequence)).copied().collect()
            }
        };
        if !skipped.is_empty() || self.last.get(&place).is_some_and(|last| *last >= event.sequence)
        {
            found
                .push(Violation("I3", format!("{what} came while {skipped:?} were to come first")));
        }
        let is_acked = |sequence: &&u64| self.acked.contains(&(false, realm.clone(), **sequence));
        if let Some(newer) = of_key.iter().filter(|s| **s > event.sequence).find(is_acked) {
            found.push(Violation("I3", format!("{what} came after {newer} was settled")));
        }
        self.last.insert(place, event.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm() -> Realm {
        Realm::new("dir").expect("a realm")
    }

    fn event(sequence: u64) -> Event {
        let (place, body) = (String::from("user a"), sequence.to_string());
        Event { sequence, place, deleted: false, body }
    }

    fn delivered(answer: u64, sequence: u64, attempt: u64) -> QueueStep {
        let (realm, event) = (realm(), event(sequence));
        QueueStep::Delivered { answer, attempt, prefill: false, realm, event }
    }

    fn acked(sequence: u64) -> QueueStep {
        QueueStep::Acked { prefill: false, realm: realm(), sequence }
    }

    /// Which invariants three events of one key break when they come like this.
    fn broken(steps: &[QueueStep]) -> Vec<&'static str> {
        let truth = Truth { logs: [(realm(), (1..=3).map(event).collect())].into() };
        check_queue(steps, &truth, &Fence::new()).into_iter().map(|found| found.0).collect()
    }

    #[test]
    fn the_checker_knows_a_run_from_an_overtaking() {
        let (a, b, c) = (delivered(1, 1, 1), delivered(1, 2, 1), delivered(1, 3, 1));
        assert_eq!(broken(&[a.clone(), b.clone(), c.clone()]), [""; 0]);
        let again = [a.clone(), b.clone(), acked(1), delivered(2, 2, 2), delivered(2, 3, 1)];
        assert_eq!(broken(&again), [""; 0], "back to the first that was not acked");
        let further_back = [a.clone(), b.clone(), acked(1), delivered(2, 1, 2), c.clone()];
        assert!(broken(&further_back).contains(&"I4"), "further back than that");
        let overtaken = [a.clone(), delivered(2, 2, 1), acked(1), delivered(3, 3, 1)];
        assert!(broken(&overtaken).contains(&"I3"), "1 is out");
        let gap = [a.clone(), c.clone(), acked(1), delivered(2, 2, 1), delivered(3, 3, 2)];
        assert!(broken(&gap).contains(&"I3"), "2 is left out");
        let same_attempt = [a.clone(), delivered(2, 1, 1), delivered(2, 2, 1), delivered(2, 3, 1)];
        assert_eq!(broken(&same_attempt), ["I4"]);
        let unknown = QueueStep::Acking { prefill: false, realm: realm(), sequence: 1 };
        let lost_answer = [a, unknown, delivered(2, 2, 1), delivered(2, 3, 1)];
        assert_eq!(broken(&lost_answer), [""; 0]);
    }
}
