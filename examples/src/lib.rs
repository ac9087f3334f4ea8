//! What the numbered programs share: the bus they run on, and a Lockgate in this process.

mod local;

pub use local::LocalLockgate;

/// What a program may fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The bus that `--bus URL` names; `embedded:` without it.
pub fn bus_url() -> Result<String, Failure> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(String::from("embedded:")),
        (Some("--bus"), Some(url), None) => Ok(url),
        _ => Err("usage: [--bus embedded:|nats://127.0.0.1:4222]".into()),
    }
}
