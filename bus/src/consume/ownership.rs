//! One process at a time owns a consumer: a lease in a bucket.

use std::time::Duration;

use crate::config::BucketConfig;
use crate::driver::Driver;
use crate::engine::dead_letter::Origin;
use crate::error::Result;
use crate::kv::KeyValue;
use crate::lease::{Contender, Lease};
use crate::name::BucketName;

const BUCKET: &str = "bus-owners";
const LONGEST_LEASE: Duration = Duration::from_secs(30);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// A contender for the consumer, under `<stream>.<consumer>`. `ack_wait` bounds how long a crash
/// keeps the next owner waiting anyway.
pub(super) async fn contend(
    driver: &dyn Driver,
    origin: &Origin,
    ack_wait: Duration,
) -> Result<Contender> {
    let name = BucketName::new(BUCKET)?;
    // Not updated where it exists: who declared it may have given it replicas.
    let bucket = match driver.bucket(&name).await {
        Err(error) if error.is_not_found() => {
            driver.create_bucket(&BucketConfig::new(name.clone())).await?;
            driver.bucket(&name).await?
        }
        opened => opened?,
    };
    let key = format!("{}.{}", origin.stream, origin.consumer);
    let ttl = ack_wait.clamp(SHORTEST_LEASE, LONGEST_LEASE);
    Lease::contend(&KeyValue::new(name, bucket), key, "", ttl)
}
