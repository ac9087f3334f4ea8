//! How far a consumer is in one partition: a group commits one offset per partition, and this is
//! what makes each message of it settle on its own.
//!
//! The committed offset is the first that is not settled, and what is settled beyond it goes into
//! the commit's metadata as a bitmap, so that it does not come back after a crash or a rebalance.
//! Offsets that are never delivered, because the log was compacted there or holds a transaction's
//! marker, count as settled once a later one is: they stall nothing.

use std::collections::VecDeque;

use data_encoding::BASE64URL_NOPAD;

/// The bitmap must fit into the 4096 bytes that a broker takes with a commit.
const SPAN: i64 = 16_384;
/// What metadata of this form begins with. Keep stable: members of two versions may share a group.
const PREFIX: &str = "lg1:";

/// What is known of an offset at or above the first that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Not taken from the log yet.
    Ahead,
    /// Taken and not settled.
    Open,
    Settled,
}

/// What taking an offset from the log means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// To be delivered, and settled some day.
    Open,
    /// Settled before this member had the partition, or taken before.
    Settled,
}

/// The offsets of one partition, by whether they are settled.
#[derive(Debug, Clone)]
pub(super) struct Watermark {
    /// The first offset that is not settled.
    first: i64,
    /// What is known of the offsets from `first` on; its front is never settled.
    marks: VecDeque<Mark>,
    /// The first offset that was not taken.
    next: i64,
    open: usize,
}

impl Watermark {
    /// Nothing before `first` is of interest, and nothing from there on is settled.
    pub(super) fn new(first: i64) -> Self {
        Self { first, marks: VecDeque::new(), next: first, open: 0 }
    }

    /// What a commit of `first` with `metadata` said. Metadata that others have written is taken
    /// for none.
    pub(super) fn restore(first: i64, metadata: &str) -> Self {
        let mut restored = Self::new(first);
        let bitmap = metadata.strip_prefix(PREFIX);
        let bitmap = bitmap.and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
        let bitmap = bitmap.unwrap_or_default();
        let bits = bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        restored.marks.push_back(Mark::Ahead);
        let marks = bits.take(SPAN as usize - 1);
        restored.marks.extend(marks.map(|bit| if bit { Mark::Settled } else { Mark::Ahead }));
        restored
    }

    /// The offset to commit.
    pub(super) fn committed(&self) -> i64 {
        self.first
    }

    /// What to commit beside it; empty where nothing beyond it is settled.
    pub(super) fn metadata(&self) -> String {
        let mut bitmap = Vec::with_capacity(self.marks.len() / 8 + 1);
        for (at, mark) in self.marks.iter().skip(1).enumerate() {
            if at % 8 == 0 {
                bitmap.push(0_u8);
            }
            if let (Mark::Settled, Some(byte)) = (mark, bitmap.last_mut()) {
                *byte |= 1 << (at % 8);
            }
        }
        while bitmap.last() == Some(&0) {
            bitmap.pop();
        }
        if bitmap.is_empty() {
            return String::new();
        }
        let mut text = String::from(PREFIX);
        BASE64URL_NOPAD.encode_append(&bitmap, &mut text);
        text
    }

    /// The first offset that was not taken.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// False while `offset` is so far beyond an open one that a commit could not say what is
    /// settled between them: taking it has to wait.
    pub(super) fn fits(&self, offset: i64) -> bool {
        self.open == 0 || offset - self.first < SPAN
    }

    /// Takes an offset that [`Watermark::fits`]; those between the last one and it do not exist.
    pub(super) fn take(&mut self, offset: i64) -> Taken {
        if offset < self.next {
            return Taken::Settled;
        }
        self.pass(offset);
        self.next = offset + 1;
        let at = (offset - self.first) as usize;
        if self.marks.len() <= at {
            self.marks.resize(at + 1, Mark::Ahead);
        }
        let Some(mark) = self.marks.get_mut(at).filter(|mark| **mark == Mark::Ahead) else {
            self.trim();
            return Taken::Settled;
        };
        *mark = Mark::Open;
        self.open += 1;
        Taken::Open
    }

    /// Takes the offsets from `first` to `last`, all of which exist. False, and none is taken,
    /// where that has to be looked at for each: some do not fit, or are settled.
    pub(super) fn take_run(&mut self, first: i64, last: i64) -> bool {
        let known = self.first + self.marks.len() as i64;
        let fits = self.fits(last) && last - first < SPAN;
        if first < self.next || first < known || !fits {
            return false;
        }
        self.pass(first);
        let to = (last + 1 - self.first) as usize;
        self.marks.resize(to, Mark::Open);
        self.open += (last + 1 - first) as usize;
        self.next = last + 1;
        true
    }

    /// Settles an open offset; false where it is none.
    pub(super) fn settle(&mut self, offset: i64) -> bool {
        let at = usize::try_from(offset - self.first).ok();
        let mark = at.and_then(|at| self.marks.get_mut(at));
        let Some(mark) = mark.filter(|mark| **mark == Mark::Open) else { return false };
        *mark = Mark::Settled;
        self.open -= 1;
        self.trim();
        true
    }

    /// True for an offset that was taken and is settled.
    pub(super) fn is_settled(&self, offset: i64) -> bool {
        let at = usize::try_from(offset - self.first).ok();
        let mark = at.map(|at| self.marks.get(at).copied().unwrap_or(Mark::Ahead));
        offset < self.next && mark.is_none_or(|mark| mark == Mark::Settled)
    }

    /// What was not taken below `offset` is not there: it holds nothing up.
    fn pass(&mut self, offset: i64) {
        if self.open == 0 {
            let known = self.marks.len().min((offset - self.first) as usize);
            self.marks.drain(..known);
            self.first = offset;
            return;
        }
        let (from, to) = ((self.next - self.first) as usize, (offset - self.first) as usize);
        if self.marks.len() < to {
            self.marks.resize(to, Mark::Ahead);
        }
        self.marks.range_mut(from..to).for_each(|mark| *mark = Mark::Settled);
    }

    fn trim(&mut self) {
        while self.marks.front() == Some(&Mark::Settled) {
            self.marks.pop_front();
            self.first += 1;
        }
        // What an earlier member settled right after it needs not be taken at all.
        self.next = self.next.max(self.first);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_committed_offset_is_the_first_unsettled_one() {
        let mut partition = Watermark::new(5);
        for offset in 5..9 {
            assert_eq!(partition.take(offset), Taken::Open);
        }
        assert!(partition.settle(6) && partition.settle(8));
        assert_eq!((partition.committed(), partition.is_settled(6)), (5, true));
        assert!(partition.settle(5));
        assert_eq!(partition.committed(), 7);
        assert!(!partition.settle(5) && !partition.settle(9), "nothing is settled twice or early");
        assert!(partition.settle(7));
        assert_eq!((partition.committed(), partition.metadata()), (9, String::new()));
    }

    #[test]
    fn what_others_wrote_beside_a_commit_is_none_of_ours() {
        for metadata in ["", "host-1", "lg1:", "lg1:*", "lg1:A", "lg2:AAAA", "lg1:éé"] {
            let mut partition = Watermark::restore(3, metadata);
            assert_eq!(partition.committed(), 3);
            assert_eq!(partition.take(3), Taken::Open, "{metadata}");
            assert_eq!(partition.take(4), Taken::Open, "{metadata}");
        }
    }

    #[test]
    fn a_gap_of_any_length_stalls_nothing_while_nothing_is_open() {
        let mut partition = Watermark::restore(0, "lg1:_w");
        assert!(partition.fits(1 << 40));
        assert_eq!(partition.take(1 << 40), Taken::Open);
        assert_eq!(partition.committed(), 1 << 40);
        assert!(partition.fits((1 << 40) + SPAN - 1) && !partition.fits((1 << 40) + SPAN));
    }

    #[test]
    fn the_widest_span_fits_beside_a_commit() {
        let mut partition = Watermark::new(0);
        assert_eq!(partition.take(0), Taken::Open);
        for offset in 1..SPAN {
            assert!(partition.fits(offset));
            partition.take(offset);
            partition.settle(offset);
        }
        assert!(!partition.fits(SPAN));
        let metadata = partition.metadata();
        assert!(metadata.len() <= 4096, "{} bytes", metadata.len());
        let mut restored = Watermark::restore(0, &metadata);
        assert_eq!(restored.take(0), Taken::Open);
        assert!((1..SPAN).all(|offset| restored.take(offset) == Taken::Settled));
        assert!(restored.settle(0));
        assert_eq!(restored.committed(), SPAN);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        /// As many as follow on each other.
        TakeRun,
        Settle(prop::sample::Index),
        /// Another member goes on from what was committed last.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => Just(Step::Take),
            2 => Just(Step::TakeRun),
            4 => any::<prop::sample::Index>().prop_map(Step::Settle),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn settled_never_returns_and_unsettled_is_never_passed(
            gaps in prop::collection::vec(prop_oneof![1_i64..40, Just(1)], 1..200),
            steps in steps(),
        ) {
            let log: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let (mut settled, mut open) = (BTreeSet::new(), Vec::new());
            let mut partition = Watermark::new(0);
            let mut position = 0;
            for step in steps {
                match step {
                    Step::Take => {
                        let Some(offset) = log.get(position) else { continue };
                        position += 1;
                        match partition.take(*offset) {
                            Taken::Open => {
                                prop_assert!(!settled.contains(offset), "{offset} came back");
                                open.push(*offset);
                            }
                            Taken::Settled => prop_assert!(settled.contains(offset)),
                        }
                    }
                    Step::TakeRun => {
                        let Some(first) = log.get(position) else { continue };
                        let run = log.iter().skip(position).zip(*first..);
                        let run = run.take_while(|(offset, next)| *offset == next);
                        let run: Vec<i64> = run.map(|(offset, _)| *offset).collect();
                        if partition.take_run(*first, first + run.len() as i64 - 1) {
                            prop_assert!(run.iter().all(|offset| !settled.contains(offset)));
                            position += run.len();
                            open.extend(run);
                        }
                    }
                    Step::Settle(which) if !open.is_empty() => {
                        let offset = open.swap_remove(which.index(open.len()));
                        prop_assert!(partition.settle(offset));
                        settled.insert(offset);
                    }
                    Step::Settle(_) => {}
                    Step::Restart => {
                        let (first, metadata) = (partition.committed(), partition.metadata());
                        prop_assert!(metadata.len() <= 4096);
                        partition = Watermark::restore(first, &metadata);
                        position = log.partition_point(|offset| *offset < first);
                        open.clear();
                    }
                }
                let first = partition.committed();
                prop_assert!(
                    log.iter().take_while(|o| **o < first).all(|o| settled.contains(o)),
                    "{first} passes what is not settled"
                );
                if open.is_empty() && position == log.len() {
                    prop_assert_eq!(partition.metadata(), "");
                }
            }
        }
    }
}
