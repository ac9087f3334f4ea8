//! What everything on one connection shares: settings, administration, borrowed clients, threads.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::failure::{code, failed, is_passing};
use super::settings::{Logged, Settings};
use super::shape::Shapes;
use super::threads::{Threads, closed};
use crate::error::{Error, ErrorKind, Result};
use crate::options::ConnectOptions;

/// How long one request to the cluster may take.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How many reports of a client are looked through: it tries about so often to connect.
const REPORTS: usize = 100;
/// How many clients are lent out at once, each with a thread that waits.
const CLIENTS: usize = 8;
/// The group that readers name, because the client insists on one; nobody joins it.
pub(super) const READER_GROUP: &str = "lockgate-reader";

/// A client that reads, lent out or in a thread of its own. It is shown what is committed, and a log
/// ends for it where the first open transaction begins; where the log ends for everybody else it
/// asks through another one.
pub(super) struct Client {
    reads: BaseConsumer<Logged>,
    /// Made when it is asked for.
    ends: OnceLock<BaseConsumer<Logged>>,
    config: ClientConfig,
}

impl Client {
    fn new(config: ClientConfig) -> Result<Self> {
        Ok(Self { reads: consumer(&config)?, ends: OnceLock::new(), config })
    }

    /// Sees records of open transactions too: for places and times, never for content.
    pub(super) fn ends(&self) -> Result<&BaseConsumer<Logged>> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let mut config = self.config.clone();
        config.set("isolation.level", "read_uncommitted");
        let made = consumer(&config)?;
        Ok(self.ends.get_or_init(|| made))
    }
}

impl Deref for Client {
    type Target = BaseConsumer<Logged>;

    fn deref(&self) -> &Self::Target {
        &self.reads
    }
}

pub(super) struct Link {
    pub(super) settings: Settings,
    pub(super) admin: AdminClient<Logged>,
    pub(super) threads: Threads,
    pub(super) shapes: Shapes,
    idle: Mutex<Vec<Client>>,
    lent: Arc<Semaphore>,
    lookups: TaskTracker,
}

impl Link {
    /// Returns when a broker answered, at most after [`REQUEST_LIMIT`]; [`ErrorKind::Invalid`] when
    /// none of them took the credentials. Brokers that are not trusted,
    /// or do not trust this client, look like brokers that do not answer: the client library only
    /// logs why.
    pub(super) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<Self>> {
        let (settings, tls) = (Settings::new(url, options)?, options.tls.is_wanted());
        let admin = AdminClient::from_config_and_context(&settings.admin(), Logged)
            .map_err(|e| failed(format!("connect to {url}"), e))?;
        let link = Arc::new(Self {
            settings,
            admin,
            threads: Threads::default(),
            shapes: Shapes::default(),
            idle: Mutex::default(),
            lent: Arc::new(Semaphore::new(CLIENTS)),
            lookups: TaskTracker::new(),
        });
        let address = url.to_owned();
        let answered = link.with_client(move |client| {
            metadata(client, None).map_err(|error| {
                if !refused_credentials(client) {
                    return error;
                }
                let what = format!("{address} refused the credentials: check user and password");
                Error::with_source(ErrorKind::Invalid, what, error)
            })
        });
        answered.await.map_err(|error| {
            if error.kind() == ErrorKind::Invalid {
                return error;
            }
            let (limit, url) = (REQUEST_LIMIT.as_secs(), link.settings.url());
            let hint = match tls {
                true => {
                    ", or one side does not trust the other: the log says why, check roots and \
                         certificates"
                }
                false => "",
            };
            let what = format!("{url} did not answer within {limit} s{hint}");
            Error::with_source(ErrorKind::Unavailable, what, error)
        })?;
        Ok(link)
    }

    /// [`ErrorKind::Closed`] once the bus was closed.
    pub(super) fn check_open(&self) -> Result<()> {
        self.threads.check_open()
    }

    /// A new client of `group`, connected to nothing yet.
    pub(super) fn client(&self, group: &str) -> Result<Client> {
        Client::new(self.settings.consumer(group))
    }

    /// Lends a client to `work`, which blocks, away from the runtime. Dropping the future lets
    /// the work run to its end, which it bounds itself.
    pub(super) async fn with_client<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Client) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.check_open()?;
        let permit = self.lent.clone().acquire_owned().await.map_err(|_| closed())?;
        let link = self.clone();
        let lookup = self.lookups.spawn_blocking(move || {
            let _permit = permit;
            let idle = link.idle().pop();
            let client = match idle {
                Some(client) => client,
                None => Client::new(link.settings.lookup(READER_GROUP))?,
            };
            let done = work(&client);
            // A client that failed may hold on to what failed: the next one is a new one.
            if done.is_ok() && client.unassign().is_ok() && link.check_open().is_ok() {
                link.idle().push(client);
            }
            done
        });
        lookup.await.map_err(|_| closed())?
    }

    /// Runs `work`, which blocks, away from the runtime. Dropping the future lets it run to its
    /// end, which it bounds itself.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.check_open()?;
        self.lookups.spawn_blocking(work).await.map_err(|_| closed())?
    }

    /// The options of an administrative request.
    pub(super) fn admin_options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(REQUEST_LIMIT))
            .operation_timeout(Some(REQUEST_LIMIT))
    }

    /// Ends the threads and the clients, and waits until they are gone.
    pub(super) async fn close(self: &Arc<Self>) {
        self.threads.join().await;
        self.lookups.close();
        self.lookups.wait().await;
        let link = self.clone();
        // Dropping a client waits for its threads.
        let _ = tokio::task::spawn_blocking(move || link.idle().clear()).await;
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut *self.idle());
        if !idle.is_empty() {
            // Clients wait for their threads, which a runtime's thread must not. Without a thread
            // they are dropped here, late.
            let dropped = std::thread::Builder::new().name("kafka-drop".to_owned());
            let _ = dropped.spawn(move || drop(idle));
        }
    }
}

fn consumer(config: &ClientConfig) -> Result<BaseConsumer<Logged>> {
    BaseConsumer::from_config_and_context(config, Logged).map_err(|e| failed("make a client", e))
}

/// True when a broker refused the client's user or password: the client repeats that, and reports
/// it apart from the request that got no answer.
fn refused_credentials(client: &Client) -> bool {
    let mut reports = (0..REPORTS).filter_map(|_| client.poll(Duration::ZERO)?.err());
    reports.any(|report| code(&report) == Some(Code::Authentication))
}

/// What the cluster says about a topic, or about all of them. Blocks.
pub(super) fn metadata(client: &Client, topic: Option<&str>) -> Result<Metadata> {
    client.fetch_metadata(topic, REQUEST_LIMIT).map_err(|e| failed("ask the cluster", e))
}

/// The first offset that a partition holds, and the one after its last, which is the high watermark:
/// what is stored behind an open transaction counts, also while it cannot be read. Blocks.
pub(super) fn watermarks(client: &Client, topic: &str, partition: i32) -> Result<(i64, i64)> {
    let (client, deadline) = (client.ends()?, Instant::now() + REQUEST_LIMIT);
    loop {
        match client.fetch_watermarks(topic, partition, REQUEST_LIMIT) {
            Ok(marks) => return Ok(marks),
            // A partition that was made or has moved just now is told of before it can be asked, and a
            // client that lost its broker may have forgotten one that is there.
            Err(error)
                if Instant::now() < deadline
                    && (is_passing(&error)
                        || is_unknown(&error) && is_there(client, topic, partition)) =>
            {
                std::thread::sleep(ASK_AGAIN);
            }
            Err(error) => return Err(failed(format!("look at topic {topic}"), error)),
        }
    }
}

fn is_unknown(error: &KafkaError) -> bool {
    let unknown = [Code::UnknownPartition, Code::UnknownTopic, Code::UnknownTopicOrPartition];
    code(error).is_some_and(|code| unknown.contains(&code))
}

/// False when the cluster says that there is no such partition. Blocks.
fn is_there(client: &BaseConsumer<Logged>, topic: &str, partition: i32) -> bool {
    // Asking also reminds the client of it.
    let Ok(told) = client.fetch_metadata(Some(topic), REQUEST_LIMIT) else { return true };
    let mut topics = told.topics().iter().filter(|told| told.name() == topic);
    topics.any(|told| told.partitions().iter().any(|told| told.id() == partition))
}
