//! Queue mode as an event stream: what is sent is settled with `POST .../acks`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Delivery;
use super::flow::{Flow, Item, Room};
use crate::messages::stream::{Frame, frame};

/// A comment is sent when nothing else was for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One client's body, pulled as that of stream mode is: a slow client holds one page, and what
/// it has not taken when it leaves goes to others at once.
pub(in crate::messages) struct QueueStream {
    flow: Flow,
    outbox: VecDeque<Frame>,
    sent: Instant,
    is_over: bool,
    ends: Instant,
    shutdown: CancellationToken,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl QueueStream {
    /// `opening` is how long the client waits before it connects again, in milliseconds, and the
    /// id that lets it in again.
    pub(in crate::messages) fn new(
        flow: Flow,
        opening: (u64, String),
        max_age: Duration,
        shutdown: CancellationToken,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Self {
        let (now, (retry_ms, id)) = (Instant::now(), opening);
        let outbox = VecDeque::from([Frame::opening(retry_ms, id)]);
        let ends = now + max_age;
        Self { flow, outbox, sent: now, is_over: false, ends, shutdown, _permit: permit }
    }

    /// The next part of the body; `None` at its end.
    pub(in crate::messages) async fn next(&mut self) -> Option<Bytes> {
        while self.outbox.is_empty() {
            if self.is_over || self.shutdown.is_cancelled() || self.ends <= Instant::now() {
                return None;
            }
            let wake = (self.sent + HEARTBEAT).min(self.ends);
            tokio::select! { biased;
                () = self.shutdown.cancelled() => return None,
                () = self.flow.ready(Room::PAGE) => self.take(),
                () = sleep_until(wake) => self.outbox.push_back(Frame::heartbeat()),
            }
        }
        self.sent = Instant::now();
        frame::chunk(&mut self.outbox)
    }

    /// Takes what makes one chunk.
    fn take(&mut self) {
        let mut bytes = 0;
        while bytes < frame::CHUNK_BYTES && self.outbox.len() < frame::CHUNK_FRAMES {
            match self.flow.take() {
                None => return,
                Some(Item::Delivery(delivery)) => {
                    let frame = message(&delivery);
                    // All that is taken goes with this chunk: what stayed might go too late.
                    bytes += frame.len();
                    self.outbox.push_back(frame);
                }
                Some(Item::Control { name, data }) => {
                    self.is_over = name == "deleted";
                    self.outbox.push_back(Frame::control(name, None, &data));
                }
            }
        }
    }
}

/// A delivery as an event; it has no id to resume by, because the server holds the position.
fn message(delivery: &Delivery) -> Frame {
    let mut json = BytesMut::with_capacity(delivery.event.len() + 512);
    json.put_u8(b'{');
    delivery.write(&mut json);
    json.put_u8(b'}');
    Frame::Message { json: json.freeze(), id: None }
}
