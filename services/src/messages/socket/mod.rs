//! WebSocket, subprotocol `lockgate.v1`: one JSON object a text frame, in both directions.
//!
//! | The client sends | |
//! |---|---|
//! | `{"type":"credit","messages":100,"bytes":1000000}` | takes so much more; nothing comes without. `bytes` is of message frames as they come, and may be left out: then messages alone count |
//! | `{"type":"ack","ids":["..."]}` or `{"type":"ack","up_to":17}` | settles deliveries: by their ids, or all that came here up to a `position` and are not settled |
//! | `{"type":"nack","ids":["..."],"delay":"5s","reason":"..."}` | has them delivered again; with `"reject":true` never |
//! | `{"type":"extend","ids":["..."]}` or `"up_to"` | starts their leases anew |
//! | `{"type":"ping"}` | is answered with `pong`, for pages, which see no pings of the protocol |
//!
//! | The server sends | |
//! |---|---|
//! | `hello` | first: the mode, what a frame may hold, an `id` to resume by |
//! | `message` | queue mode: `position`, `ack`, `attempt`, `phase`, `sequence`, `event`; stream mode: `id`, `event` |
//! | `control` | `control` names it (`prefill-start`, `progress`, `prefill-end`, `up-to-date`, `expired`, `waiting`, ...), `data` says more; in stream mode with the `id` to resume by, as on the event stream |
//! | `settled` | answers each ack, nack and extend that arrived, durable from then on: how many are `done`, and which are not, and why. A `ref` (a number) of the question stands in the answer |
//! | `error` | a problem as in HTTP answers; the connection closes after it |
//! | `pong` | answers `ping` |
//!
//! Close codes: see [`close`]. What was delivered and not settled when a connection ends stays
//! leased, and may be settled over any transport until its lease ends; what was not sent yet goes
//! to the next one at once.

pub(super) mod close;
mod conversation;
mod credit;
mod frame;
mod handshake;
mod line;
mod sent;
mod settlements;
mod source;

pub(super) use close::Farewell;
pub(super) use conversation::{Conversation, Opening};
pub(super) use credit::Credit;
pub(super) use handshake::{Handshake, is_asked_for, refuse};
pub(super) use source::Source;
