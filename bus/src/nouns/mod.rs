//! The words of the crate: values without a connection.

pub(crate) mod backoff;
pub(crate) mod capability;
pub(crate) mod config;
pub(crate) mod creation;
pub(crate) mod difference;
pub(crate) mod error;
pub(crate) mod handler;
pub(crate) mod headers;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod options;
pub(crate) mod publish;
