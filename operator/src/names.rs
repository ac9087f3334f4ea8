//! The names and labels of what the operator makes. Keep stable: they are how it finds again what
//! an earlier process of it made.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use lockgate_model::Incarnation;
use sha2::{Digest, Sha256};

/// On everything that the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and who the operator is to the API server.
pub const OPERATOR: &str = "lockgate-operator";
/// Which work queue a Job is of.
pub const QUEUE: &str = "lockgate/queue";
/// The value of [`QUEUE`] on the Jobs of prefills.
pub const PREFILL: &str = "prefill";
/// Whose prefill a Job is of: an [`Incarnation`] as JSON, an annotation.
pub const OF: &str = "lockgate/of";
/// The key of the task in its ConfigMap, and the name of the file in the pod.
pub const TASK_FILE: &str = "task.json";

/// A pod's name is its Job's and eleven characters more, and has at most 63.
const MAX_JOB_NAME_BYTES: usize = 52;

/// The name of the Job of a prefill, and of its ConfigMap: always the same for the same generation
/// of the same life of a subscription, and of no other.
pub fn prefill_job(of: &Incarnation) -> String {
    let hash = Sha256::digest(format!("{}\n{}\n{}", of.name, of.uid, of.generation));
    let hash = HEXLOWER.encode(hash.get(..8).unwrap_or_default());
    let room = MAX_JOB_NAME_BYTES - PREFILL.len() - hash.len() - 2;
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = of.name.as_str().chars().take(room).map(plain).collect();
    format!("{PREFILL}-{name}-{hash}")
}

/// The name of a Job of another work queue; queues have names of at most 40 characters.
pub fn queue_job(queue: &str, number: u64) -> String {
    format!("{queue}-{number}")
}

/// The number in the name of a Job of a queue.
pub fn queue_job_number(queue: &str, name: &str) -> Option<u64> {
    name.strip_prefix(queue)?.strip_prefix('-')?.parse().ok()
}

/// The labels of what belongs to a work queue.
pub fn labels(queue: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, OPERATOR), (QUEUE, queue)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// What finds all of a work queue.
pub fn selector(queue: &str) -> String {
    format!("{MANAGED_BY}={OPERATOR},{QUEUE}={queue}")
}

#[cfg(test)]
mod tests {
    use lockgate_model::SubscriptionName;

    use super::*;

    fn of(name: &str, uid: &str, generation: u32) -> Incarnation {
        Incarnation { name: SubscriptionName::new(name).unwrap(), uid: uid.to_owned(), generation }
    }

    #[test]
    fn the_name_of_a_job_is_stable_and_kubernetes_takes_it() {
        let one = of("people_of-berlin", "00ff00ff00ff00ff", 1);
        assert_eq!(prefill_job(&one), "prefill-people-of-berlin-5457dc5bbc01af8e");
        let long = prefill_job(&of(&"x_".repeat(24), "00ff00ff00ff00ff", 1));
        assert!(long.len() <= MAX_JOB_NAME_BYTES, "{long}");
        for name in [long, prefill_job(&one)] {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
    }

    #[test]
    fn every_generation_and_life_has_its_own() {
        let all = [
            of("people", "00ff00ff00ff00ff", 1),
            of("people", "00ff00ff00ff00ff", 2),
            of("people", "10ff00ff00ff00ff", 1),
            of("people-x", "00ff00ff00ff00ff", 1),
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(prefill_job).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_jobs_of_a_queue_are_numbered() {
        assert_eq!(queue_job_number("makers", &queue_job("makers", 7)), Some(7));
        assert_eq!(queue_job_number("makers", "makers-of-7"), None);
        assert_eq!(queue_job_number("makers", "other-7"), None);
    }
}
