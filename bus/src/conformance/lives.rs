//! Lives: what a stream or consumer that was made anew or moved brings is no repetition.

use super::Target;
use super::bench::{Case, ack_all, collect, eventually, unique};
use crate::config::{Start, StreamConfig};
use crate::consumer::Consumer;
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::name::StreamName;

/// A stream that is made anew tells so by its time, and a consumer counts how often it was moved;
/// declaring them again changes neither.
pub async fn lives_are_told_apart(target: &dyn Target) {
    let case = Case::new(target).await;
    let first = case.stream.info().await.unwrap();
    case.publish("a").await;
    eventually("declare", || case.bus.ensure_stream(&first.config)).await;
    assert_eq!(case.stream.info().await.unwrap().created, first.created);
    case.consumer("c").open().await.unwrap();
    let made = case.info("c").await;
    assert_eq!(made.moves, 0);
    for moves in 1..=2 {
        case.bus.seek(&case.name, "c", Start::Beginning).await.unwrap();
        assert_eq!(case.info("c").await.moves, moves);
    }
    case.bus.seek(&case.name, "c", Start::LastPerSubject).await.unwrap();
    case.consumer("c").metadata("owner", "anna").open().await.unwrap();
    let moved = case.info("c").await;
    assert_eq!((moved.moves, moved.config.metadata.len()), (3, 1), "{moved:?}");

    target.restart_broker().await.unwrap();
    let again = eventually("look at the stream", || case.stream.info()).await;
    assert_eq!((again.created, case.info("c").await.moves), (first.created, 3));
    case.bus.delete_consumer(&case.name, "c").await.unwrap();
    case.consumer("c").open().await.unwrap();
    assert_eq!(case.info("c").await.moves, 0);
    made_anew(&case).await;
    let later = eventually("look at the stream", || case.stream.info()).await;
    assert!(later.created > first.created, "{later:?} after {first:?}");
}

/// What is given up in another life is kept, although a letter of the same sequence was there and
/// is redriven by now.
pub async fn dead_letters_of_every_life(target: &dyn Target) {
    let case = Case::new(target).await;
    let name = StreamName::new(unique("dead")).unwrap();
    let config =
        StreamConfig { replicas: target.replicas(), ..StreamConfig::dead_letters(name.clone()) };
    case.bus.ensure_stream(&config).await.unwrap();
    let dead = case.bus.dead_letters(&name).await.unwrap();
    let sequence = case.publish("first").await;
    let consumer = open(&case, &dead).await;
    assert_eq!(give_up(&case, &consumer, &dead, sequence, 1).await.sequence, sequence);

    case.bus.seek(&case.name, "c", Start::Beginning).await.unwrap();
    assert_eq!(give_up(&case, &consumer, &dead, sequence, 2).await.sequence, sequence);

    case.bus.delete_consumer(&case.name, "c").await.unwrap();
    drop(consumer);
    let consumer = open(&case, &dead).await;
    assert_eq!(give_up(&case, &consumer, &dead, sequence, 3).await.sequence, sequence);

    drop(consumer);
    made_anew(&case).await;
    let sequence = eventually("publish", || case.stream.publish(case.message("a", "second"))).await;
    let consumer = open(&case, &dead).await;
    let letter = give_up(&case, &consumer, &dead, sequence.sequence, 1).await;
    assert_eq!(letter.copy.payload.as_deref(), Some(&b"second"[..]));
}

async fn open(case: &Case, dead: &DeadLetters) -> Consumer {
    let open = || case.consumer("c").dead_letters(dead.name()).open();
    eventually("open the consumer", open).await
}

/// Gives up the message at `sequence` of the next `count`, and acks the others; returns its letter,
/// which is the only one outstanding, and has it redriven and done.
async fn give_up(
    case: &Case,
    consumer: &Consumer,
    dead: &DeadLetters,
    sequence: u64,
    count: usize,
) -> DeadLetter {
    for delivery in collect(consumer, count).await {
        match delivery.message().sequence == sequence {
            true => delivery.dead_letter("on purpose").await.unwrap(),
            false => delivery.ack_confirmed().await.unwrap(),
        }
    }
    let mut letters = eventually("list", || dead.list(None, 10)).await;
    assert_eq!(letters.len(), 1, "one is outstanding: {letters:?}");
    let redriven = eventually("redrive", || dead.redrive(None)).await.remove(0);
    assert!(redriven.failed.is_none() && redriven.redriven == 1, "{redriven:?}");
    ack_all(collect(consumer, 1).await).await;
    case.wait_unsettled("c", 0).await;
    letters.remove(0)
}

/// Removes the stream and makes it again under its name.
pub(super) async fn made_anew(case: &Case) {
    let config = case.stream.info().await.unwrap().config;
    case.bus.delete_stream(&case.name).await.unwrap();
    eventually("make the stream anew", || case.bus.ensure_stream(&config)).await;
}
