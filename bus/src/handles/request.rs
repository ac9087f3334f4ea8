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
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{ErrorKind, Message};
///
/// let ask = || async { bus.request(Message::new("stock.rice", "")?, Duration::from_secs(5)).await };
/// {
///     let mut stock = bus.responder("stock.*", "stock").await?;
///     let (answer, answered) = tokio::join!(ask(), async {
///         stock.next().await?.answer(Message::new("answer", "7 left")?).await
///     });
///     answered?;
///     assert_eq!(answer?.payload.as_deref(), Some(&b"7 left"[..]));
/// }
/// // It was dropped: nobody listens.
/// assert!(ask().await.is_err_and(|error| error.kind() == ErrorKind::NotFound));
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{ErrorKind, Message};
///
/// let mut stock = bus.responder("stock.*", "stock").await?;
/// let question = Message::new("stock.rice", "how many?")?;
/// let (answer, asked) = tokio::join!(bus.request(question, Duration::from_millis(20)), stock.next());
/// let asked = asked?;
/// assert_eq!(asked.message().payload.as_deref(), Some(&b"how many?"[..]));
/// // Too late: who asked has stopped waiting, and is told apart from somebody whom nobody heard.
/// assert_eq!(answer.err().map(|error| error.kind()), Some(ErrorKind::Timeout));
/// asked.answer(Message::new("answer", "7 left")?).await.ok();
/// # Ok(())
/// # }
/// ```
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
