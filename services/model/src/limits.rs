//! The bounds of what the words may say.

/// One event over HTTP, encoded.
pub const MAX_EVENT_BYTES: usize = 512 * 1024;
/// The attributes of one event, as headers.
pub const MAX_ATTRIBUTES_BYTES: usize = 64 * 1024;
/// An event's `id`, and its `source`: together they are remembered for the duplicate window.
pub const MAX_ID_BYTES: usize = 1024;
/// One event as a log or prefill queue stores it: the event and room for headers.
pub const MAX_STORED_MESSAGE_BYTES: u32 = 768 * 1024;
/// How deep JSON may be nested. Common parsers stop at 128 levels (serde_json, for one), and the
/// answer to a pull puts four around the data of an event.
pub const MAX_JSON_DEPTH: usize = 120;
/// Events in one batch.
pub const MAX_BATCH_EVENTS: usize = 1000;
