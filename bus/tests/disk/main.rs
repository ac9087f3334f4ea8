//! The embedded backend on disk: what a killed process leaves, what a folder may hold, and how
//! much of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails a test")]

mod child;
mod clock;
mod failure;
mod folder;
mod killed;
mod space;

use std::path::Path;

use bus::{Bus, Message};

/// The URL of the backend in a folder.
fn url(folder: &Path, options: &str) -> String {
    format!("embedded://{}{options}", folder.display())
}

async fn connect(folder: &Path) -> Bus {
    Bus::connect(&url(folder, "")).await.unwrap()
}

fn message(subject: &str, body: impl ToString) -> Message {
    Message::new(subject, body.to_string()).unwrap()
}
