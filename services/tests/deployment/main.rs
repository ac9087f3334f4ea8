//! The server configurations in `nats/` as they are deployed: TLS, a user for each role with the
//! least rights, three copies of everything.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fleet;
mod image;
mod monitoring;
mod rights;
mod rolling;
mod servers;
mod story;

use std::path::Path;
use std::process::Command;

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The table that people read is the one that the servers get.
#[test]
fn the_table_in_the_readme_is_what_the_generator_makes() {
    let checked = Command::new("python3")
        .args(["nats/generate.py", "--check"])
        .current_dir(repository())
        .output()
        .expect("python3 runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
