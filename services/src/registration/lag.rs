//! The figures of queues for who scrapes, measured in the background.

use std::time::{Duration, SystemTime};

use bus::{Error, Start};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::core::Registration;
use super::figures::{Figures, Queue};
use crate::limits::BUS_WINDOW;
use crate::metrics::Lag;
use crate::model::{Subscription, SubscriptionName};

/// How often they are measured.
const EVERY: Duration = Duration::from_secs(15);
/// Subscriptions that are shown one by one.
const MAX_SHOWN: usize = 1000;
/// Records that are read at once.
const PAGE: usize = 500;
/// How long a message that is there may take to be read.
const WAIT: Duration = Duration::from_secs(1);

/// Measures until `shutdown`, while somebody scrapes. What cannot be read now is shown again when
/// it can.
pub(super) async fn measure(registration: Registration, shutdown: CancellationToken) {
    let metrics = &registration.store.platform.metrics;
    loop {
        tokio::select! { biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if !metrics.is_scraped() {
            metrics.show_lag(&[], 0);
            continue;
        }
        match registration.lags().await {
            Ok((shown, unmeasured)) => metrics.show_lag(&shown, unmeasured),
            Err(error) => tracing::debug!(%error, "the figures of queues cannot be had now"),
        }
    }
}

impl Registration {
    /// The figures of the first subscriptions by name that are read as queues, and how many such
    /// there are beside them.
    async fn lags(&self) -> Result<(Vec<(SubscriptionName, Lag)>, usize), Error> {
        let figures = Figures::new(&self.store);
        let (mut shown, mut unmeasured, mut after) = (Vec::new(), 0, None);
        loop {
            let (page, last) = self.store.subscriptions_page(after.as_ref(), PAGE).await?;
            let looks: Vec<_> =
                page.iter().map(|kept| figures.of_used(&kept.subscription)).collect();
            let looked: Vec<_> = stream::iter(looks).buffered(BUS_WINDOW).try_collect().await?;
            for (kept, queues) in page.iter().zip(looked) {
                let (subscription, Some(queues)) = (&kept.subscription, queues) else { continue };
                if shown.len() >= MAX_SHOWN {
                    unmeasured += 1;
                    continue;
                }
                let lag = self.lag(subscription, &queues).await?;
                shown.push((subscription.name().clone(), lag));
            }
            match last {
                Some(last) => after = Some(last),
                None => return Ok((shown, unmeasured)),
            }
        }
    }

    async fn lag(&self, subscription: &Subscription, queues: &[Queue]) -> Result<Lag, Error> {
        let mut oldest = None;
        for queue in queues.iter().filter(|queue| queue.pending + queue.unsettled > 0) {
            let filters = subscription.topics.filters(&queue.realm);
            let log = self.store.log(&queue.realm).await?;
            let mut reader = log.reader(&filters, Start::Sequence(queue.first_unsettled)).await?;
            let first = reader.next(1, WAIT).await?.pop();
            oldest = first.map(|message| message.timestamp).into_iter().chain(oldest).min();
        }
        let now: SystemTime = self.store.platform.clock.now();
        Ok(Lag {
            pending: queues.iter().map(|queue| queue.pending).sum(),
            unsettled: queues.iter().map(|queue| queue.unsettled).sum(),
            oldest: oldest.and_then(|time| now.duration_since(time).ok()).unwrap_or_default(),
        })
    }
}
