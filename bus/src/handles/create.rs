//! Creating what is missing, and altering nothing that is there.
//!
//! Programs that use streams and buckets create them this way. What exists belongs to whoever
//! declared it: an operator may have given it more copies, more room or a place of its own, and a
//! program that starts with other settings must not take that back. To change what is there is
//! [`Bus::ensure_stream`], [`Bus::ensure_bucket`] and [`Bus::ensure_topology`], on purpose.

use std::time::Duration;

use crate::bus::Bus;
use crate::config::{BucketConfig, ConsumerConfig, StreamConfig, StreamInfo};
use crate::difference::{self as diff, Difference};
use crate::engine::dead_letter::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KeyValue;
use crate::name::SubjectFilter;
use crate::stream::Stream;

/// A stream or bucket that is there and can be used.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::StreamConfig;
///
/// let config = StreamConfig::parse("orders", &["orders.>"])?;
/// bus.ensure_stream(&StreamConfig { max_bytes: Some(1 << 20), ..config.clone() }).await?;
/// let opened = bus.create_stream_if_missing(&config).await?;
/// assert!(!opened.created);
/// assert_eq!(opened.differences[0].to_string(), "max-bytes: 1048576 -> none");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Opened<T> {
    /// The stream or bucket, to be used.
    pub handle: T,
    /// True when this call made it. Where several do at the same moment, more than one may be told
    /// so.
    pub created: bool,
    /// How what was there before differs from what was asked for; [`Difference::wants`] is what
    /// was asked for. Empty for what was made now.
    pub differences: Vec<Difference>,
}

impl Bus {
    /// Creates the stream if there is none of its name, and opens it. One that is there is not
    /// altered in any field; how it differs is in the answer.
    ///
    /// On return the stream captures every subject of `config` and keeps messages in the way it
    /// was asked for. One that is there and does not is [`ErrorKind::Mismatch`] and names the
    /// field. Safe to do from many processes at once, and to repeat.
    pub async fn create_stream_if_missing(&self, config: &StreamConfig) -> Result<Opened<Stream>> {
        let creation = self.driver().create_stream(config).await?;
        let created = creation.is_created();
        let StreamInfo { config: has, .. } = creation.get();
        check_stream(has, config)?;
        let differences = match created {
            true => Vec::new(),
            false => diff::stream(has, config, self.splits()),
        };
        Ok(Opened { handle: self.known_stream(&config.name), created, differences })
    }

    /// Creates the bucket if there is none of its name, and opens it as [`Bus::kv`] does. One that
    /// is there is not altered in any field; how it differs is in the answer.
    ///
    /// A bucket that is there and drops entries sooner than was asked for is
    /// [`ErrorKind::Mismatch`]. Safe to do from many processes at once, and to repeat.
    pub async fn create_kv_if_missing(&self, config: &BucketConfig) -> Result<Opened<KeyValue>> {
        let creation = self.driver().create_bucket(config).await?;
        let created = creation.is_created();
        let has = creation.get();
        check_bucket(has, config)?;
        let differences = match created {
            true => Vec::new(),
            false => diff::bucket(has, config),
        };
        Ok(Opened { handle: self.kv(&config.name).await?, created, differences })
    }
}

/// The consumer as `wants` describes it, with the limits that it has: whoever declared them knows
/// why. What happens to a message that fails is its program's own, and so are the metadata.
pub(crate) fn keeping_limits(
    has: &ConsumerConfig,
    wants: &ConsumerConfig,
    origin: &Origin,
) -> ConsumerConfig {
    let (ack_wait, max_unsettled) = (has.ack_wait, has.max_unsettled);
    let kept = ConsumerConfig { ack_wait, max_unsettled, ..wants.clone() };
    for Difference { field, has, wants, .. } in diff::consumer(&kept, wants) {
        tracing::warn!(
            "consumer {origin} keeps {field} {has}, although this program would have made it \
             {wants}: to change it, declare it and run `lockgate topology apply FILE`"
        );
    }
    kept
}

/// Refuses a stream that cannot do what `wants` is for.
fn check_stream(has: &StreamConfig, wants: &StreamConfig) -> Result<()> {
    let refuse = |what: String| {
        let what = format!("stream {} exists and cannot be used: {what}", wants.name);
        let way_out = "change it with a topology file, or delete it";
        Err(Error::new(ErrorKind::Mismatch, format!("{what}: {way_out}")))
    };
    let captured =
        |wanted: &&SubjectFilter| has.subjects.iter().any(|filter| filter.covers(wanted));
    if let Some(missing) = wants.subjects.iter().find(|wanted| !captured(wanted)) {
        return refuse(format!("its subjects do not capture {missing}"));
    }
    if has.retention != wants.retention {
        return refuse(format!("its retention is {:?}, not {:?}", has.retention, wants.retention));
    }
    if wants.delayed && !has.delayed {
        return refuse(String::from("it is not delayed: it takes no message for a later time"));
    }
    Ok(())
}

/// Refuses a bucket that forgets what must be kept.
fn check_bucket(has: &BucketConfig, wants: &BucketConfig) -> Result<()> {
    let Some(age) = has.max_age.filter(|age| wants.max_age.is_none_or(|wanted| wanted > *age))
    else {
        return Ok(());
    };
    let span = |span: Duration| humantime::format_duration(span).to_string();
    let wanted = wants.max_age.map_or_else(|| String::from("for ever"), span);
    let what = format!("bucket {} exists and cannot be used: its max-age", wants.name);
    Err(Error::new(
        ErrorKind::Mismatch,
        format!(
            "{what} drops entries after {}, and they are needed {wanted}: change it with a \
             topology file, or delete it",
            span(age)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketName, Retention};

    fn stream(subjects: &[&str]) -> StreamConfig {
        StreamConfig::parse("s", subjects).unwrap()
    }

    #[test]
    fn what_captures_less_or_keeps_otherwise_is_refused_by_name() {
        let wants = stream(&["s.a.*", "s.b"]);
        for enough in [&["s.>"][..], &["s.a.>", "s.b", "t"], &["s.*.*", "s.*"]] {
            check_stream(&stream(enough), &wants).unwrap();
        }
        let refused = check_stream(&stream(&["s.a.x", "s.b"]), &wants).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch);
        assert!(refused.to_string().contains("stream s ") && refused.to_string().contains("s.a.*"));
        let queue = StreamConfig { retention: Retention::WorkQueue, ..stream(&["s.>"]) };
        assert!(check_stream(&queue, &wants).unwrap_err().to_string().contains("retention"));
        let delayed = StreamConfig { delayed: true, ..wants.clone() };
        assert!(check_stream(&wants, &delayed).unwrap_err().to_string().contains("delayed"));
        check_stream(&delayed, &wants).unwrap();
    }

    #[test]
    fn a_bucket_that_forgets_too_soon_is_refused() {
        let aged =
            |max_age| BucketConfig { max_age, ..BucketConfig::new(BucketName::new("b").unwrap()) };
        let minute = Some(Duration::from_secs(60));
        let hour = Some(Duration::from_secs(3600));
        check_bucket(&aged(None), &aged(minute)).unwrap();
        check_bucket(&aged(hour), &aged(minute)).unwrap();
        for wanted in [None, hour] {
            let refused = check_bucket(&aged(minute), &aged(wanted)).unwrap_err().to_string();
            assert!(refused.contains("bucket b ") && refused.contains("1m"), "{refused}");
        }
    }
}
