//! Why an event was refused, and which part of it is at fault.

use std::fmt;

use crate::strict_json::Flaw;

/// What sort of fault an event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The text is not JSON, or not an object or array where one is due.
    Malformed,
    /// An attribute or the data breaks a rule.
    Invalid,
    /// The event is larger than an event may be.
    TooLarge,
    /// The batch has more events than a batch may have.
    TooMany,
}

/// The part at fault and a sentence about it: `events[3].id is missing: ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFault {
    kind: FaultKind,
    field: Option<String>,
    problem: String,
}

impl EventFault {
    pub(super) fn malformed(field: Option<String>, problem: impl Into<String>) -> Self {
        Self { kind: FaultKind::Malformed, field, problem: problem.into() }
    }

    pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { kind: FaultKind::Invalid, field: Some(field.into()), problem: problem.into() }
    }

    /// The data are not JSON that every parser reads; `way` says how they can be sent as bytes.
    pub(super) fn unreadable(flaw: &Flaw, way: &str) -> Self {
        Self::invalid("data", format!("{flaw}; {way}"))
    }

    pub(super) fn too_large(problem: impl Into<String>) -> Self {
        Self { kind: FaultKind::TooLarge, field: None, problem: problem.into() }
    }

    pub(super) fn too_many(problem: impl Into<String>) -> Self {
        Self { kind: FaultKind::TooMany, field: None, problem: problem.into() }
    }

    /// The same fault, said of an event by its place in a batch.
    pub(super) fn in_batch(self, at: usize) -> Self {
        let field = match self.field {
            Some(field) => format!("events[{at}].{field}"),
            None => format!("events[{at}]"),
        };
        Self { field: Some(field), ..self }
    }

    /// What sort of fault it is.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The part at fault, for example `id` or `events[3].id`; `None` for the input as a whole.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }
}

impl fmt::Display for EventFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.kind == FaultKind::TooMany { "the batch" } else { "the event" };
        write!(f, "{} {}", self.field.as_deref().unwrap_or(whole), self.problem)
    }
}

impl std::error::Error for EventFault {}
