//! Notification: files what each customer is to be told, stage by stage, whether or not the
//! channels are up. `GET /orders/{id}` shows from it what went out and what did not.

use bus::Outcome;

use super::Setup;
use super::teller::for_each_stage;
use crate::flow::Failure;
use crate::orders::notice::{Notice, Notices};
use crate::orders::topology::Bucket;

/// Runs notification. Any number of processes may run it at once.
pub async fn notification(setup: Setup) -> Result<(), Failure> {
    let notices = Notices::new(Bucket::Notices.open(&setup.context.state).await?);
    for_each_stage(&setup, "notification", move |notice: Notice| {
        let notices = notices.clone();
        async move {
            notices.file(&notice).await?;
            Ok(Outcome::Ack)
        }
    })
    .await
}
