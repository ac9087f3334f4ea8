//! Orders as a whole: over HTTP, by SMTP, on each backend, with roles that die.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod chaos;
mod client;
mod mail_server;
mod mails;
mod truth;
mod world;
