//! Logs that were deleted, purged or put back from a backup under those who read them: nobody
//! goes on in silence.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod changed;
mod purged;
mod queue;
mod restored;
#[allow(dead_code, reason = "shared with the tests of the messages role, which use more of it")]
#[path = "../messages/support.rs"]
mod support;

use std::time::Duration;

use lockgate::model::Realm;
use lockgate::store::Kept;
use support::{Stream, World, name};

fn realm() -> Realm {
    Realm::new("dir").unwrap()
}

/// What comes until `last` has come, which is in it.
async fn until(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut shown = Vec::new();
    while shown.last().map(String::as_str) != Some(last) {
        shown.extend(stream.take_shown(1).await);
    }
    shown
}

/// The record once it has this generation and is open.
async fn generation(world: &World, who: &str, generation: u32) -> Kept {
    for _ in 0..1200 {
        let kept = world.store.subscription(&name(who)).await.unwrap().unwrap();
        let there = kept.subscription.incarnation.generation == generation;
        if there && kept.subscription.is_open() {
            return kept;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{who} did not get to generation {generation} in two minutes");
}
