//! How many Jobs a work queue needs: a function without side effects.

use std::collections::BTreeSet;

/// What a queue's Jobs are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// So many are at work even without a backlog.
    pub floor: u64,
    /// So many at most.
    pub ceiling: u64,
    /// What one works off.
    pub messages_per_job: u64,
}

/// The Jobs of a queue, as one consistent list gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueJobs {
    /// The numbers of all that there are, in whatever state: their names are taken.
    pub taken: BTreeSet<u64>,
    /// How many have not ended.
    pub at_work: u64,
    /// How many have failed and are not cleaned up yet.
    pub failed: u64,
}

/// The numbers of the Jobs to create now. None is ever stopped: each ends by itself.
///
/// The numbers are the lowest that are free. What an outdated list does not show therefore has the
/// name of one that would be created: that is refused, and nothing is started twice. A failed Job
/// holds its place until it is cleaned up.
pub fn plan(scale: Scale, backlog: u64, jobs: &QueueJobs) -> Vec<u64> {
    let wanted = backlog.div_ceil(scale.messages_per_job.max(1));
    let wanted = wanted.max(scale.floor).min(scale.ceiling);
    let room = scale.ceiling.saturating_sub(jobs.at_work).saturating_sub(jobs.failed);
    let missing = wanted.saturating_sub(jobs.at_work).min(room);
    let free = (1..).filter(|number| !jobs.taken.contains(number));
    free.take(usize::try_from(missing).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scale(floor: u64, ceiling: u64) -> Scale {
        Scale { floor, ceiling, messages_per_job: 1 }
    }

    fn jobs(taken: &[u64], at_work: u64, failed: u64) -> QueueJobs {
        QueueJobs { taken: taken.iter().copied().collect(), at_work, failed }
    }

    #[test]
    fn the_backlog_decides_between_floor_and_ceiling() {
        let none = jobs(&[], 0, 0);
        assert_eq!(plan(scale(0, 5), 0, &none), [0; 0]);
        assert_eq!(plan(scale(2, 5), 0, &none), [1, 2]);
        assert_eq!(plan(scale(0, 5), 3, &none), [1, 2, 3]);
        assert_eq!(plan(scale(0, 5), 1000, &none), [1, 2, 3, 4, 5]);
        assert_eq!(plan(Scale { messages_per_job: 10, ..scale(0, 5) }, 21, &none), [1, 2, 3]);
    }

    #[test]
    fn what_is_at_work_and_what_has_failed_holds_a_place() {
        assert_eq!(plan(scale(0, 5), 3, &jobs(&[1, 3], 2, 0)), [2]);
        assert_eq!(plan(scale(0, 5), 9, &jobs(&[1, 2, 3, 4], 1, 3)), [5]);
        assert_eq!(plan(scale(0, 5), 9, &jobs(&[1, 2, 3, 4, 5], 0, 5)), [0; 0]);
        assert_eq!(plan(scale(0, 2), 9, &jobs(&[1, 2, 3], 3, 0)), [0; 0], "lowered meanwhile");
    }

    proptest! {
        #[test]
        fn never_beyond_the_ceiling_and_never_a_taken_name(
            floor in 0u64..9, more in 0u64..9, backlog in 0u64..40, per_job in 1u64..5,
            taken in proptest::collection::btree_set(1u64..30, 0..20), failed in 0u64..5,
        ) {
            let ceiling = floor + more;
            let at_work = (taken.len() as u64).saturating_sub(failed);
            let jobs = QueueJobs { taken: taken.clone(), at_work, failed };
            let made = plan(Scale { floor, ceiling, messages_per_job: per_job }, backlog, &jobs);
            prop_assert!(made.is_empty() || at_work + failed + made.len() as u64 <= ceiling);
            prop_assert!(made.iter().all(|number| !taken.contains(number)));
            if failed == 0 {
                let wanted = backlog.div_ceil(per_job).clamp(floor, ceiling);
                prop_assert_eq!(at_work.max(wanted), at_work + made.len() as u64);
            }
        }
    }
}
