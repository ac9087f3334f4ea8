//! A shop for tests: a bus, the state, a mail server, and the roles, each in a task that can be
//! killed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bus::Bus;
use bus::testkit::free_port;
use lockgate_flows::orders::roles::{self, Setup};
use lockgate_flows::orders::{FLOW, Settings, Sink, Sinks, Told, Unsent, prepare_with};
use lockgate_flows::{Context, Failure};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::mail_server::MailServer;

/// Long enough for anything on a busy machine; never waited for when things work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Texts, kept.
#[derive(Default)]
pub(crate) struct Texts(Mutex<Vec<Told>>);

impl Texts {
    pub(crate) fn sent(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Sink for Texts {
    async fn send(&self, told: &Told) -> Result<(), Unsent> {
        self.0.lock().unwrap().push(told.clone());
        Ok(())
    }
}

/// A role at work.
struct Running {
    role: &'static str,
    instance: usize,
    task: JoinHandle<Result<(), Failure>>,
}

/// Everything that a shop is made of. Each of its instances has a connection and ports of its own.
pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) state: Bus,
    pub(crate) mails: MailServer,
    pub(crate) texts: Arc<Texts>,
    setups: Vec<Setup>,
    running: Vec<Running>,
    shutdown: CancellationToken,
}

impl World {
    /// A shop of one instance in this process, in memory.
    pub(crate) async fn small() -> Self {
        let bus = Bus::connect("embedded:").await.unwrap();
        Self::new(vec![bus.clone()], bus, Duration::from_secs(30)).await
    }

    /// A shop with an instance of every role on each of these connections, all started. What a
    /// dead role had in hand is handed out again after `ack_wait`.
    pub(crate) async fn new(connections: Vec<Bus>, state: Bus, ack_wait: Duration) -> Self {
        let (mails, texts) = (MailServer::start().await, Arc::new(Texts::default()));
        let shutdown = CancellationToken::new();
        let mut setups = Vec::new();
        for bus in &connections {
            let settings = Settings {
                ordering_port: free_port().unwrap(),
                payment_port: free_port().unwrap(),
                delivery_port: free_port().unwrap(),
                payment_url: Some(String::from("http://pay.test")),
                instances: 1,
                ack_wait,
                sweep_after: Duration::from_secs(2),
                smtp: Some(mails.url().to_owned()),
                ..Settings::default()
            };
            let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let (bus, state, shutdown) = (bus.clone(), state.clone(), shutdown.clone());
            let context = Context { listen, shutdown, ..Context::new(bus, state) };
            prepare_with(&context, &settings).await.unwrap();
            let sinks = Sinks::new(&settings).unwrap();
            setups.push(Setup { context, settings: Arc::new(settings), sinks });
        }
        let bus = connections[0].clone();
        let mut world = Self { bus, state, mails, texts, setups, running: Vec::new(), shutdown };
        for instance in 0..connections.len() {
            for role in FLOW.roles {
                world.start(role.name, instance);
            }
        }
        world
    }

    fn start(&mut self, role: &'static str, instance: usize) {
        // Each start has connections of its own to the mail server, as a process has.
        let mut setup = self.setups[instance].clone();
        setup.sinks = Sinks { texts: self.texts.clone(), ..Sinks::new(&setup.settings).unwrap() };
        let port = match role {
            "ordering" => setup.settings.ordering_port,
            "payment" => setup.settings.payment_port,
            "delivery" => setup.settings.delivery_port,
            _ => 0,
        };
        let task = tokio::spawn(async move {
            // What a killed task leaves is let go of a moment later; a process leaves nothing.
            while TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            loop {
                match run(role, setup.clone()).await {
                    // Whoever runs roles starts one again that the bus was away for.
                    Err(failed) if is_retryable(&failed) => {}
                    ended => return ended,
                }
            }
        });
        self.running.push(Running { role, instance, task });
    }

    /// Kills the role that stands at `which` of those that run, as a crash would, and starts it
    /// again. Returns its name.
    pub(crate) async fn kill(&mut self, which: usize) -> &'static str {
        let Running { role, instance, task } = self.running.remove(which % self.running.len());
        task.abort();
        match task.await {
            Ok(ended) => panic!("{role} had ended by itself: {ended:?}"),
            Err(error) => assert!(error.is_cancelled(), "{role}: {error}"),
        }
        self.start(role, instance);
        role
    }

    pub(crate) fn client(&self) -> Client {
        let urls = |port: fn(&Settings) -> u16| {
            let of = |setup: &Setup| format!("http://127.0.0.1:{}", port(&setup.settings));
            self.setups.iter().map(of).collect::<Vec<_>>()
        };
        Client::new(
            urls(|settings| settings.ordering_port),
            urls(|settings| settings.payment_port),
            urls(|settings| settings.delivery_port),
        )
    }

    /// Ends every role in good order: each returns, and without an error.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        for Running { role, task, .. } in self.running.drain(..) {
            let ended = tokio::time::timeout(PATIENCE, task).await;
            let ended = ended.unwrap_or_else(|_| panic!("{role} does not end")).unwrap();
            ended.unwrap_or_else(|error| panic!("{role}: {error}"));
        }
    }
}

async fn run(role: &str, setup: Setup) -> Result<(), Failure> {
    match role {
        "ordering" => roles::ordering(setup).await,
        "payment" => roles::payment(setup).await,
        "delivery" => roles::delivery(setup).await,
        "notification" => roles::notification(setup).await,
        "mobile" => roles::mobile(setup).await,
        "email" => roles::email(setup).await,
        "logging" => roles::logging(setup).await,
        unknown => panic!("a role that no test knows: {unknown}"),
    }
}

fn is_retryable(failed: &Failure) -> bool {
    failed.downcast_ref::<bus::Error>().is_some_and(bus::Error::is_retryable)
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
