//! What a handler can take as its argument.

use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::message::StoredMessage;

/// What a handler can take as its argument.
pub trait FromMessage: Sized + Send + 'static {
    /// Reads the message. An error rejects it: a malformed message is malformed the next time too.
    fn from_message(received: Received) -> Result<Self>;
}

/// A message and which delivery of it this is.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: StoredMessage,
    /// 1 for the first time it is handled, and one more for each that follows.
    pub attempt: u32,
}

impl FromMessage for Received {
    fn from_message(received: Received) -> Result<Self> {
        Ok(received)
    }
}

impl FromMessage for StoredMessage {
    fn from_message(received: Received) -> Result<Self> {
        Ok(received.message)
    }
}

/// The body of a message, read as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromMessage for Json<T> {
    fn from_message(received: Received) -> Result<Self> {
        received.message.json().map(Json)
    }
}
