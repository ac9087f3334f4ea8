use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::kafka::lease::Record;
use crate::kafka::lease::tests::record;

const STREAM: Part = (false, 0);
const RETRIES: Part = (true, 0);
const LIMITS: Limits =
    Limits { ack_wait: Duration::from_secs(30), max_unsettled: 10, max_attempts: None };

fn desk() -> Desk {
    let mut desk = Desk::new("m".into(), LIMITS);
    desk.assign(STREAM, Watermark::new(0));
    desk.assign(RETRIES, Watermark::new(0));
    desk
}

fn polled(part: Part, offset: i64, wanted: bool) -> Polled {
    let slot = Slot { retry: part.0, partition: part.1, offset };
    Polled { slot, record: wanted.then(|| Record { slot, ..record(offset) }) }
}

fn sequences(deliveries: &[RawDelivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.message.sequence).collect()
}

fn room(desk: &mut Desk, part: Part) -> usize {
    desk.rooms(0).iter().find(|room| room.part == part).map_or(0, |room| room.messages)
}

fn only(positions: Vec<Position>) -> (i64, String) {
    assert_eq!(positions.len(), 1, "{positions:?}");
    (positions[0].offset, positions[0].metadata.clone())
}

#[test]
fn what_no_filter_wants_is_settled_as_it_passes() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept((0..4).map(|n| polled(STREAM, n, n == 2)), now);
    let taken = desk.take(10, now);
    assert_eq!(sequences(&taken), [3]);
    assert_eq!(only(desk.unsaved()), (2, "lg1:AQ".into()));
    assert!(matches!(desk.settle(&taken[0].token, &Settlement::Ack, now), Ok(Settled::Done(..))));
    assert_eq!(only(desk.unsaved()), (4, String::new()));
    assert!(desk.unsaved().is_empty());
}

#[test]
fn an_ack_counts_once_and_is_welcome_twice() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept([polled(STREAM, 0, true)], now);
    let token = desk.take(1, now).remove(0).token;
    assert!(matches!(desk.settle(&token, &Settlement::Ack, now), Ok(Settled::Done(..))));
    assert!(matches!(desk.settle(&token, &Settlement::Ack, now), Ok(Settled::Already(..))));
    let late = desk.settle(&token, &Settlement::Extend, now).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Stale);
}

#[test]
fn a_partition_that_left_and_came_back_takes_no_token_from_before() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept((0..2).map(|n| polled(STREAM, n, true)), now);
    let taken = desk.take(2, now);
    desk.settle(&taken[1].token, &Settlement::Ack, now).unwrap();
    let (offset, metadata) = only(desk.unsaved());
    desk.revoke(&[STREAM]);
    assert_eq!(desk.unsettled().0, 0);
    desk.assign(STREAM, Watermark::restore(offset, &metadata));
    for token in taken.iter().map(|delivery| &delivery.token) {
        let fenced = desk.settle(token, &Settlement::Ack, now).unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Stale);
    }
    desk.accept((0..2).map(|n| polled(STREAM, n, true)), now);
    let again = desk.take(2, now);
    assert_eq!((sequences(&again), again[0].attempt), (vec![1], 1), "2 is settled for good");
    let stranger = LeaseToken::from(again[0].token.as_str().replace('m', "n"));
    let fenced = desk.settle(&stranger, &Settlement::Ack, now).unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Stale);
}

#[test]
fn a_leaving_partition_delivers_nothing_and_still_settles() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept((0..3).map(|n| polled(STREAM, n, true)), now);
    let taken = desk.take(1, now);
    desk.leave(&[STREAM]);
    desk.accept([polled(STREAM, 3, true)], now);
    assert!(desk.take(10, now).is_empty() && desk.any_out(&[STREAM]));
    assert_eq!((room(&mut desk, STREAM), desk.any_out(&[RETRIES])), (0, false));
    desk.settle(&taken[0].token, &Settlement::Ack, now).unwrap();
    assert!(!desk.any_out(&[STREAM]));
    assert_eq!(only(desk.unsaved()), (1, String::new()));
}

#[test]
fn a_retry_is_settled_when_its_copy_is_there_and_counts_until_that_is_settled() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept([polled(STREAM, 0, true)], now);
    let token = desk.take(1, now).remove(0).token;
    let retry = Settlement::Retry(Duration::from_secs(60));
    let Ok(Settled::Copy(copy)) = desk.settle(&token, &retry, now) else { panic!("no copy") };
    assert_eq!(copy.attempts, 1);
    assert!(desk.settle(&token, &retry, now).is_err(), "copied once");
    assert!(desk.unsaved().is_empty());
    let to = Slot { retry: true, partition: 0, offset: 0 };
    assert!(desk.copied(&copy, to));
    assert_eq!(only(desk.unsaved()), (1, String::new()));
    assert_eq!(desk.unsettled(), (1, Some(1)), "on its way back");
    let late = desk.settle(&token, &Settlement::Ack, now).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Stale, "it comes again whatever is said of the first time");
    let mut back = polled(RETRIES, 0, true);
    let record = back.record.as_mut().unwrap();
    (record.attempts, record.due) = (copy.attempts, Some(now + copy.delay));
    desk.accept([back], now);
    assert_eq!((desk.unsettled().0, desk.take(1, now).len()), (1, 0), "it rests");
    let due = now + copy.delay;
    assert_eq!(desk.next_change(), Some(due));
    let again = desk.take(1, due).remove(0);
    assert_eq!((again.message.sequence, again.attempt), (1, 2));
    desk.settle(&again.token, &Settlement::Ack, due).unwrap();
    assert_eq!((desk.unsettled(), only(desk.unsaved()).0), ((0, None), 1));
}

#[test]
fn a_copy_made_for_a_partition_that_left_settles_nothing() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept([polled(STREAM, 0, true)], now);
    let token = desk.take(1, now).remove(0).token;
    let retry = Settlement::Retry(Duration::ZERO);
    let Ok(Settled::Copy(copy)) = desk.settle(&token, &retry, now) else { panic!("no copy") };
    desk.revoke(&[STREAM]);
    desk.assign(STREAM, Watermark::new(0));
    assert!(!desk.copied(&copy, Slot { retry: true, partition: 0, offset: 0 }));
    assert!(desk.unsaved().is_empty());
}

#[test]
fn an_open_message_holds_back_what_a_commit_could_not_tell() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept([polled(STREAM, 0, true)], now);
    let first = desk.take(1, now).remove(0);
    let (mut offset, mut done) = (1, 0);
    while room(&mut desk, STREAM) > 0 {
        desk.accept([polled(STREAM, offset, true)], now);
        offset += 1;
        for delivery in desk.take(10, now) {
            done += 1;
            desk.settle(&delivery.token, &Settlement::Ack, now).unwrap();
        }
    }
    assert_eq!((offset, done), (16_385, 16_383));
    desk.settle(&first.token, &Settlement::Ack, now).unwrap();
    assert!(desk.accept_early(now) && room(&mut desk, STREAM) > 0);
    assert_eq!(sequences(&desk.take(10, now)), [16_385]);
}

#[test]
fn the_thread_is_woken_once_there_is_much_room_again() {
    let limits = Limits { max_unsettled: 10_000, ..LIMITS };
    let (mut desk, now) = (Desk::new("m".into(), limits), Instant::now());
    desk.assign(STREAM, Watermark::new(0));
    let all = room(&mut desk, STREAM) as i64;
    assert!(!desk.is_worth_waking(), "it was given room");
    desk.accept((0..all).map(|offset| polled(STREAM, offset, true)), now);
    assert_eq!(room(&mut desk, STREAM), 0);
    assert_eq!(desk.take(100, now).len(), 100);
    assert!(!desk.is_worth_waking(), "a little room is not worth it");
    desk.take(all as usize / 2, now);
    assert!(desk.is_worth_waking() && !desk.is_worth_waking());
    assert!(room(&mut desk, STREAM) > 0);
}

#[test]
fn what_rests_in_the_way_is_moved() {
    let (mut desk, now) = (desk(), Instant::now());
    let resting = |n| {
        let mut resting = polled(STREAM, n, true);
        if let Some(record) = &mut resting.record {
            record.due = Some(now + Duration::from_secs(n as u64 + 1));
        }
        resting
    };
    desk.accept((0..RESTING as i64).map(resting), now);
    assert_eq!((room(&mut desk, STREAM), desk.take(1, now).len()), (0, 0));
    let moved = desk.in_the_way(100, now);
    assert_eq!((moved.len(), moved[0].delay), (100, Duration::from_secs(RESTING as u64)));
    assert_eq!(moved[0].attempts, 0, "it was not delivered yet");
    for (n, copy) in moved.iter().enumerate() {
        assert!(desk.copied(copy, Slot { retry: true, partition: 0, offset: n as i64 }));
    }
    assert!(room(&mut desk, STREAM) > 0 && desk.in_the_way(100, now).is_empty());
}

#[test]
fn a_log_that_lost_its_end_is_new_from_there() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.assign(STREAM, Watermark::restore(3, "lg1:Aw"));
    desk.accept((3..7).map(|n| polled(STREAM, n, true)), now);
    let rooms = desk.rooms(0);
    let assignment = rooms.iter().find(|room| room.part == STREAM).unwrap().assignment;
    let taken = desk.take(10, now);
    assert_eq!(sequences(&taken), [4, 7], "5 and 6 were settled before");
    desk.accept([polled(STREAM, 5, true)], now);
    assert_eq!(sequences(&desk.take(10, now)), [6]);
    assert!(desk.settle(&taken[0].token, &Settlement::Ack, now).is_err());
    // What was polled and is on its way here is still of this assignment.
    assert!(desk.is_assigned(STREAM, assignment));
    desk.revoke(&[STREAM]);
    desk.assign(STREAM, Watermark::new(0));
    assert!(!desk.is_assigned(STREAM, assignment));
}

#[test]
fn partitions_take_turns() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.assign((false, 1), Watermark::new(0));
    let (turn, other) = (TURN as i64, (false, 1));
    desk.set_limits(Limits { max_unsettled: 1000, ..LIMITS });
    for part in [STREAM, other] {
        desk.accept((0..turn + 2).map(|n| polled(part, n, true)), now);
    }
    let taken = desk.take(2 * TURN + 3, now);
    let of = |delivery: &RawDelivery| Token::read(&delivery.token).unwrap().slot.partition;
    let partitions: Vec<i32> = taken.iter().map(of).collect();
    let turns = [vec![0; TURN], vec![1; TURN], vec![0, 0, 1]].concat();
    assert_eq!(partitions, turns);
    assert_eq!(sequences(&taken)[..TURN], (1..=TURN as u64).collect::<Vec<_>>());
}

#[test]
fn a_pause_ends_by_itself() {
    let (mut desk, now) = (desk(), Instant::now());
    desk.accept([polled(STREAM, 0, true)], now);
    let until = now + Duration::from_secs(5);
    desk.paused_until = Some(until);
    assert!(desk.take(1, now).is_empty());
    assert_eq!((desk.next_change(), desk.take(1, until).len()), (Some(until), 1));
}
