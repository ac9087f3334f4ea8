//! What a delivery is made of beside what the server sent: its subject and its token, which are
//! much like those of the delivery before.

use std::sync::Arc;

use super::link::Link;
use super::settle;
use crate::arena::Arena;
use crate::driver::LeaseToken;
use crate::name::Subject;

/// The text of the last delivery, for the next one.
#[derive(Default)]
pub(super) struct Made {
    arena: Arena,
    subject: Option<Subject>,
    /// How often the consumer was moved, and the mark that says so.
    mark: Option<(u64, Arc<str>)>,
}

impl Made {
    /// The subject and the token of a delivery that came with `reply`, the subject of its ack.
    pub(super) fn of(
        &mut self,
        subject: &str,
        reply: &str,
        link: &Link,
        moves: u64,
    ) -> (Subject, LeaseToken) {
        let same = self.subject.take().filter(|last| last.as_str() == subject);
        let subject = self.subject.insert(same.unwrap_or_else(|| Subject::received(subject)));
        let same = self.mark.take().filter(|(of, _)| *of == moves);
        let (_, mark) =
            self.mark.insert(same.unwrap_or_else(|| (moves, settle::mark(link, moves))));
        (subject.clone(), LeaseToken::marked(self.arena.text(reply), mark.clone()))
    }
}
