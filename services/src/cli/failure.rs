//! How a command ends when it does not end well.

use std::io::ErrorKind as IoErrorKind;
use std::process::ExitCode;

use crate::client::Error;

/// What is printed, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
    quiet: bool,
}

impl Failure {
    /// Refused or failed.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, quiet: false }
    }

    /// Wrong usage that the argument parser cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    /// What was needed did not answer: try again later.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::new(message) }
    }

    /// Told to stop twice.
    pub(crate) fn interrupted() -> Self {
        Self { code: 130, ..Self::new("interrupted") }
    }

    /// With another exit code.
    pub(crate) fn exits_with(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// What is printed.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Says where it happened.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Says how to go on after the lines that were published.
    pub(crate) fn after_lines(mut self, lines: u64) -> Self {
        if lines > 0 {
            self.message.push_str(&format!(
                "\n  the first {lines} lines are published: go on with --skip {lines}"
            ));
        }
        self
    }

    /// Says that nothing happened yet.
    pub(crate) fn before_any(mut self) -> Self {
        self.message.push_str("\n  nothing is published yet: correct the line, and repeat");
        self
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if self.quiet {
            return ExitCode::SUCCESS;
        }
        super::screen::remark(&format!("error: {}", self.message));
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error.is_retryable() { 3 } else { 1 };
        Self { code, ..Self::new(error.to_string()) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has read enough (`lockgate ... | head`): that is no failure.
        let quiet = error.kind() == IoErrorKind::BrokenPipe;
        Self { quiet, ..Self::new(error.to_string()) }
    }
}
