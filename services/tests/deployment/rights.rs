//! Every user is tried on everything: what it may, the server takes, and the rest it refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerError};
use tokio::sync::mpsc;

use super::servers::{LIMIT, Servers};

const ROLES: [&str; 9] = [
    "registration",
    "events",
    "messages",
    "dispatcher",
    "prefill",
    "together",
    "operator",
    "bridge",
    "publisher",
];
const FIVE: &[&str] = &["registration", "events", "messages", "dispatcher", "prefill", "together"];

/// What somebody might do, the subject that it takes, and who may.
const PUBLISH: [(&str, &str, &[&str]); 50] = [
    ("delete a log", "$JS.API.STREAM.DELETE.events-directory", &[]),
    ("empty a log", "$JS.API.STREAM.PURGE.events-directory", &[]),
    ("remove an event", "$JS.API.STREAM.MSG.DELETE.events-directory", &[]),
    ("change a log", "$JS.API.STREAM.UPDATE.events-directory", &[]),
    ("make a log", "$JS.API.STREAM.CREATE.events-directory", &["events", "together", "bridge"]),
    ("make a log that was not named", "$JS.API.STREAM.CREATE.events-others", &[]),
    ("copy a log away", "$JS.API.STREAM.SNAPSHOT.events-directory", &[]),
    ("put a log back", "$JS.API.STREAM.RESTORE.events-directory", &[]),
    ("choose another leader", "$JS.API.STREAM.LEADER.STEPDOWN.events-directory", &[]),
    ("choose another leader of all", "$JS.API.META.LEADER.STEPDOWN", &[]),
    ("list what there is", "$JS.API.STREAM.NAMES", &[]),
    ("see the account", "$JS.API.INFO", &[]),
    ("see the servers", "$SYS.REQ.SERVER.PING", &[]),
    ("publish", "events.directory.user.k", &["events", "together", "bridge", "publisher"]),
    ("publish elsewhere", "events.others.user.k", &[]),
    ("publish no event", "events.directory.user.k.more", &[]),
    ("say anything", "anything.else", &[]),
    (
        "get an event",
        "$JS.API.DIRECT.GET.events-directory",
        &["registration", "events", "messages", "dispatcher", "prefill", "together", "bridge"],
    ),
    (
        "read a log",
        "$JS.API.CONSUMER.CREATE.events-directory.x",
        &["registration", "messages", "prefill", "together", "bridge"],
    ),
    ("read another log", "$JS.API.CONSUMER.CREATE.events-others.x", &[]),
    ("read under a name of old", "$JS.API.CONSUMER.DURABLE.CREATE.events-directory.x", &[]),
    (
        "see a log",
        "$JS.API.STREAM.INFO.events-directory",
        &[
            "registration",
            "events",
            "messages",
            "dispatcher",
            "prefill",
            "together",
            "bridge",
            "publisher",
        ],
    ),
    ("see another log", "$JS.API.STREAM.INFO.events-others", &[]),
    ("read the signing key", "$JS.API.DIRECT.GET.KV_lockgate-system", FIVE),
    ("write the signing key", "$KV.lockgate-system.signing-key", &["registration", "together"]),
    ("write a subscription", "$KV.lockgate-subscriptions.people", &["registration", "together"]),
    (
        "read subscriptions",
        "$JS.API.DIRECT.GET.KV_lockgate-subscriptions",
        &["registration", "messages", "dispatcher", "prefill", "together", "operator"],
    ),
    ("delete all subscriptions", "$JS.API.STREAM.DELETE.KV_lockgate-subscriptions", &[]),
    (
        "write a realm",
        "$KV.lockgate-realms.directory",
        &["registration", "events", "together", "bridge"],
    ),
    ("ask for a prefill", "lockgate.tasks.prefill", &["registration", "dispatcher", "together"]),
    (
        "report",
        "lockgate.tasks.report",
        &["messages", "dispatcher", "prefill", "together", "operator"],
    ),
    (
        "take a task",
        "$JS.API.CONSUMER.MSG.NEXT.lockgate-tasks.prefill-workers",
        &["prefill", "together"],
    ),
    ("settle a task", "$JS.ACK.lockgate-tasks.prefill-workers.1.1.1.1.1", &["prefill", "together"]),
    ("ask for a Job", "lockgate.tasks.kubernetes", &["registration", "dispatcher", "together"]),
    ("launch a Job", "$JS.API.CONSUMER.MSG.NEXT.lockgate-tasks.operator", &["operator"]),
    ("park what cannot be carried", "bridge.directory.route.begin", &["bridge"]),
    (
        "take a report",
        "$JS.API.CONSUMER.MSG.NEXT.lockgate-tasks.registration",
        &["registration", "together"],
    ),
    (
        "settle a report",
        "$JS.ACK.lockgate-tasks.registration.1.1.1.1.1",
        &["registration", "together"],
    ),
    ("end the work", "$JS.API.CONSUMER.DELETE.lockgate-tasks.prefill-workers", &[]),
    ("work beside it", "$JS.API.CONSUMER.CREATE.lockgate-tasks.x", &[]),
    ("write a row", "prefill.people.u.1.row.directory.user.k", &["prefill", "together"]),
    (
        "remove rows",
        "$JS.API.STREAM.PURGE.lockgate-prefill",
        &["registration", "dispatcher", "prefill", "together"],
    ),
    ("give up", "dead.people.u.1.live.7.1.directory.user.k", &["messages", "together"]),
    (
        "drop what was given up",
        "$JS.API.STREAM.PURGE.lockgate-dead-letters",
        &["registration", "messages", "dispatcher", "together"],
    ),
    (
        "hand out",
        "$KV.lockgate-journal.people.u.1.live.directory",
        &["registration", "messages", "dispatcher", "together"],
    ),
    ("serve a queue", "$KV.lockgate-leases.people", &["registration", "messages", "together"]),
    (
        "claim a prefill",
        "$KV.lockgate-leases.prefill.people.u.1",
        &["registration", "dispatcher", "prefill", "together"],
    ),
    ("use a ticket", "$KV.lockgate-tickets.nonce", &["messages", "together"]),
    ("note a place in Kafka", "$KV.lockgate-bridge.orders.0", &["bridge"]),
    ("pull at another replica", "lockgate.queue.owner", &["messages", "together"]),
];

const SUBSCRIBE: [(&str, &str, &[&str]); 8] = [
    ("hear everything", ">", &[]),
    ("hear events", "events.>", &[]),
    ("hear records", "$KV.>", &[]),
    ("hear tasks", "lockgate.tasks.>", &[]),
    ("hear answers of all", "_INBOX.>", &[]),
    ("hear answers of the admin", "_INBOX_admin.>", &[]),
    ("hear the servers", "$JS.EVENT.>", &[]),
    ("answer pulls", "lockgate.queue.*", &["messages", "together"]),
];

/// A connection as a user, and what the server refuses it.
struct Tried {
    client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
    asked: u32,
}

impl Tried {
    async fn connect(servers: &Servers, role: &str) -> Self {
        let (tell, refusals) = mpsc::unbounded_channel();
        let client = options(servers, role)
            .custom_inbox_prefix(format!("_INBOX_{role}"))
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(text)) = event {
                    let _ = tell.send(text);
                }
                std::future::ready(())
            })
            .connect(servers.url())
            .await
            .expect("a connection");
        Self { client, refusals, asked: 0 }
    }

    /// True when the server takes a publish.
    async fn may_publish(&mut self, subject: &str) -> bool {
        let empty = bytes::Bytes::new();
        self.client.publish(subject.to_owned(), empty).await.expect("it is sent");
        !self.was_refused(subject).await
    }

    /// True when the server takes a subscription.
    async fn may_subscribe(&mut self, subject: &str) -> bool {
        let held = self.client.subscribe(subject.to_owned()).await.expect("it is sent");
        let refused = self.was_refused(subject).await;
        drop(held);
        !refused
    }

    /// The server answers in order: what it says of a subject that nobody may use comes behind what
    /// it says of this one.
    async fn was_refused(&mut self, subject: &str) -> bool {
        self.asked += 1;
        let last = format!("nobody.may.{}", self.asked);
        self.client.publish(last.clone(), bytes::Bytes::new()).await.expect("it is sent");
        let mut refused = false;
        loop {
            let said = tokio::time::timeout(LIMIT, self.refusals.recv()).await;
            let said = said.expect("the server says so in time").expect("connected");
            if said.contains(&format!("\"{last}\"")) {
                return refused;
            }
            assert!(said.contains("ermissions Violation") && said.contains(subject), "{said}");
            refused = true;
        }
    }
}

fn options(servers: &Servers, role: &str) -> ConnectOptions {
    let seed = std::fs::read_to_string(servers.credentials().join(format!("{role}.nk")));
    ConnectOptions::with_nkey(seed.expect("a seed").trim().to_owned())
        .add_root_certificates(servers.credentials().join("ca.pem"))
        .require_tls(true)
        .connection_timeout(Duration::from_secs(30))
}

/// What differs from the tables: nothing.
async fn tried(servers: &Servers, role: &str) -> Vec<String> {
    let mut user = Tried::connect(servers, role).await;
    let mut wrong = Vec::new();
    let mut note = |what: &str, subject: &str, may: bool, who: &[&str]| {
        if may != who.contains(&role) {
            wrong.push(format!("{role} may {}{what}: {subject}", if may { "" } else { "not " }));
        }
    };
    for (what, subject, who) in PUBLISH {
        let may = user.may_publish(subject).await;
        note(what, subject, may, who);
    }
    for (what, subject, who) in SUBSCRIBE {
        let may = user.may_subscribe(subject).await;
        note(what, subject, may, who);
    }
    for other in ROLES {
        let inbox = format!("_INBOX_{other}.>");
        let may = user.may_subscribe(&inbox).await;
        note("hear answers", &inbox, may, &[other]);
        let inbox = format!("_INBOX_{other}.a.b");
        let may = user.may_publish(&inbox).await;
        let answers = matches!(role, "messages" | "together") && role == other;
        note("give answers", &inbox, may, if answers { &ROLES } else { &[] });
    }
    wrong
}

#[tokio::test]
async fn each_user_may_do_what_its_role_needs_and_is_refused_the_rest() {
    let servers = Servers::start(&["single-tls.conf"]).await;
    // Nobody was forgotten: every seed is of a role that is tried, or of people.
    let seeds = std::fs::read_dir(servers.credentials()).expect("credentials").flatten();
    let seeds: BTreeSet<_> = seeds
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".nk")?.to_owned()))
        .collect();
    let known = ROLES.iter().chain(["admin", "system"].iter()).map(ToString::to_string);
    assert_eq!(seeds, known.collect());
    for role in ROLES {
        assert_eq!(tried(&servers, role).await, Vec::<String>::new());
    }

    strangers_stay_outside(&servers).await;

    // A realm more: the files are made anew, and the server reads them while it runs.
    let mut publisher = Tried::connect(&servers, "publisher").await;
    assert!(!publisher.may_publish("events.others.user.k").await);
    servers.generate(&["directory", "others"]);
    servers.reload(0).await;
    let mut publisher = Tried::connect(&servers, "publisher").await;
    assert!(publisher.may_publish("events.others.user.k").await);
    assert!(publisher.may_publish("events.directory.user.k").await);
    assert!(!publisher.may_publish("events.more.user.k").await);
}

/// Who has no TLS, no key, or a key of somewhere else; and the servers' own user, which is in
/// another account and sees nothing of this one.
async fn strangers_stay_outside(servers: &Servers) {
    let once = |options: ConnectOptions| options.max_reconnects(1);
    let nobody = ConnectOptions::new()
        .add_root_certificates(servers.credentials().join("ca.pem"))
        .require_tls(true);
    assert!(once(nobody).connect(servers.url()).await.is_err(), "without a key");
    let untrusting = std::fs::read_to_string(servers.credentials().join("admin.nk"));
    let untrusting = ConnectOptions::with_nkey(untrusting.expect("a seed").trim().to_owned());
    assert!(once(untrusting).connect(servers.url()).await.is_err(), "without the authority");
    let elsewhere = Servers::start(&["single-tls.conf"]).await;
    let foreign = std::fs::read_to_string(elsewhere.credentials().join("admin.nk"));
    let foreign = ConnectOptions::with_nkey(foreign.expect("a seed").trim().to_owned())
        .add_root_certificates(servers.credentials().join("ca.pem"));
    assert!(once(foreign).connect(servers.url()).await.is_err(), "with a foreign key");

    let system =
        options(servers, "system").connect(servers.url()).await.expect("the system's user");
    let asked = system.request("$JS.API.STREAM.NAMES", bytes::Bytes::new());
    let asked = tokio::time::timeout(LIMIT, asked).await.expect("in time");
    let said = asked.expect("an answer").payload;
    assert!(String::from_utf8_lossy(&said).contains("not enabled for account"), "{said:?}");
}
