//! Questions and answers that nobody stores.
//!
//! ```
//! use std::time::Duration;
//! use bus::{Bus, Message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! let bus = Bus::connect("embedded:").await?;
//! let mut stock = bus.responder("stock.*", "stock").await?;
//! let answering = tokio::spawn(async move {
//!     let question = stock.next().await?;
//!     question.answer(Message::new("answer", "7 left")?).await
//! });
//! let answer = bus.request(Message::new("stock.rice", "")?, Duration::from_secs(5)).await?;
//! assert_eq!(answer.payload.as_deref(), Some(&b"7 left"[..]));
//! # answering.await.unwrap()
//! # }
//! ```

use crate::driver::{RawRequest, ResponderDriver};
use crate::error::Result;
use crate::message::Message;

/// Takes the questions on a subject, in turn with the others of its group.
pub struct Responder(pub(crate) Box<dyn ResponderDriver>);

impl Responder {
    /// The next question; waits for as long as it takes. Questions wait in a bounded queue for
    /// it: who asks more than a slow responder answers is told that it is unavailable, or times
    /// out.
    pub async fn next(&mut self) -> Result<Request> {
        self.0.next().await.map(Request)
    }
}

/// A question that waits for its answer. Dropping it leaves who asked to its time-out.
pub struct Request(RawRequest);

impl Request {
    /// The question.
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    /// Sends the answer. `Ok` means that it was sent; who asked may have stopped waiting.
    pub async fn answer(self, answer: Message) -> Result<()> {
        self.0.answer.send(answer).await
    }
}
