//! What the user may do: each call of the JetStream API that Lockgate makes, in a form that cannot
//! take effect. A server that refuses one says nothing to who asked.

use futures_util::future::join_all;
use lockgate_bridge::examine::Finding;

use super::nats::{Server, Silence, request};

/// What for, the operation, what is sent, and whether nothing works without it.
///
/// Streams of these names are Lockgate's own, where a user may be allowed those alone; what is
/// sent has no name or is not JSON, so that the server refuses it whatever there is.
const CALLS: [(&str, &str, &str, bool); 8] = [
    ("see a stream", "STREAM.INFO.KV_lockgate-subscriptions", "", true),
    ("make a stream", "STREAM.CREATE.KV_lockgate-subscriptions", "{}", true),
    ("change a stream", "STREAM.UPDATE.KV_lockgate-subscriptions", "{}", false),
    ("read a record", "DIRECT.GET.KV_lockgate-subscriptions", "{}", true),
    ("make a consumer", "CONSUMER.CREATE.KV_lockgate-subscriptions.lockgate-doctor", "{}", true),
    (
        "read by a consumer",
        "CONSUMER.MSG.NEXT.KV_lockgate-subscriptions.lockgate-doctor",
        "{}",
        true,
    ),
    ("remove messages", "STREAM.PURGE.lockgate-prefill", "not json", false),
    ("remove a consumer", "CONSUMER.DELETE.lockgate-prefill.lockgate-doctor", "", false),
];
/// A realm of this name cannot be: nothing takes what is sent there.
const EVENT: &str = "events.LOCKGATE-DOCTOR.check.check";

/// Asks all at once.
pub(super) async fn look(server: &Server) -> Vec<Finding> {
    let calls = CALLS.iter().map(async |(what, operation, body, needed)| {
        let subject = server.api(operation);
        let refused = is_refused(server, &subject, body).await;
        refused.then(|| (*needed, format!("{what} ({subject})")))
    });
    let publish = async {
        let refused = is_refused(server, EVENT, "").await;
        refused.then(|| (true, String::from("publish an event (events.>)")))
    };
    let (called, published) = tokio::join!(join_all(calls), publish);
    let refused: Vec<(bool, String)> = called.into_iter().flatten().chain(published).collect();
    if refused.is_empty() {
        return vec![Finding::ok("rights", "this user may do all that Lockgate does")];
    }
    [true, false].into_iter().filter_map(|needed| finding(&refused, needed)).collect()
}

async fn is_refused(server: &Server, subject: &str, body: &str) -> bool {
    matches!(request(server, subject.to_owned(), body).await, Err(Silence::Refused))
}

/// All that is refused of what is needed, or of the rest.
fn finding(refused: &[(bool, String)], needed: bool) -> Option<Finding> {
    let of: Vec<&str> =
        refused.iter().filter(|(n, _)| *n == needed).map(|(_, what)| what.as_str()).collect();
    let says = format!("this user is refused: {}", of.join(", "));
    let change = "allow it, or give each role the user that nats/generate.py makes for it";
    match (of.is_empty(), needed) {
        (true, _) => None,
        (false, true) => Some(Finding::fail("rights", says, change)),
        (false, false) => Some(Finding::warn("rights", says, change)),
    }
}
