//! The operator's configuration: a TOML file.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bus::{ConsumerName, StreamName};
use k8s_openapi::api::core::v1::PodSpec;
use lockgate_model::HumanDuration;
use serde::Deserialize;
use serde_json::Value;

use crate::names::PREFILL;
use crate::pod::restricted;

/// A queue's name begins the names of its Jobs.
const MAX_QUEUE_NAME_BYTES: usize = 40;
/// A task whose holder died comes again within this; a Job that has ended must still be there then.
const LEAST_KEEP: Duration = Duration::from_secs(120);

/// Why a configuration is refused: what is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// What the operator launches.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Prefills; without it none are taken.
    pub prefill: Option<PrefillJobs>,
    /// Other work queues.
    #[serde(default, rename = "queue")]
    pub queues: Vec<QueueJobs>,
}

/// How prefills are done.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefillJobs {
    /// How many Jobs may be at work at once.
    #[serde(default = "five")]
    pub at_once: usize,
    /// How many tasks are held at once, each with a Job; the others stay in the work queue.
    #[serde(default = "two_hundred")]
    pub waiting: usize,
    /// What every Job is made with.
    #[serde(flatten)]
    pub job: JobSettings,
}

/// A work queue whose Jobs take their work from it themselves, a message or more each, and end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueJobs {
    /// Begins the names of its Jobs.
    pub name: String,
    /// The stream that holds the work.
    pub stream: String,
    /// The durable consumer through which the Jobs take it: what it has not settled is the backlog.
    pub consumer: String,
    /// So many Jobs are at work even without a backlog.
    #[serde(default)]
    pub floor: u64,
    /// So many at most. One that has failed counts until it is cleaned up, so that what always
    /// fails is not started for ever.
    pub ceiling: u64,
    /// How many messages one Job works off.
    #[serde(default = "one")]
    pub messages_per_job: u64,
    /// What every Job is made with.
    #[serde(flatten)]
    pub job: JobSettings,
}

/// What every Job of a queue is made with.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JobSettings {
    /// A Job that takes longer has failed. Counts from its release, waiting for a node included.
    #[serde(default = "an_hour")]
    pub deadline: HumanDuration,
    /// How many times a pod is started anew after a failure, 10 s and then ever longer apart.
    #[serde(default = "six")]
    pub retries: i32,
    /// How long a Job that has ended is kept, for people to look at.
    #[serde(default = "an_hour")]
    pub keep: HumanDuration,
    /// The pod, in Kubernetes' own words (`PodSpec`). What the restricted level needs is filled in.
    #[serde(deserialize_with = "pod")]
    pub pod: PodSpec,
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let place = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{place} cannot be read: {error}")))?;
        Self::parse(&text).map_err(|error| ConfigError(format!("{place}: {error}")))
    }

    /// Reads and checks a text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|error| ConfigError(error.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        if self.prefill.is_none() && self.queues.is_empty() {
            let what = "nothing is to be launched";
            return Err(ConfigError(format!("{what}: write a [prefill] or a [[queue]]")));
        }
        if let Some(prefill) = &mut self.prefill {
            prefill.job.check().map_err(|error| error.in_part("prefill"))?;
            if prefill.at_once == 0 || prefill.waiting == 0 {
                return Err(ConfigError::new("prefill: at_once and waiting are at least 1"));
            }
        }
        let mut names = BTreeSet::from([String::from(PREFILL)]);
        for queue in &mut self.queues {
            queue.check().map_err(|error| error.in_part(&format!("queue {:?}", queue.name)))?;
            if !names.insert(queue.name.clone()) {
                let name = &queue.name;
                return Err(ConfigError(format!(
                    "queue {name:?}: the name is taken: choose another"
                )));
            }
        }
        Ok(())
    }
}

impl ConfigError {
    fn in_part(self, part: &str) -> Self {
        Self(format!("{part}: {}", self.0))
    }
}

impl QueueJobs {
    fn check(&mut self) -> Result<(), ConfigError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let starts = self.name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let fits = self.name.len() <= MAX_QUEUE_NAME_BYTES && !self.name.ends_with('-');
        if !starts || !fits || !self.name.bytes().all(allowed) {
            return Err(ConfigError(format!(
                "write a name of 1 to {MAX_QUEUE_NAME_BYTES} characters of a-z 0-9 -, beginning with \
                 a letter"
            )));
        }
        StreamName::new(&self.stream).map_err(|error| ConfigError(format!("stream: {error}")))?;
        ConsumerName::new(&self.consumer)
            .map_err(|error| ConfigError(format!("consumer: {error}")))?;
        if self.ceiling == 0 || self.floor > self.ceiling || self.messages_per_job == 0 {
            return Err(ConfigError::new(
                "the ceiling is at least 1 and at least the floor, and messages_per_job at least 1",
            ));
        }
        self.job.check()
    }
}

impl JobSettings {
    fn check(&mut self) -> Result<(), ConfigError> {
        if self.deadline.0 < Duration::from_secs(1) {
            return Err(ConfigError::new("deadline is at least 1s"));
        }
        if self.keep.0 < LEAST_KEEP {
            return Err(ConfigError(format!(
                "keep is at least {}s: the outcome must outlive a restart of the operator",
                LEAST_KEEP.as_secs()
            )));
        }
        if !(0..=100).contains(&self.retries) {
            return Err(ConfigError::new("retries is 0 to 100"));
        }
        self.pod = restricted(std::mem::take(&mut self.pod))?;
        Ok(())
    }
}

/// Kubernetes' types pass over what they do not know; here a word that is not theirs is refused.
fn pod<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PodSpec, D::Error> {
    use serde::de::Error;
    let said = Value::deserialize(deserializer)?;
    let read: PodSpec = serde_json::from_value(said.clone())
        .map_err(|error| D::Error::custom(format!("it is no PodSpec: {error}")))?;
    let known = serde_json::to_value(&read).map_err(D::Error::custom)?;
    match unknown(&said, &known) {
        Some(path) => Err(D::Error::custom(format!("a PodSpec has no {path}: correct the word"))),
        None => Ok(read),
    }
}

/// The first member of `said` that `known` does not have.
fn unknown(said: &Value, known: &Value) -> Option<String> {
    match (said, known) {
        (Value::Object(said), Value::Object(known)) => said.iter().find_map(|(name, value)| {
            let Some(there) = known.get(name) else {
                let empty = value.as_array().is_some_and(Vec::is_empty);
                return (!empty).then(|| name.clone());
            };
            unknown(value, there).map(|path| format!("{name}.{path}"))
        }),
        (Value::Array(said), Value::Array(known)) => {
            said.iter().zip(known).find_map(|(said, known)| unknown(said, known))
        }
        _ => None,
    }
}

fn one() -> u64 {
    1
}

fn five() -> usize {
    5
}

fn six() -> i32 {
    6
}

fn two_hundred() -> usize {
    200
}

fn an_hour() -> HumanDuration {
    HumanDuration(Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFILL_PART: &str = "[prefill]\nat_once = 3\ndeadline = '30m'\n\
        pod.containers = [{ name = 'prefill', image = 'lockgate' }]\n";
    const QUEUE_PART: &str = "[[queue]]\nname = 'makers'\nstream = 'tabs-orders'\n\
        consumer = 'makers'\nceiling = 4\npod.containers = [{ name = 'maker', image = 'lockgate' }]\n";

    #[test]
    fn a_configuration_is_read() {
        let config = Config::parse(&format!("{PREFILL_PART}{QUEUE_PART}")).unwrap();
        let prefill = config.prefill.unwrap();
        assert_eq!((prefill.at_once, prefill.waiting, prefill.job.retries), (3, 200, 6));
        assert_eq!(prefill.job.deadline.0, Duration::from_secs(1800));
        assert_eq!(prefill.job.pod.automount_service_account_token, Some(false), "filled in");
        let queue = &config.queues[0];
        assert_eq!((queue.floor, queue.ceiling, queue.messages_per_job), (0, 4, 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let queue = |change: (&str, &str)| QUEUE_PART.replace(change.0, change.1);
        for (text, why) in [
            (String::new(), "nothing is to be launched"),
            (PREFILL_PART.replace("at_once = 3", "at_once = 0"), "at least 1"),
            (PREFILL_PART.replace("30m", "soon"), "\"soon\" is not a length of time"),
            (PREFILL_PART.replace("image =", "imagee ="), "a PodSpec has no containers.imagee"),
            (PREFILL_PART.replace("[prefill]", "[prefil]"), "unknown field `prefil`"),
            (format!("{PREFILL_PART}keep = '5s'"), "keep is at least 120s"),
            (queue(("'makers'\nstream", "'Makers'\nstream")), "write a name"),
            (queue(("'makers'\nstream", "'prefill'\nstream")), "the name is taken"),
            (queue(("ceiling = 4", "ceiling = 4\nfloor = 5")), "at least the floor"),
            (queue(("tabs-orders", "tabs.orders")), "stream"),
            (format!("{QUEUE_PART}{QUEUE_PART}"), "the name is taken"),
        ] {
            let error = Config::parse(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
