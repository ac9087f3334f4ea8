//! Why a connection ends, and what its client should do: the close code says.
//!
//! | Code | What | Come back |
//! |---|---|---|
//! | 1000 | the client closed | as it likes |
//! | 1001 | the process stops, or the connection reached its age | at once, spread over some seconds |
//! | 1011 | a fault on our side | with growing pauses |
//! | 1013 | no room here, or the bus is away | after some seconds |
//! | 4408 | nothing was heard from the client for 90 s | at once |
//! | 1002, 1003, 1007, 1009 | no WebSocket, a binary frame, no UTF-8, a frame that is too long | never unchanged: a fault of the client |
//! | 4400 | a frame that breaks a rule; an `error` frame says which | never unchanged |
//! | 4401 | the secret or ticket is not good, or no more | with another |
//! | 4403, 4404 | not allowed; the subscription is not there, or no more | never |
//!
//! Keep stable. A connection that breaks without a code: with growing pauses.

use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::http::{Problem, ProblemKind};

/// The end of a connection, as its client is told.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::messages) struct Farewell {
    code: u16,
    reason: &'static str,
    /// Said in an `error` frame before.
    problem: Option<Problem>,
}

impl Farewell {
    /// The process stops.
    pub(super) const STOPS: Self = Self::plain(1001, "this process stops: connect again");
    /// The connection has reached its age.
    pub(super) const AGED: Self = Self::plain(1001, "the connection is old: connect again");
    /// Nothing was heard for too long.
    pub(super) const SILENT: Self = Self::plain(4408, "nothing was heard: connect again");
    /// The subscription was deleted.
    pub(super) const DELETED: Self = Self::plain(4404, "the subscription was deleted");
    /// Another secret is needed now.
    pub(super) const REVOKED: Self = Self::plain(4401, "the secret is not good any more");

    const fn plain(code: u16, reason: &'static str) -> Self {
        Self { code, reason, problem: None }
    }

    /// A frame that cannot be read, or asks for what cannot be done.
    pub(super) fn bad_frame(problem: Problem) -> Self {
        Self { code: 4400, reason: "a frame breaks a rule", problem: Some(problem) }
    }

    /// A frame that is none of this protocol's, by its code.
    pub(super) fn violation(code: u16, reason: &'static str, detail: String) -> Self {
        let kind =
            if code == 1009 { ProblemKind::BodyTooLarge } else { ProblemKind::MalformedBody };
        Self { code, reason, problem: Some(Problem::new(kind, detail)) }
    }

    /// A request that is refused.
    pub(in crate::messages) fn refusal(problem: Problem) -> Self {
        let (code, reason) = match problem.kind().status().as_u16() {
            401 => (4401, "not let in"),
            403 => (4403, "not allowed"),
            404 => (4404, "not there"),
            503 => (1013, "come again"),
            500.. => (1011, "a fault on our side"),
            _ => (4400, "the request breaks a rule"),
        };
        Self { code, reason, problem: Some(problem) }
    }

    /// What is said before the end, if anything.
    pub(super) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// The frame that ends the connection.
    pub(super) fn frame(&self) -> CloseFrame {
        CloseFrame { code: self.code.into(), reason: self.reason.into() }
    }
}
