//! What every backend must do, as one named test per behaviour.
//!
//! A backend is done when it passes; a third party's too. In its tests, with `tokio` among its
//! dependencies:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bus::conformance::Target;
//! use bus::embedded::Embedded;
//! use bus::{Bus, Result};
//!
//! /// A broker that this test started.
//! struct Mine(Embedded);
//!
//! #[async_trait::async_trait]
//! impl Target for Mine {
//!     async fn bus(&self) -> Result<Bus> {
//!         Ok(Bus::with_driver(Arc::new(self.0.another())))
//!     }
//!
//!     async fn restart_broker(&self) -> Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! bus::conformance_tests!(Mine(Embedded::new()));
//! # fn main() {}
//! ```
//!
//! A behaviour fails by panicking, and nothing is skipped: where a backend cannot do a thing, the
//! typed refusal is asserted in its place. No verdict hangs on speed. What must happen is waited
//! for with patience, what must not happen is asked for after something that comes later, and a
//! lease that a slow machine let slip makes the case start over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a behaviour that does not hold is reported by panicking, as in any test"
)]

mod bench;
mod consuming;
mod creating;
mod extras;
mod keys;
mod lives;
mod loops;
mod publishing;
mod reading;
mod recovery;
mod settling;
mod sharing;
mod topology;
mod units;

use async_trait::async_trait;

use crate::bus::Bus;
use crate::error::Result;

pub use consuming::*;
pub use creating::*;
pub use extras::*;
pub use keys::*;
pub use lives::*;
pub use loops::*;
pub use publishing::*;
pub use reading::*;
pub use recovery::*;
pub use settling::*;
pub use sharing::*;
pub use topology::*;
pub use units::*;

/// A backend under test. Each behaviour makes streams and buckets of names that no other has, so
/// that many of them may share one broker at the same time; whoever implements [`Target::restart_broker`] gives each test a
/// broker of its own, or lets the others live through it.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::conformance::Target;
/// use bus::embedded::Embedded;
/// use bus::{Bus, Result};
///
/// struct Mine(Embedded);
///
/// #[async_trait::async_trait]
/// impl Target for Mine {
///     async fn bus(&self) -> Result<Bus> {
///         Ok(Bus::with_driver(Arc::new(self.0.another())))
///     }
///
///     async fn restart_broker(&self) -> Result<()> {
///         Ok(()) // it is in this process
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // One behaviour on its own, while the backend is being written.
/// let mine = Mine(Embedded::new());
/// bus::conformance::ack_confirmed_is_final(&mine).await;
/// # }
/// ```
#[async_trait]
pub trait Target: Send + Sync {
    /// A new connection to the same backend each time; closing one must leave the others open.
    async fn bus(&self) -> Result<Bus>;

    /// Stops the broker as a crash would, starts it again with what it had stored, and returns
    /// when it runs. For a backend inside this process, doing nothing is a legal restart.
    async fn restart_broker(&self) -> Result<()>;

    /// How many copies the streams and buckets of the suite have; 1 unless a cluster is under test.
    fn replicas(&self) -> u8 {
        1
    }
}

/// Makes one test of each behaviour of [`conformance`](crate::conformance).
///
/// The argument is an expression for a value that implements
/// [`Target`](crate::conformance::Target), evaluated in each test and allowed to `.await`. A
/// second one is used by the behaviours that restart the broker, so that the others can share
/// one. A test attribute may stand in front; the default is `#[tokio::test]`.
///
/// `conformance_tests!(#[tokio::test(start_paused = true)] Mine::new())` runs on paused time;
/// `conformance_tests!(Mine::shared().await, Mine::alone().await)` shares a broker.
#[macro_export]
macro_rules! conformance_tests {
    (#[$test:meta] $target:expr) => {
        $crate::conformance_tests! { #[$test] $target, $target }
    };
    (#[$test:meta] $target:expr, $alone:expr) => {
        $crate::conformance_tests! { @each #[$test] $alone;
            delay_survives_restart
            kv_watch
            lives_are_told_apart
            publish_is_durable
            reader_resumes
            reconnect_under_load
        }
        $crate::conformance_tests! { @each #[$test] $target;
            ack_after_retry_is_kept_or_refused
            ack_confirmed_is_final
            atomic_publish
            backpressure_bounded
            checkpoint_capture
            close_flushes
            competing_consumers
            conditional_publish
            consumer_info_counts
            create_bucket_alters_nothing
            create_races_are_settled
            create_refuses_what_is_of_no_use
            create_stream_alters_nothing
            dead_letters_of_every_life
            dead_letters_redrive_in_order
            dedup_window
            delayed_delivery
            deleted_consumer_heals
            drain_has_a_deadline
            drop_unsettled_redelivers
            empty_vs_tombstone
            extend_keeps_lease
            fanout_groups
            graceful_drain
            header_values_unchanged
            kv_cas
            kv_create_after_delete
            kv_pages
            kv_watch_ends_its_initial_part
            max_attempts_dead_letters
            max_attempts_end
            max_in_flight_and_resume
            offset_gaps
            open_keeps_limits
            pages_are_bounded_in_bytes
            partial_batch_results
            pause_and_resume
            per_key_order_under_faults
            poison_does_not_block
            poison_spares_the_others
            rebalance_mid_handler
            reject_is_terminal
            request_reply
            retry_delay_floor
            retry_survives_crash
            rollup_replaces_its_subject
            roundtrip_fidelity
            seek
            start_position
            state_at_sequence
            subject_filters
            subjects_complete
            counting
            topology_idempotent
            trace_context_travels
            unit_commit
            unit_commit_crash_points
            unit_from_handler
            unit_outputs_of_every_life
            unsupported_is_typed
            work_queue_settles_away
        }
    };
    (@each #[$test:meta] $target:expr; $($behaviour:ident)+) => {
        $(
            #[$test]
            async fn $behaviour() {
                let target = $target;
                $crate::conformance::$behaviour(&target).await;
            }
        )+
    };
    // Last, because an attribute in front of an expression is part of it.
    ($target:expr $(, $alone:expr)?) => {
        $crate::conformance_tests! { #[tokio::test] $target $(, $alone)? }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_behaviour() {
        let sources = [
            include_str!("consuming.rs"),
            include_str!("creating.rs"),
            include_str!("extras.rs"),
            include_str!("keys.rs"),
            include_str!("lives.rs"),
            include_str!("loops.rs"),
            include_str!("publishing.rs"),
            include_str!("reading.rs"),
            include_str!("recovery.rs"),
            include_str!("settling.rs"),
            include_str!("sharing.rs"),
            include_str!("topology.rs"),
            include_str!("units.rs"),
        ];
        let name = |line: &str| {
            let (name, _) = line.strip_prefix("pub async fn ")?.split_once('(')?;
            Some(name.to_owned())
        };
        let mut written: Vec<_> =
            sources.iter().flat_map(|source| source.lines().filter_map(name)).collect();
        written.sort();
        let this = include_str!("mod.rs");
        let mut listed = Vec::new();
        for list in this.split("@each #[$test] $").skip(1).take(2) {
            let names = list.lines().skip(1).map(str::trim);
            listed.extend(names.take_while(|line| *line != "}").map(str::to_owned));
        }
        listed.sort();
        assert_eq!(written, listed);
    }
}
