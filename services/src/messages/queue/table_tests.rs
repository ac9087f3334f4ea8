//! The table and the journal together, held against a model that knows only the rule: what goes of
//! a key is the beginning of what it has unsettled, while nothing of it is out or delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::selection::Select;
use super::{Arrived, Body, Table};
use crate::model::{Key, Topic};
use crate::store::journal::{Answer, Journal, KeyHash, MAX_BEHIND, Stamp, Wish};

const ACK_WAIT: Duration = Duration::from_secs(30);
const PLENTY: Select = Select { max: 1000, max_per_key: 1000, max_bytes: usize::MAX };

#[derive(Debug, Clone)]
enum Op {
    Append(u8),
    /// An owner reads so many events, of the log or of what it recovers.
    Read(bool, usize),
    Pull {
        old: bool,
        looks: bool,
        want: (usize, usize, usize),
    },
    /// A client says something of a delivery, counted back from the newest.
    Say(Vec<(usize, Wish)>),
    Advance(u64),
    /// A session begins; the one before goes on without knowing.
    TakeOver,
    /// The newest answer reached nobody.
    Unsend,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let wish = prop_oneof![
        6 => Just(Wish::Ack),
        2 => (0u64..90_000).prop_map(|delay_ms| Wish::Nack { delay_ms }),
        1 => Just(Wish::Extend),
        1 => Just(Wish::Reject),
    ];
    let op = prop_oneof![
        6 => (0u8..4).prop_map(Op::Append),
        5 => (prop::bool::weighted(0.2), 0usize..6).prop_map(|(old, count)| Op::Read(old, count)),
        5 => (prop::bool::weighted(0.3), any::<bool>(), (1usize..8, 1usize..5, 1usize..60))
            .prop_map(|(old, looks, want)| Op::Pull { old, looks, want }),
        5 => vec((0usize..12, wish), 1..6).prop_map(Op::Say),
        2 => (0u64..40_000).prop_map(Op::Advance),
        1 => Just(Op::TakeOver),
        1 => Just(Op::Unsend),
    ];
    vec(op, 1..120)
}

fn key(of: u8) -> KeyHash {
    let topic: Topic = "dir.user".parse().expect("a topic");
    KeyHash::of(&topic, &Key::new(format!("k{of}")).expect("a key"))
}

/// A delivery that a client was given.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    sequence: u64,
    attempt: u32,
}

/// What a delivery that was not settled stands at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Out { until: Instant },
    Back { from: Instant, delayed: bool },
}

struct Rig {
    log: Vec<KeyHash>,
    of_key: BTreeMap<KeyHash, Vec<u64>>,
    journal: Arc<Journal>,
    /// The session that has the lease, and the one before it, which may think that it has.
    tables: [Table; 2],
    sessions: u64,
    now: Instant,
    deliveries: Vec<Delivery>,
    answer: Vec<Delivery>,
    settled: BTreeSet<u64>,
    last: BTreeMap<u64, (u32, At)>,
}

impl Rig {
    fn new() -> Self {
        let (journal, now) = (Arc::new(Journal::default()), Instant::now());
        let table = |owner| Table::new(owner, journal.clone(), ACK_WAIT, None, now);
        Self {
            log: Vec::new(),
            of_key: BTreeMap::new(),
            tables: [table(1 << 32), table(2 << 32)],
            journal: journal.clone(),
            sessions: 2,
            now,
            deliveries: Vec::new(),
            answer: Vec::new(),
            settled: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Append(of) => self.append(key(*of)),
            Op::Read(old, count) => self.read(usize::from(*old), *count),
            Op::Pull { old, looks, want: (max, max_per_key, max_bytes) } => {
                let want = Select { max: *max, max_per_key: *max_per_key, max_bytes: *max_bytes };
                self.pull(usize::from(*old), *looks, want);
            }
            Op::Say(said) => {
                let newest = self.deliveries.iter().rev();
                let newest: Vec<Delivery> = newest.take(12).copied().collect();
                let known = said.iter().filter_map(|(at, wish)| Some((*newest.get(*at)?, *wish)));
                let said: BTreeMap<u64, (Delivery, Wish)> =
                    known.map(|(of, wish)| (of.sequence, (of, wish))).collect();
                self.say(&said.into_values().collect::<Vec<_>>());
            }
            Op::Advance(ms) => self.now += Duration::from_millis(*ms),
            Op::TakeOver => {
                let new = self.session();
                let before = std::mem::replace(&mut self.tables[0], new);
                self.tables[1] = before;
            }
            Op::Unsend => self.unsend(),
        }
        let read = Journal::decode(&self.journal.encode().expect("encodes")).expect("decodes");
        assert_eq!(read, *self.journal);
    }

    fn append(&mut self, key: KeyHash) {
        self.log.push(key);
        self.of_key.entry(key).or_default().push(self.log.len() as u64);
    }

    fn session(&mut self) -> Table {
        self.sessions += 1;
        Table::new(self.sessions << 32, self.journal.clone(), ACK_WAIT, None, self.now)
    }

    fn arrived(&self, after: u64, count: usize) -> Vec<Arrived> {
        let rest = self.log.iter().zip(1u64..).skip(after as usize).take(count);
        let arrived = |(key, sequence): (&KeyHash, u64)| {
            let event = Bytes::from(vec![b'x'; 1 + (sequence % 17) as usize]);
            let stamp = Stamp { time_ms: sequence };
            Arrived { sequence, key: *key, stamp, body: Body { sequence, event } }
        };
        rest.map(arrived).collect()
    }

    fn read(&mut self, who: usize, count: usize) {
        let recovery = self.tables[who].recovery().cloned();
        let after = recovery.map_or(self.tables[who].read(), |recovery| recovery.after);
        let events = self.arrived(after, count);
        let up_to = after + events.len() as u64;
        let table = &mut self.tables[who];
        match table.recovery().is_some() {
            true => table.recovered(events, up_to, self.now),
            false => table.arrived(events, up_to, self.now),
        }
    }

    fn pull(&mut self, who: usize, looks: bool, want: Select) {
        if looks && !self.tables[who].sync(self.journal.clone(), self.now) {
            self.tables[who] = self.session();
        }
        let table = &mut self.tables[who];
        table.tick(self.now);
        let selection = table.select(want);
        assert!(selection.count <= want.max);
        let groups = table.groups(&selection);
        let sequences = |group: &crate::store::journal::Group| -> Vec<u64> {
            let again = group.again.iter().map(|(sequence, _)| *sequence);
            again.chain(group.fresh.iter().copied()).collect()
        };
        if groups.is_empty() {
            table.release(selection.keys().collect::<Vec<_>>(), self.now);
            return self.answer.clear();
        }
        let chosen = groups
            .iter()
            .map(|group| (group.key, sequences(group).into_iter().collect()))
            .collect();
        let taken = table.taken(&chosen);
        let mut journal = Journal::clone(&self.journal);
        let Ok(went) = journal.hand_out(&groups, &taken) else {
            self.tables[who] = self.session();
            return;
        };
        self.journal = Arc::new(journal);
        table.handed_out(self.journal.clone(), self.now);
        table.release(selection.keys().collect::<Vec<_>>(), self.now);
        self.answer.clear();
        for group in groups.iter().filter(|group| went.contains(&group.key)) {
            assert!(sequences(group).len() <= want.max_per_key);
            self.goes(group.key, &sequences(group));
        }
    }

    /// Holds a run against the rule.
    fn goes(&mut self, key: KeyHash, run: &[u64]) {
        let unsettled = self.of_key[&key].iter().filter(|of_key| !self.settled.contains(of_key));
        let unsettled: Vec<u64> = unsettled.copied().collect();
        assert_eq!(run, &unsettled[..run.len()], "not the beginning of {unsettled:?}");
        for (at, sequence) in unsettled.iter().enumerate() {
            match self.last.get(sequence) {
                Some((_, At::Out { until })) => assert!(*until <= self.now, "{sequence} is out"),
                Some((_, At::Back { from, delayed: true })) if at == 0 => {
                    assert!(*from <= self.now, "{sequence} is delayed");
                }
                _ => {}
            }
        }
        for sequence in run {
            let attempt = self.journal.open[sequence].attempt;
            let before = self.last.get(sequence).map_or(0, |(attempt, _)| *attempt);
            assert!(attempt > before, "attempt {attempt} of {sequence} after {before}");
            let delivery = Delivery { sequence: *sequence, attempt };
            self.last.insert(*sequence, (attempt, At::Out { until: self.now + ACK_WAIT }));
            self.deliveries.push(delivery);
            self.answer.push(delivery);
        }
        // Of a lease that ended, what did not go again is not out any more.
        for sequence in &unsettled[run.len()..] {
            if let Some((_, at @ At::Out { .. })) = self.last.get_mut(sequence) {
                *at = At::Back { from: self.now, delayed: false };
            }
        }
    }

    /// In the order of the sequences, one word on each event.
    fn say(&mut self, said: &[(Delivery, Wish)]) {
        let mut journal = Journal::clone(&self.journal);
        let plain: Vec<_> =
            said.iter().map(|(of, wish)| (of.sequence, of.attempt, *wish)).collect();
        let answers = journal.settle(&plain);
        self.journal = Arc::new(journal);
        for ((of, wish), answer) in said.iter().zip(answers) {
            assert_eq!(answer, self.expected(*of, *wish), "{wish:?} of {of:?}");
        }
    }

    fn is_out(&self, sequence: u64) -> bool {
        matches!(self.last.get(&sequence), Some((_, At::Out { .. })))
    }

    fn expected(&mut self, of: Delivery, wish: Wish) -> Answer {
        let Delivery { sequence, attempt } = of;
        let is_final = matches!(wish, Wish::Ack | Wish::Reject);
        if self.settled.contains(&sequence) {
            return if is_final { Answer::Done } else { Answer::Stale };
        }
        let (now_at, at) = self.last[&sequence];
        if now_at != attempt {
            return Answer::Stale;
        }
        if let At::Back { delayed, .. } = at {
            let again = delayed && matches!(wish, Wish::Nack { .. });
            return if again { Answer::Done } else { Answer::Stale };
        }
        let of_key = self.of_key[&self.log[sequence as usize - 1]].iter().copied();
        let out: Vec<u64> = of_key.filter(|other| self.is_out(*other)).collect();
        match wish {
            _ if is_final && out[0] != sequence => Answer::Early,
            Wish::Nack { delay_ms } => {
                for later in out.iter().filter(|later| **later >= sequence) {
                    let delayed = *later == sequence;
                    let delay = Duration::from_millis(if delayed { delay_ms } else { 0 });
                    let at = At::Back { from: self.now + delay, delayed };
                    self.last.get_mut(later).expect("is out").1 = at;
                }
                Answer::Done
            }
            Wish::Extend => {
                for of_run in out {
                    let at = At::Out { until: self.now + ACK_WAIT };
                    self.last.get_mut(&of_run).expect("is out").1 = at;
                }
                Answer::Done
            }
            _ => {
                self.settled.insert(sequence);
                self.last.remove(&sequence);
                Answer::Done
            }
        }
    }

    fn unsend(&mut self) {
        let unsent: Vec<(u64, u32)> =
            self.answer.drain(..).map(|of| (of.sequence, of.attempt)).collect();
        // A client that never got it has said nothing of it.
        let untouched = unsent.iter().all(|(sequence, attempt)| {
            matches!(self.last.get(sequence), Some((now_at, At::Out { .. })) if now_at == attempt)
        });
        if !untouched {
            return;
        }
        let mut journal = Journal::clone(&self.journal);
        journal.unsend(&unsent);
        self.journal = Arc::new(journal);
        for (sequence, attempt) in &unsent {
            self.deliveries.retain(|of| (of.sequence, of.attempt) != (*sequence, *attempt));
            let back = (attempt - 1, At::Back { from: self.now, delayed: false });
            self.last.insert(*sequence, back);
        }
    }

    /// A new session, and a client that acks everything: nothing is left.
    fn drain(&mut self) {
        self.tables[0] = self.session();
        for _ in 0..3 * self.log.len() + 10 {
            self.now += Duration::from_secs(100);
            self.read(0, 50);
            self.pull(0, true, PLENTY);
            let said: Vec<_> = self.answer.clone().into_iter().map(|of| (of, Wish::Ack)).collect();
            let said: BTreeMap<u64, _> =
                said.into_iter().map(|(of, wish)| (of.sequence, (of, wish))).collect();
            self.say(&said.into_values().collect::<Vec<_>>());
        }
        let all: BTreeSet<u64> = (1..=self.log.len() as u64).collect();
        let missing: Vec<_> = all.difference(&self.settled).collect();
        assert!(missing.is_empty(), "{missing:?} never went; {:?}", self.journal);
        assert!(self.journal.is_drained(), "{:?}", self.journal);
        assert_eq!(self.journal.passed_over(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_goes_of_a_key_is_the_beginning_of_what_it_has_unsettled(ops in ops()) {
        let mut rig = Rig::new();
        for op in &ops {
            rig.run(op);
        }
        rig.drain();
    }
}

/// Who was superseded writes nothing, even where it had handed out before, the one who took over
/// has handed out nothing yet, and all that went meanwhile is settled.
#[test]
fn two_sessions_never_hand_out_the_same() {
    let mut rig = Rig::new();
    (0..5).for_each(|_| rig.append(key(1)));
    let ack_all = |rig: &mut Rig| {
        let went = std::mem::take(&mut rig.answer);
        rig.say(&went.iter().map(|of| (*of, Wish::Ack)).collect::<Vec<_>>());
        went.len()
    };
    rig.read(0, 1);
    rig.pull(0, false, PLENTY);
    assert_eq!(ack_all(&mut rig), 1);
    rig.run(&Op::TakeOver);
    rig.read(0, 4);
    rig.read(1, 4);
    rig.pull(1, true, PLENTY);
    assert_eq!(ack_all(&mut rig), 4, "the one before goes on without knowing");
    rig.pull(0, false, PLENTY);
    assert_eq!(ack_all(&mut rig), 0, "all of it went already");
    rig.drain();
}

/// Keys that would leave something behind wait once the journal can hold no more of them.
#[test]
fn what_is_behind_has_a_bound() {
    let mut rig = Rig::new();
    let topic: Topic = "dir.user".parse().expect("a topic");
    let keys = MAX_BEHIND as u64 + 500;
    let of = |n: u64| KeyHash::of(&topic, &Key::new(format!("k{n}")).expect("a key"));
    (0..2 * keys).for_each(|n| rig.append(of(n % keys)));
    rig.read(0, rig.log.len());
    let one = Select { max: 1000, max_per_key: 1, max_bytes: usize::MAX };
    let (mut rounds, mut taken) = (0, 0);
    while rig.settled.len() < rig.log.len() {
        rig.pull(0, true, one);
        let went = rig.answer.clone();
        rig.say(&went.iter().map(|of| (*of, Wish::Ack)).collect::<Vec<_>>());
        assert!(rig.journal.behind.len() <= MAX_BEHIND, "{}", rig.journal.behind.len());
        (rounds, taken) = (rounds + 1, taken + went.len());
        assert!(rounds < 200, "{taken} of {}", rig.log.len());
    }
}
