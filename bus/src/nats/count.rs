//! How many messages match: an ephemeral consumer is told so when it is made, and is removed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use async_nats::jetstream::stream::RetentionPolicy;

use super::consumers::{CreateRequest, set_filters};
use super::link::Link;
use super::{schedule, streams};
use crate::error::{Error, Result};
use crate::name::{StreamName, SubjectFilter};

/// The server removes the consumer after this long, if nobody else did.
const INACTIVE: Duration = Duration::from_secs(5);

/// See [`crate::driver::Driver::count`].
pub(super) async fn count(
    link: &Arc<Link>,
    stream: &StreamName,
    filters: &[SubjectFilter],
    after: u64,
) -> Result<u64> {
    let info = streams::raw_info(link, stream).await?;
    let filters = schedule::hide_waiting(stream, &info.config, filters)?;
    let state = &info.state;
    if state.messages == 0 || after >= state.last_sequence {
        return Ok(0);
    }
    if schedule::is_everything(&filters) && after < state.first_sequence {
        return Ok(state.messages);
    }
    if info.config.retention == RetentionPolicy::WorkQueue {
        return Err(Error::invalid(format!(
            "stream {stream} is a work queue, where nats:// counts all messages or none"
        )));
    }
    let name = format!("lg-{}", link.unique());
    let mut config = Config {
        name: Some(name.clone()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ack_policy: AckPolicy::None,
        inactive_threshold: INACTIVE,
        num_replicas: 1,
        memory_storage: true,
        ..Config::default()
    };
    set_filters(&mut config, &filters);
    let request = CreateRequest { stream_name: stream.as_str(), config: &config, action: "" };
    let consumer = format!("{stream}.{name}");
    let made = link.api_repeated::<Info>(&format!("CONSUMER.CREATE.{consumer}"), &request).await;
    link.leave_behind(consumer);
    match made {
        Ok(info) => Ok(info.num_pending),
        Err(failure) if failure.is_stream_missing() => Err(streams::missing(stream)),
        Err(failure) => Err(failure.into_error(format!("count in stream {stream}"))),
    }
}
