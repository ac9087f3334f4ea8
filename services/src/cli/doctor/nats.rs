//! NATS servers: whether they answer, how new they are, their JetStream, and their clock.

use std::time::{Duration, SystemTime};

use async_nats::{Client, RequestErrorKind, ServerInfo};
use bus::ConnectOptions;
use lockgate_bridge::examine::{Finding, Level};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::screen::short;
use super::super::serve::chain;
use crate::limits::MAX_STORED_MESSAGE_BYTES;

/// How long one answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Batches that are stored as one are of this version.
const OLDEST: (u32, u32) = (2, 12);
/// What a message of Lockgate has beyond an event, at most: a row of a prefill, and a batch's headers.
const ADDED: usize = 32 * 1024;
/// A clock that is further away makes times in events and logs misleading, and one that is much
/// further ends tickets too early.
const NEAR: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_secs(60);
/// Less room than a log takes by default.
const ROOM: i64 = 1 << 30;

/// A server that answers, and how it is spoken to.
pub(super) struct Server {
    pub(super) client: Client,
    info: ServerInfo,
    /// What the subjects of the JetStream API begin with.
    api: String,
}

impl Server {
    pub(super) fn is_clustered(&self) -> bool {
        self.info.cluster.is_some()
    }

    pub(super) fn api(&self, operation: &str) -> String {
        format!("{}.{operation}", self.api)
    }
}

/// Each server that the URL names, by itself; the first that answers is returned.
pub(super) async fn servers(url: &str, options: &ConnectOptions) -> (Vec<Finding>, Option<Server>) {
    let (scheme, hosts) = url.split_once("://").unwrap_or(("nats", url));
    let (mut found, mut first) = (Vec::new(), None);
    for host in hosts.split(',') {
        let host = host.rsplit_once("://").map_or(host, |(_, host)| host);
        let what = format!("nats {host}");
        match connect(&format!("{scheme}://{host}"), options).await {
            Ok(server) => {
                found.push(version(what, &server.info));
                first.get_or_insert(server);
            }
            Err(why) => {
                let change = "start it (make nats-up), or correct --bus and the credentials";
                found.push(Finding::fail(what, format!("does not answer: {why}"), change));
            }
        }
    }
    if let Some(server) = &first {
        // One that answers is enough to begin with.
        for silent in found.iter_mut().filter(|one| one.says.starts_with("does not answer")) {
            silent.level = Level::Warn;
        }
        found.push(payload(&server.info));
        found.push(clock(server).await);
    }
    (found, first)
}

async fn connect(url: &str, options: &ConnectOptions) -> Result<Server, String> {
    let text = |error: bus::Error| chain(&error);
    let api = bus::nats::api_prefix(options).map_err(text)?;
    let settings = bus::nats::client_options(options).await.map_err(text)?;
    let settings = settings.name("lockgate doctor").event_callback(|event| {
        tracing::debug!(%event, "while the servers are looked at");
        std::future::ready(())
    });
    let connected = tokio::time::timeout(PATIENCE, settings.connect(url)).await;
    let client = connected
        .map_err(|_| format!("nothing within {}", short(PATIENCE)))?
        .map_err(|error| chain(&error))?;
    Ok(Server { info: client.server_info(), client, api })
}

fn version(what: String, info: &ServerInfo) -> Finding {
    let ServerInfo { version, server_name, server_id, .. } = info;
    // One without a name has its id for it.
    let name = if server_name == server_id { "" } else { server_name };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < OLDEST {
        let says = format!("is nats-server {version} {name}");
        return Finding::fail(
            what,
            says,
            "update it to 2.12 or newer: older ones store no batches as one",
        );
    }
    Finding::ok(what, format!("answers: nats-server {version} {name}").trim_end())
}

fn payload(info: &ServerInfo) -> Finding {
    let (most, needed) = (info.max_payload, MAX_STORED_MESSAGE_BYTES as usize + ADDED);
    let says = format!("max_payload is {most}");
    match most >= needed {
        true => Finding::ok("nats messages", says),
        false => Finding::fail(
            "nats messages",
            says,
            format!("set max_payload to {needed} or more (1MB is usual): large events are refused"),
        ),
    }
}

#[derive(Deserialize)]
struct Told {
    server: ToldServer,
}

#[derive(Deserialize)]
struct ToldServer {
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

/// The server tells its time with who the user is.
async fn clock(server: &Server) -> Finding {
    let what = "clock";
    let asked = SystemTime::now();
    let told = request(server, "$SYS.REQ.USER.INFO".into(), "").await;
    let took = asked.elapsed().unwrap_or_default();
    let told = told.ok().and_then(|told| serde_json::from_slice::<Told>(&told).ok());
    let Some(Told { server: ToldServer { time } }) = told else {
        let change =
            "compare the machines' clocks by hand (timedatectl), or run this as another user";
        return Finding::warn(what, "the server does not tell this user its time", change);
    };
    // It was read somewhere on the way.
    let here = OffsetDateTime::from(asked + took / 2);
    let apart = (here - time).unsigned_abs();
    let says = format!(
        "the server's is {} away: {}",
        short(apart),
        time.format(&Rfc3339).unwrap_or_default()
    );
    let change = "run a time service (chrony, systemd-timesyncd) on both machines";
    match apart {
        apart if apart <= NEAR.max(took) => Finding::ok(what, says),
        apart if apart <= FAR => Finding::warn(what, says, change),
        _ => Finding::fail(what, says, change),
    }
}

/// Whether there is JetStream for this user, and how much room it has; false where there is none.
pub(super) async fn jetstream(server: &Server) -> (Vec<Finding>, bool) {
    let what = "jetstream";
    let on =
        "start nats-server with -js or jetstream { store_dir: ... }, and enable it for the account";
    match request(server, server.api("INFO"), "").await {
        Ok(told) => account(what, on, &serde_json::from_slice(&told).unwrap_or_default()),
        Err(Silence::Nobody) => (vec![Finding::fail(what, "there is none", on)], false),
        Err(Silence::Refused) => {
            let says = "this user may not ask for the account's limits";
            let change = "run this as an admin to see them, or allow $JS.API.INFO";
            (vec![Finding::warn(what, says, change)], true)
        }
    }
}

fn account(what: &str, on: &str, told: &Value) -> (Vec<Finding>, bool) {
    if let Some(error) = told["error"]["description"].as_str() {
        return (vec![Finding::fail(what, error.to_owned(), on)], false);
    }
    let number = |value: &Value| value.as_i64().unwrap_or(-1);
    let used = number(&told["storage"]).max(number(&told["reserved_storage"]));
    let (limits, streams) = (&told["limits"], number(&told["streams"]));
    let (most, most_streams) = (number(&limits["max_storage"]), number(&limits["max_streams"]));
    let says = match most {
        ..0 => {
            format!("{streams} streams, {} MiB used or set aside, no limit of its own", used >> 20)
        }
        _ => format!("{streams} streams, {} of {} MiB used or set aside", used >> 20, most >> 20),
    };
    let mut found = Vec::new();
    let more = "raise max_storage of the account, or make logs smaller (--log-max-bytes)";
    match most {
        0.. if most - used < ROOM / 16 => found.push(Finding::fail(what, says, more)),
        0.. if most - used < ROOM => found.push(Finding::warn(what, says, more)),
        _ => found.push(Finding::ok(what, says)),
    }
    // Three streams and seven buckets of its own, one for bridges, and a log for each realm.
    if (0..16).contains(&most_streams) {
        let says = format!("the account has {streams} of at most {most_streams} streams");
        found.push(Finding::warn(what, says, "raise max_streams: each realm is a stream more"));
    }
    (found, true)
}

/// Why there is no answer.
pub(super) enum Silence {
    /// Nobody listens there.
    Nobody,
    /// Nothing came in time, which is how a server refuses.
    Refused,
}

/// One question to the servers.
pub(super) async fn request(
    server: &Server,
    subject: String,
    body: &str,
) -> Result<bytes::Bytes, Silence> {
    let asked = server.client.request(subject, body.to_owned().into());
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(told)) => Ok(told.payload),
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Err(Silence::Nobody),
        Ok(Err(_)) | Err(_) => Err(Silence::Refused),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_room_of_an_account_is_judged_by_what_a_log_takes() {
        let level = |storage: i64, most: i64| {
            let told = json!({ "storage": 0, "reserved_storage": storage, "streams": 3,
                "limits": { "max_storage": most, "max_streams": -1 } });
            account("jetstream", "on", &told).0[0].level
        };
        assert_eq!(level(5 << 30, -1), Level::Ok);
        assert_eq!(level(5 << 30, 10 << 30), Level::Ok);
        assert_eq!(level(5 << 30, (5 << 30) + (512 << 20)), Level::Warn);
        assert_eq!(level(5 << 30, 5 << 30), Level::Fail);
    }

    #[test]
    fn old_servers_and_small_messages_fail() {
        let of = |version: &str| {
            version_of(&ServerInfo { version: version.to_owned(), ..ServerInfo::default() })
        };
        assert_eq!(of("2.11.9"), Level::Fail);
        assert_eq!(of("2.12.0-preview.1"), Level::Ok);
        assert_eq!(of("3.0.0"), Level::Ok);
        let small = ServerInfo { max_payload: 512 * 1024, ..ServerInfo::default() };
        assert_eq!(payload(&small).level, Level::Fail);
    }

    fn version_of(info: &ServerInfo) -> Level {
        version(String::from("nats"), info).level
    }
}
