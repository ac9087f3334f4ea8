//! Every bound in one place, but for those of the words themselves, which are in the model.

use std::time::Duration;

pub(crate) use crate::model::limits::MAX_STORED_MESSAGE_BYTES;

/// One event as it is delivered, JSON on one line: a byte that is stored stands for six at most
/// (`\u0001`), and there is room for what Lockgate itself says.
pub(crate) const MAX_EVENT_JSON_BYTES: usize = 6 * MAX_STORED_MESSAGE_BYTES as usize + 64 * 1024;
/// One line of an event stream, and the data of one event of it.
pub(crate) const MAX_STREAM_LINE_BYTES: usize = MAX_EVENT_JSON_BYTES + 256 * 1024;
/// Events of one page that is read for a client, as they are stored: the one that fills it is the
/// last.
pub(crate) const STREAM_PAGE_BYTES: usize = 256 * 1024;
/// Events in one answer to a pull, as JSON: the one that fills it is the last.
pub(crate) const MAX_PULL_BYTES: usize = 4 * 1024 * 1024;
/// One answer, whatever it is, as far as a client reads it.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// What stands around each message in the answer to a pull, at most.
pub(crate) const PULLED_ENVELOPE_BYTES: usize = 1024;
const _: () = assert!(
    MAX_PULL_BYTES + MAX_EVENT_JSON_BYTES + MAX_PULL_MESSAGES * PULLED_ENVELOPE_BYTES
        < MAX_ANSWER_BYTES
        && MAX_PULL_BYTES + 8 * MAX_EVENT_JSON_BYTES < MAX_ANSWER_BYTES,
    "a client reads whatever a pull and a page of dead letters may be answered with"
);
/// One request body.
pub(crate) const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Events of one batch on their way to the bus at once.
pub(crate) const PUBLISH_WINDOW: usize = 256;
/// Requests to the bus that one task has on their way at once, where it does the same for many.
pub(crate) const BUS_WINDOW: usize = 32;
/// Realms, each of which is a stream.
pub(crate) const MAX_REALMS: usize = 1000;
/// Messages in one answer to a pull.
pub(crate) const MAX_PULL_MESSAGES: usize = 1000;
/// How long a pull may wait.
pub(crate) const MAX_PULL_WAIT: Duration = Duration::from_secs(60);
/// Settlements in one request.
pub(crate) const MAX_SETTLEMENTS: usize = 1000;
/// How long a delivery may be leased.
pub(crate) const MAX_ACK_WAIT: Duration = Duration::from_secs(600);
/// How long a nack may be delayed.
pub(crate) const MAX_NACK_DELAY: Duration = Duration::from_secs(600);
/// One frame of a WebSocket client: room for as many settlements as one request may have.
pub(crate) const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Open event streams and WebSockets in one process.
pub(crate) const MAX_STREAMS: usize = 20_000;
/// Requests at work in one process, event streams not counted.
pub(crate) const MAX_REQUESTS: usize = 4096;
/// How long a request that does not wait for events may take.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// A client that takes nothing of an answer for this long is let go.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Open connections in one process: event streams, requests at work, and idle ones.
pub(crate) const MAX_CONNECTIONS: usize = MAX_STREAMS + 2 * MAX_REQUESTS;
/// How long a client may take to send a request's head, and an idle connection stays open.
pub(crate) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections still at work this long after shutdown began are closed: within [`DRAIN`].
pub(crate) const CLOSE_AFTER: Duration = Duration::from_secs(8);
/// How long a shutdown may take.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
