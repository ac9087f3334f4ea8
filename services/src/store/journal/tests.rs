//! Examples of the rules of a run, and what the bucket keeps.

use super::*;

const NACK: Wish = Wish::Nack { delay_ms: 5000 };

fn key() -> KeyHash {
    let topic: Topic = "dir.user".parse().expect("a topic");
    KeyHash::of(&topic, &Key::new("a").expect("a key"))
}

/// Sequences 1 to 4 of one key, out as one run.
fn out() -> Journal {
    let open = Open { key: key(), attempt: 1, failures: 0, renewed: 0, state: State::Out };
    let open = (1..=4).map(|sequence| (sequence, open.clone())).collect();
    Journal { head: 4, open, ..Journal::default() }
}

fn states(journal: &Journal) -> Vec<(u64, State)> {
    journal.open.iter().map(|(sequence, open)| (*sequence, open.state)).collect()
}

#[test]
fn acks_follow_the_order_of_the_run() {
    let mut journal = out();
    assert_eq!(journal.settle(&[(2, 1, Wish::Ack)]), [Answer::Early]);
    assert_eq!(journal, out(), "nothing is recorded");
    let both = [(2, 1, Wish::Ack), (1, 1, Wish::Ack)];
    assert_eq!(journal.settle(&both), [Answer::Done, Answer::Done], "in any order of one request");
    assert_eq!(journal.settle(&both), [Answer::Done, Answer::Done], "and again");
    assert_eq!(states(&journal), [(3, State::Out), (4, State::Out)]);
}

#[test]
fn a_nack_takes_back_all_that_follows_and_counts_against_its_event_alone() {
    let mut journal = out();
    assert_eq!(journal.settle(&[(2, 1, NACK)]), [Answer::Done]);
    let expected = [(1, State::Out), (2, State::Delayed(5000)), (3, State::Back), (4, State::Back)];
    assert_eq!(states(&journal), expected);
    let failures: Vec<u32> = journal.open.values().map(|open| open.failures).collect();
    assert_eq!(failures, [0, 1, 0, 0]);
    assert_eq!(journal.settle(&[(2, 1, NACK)]), [Answer::Done], "a repeated request");
    assert_eq!(journal.settle(&[(3, 1, Wish::Ack)]), [Answer::Stale]);
    assert_eq!(journal.settle(&[(1, 1, Wish::Ack)]), [Answer::Done], "before it nothing changes");
}

#[test]
fn an_extension_renews_the_run_and_what_another_attempt_says_is_stale() {
    let mut journal = out();
    assert_eq!(journal.settle(&[(3, 1, Wish::Extend)]), [Answer::Done]);
    assert!(journal.open.values().all(|open| open.renewed == 1));
    assert_eq!(journal.settle(&[(1, 2, Wish::Ack)]), [Answer::Stale]);
    assert_eq!(journal.settle(&[(9, 1, Wish::Ack)]), [Answer::Stale], "never handed out");
}

#[test]
fn what_is_redriven_goes_first_and_does_not_take_the_word_of_who_has_the_rest() {
    let mut journal = out();
    assert_eq!(journal.settle(&[(1, 1, Wish::Reject)]), [Answer::Done]);
    journal.redrive(1, key(), 1);
    assert_eq!(states(&journal)[0], (1, State::Back));
    assert_eq!(journal.settle(&[(2, 1, Wish::Ack)]), [Answer::Done], "it was the first of its run");
    assert_eq!(journal.failures_of_first(3, 1), Some(0));
    assert_eq!(journal.failures_of_first(4, 1), None);
    let seen = journal.open[&1].clone();
    assert!(journal.give_up(1, &seen));
    assert!(!journal.give_up(1, &seen));
}

#[test]
fn what_the_bucket_keeps_is_read_back_and_another_version_is_refused() {
    let mut journal = out();
    journal.behind.insert(key(), Behind { first: 3, count: 70_000 });
    journal.settle(&[(1, 1, NACK)]);
    let written = journal.encode().expect("encodes");
    assert_eq!(Journal::decode(&written), Some(journal));
    let mut newer = written.to_vec();
    newer[0] += 1;
    assert_eq!(Journal::decode(&newer), None);
    assert_eq!(Journal::decode(&written[..written.len() - 1]), None);
    assert_eq!(Journal::decode(&[]), None);
}

#[test]
fn a_full_journal_fits_the_values_of_the_bucket() {
    let open = Open {
        key: key(),
        attempt: 300,
        failures: 300,
        renewed: 300,
        state: State::Delayed(u64::MAX),
    };
    let journal = Journal {
        head: u64::MAX,
        open: (0..MAX_OPEN as u64).map(|n| (u64::MAX - n, open.clone())).collect(),
        behind: (0..MAX_BEHIND as u64)
            .map(|n| (KeyHash(n.to_le_bytes()), Behind { first: u64::MAX, count: u64::MAX }))
            .collect(),
        ..Journal::default()
    };
    let len = journal.encode().expect("encodes").len();
    assert!(len < 512 << 10, "{len}");
}
