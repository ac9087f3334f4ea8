//! Questions and answers over core NATS: nothing is stored.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt;

use super::convert::{headers_out, unstored};
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT, limited};
use crate::driver::{AnswerDriver, RawRequest, ResponderDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::{ConsumerName, SubjectFilter};

/// See [`crate::driver::Driver::request`].
///
/// A subject that a stream captures is answered by the stream too, with the receipt of what it
/// stored: questions need subjects of their own.
pub(super) async fn request(link: &Link, question: Message, wait: Duration) -> Result<Message> {
    let subject = question.subject.to_string();
    let headers = headers_out(&unconditional(question.clone()), None)?;
    let payload = question.payload.unwrap_or_default();
    match link.request(subject.clone(), headers, payload, wait).await {
        Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => Err(nobody(&subject)),
        Ok(answer) => Ok(unstored(answer)),
        Err(Failure::NoResponders) => Err(nobody(&subject)),
        Err(Failure::Lost) => {
            let what = format!("nobody answered on {subject} within {wait:?}: ask again");
            Err(Error::new(ErrorKind::Timeout, what))
        }
        Err(failure) => Err(failure.into_error(format!("ask on {subject}"))),
    }
}

/// Conditions and delays mean nothing for what is not stored.
fn unconditional(message: Message) -> Message {
    Message { expect: None, not_before: None, ..message }
}

fn nobody(subject: &str) -> Error {
    Error::not_found(format!("nobody answers on {subject}: start a responder first"))
}

/// An open responder: a subscription in a queue group. Questions wait in its queue, which the
/// client bounds; those that find it full are dropped, and time out.
pub(super) struct Responder {
    link: Arc<Link>,
    questions: Subscriber,
}

impl Responder {
    /// When this returns the server knows the responder.
    pub(super) async fn open(
        link: Arc<Link>,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Self> {
        let doing = || format!("answer on {filter}");
        link.connected().await.map_err(|failure| failure.into_error(doing()))?;
        let subscribe = link.client.queue_subscribe(filter.to_string(), group.to_string());
        let questions = match tokio::time::timeout(REQUEST_LIMIT, subscribe).await {
            Ok(Ok(questions)) => questions,
            Ok(Err(_)) => return Err(Failure::Closed.into_error(doing())),
            Err(_) => return Err(Failure::Away.into_error(doing())),
        };
        match tokio::time::timeout(REQUEST_LIMIT, link.client.flush()).await {
            Ok(Ok(())) => Ok(Self { link, questions }),
            Ok(Err(_)) | Err(_) => Err(Failure::Away.into_error(doing())),
        }
    }
}

#[async_trait]
impl ResponderDriver for Responder {
    async fn next(&mut self) -> Result<RawRequest> {
        loop {
            if self.link.is_closed() {
                return Err(Failure::Closed.into_error("wait for a question"));
            }
            let Some(mut message) = self.questions.next().await else {
                return Err(Failure::Closed.into_error("wait for a question"));
            };
            // Without one nobody waits for an answer.
            if let Some(reply) = message.reply.take() {
                let answer = Box::new(Answer { link: self.link.clone(), reply });
                return Ok(RawRequest { message: unstored(message), answer });
            }
        }
    }
}

struct Answer {
    link: Arc<Link>,
    reply: async_nats::Subject,
}

#[async_trait]
impl AnswerDriver for Answer {
    async fn send(self: Box<Self>, answer: Message) -> Result<()> {
        let Self { link, reply } = *self;
        let doing = || format!("answer to {reply}");
        let headers = headers_out(&unconditional(answer.clone()), None)?.unwrap_or_default();
        link.connected().await.map_err(|failure| failure.into_error(doing()))?;
        let payload = answer.payload.unwrap_or_default();
        let sent = link.client.publish_with_headers(reply.clone(), headers, payload);
        limited(sent).await.map_err(|failure| failure.into_error(doing()))
    }
}
