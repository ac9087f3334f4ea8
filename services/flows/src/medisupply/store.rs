//! Where orders are kept, and the two queues of those that are not decided.

use std::time::Duration;

use bus::{
    BucketConfig, BucketName, Bus, Capability, KeyValue, Message, Outcome, Retention, Stream,
    StreamConfig, Support,
};
use serde::Serialize;
use tokio::time::Instant;

use super::Site;
use super::figures::Figures;
use super::order::{NewOrder, Order, Status, key};

/// The consumer of either queue.
pub(super) const CONSUMER: &str = "validation";
/// How many orders are read at a time.
const PAGE: usize = 500;

/// One of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// Orders to ask about.
    Jobs,
    /// Orders that could not be asked about, until the external service has recovered.
    Parked,
}

impl Queue {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Parked => "parked",
        }
    }

    pub(super) fn stream(self, prefix: &str) -> String {
        format!("{prefix}-{}", self.as_str())
    }

    fn config(self, site: &Site) -> bus::Result<StreamConfig> {
        let name = self.stream(&site.settings.prefix);
        let subject = format!("{name}.order");
        let config = StreamConfig::parse(&name, &[&subject])?;
        let native = site.bus.support(Capability::WorkQueue) != Support::Unsupported;
        let retention = if native { Retention::WorkQueue } else { config.retention };
        Ok(StreamConfig { retention, ..config })
    }
}

/// Makes what is missing of the queues and the bucket.
pub(super) async fn prepare(site: &Site) -> bus::Result<()> {
    for queue in [Queue::Jobs, Queue::Parked] {
        site.bus.create_stream_if_missing(&queue.config(site)?).await?;
    }
    site.state.create_kv_if_missing(&BucketConfig::new(bucket(&site.settings.prefix)?)).await?;
    Ok(())
}

/// Removes the queues and the bucket, with all that is in them.
pub(super) async fn remove(site: &Site) -> bus::Result<()> {
    for queue in [Queue::Jobs, Queue::Parked] {
        site.bus.delete_stream(queue.stream(&site.settings.prefix)).await?;
    }
    site.state.delete_kv(bucket(&site.settings.prefix)?).await
}

fn bucket(prefix: &str) -> bus::Result<BucketName> {
    BucketName::new(format!("{prefix}-orders"))
}

/// What taking an order came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is new.
    New,
    /// It was taken before, and stands as it did.
    Known(Order),
    /// Its id belongs to another order.
    Other,
}

impl Taken {
    fn again(stands: Order, order: &NewOrder) -> Self {
        if stands.order == *order { Self::Known(stands) } else { Self::Other }
    }
}

/// How many orders wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Backlog {
    pub(super) jobs: u64,
    pub(super) parked: u64,
}

/// The orders, and the queues. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Store {
    bus: Bus,
    jobs: Stream,
    parked: Stream,
    orders: KeyValue,
    prefix: String,
    figures: Figures,
}

/// How long a role that starts waits for a bus that is away.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Pauses after a failure of a bus that is away; any other, and one after `since` is a minute ago,
/// is returned.
pub(super) async fn wait_out(error: bus::Error, since: Instant) -> bus::Result<()> {
    if !error.is_retryable() || since.elapsed() >= PATIENCE {
        return Err(error);
    }
    tracing::warn!(%error, "the bus is away: trying again");
    tokio::time::sleep(AGAIN_AFTER).await;
    Ok(())
}

impl Store {
    /// Opens what [`prepare`] made, once the bus is there.
    pub(super) async fn open(site: &Site) -> bus::Result<Self> {
        let since = Instant::now();
        loop {
            match Self::open_now(site).await {
                Err(error) => wait_out(error, since).await?,
                opened => return opened,
            }
        }
    }

    async fn open_now(site: &Site) -> bus::Result<Self> {
        let prefix = site.settings.prefix.clone();
        Ok(Self {
            bus: site.bus.clone(),
            jobs: site.bus.stream(Queue::Jobs.stream(&prefix)).await?,
            parked: site.bus.stream(Queue::Parked.stream(&prefix)).await?,
            orders: site.state.kv(bucket(&prefix)?).await?,
            prefix,
            figures: site.settings.figures.clone(),
        })
    }

    /// Takes an order: on return it is kept and queued, or nothing of it may be said to anybody.
    /// Doing it again is safe, and queues what an earlier attempt could not.
    pub(super) async fn take(&self, order: &NewOrder) -> bus::Result<Taken> {
        let key = key(&order.order_id);
        let record = Order::new(order.clone());
        let (taken, revision) = match self.orders.create(&key, json(&record)?).await {
            Ok(revision) => {
                self.figures.taken.add(1);
                (Taken::New, revision)
            }
            Err(error) if error.is_conflict() => match self.orders.get_json(&key).await? {
                Some((stands, revision)) => (Taken::again(stands, order), revision),
                // Cleared between the two: whoever sends it again makes it anew.
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let open = match &taken {
            Taken::New => true,
            Taken::Known(known) => known.status == Status::Processing && !known.parked,
            Taken::Other => false,
        };
        if open {
            self.queue(order, revision).await?;
        }
        Ok(taken)
    }

    /// Puts a job into the queue for the order that was kept at `revision`. A second one of it finds
    /// it decided, or is recognised; one that has the id of an order that was cleared is not.
    pub(super) async fn queue(&self, order: &NewOrder, revision: u64) -> bus::Result<()> {
        let subject = format!("{}.order", self.jobs.name());
        let message = Message::json(subject, order)?.key(&order.order_id);
        let known = self.bus.support(Capability::Deduplication) != Support::Unsupported;
        let id = || format!("{}@{revision}", key(&order.order_id));
        let message = if known { message.id(id()) } else { message };
        self.jobs.publish(message).await?;
        Ok(())
    }

    pub(super) async fn get(&self, order_id: &str) -> bus::Result<Option<Order>> {
        Ok(self.orders.get_json(key(order_id)).await?.map(|(order, _)| order))
    }

    /// Decides an order, if nobody has. True when this call did.
    pub(super) async fn decide(
        &self,
        order_id: &str,
        status: Status,
        reason: Option<&str>,
    ) -> bus::Result<bool> {
        let mut changed = false;
        let change = |stands: Option<Order>| {
            let decided = stands.and_then(|order| order.decided(status, reason.map(str::to_owned)));
            changed = decided.is_some();
            decided
        };
        self.orders.modify(key(order_id), change).await?;
        Ok(changed)
    }

    /// What settles a job so that its order is parked: out of one queue and into the other as a
    /// unit, and the order says so.
    pub(super) async fn park(&self, order: &NewOrder) -> bus::Result<Outcome> {
        let change = |stands: Option<Order>| {
            let open = stands.filter(|order| order.status == Status::Processing && !order.parked);
            open.map(|order| Order { parked: true, ..order })
        };
        self.orders.modify(key(&order.order_id), change).await?;
        let message = Message::json(format!("{}.order", self.parked.name()), order)?;
        Ok(Outcome::ack_and(&self.parked, message.key(&order.order_id)))
    }

    /// Up to `most` orders, each with its revision, and whether there are more.
    pub(super) async fn list(&self, most: usize) -> bus::Result<(Vec<(Order, u64)>, bool)> {
        let (mut orders, mut after) = (Vec::new(), None);
        loop {
            let page = self.orders.page(after.as_ref(), PAGE).await?;
            let whole = page.len() < PAGE;
            for entry in &page {
                if orders.len() == most {
                    return Ok((orders, true));
                }
                orders.push((entry.json()?, entry.revision));
            }
            match page.last() {
                Some(last) if !whole => after = Some(last.key.clone()),
                _ => return Ok((orders, false)),
            }
        }
    }

    /// Removes every order. What is queued of them finds nothing, and is passed over.
    pub(super) async fn clear(&self) -> bus::Result<usize> {
        let keys = self.orders.keys(">").await?;
        for key in &keys {
            self.orders.delete(key, None).await?;
        }
        Ok(keys.len())
    }

    /// Everything that is written of orders from now on, after what stands.
    pub(super) async fn watch(&self) -> bus::Result<bus::Watch> {
        self.orders.watch(">").await
    }

    /// How many orders wait in the queues, those at work included.
    pub(super) async fn backlog(&self) -> bus::Result<Backlog> {
        Ok(Backlog { jobs: self.wait(Queue::Jobs).await?, parked: self.wait(Queue::Parked).await? })
    }

    async fn wait(&self, queue: Queue) -> bus::Result<u64> {
        let info = self.bus.consumer_info(queue.stream(&self.prefix), CONSUMER).await?;
        Ok(info.pending + info.unsettled)
    }
}

fn json<T: Serialize>(value: &T) -> bus::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|why| {
        bus::Error::with_source(bus::ErrorKind::Invalid, "the order cannot be written", why)
    })
}
