//! Values as JSON, and changing one whoever else does.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kv::KeyValue;
use crate::backoff::{Backoff, Jitter};
use crate::config::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::random::hash;

/// How often a change may lose against other writers.
const TRIES: u32 = 64;

/// Typed values, written as JSON.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{BucketConfig, BucketName};
///
/// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
/// struct Stock {
///     left: u32,
/// }
///
/// let stock = bus.ensure_kv(&BucketConfig::new(BucketName::new("stock")?)).await?;
/// stock.put_json("tea", &Stock { left: 2 }).await?;
/// // By compare-and-set, so that two who sell at once never sell one thing twice.
/// let sell = |stock: Option<Stock>| match stock {
///     Some(Stock { left }) if left > 0 => Some(Stock { left: left - 1 }),
///     _ => None, // nothing to sell: it stays as it is
/// };
/// assert_eq!(stock.modify("tea", sell).await?, Some(Stock { left: 1 }));
/// assert_eq!(stock.modify("cake", sell).await?, None);
/// assert_eq!(stock.get_json::<Stock>("tea").await?.map(|(now, _)| now.left), Some(1));
/// # Ok(())
/// # }
/// ```
impl KeyValue {
    /// The value of a key and its revision, if it has one; [`ErrorKind::Corrupt`] if it is not the
    /// JSON of a `T`.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
    ) -> Result<Option<(T, u64)>> {
        let entry = self.get(key).await?;
        entry.map(|entry| Ok((self.read(&entry)?, entry.revision))).transpose()
    }

    /// Writes a value, whatever stands there; returns its revision.
    pub async fn put_json<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<str>,
        value: &T,
    ) -> Result<u64> {
        self.put(key, written(value)?).await
    }

    /// Changes a value by compare-and-set. `change` is told what stands there, again after each
    /// lost race, and returns what is to; `None` leaves it as it is. Returns what stands there then.
    ///
    /// The change is made once: a write whose answer was lost is looked at, and where another value
    /// stands by then nobody can tell, so that the error is [`ErrorKind::Timeout`]. Where others are
    /// faster 64 times in a row it is [`ErrorKind::Unavailable`] and nothing was written.
    pub async fn modify<T: Serialize + DeserializeOwned>(
        &self,
        key: impl AsRef<str>,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>> {
        let key = key.as_ref();
        let pauses = Backoff::exponential(Duration::from_millis(1)).cap(Duration::from_millis(100));
        let pauses = pauses.jitter(Jitter::Equal);
        for attempt in 1..=TRIES {
            let entry = self.get(key).await?;
            let stands = entry.as_ref().map(|entry| self.read(entry)).transpose()?;
            let Some(wanted) = change(stands) else {
                return entry.map(|entry| self.read(&entry)).transpose();
            };
            let (value, revision) = (written(&wanted)?, entry.map_or(0, |entry| entry.revision));
            match self.update(key, value.clone(), revision).await {
                Ok(_) => return Ok(Some(wanted)),
                Err(error) if error.is_conflict() => {}
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    let now = self.get(key).await?;
                    let (at, same) = match &now {
                        Some(now) => (now.revision, now.value == value),
                        None => (0, false),
                    };
                    match (at == revision, same) {
                        (true, _) => {}
                        (false, true) => return Ok(Some(wanted)),
                        (false, false) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
            let spread = hash(&[key.as_bytes(), &value, &attempt.to_be_bytes()]);
            tokio::time::sleep(pauses.spread(attempt, spread)).await;
        }
        let what = format!("{key} in bucket {} was not changed", self.name());
        Err(Error::new(ErrorKind::Unavailable, format!("{what}: others wrote it each time")))
    }

    fn read<T: DeserializeOwned>(&self, entry: &Entry) -> Result<T> {
        serde_json::from_slice(&entry.value).map_err(|source| {
            let what = format!("{} in bucket {} is not the JSON", entry.key, self.name());
            Error::with_source(ErrorKind::Corrupt, format!("{what} that was expected"), source)
        })
    }
}

fn written<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|source| {
        Error::with_source(ErrorKind::Invalid, "the value cannot be written as JSON", source)
    })
}

#[cfg(test)]
#[cfg(feature = "fault")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::embedded::Embedded;
    use crate::fault::{FaultRates, Faults};
    use crate::{BucketConfig, BucketName, Bus};

    async fn bucket(bus: &Bus) -> KeyValue {
        let config = BucketConfig::new(BucketName::new("b").unwrap());
        bus.ensure_kv(&config).await.unwrap()
    }

    fn one_more(n: Option<u64>) -> Option<u64> {
        Some(n.unwrap_or(0) + 1)
    }

    #[tokio::test(start_paused = true)]
    async fn many_writers_lose_nothing() {
        let bus = Bus::with_driver(Arc::new(Embedded::new()));
        let bucket = bucket(&bus).await;
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let bucket = bucket.clone();
            writers.spawn(async move {
                for _ in 0..20 {
                    bucket.modify("n", one_more).await.unwrap();
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
        assert_eq!(bucket.get_json::<u64>("n").await.unwrap().unwrap().0, 200);
    }

    /// Answers are lost after the write: what was written is not written a second time.
    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_changes_nothing_twice() {
        for seed in 0..50 {
            let bus = Bus::with_driver(Arc::new(Embedded::new()));
            bucket(&bus).await;
            let faults = Faults::new(seed);
            let faulty = faults.wrap(&bus).kv("b").await.unwrap();
            faults.set_rates(FaultRates { fail_after: 300, ..FaultRates::NONE });
            let mut done = 0;
            for _ in 0..50 {
                done += u64::from(faulty.modify("n", one_more).await.is_ok());
            }
            let n = bucket(&bus).await.get_json::<u64>("n").await.unwrap().unwrap().0;
            assert!((done..=50).contains(&n), "seed {seed}: {done} said to be done, {n} were");
        }
    }

    #[tokio::test]
    async fn what_is_no_json_is_said_and_stays() {
        let bus = Bus::with_driver(Arc::new(Embedded::new()));
        let bucket = bucket(&bus).await;
        bucket.put("n", "seven").await.unwrap();
        let error = bucket.modify("n", one_more).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), "n in bucket b is not the JSON that was expected");
        assert_eq!(bucket.get("n").await.unwrap().unwrap().value, "seven");
    }
}
