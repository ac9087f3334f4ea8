//! Why an input was refused.

use std::fmt;

/// A sentence about an input that can never work: what it is, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(String);

impl Invalid {
    /// Refuses with this sentence (lower case, no full stop).
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// A field of an input that can never work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadField {
    /// Its name.
    pub field: &'static str,
    /// Why it can never work.
    pub why: Invalid,
}

impl BadField {
    /// Refuses a field.
    pub fn new(field: &'static str, why: Invalid) -> Self {
        Self { field, why }
    }
}
