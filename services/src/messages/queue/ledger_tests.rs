use std::time::Duration;

use super::*;
use crate::messages::queue::lane::Part;

fn lane() -> Lane {
    Lane { generation: 1, part: Part::Prefill }
}

fn place(sequence: u64) -> Place {
    Place { lane: lane(), sequence }
}

/// A delivery of `key` whose lease ends after a minute.
fn delivery(sequence: u64, key: &str, attempt: u32) -> Fetched {
    Fetched {
        place: place(sequence),
        key: ("a.b".parse().unwrap(), Key::new(key).unwrap()),
        lease: Lease {
            attempt,
            expires: Instant::now() + Duration::from_secs(60),
            token: LeaseToken::from(format!("{sequence}.{attempt}")),
        },
        body: Body { sequence, event: Bytes::from_static(b"{}") },
    }
}

fn ledger(deliveries: &[(u64, &str)]) -> Ledger {
    let mut ledger = Ledger::default();
    deliveries.iter().for_each(|(sequence, key)| ledger.fetched(delivery(*sequence, key, 1)));
    ledger
}

fn handed(ledger: &mut Ledger) -> Vec<(u64, u32)> {
    let out = ledger.hand_out(100, Instant::now());
    out.iter().map(|out| (out.place.sequence, out.lease.attempt)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_for_its_unsettled_message_and_others_do_not() {
    let mut ledger = ledger(&[(1, "x"), (2, "x"), (3, "y"), (4, "x")]);
    assert_eq!(handed(&mut ledger), [(1, 1), (3, 1)]);
    assert_eq!(handed(&mut ledger), []);
    ledger.settled(&place(1));
    assert_eq!(handed(&mut ledger), [(2, 1)]);
    ledger.settled(&place(3));
    assert_eq!(handed(&mut ledger), []);
    ledger.settled(&place(2));
    assert_eq!(handed(&mut ledger), [(4, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_nacked_blocks_its_key_until_it_came_again_and_is_settled() {
    let mut ledger = ledger(&[(1, "x"), (2, "x")]);
    assert_eq!(handed(&mut ledger), [(1, 1)]);
    ledger.away(&place(1), 1);
    assert_eq!(handed(&mut ledger), []);
    ledger.fetched(delivery(1, "x", 2));
    assert_eq!(handed(&mut ledger), [(1, 2)]);
    ledger.settled(&place(1));
    assert_eq!(handed(&mut ledger), [(2, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_redelivery_supersedes_the_earlier_lease_and_a_copy_changes_nothing() {
    let mut ledger = ledger(&[(1, "x")]);
    assert_eq!(handed(&mut ledger), [(1, 1)]);
    let expires = Instant::now() + Duration::from_secs(60);
    ledger.fetched(delivery(1, "x", 1));
    assert_eq!(handed(&mut ledger), []);
    assert_eq!(ledger.judge(&place(1), 1), Verdict::Out(expires));
    ledger.fetched(delivery(1, "x", 2));
    assert_eq!(ledger.judge(&place(1), 1), Verdict::Superseded);
    assert_eq!(ledger.judge(&place(1), 2), Verdict::Superseded, "not handed out yet");
    assert_eq!(handed(&mut ledger), [(1, 2)]);
    assert_eq!(ledger.judge(&place(1), 2), Verdict::Out(expires));
    assert_eq!(ledger.judge(&place(9), 1), Verdict::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_withheld_lane_is_released_in_stream_order_whatever_came_first() {
    let mut ledger = Ledger::default();
    ledger.withhold(&lane());
    for (sequence, key, attempt) in [(7, "x", 1), (8, "y", 1), (3, "x", 2), (2, "y", 2)] {
        ledger.fetched(delivery(sequence, key, attempt));
    }
    assert_eq!(handed(&mut ledger), []);
    assert_eq!((ledger.count(&lane()), ledger.held_in(&lane())), (4, 4));
    ledger.release(&lane());
    assert_eq!(handed(&mut ledger), [(2, 2), (3, 2)]);
    ledger.settled(&place(2));
    ledger.settled(&place(3));
    assert_eq!(handed(&mut ledger), [(8, 1), (7, 1)]);
}

#[tokio::test(start_paused = true)]
async fn withholding_takes_back_turns_and_an_older_message_goes_first() {
    let mut ledger = ledger(&[(5, "x"), (6, "y")]);
    ledger.withhold(&lane());
    assert_eq!(handed(&mut ledger), []);
    ledger.release(&lane());
    ledger.fetched(delivery(4, "x", 2));
    assert_eq!(handed(&mut ledger), [(6, 1), (4, 2)]);
}

#[tokio::test(start_paused = true)]
async fn what_did_not_reach_a_client_is_handed_out_again_with_the_same_attempt() {
    let mut ledger = ledger(&[(1, "x"), (2, "x")]);
    let out = ledger.hand_out(100, Instant::now());
    for back in out {
        ledger.give_back(back);
    }
    assert_eq!(handed(&mut ledger), [(1, 1)]);
    assert_eq!(handed(&mut ledger), []);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_in_our_hands_is_not_handed_out() {
    let mut ledger = ledger(&[(1, "x"), (2, "x")]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(handed(&mut ledger), []);
    ledger.fetched(delivery(2, "x", 2));
    assert_eq!(handed(&mut ledger), [], "the older one is away and blocks the key");
    ledger.fetched(delivery(1, "x", 2));
    assert_eq!(handed(&mut ledger), [(1, 2)]);
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_settled_is_dropped_wherever_it_is() {
    let mut ledger = ledger(&[(1, "a"), (2, "b"), (3, "b"), (4, "c")]);
    assert_eq!(handed(&mut ledger), [(1, 1), (2, 1), (4, 1)]);
    ledger.observe(&lane(), |sequence| sequence == 4);
    assert_eq!((ledger.count(&lane()), handed(&mut ledger)), (3, vec![]));
    ledger.observe(&lane(), |sequence| sequence <= 2);
    assert_eq!(handed(&mut ledger), [(3, 1)]);
    // What is held too: a client of an earlier session settled it.
    ledger.fetched(delivery(5, "b", 1));
    ledger.observe(&lane(), |sequence| sequence == 5);
    ledger.settled(&place(3));
    assert_eq!((ledger.count(&lane()), handed(&mut ledger)), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_lane_leaves_nothing_behind() {
    let mut ledger = ledger(&[(1, "x"), (2, "x")]);
    let next = Lane { generation: 2, part: Part::Prefill };
    let mut other = delivery(1, "x", 1);
    other.place.lane = next.clone();
    ledger.fetched(other);
    ledger.forget(&lane());
    assert_eq!((ledger.count(&lane()), ledger.ready()), (0, 1));
    assert_eq!(ledger.count(&next), 1);
}
