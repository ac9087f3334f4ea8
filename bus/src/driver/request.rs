//! Questions on their way to a responder, and answers on their way back.

use async_trait::async_trait;

use crate::error::Result;
use crate::message::Message;

/// A question as it reached a responder.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{ConsumerName, Message, SubjectFilter};
///
/// let driver = bus.driver();
/// let group = ConsumerName::new("stock")?;
/// let mut stock = driver.responder(&SubjectFilter::new("stock.*")?, &group).await?;
/// let (answer, answered) = tokio::join!(
///     driver.request(Message::new("stock.rice", "")?, Duration::from_secs(5)),
///     async {
///         let question = stock.next().await?;
///         assert_eq!(question.message.subject.as_str(), "stock.rice");
///         question.answer.send(Message::new("answer", "7 left")?).await
///     },
/// );
/// answered?;
/// assert_eq!(answer?.payload.as_deref(), Some(&b"7 left"[..]));
/// # Ok(())
/// # }
/// ```
pub struct RawRequest {
    /// The question.
    pub message: Message,
    /// Takes the answer.
    pub answer: Box<dyn AnswerDriver>,
}

/// An open responder.
///
/// ```
/// use async_trait::async_trait;
/// use bus::driver::{RawRequest, ResponderDriver};
/// use bus::{Error, ErrorKind, Result};
/// use tokio::sync::mpsc;
///
/// /// Questions that the task of a connection has received.
/// struct Inbox(mpsc::Receiver<RawRequest>);
///
/// #[async_trait]
/// impl ResponderDriver for Inbox {
///     async fn next(&mut self) -> Result<RawRequest> {
///         let closed = || Error::new(ErrorKind::Closed, "the connection was closed");
///         self.0.recv().await.ok_or_else(closed)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (connection, questions) = mpsc::channel(100);
/// drop(connection);
/// let closed = Inbox(questions).next().await.err();
/// assert_eq!(closed.map(|error| error.kind()), Some(ErrorKind::Closed));
/// # }
/// ```
#[async_trait]
pub trait ResponderDriver: Send {
    /// The next question; waits for as long as it takes.
    async fn next(&mut self) -> Result<RawRequest>;
}

/// The way back to who asked.
///
/// ```
/// use async_trait::async_trait;
/// use bus::driver::AnswerDriver;
/// use bus::{Message, Result};
/// use tokio::sync::oneshot;
///
/// /// Somebody in this process has asked.
/// struct Reply(oneshot::Sender<Message>);
///
/// #[async_trait]
/// impl AnswerDriver for Reply {
///     async fn send(self: Box<Self>, answer: Message) -> Result<()> {
///         let _ = self.0.send(answer); // who asked may have gone: nothing to tell
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let (asked, answer) = oneshot::channel();
/// Box::new(Reply(asked)).send(Message::new("answer", "7 left")?).await?;
/// assert_eq!(answer.await.unwrap().payload.as_deref(), Some(&b"7 left"[..]));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait AnswerDriver: Send {
    /// Sends the answer. `Ok` means that it was sent: who asked may have stopped waiting. The
    /// answer's subject is of no meaning.
    async fn send(self: Box<Self>, answer: Message) -> Result<()>;
}
