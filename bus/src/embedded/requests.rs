//! Questions and answers between the connections of one backend.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::connection::Connection;
use crate::driver::{AnswerDriver, RawRequest, ResponderDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::{ConsumerName, SubjectFilter};

/// How many questions wait for one responder.
const WAITING: usize = 256;

/// Who listens where, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Responders(Mutex<Vec<Listening>>);

#[derive(Debug)]
struct Listening {
    filter: SubjectFilter,
    group: ConsumerName,
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Question {
    message: Message,
    answer: mpsc::Sender<Message>,
}

impl Responders {
    pub(super) fn open(
        &self,
        connection: Connection,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> OpenResponder {
        let (sender, questions) = mpsc::channel(WAITING);
        let (filter, group) = (filter.clone(), group.clone());
        let mut listening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listening.push(Listening { filter, group, questions: sender });
        OpenResponder { connection, questions }
    }

    /// Asks one of each group that listens, and waits for the first answer.
    pub(super) async fn ask(&self, message: Message, wait: Duration) -> Result<Message> {
        let subject = message.subject.clone();
        let mut answers = self.send(message)?;
        let silent = || {
            let what = format!("nobody answered on {subject} within {wait:?}: ask again");
            Error::new(ErrorKind::Timeout, what)
        };
        match tokio::time::timeout(wait, answers.recv()).await {
            Ok(Some(answer)) => Ok(answer),
            // Every responder dropped the question.
            Ok(None) => Err(silent()),
            Err(_) => Err(silent()),
        }
    }

    fn send(&self, message: Message) -> Result<mpsc::Receiver<Message>> {
        let (answer, answers) = mpsc::channel(1);
        let mut listening = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listening.retain(|one| !one.questions.is_closed());
        let (mut asked, mut heard) = (Vec::new(), false);
        for at in 0..listening.len() {
            let Some(one) = listening.get(at) else { break };
            if asked.contains(&one.group) || !one.filter.matches(message.subject.as_str()) {
                continue;
            }
            heard = true;
            let question = Question { message: message.clone(), answer: answer.clone() };
            if one.questions.try_send(question).is_ok() {
                asked.push(one.group.clone());
            }
        }
        // Who was asked goes to the end, so that the members of a group take turns.
        if let Some(first) = listening.iter().position(|one| asked.contains(&one.group)) {
            let asked = listening.remove(first);
            listening.push(asked);
        }
        match (heard, asked.is_empty()) {
            (_, false) => Ok(answers),
            (true, true) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("{WAITING} questions wait on {} already: try later", message.subject),
            )),
            (false, true) => Err(Error::not_found(format!(
                "nobody answers on {}: start a responder first",
                message.subject
            ))),
        }
    }
}

/// A responder of one connection.
pub(super) struct OpenResponder {
    connection: Connection,
    questions: mpsc::Receiver<Question>,
}

#[async_trait]
impl ResponderDriver for OpenResponder {
    async fn next(&mut self) -> Result<RawRequest> {
        self.connection.enter()?;
        let question = tokio::select! { biased;
            () = self.connection.closed() => None,
            question = self.questions.recv() => question,
        };
        let closed = "this connection was closed by its owner: connect anew";
        let Question { message, answer } =
            question.ok_or_else(|| Error::new(ErrorKind::Closed, closed))?;
        Ok(RawRequest { message, answer: Box::new(Answer(answer)) })
    }
}

struct Answer(mpsc::Sender<Message>);

#[async_trait]
impl AnswerDriver for Answer {
    async fn send(self: Box<Self>, answer: Message) -> Result<()> {
        // Full or closed: someone else was faster, or who asked has gone.
        let _ = self.0.try_send(answer);
        Ok(())
    }
}
