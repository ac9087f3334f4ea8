//! What a connection needs beside the URL.

use std::fmt;

/// What a connection needs beside the URL.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::{Bus, ConnectOptions};
///
/// let options = ConnectOptions { client_name: Some("billing".into()), ..Default::default() };
/// let bus = Bus::connect_with("embedded:", options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// A NATS credentials file (`.creds`).
    pub credentials: Option<std::path::PathBuf>,
    /// A user and password: of NATS, or for SASL PLAIN of Kafka.
    pub user: Option<(String, String)>,
    /// The name this connection shows in the server's monitoring.
    pub client_name: Option<String>,
}

/// Without the password, so that it stands in no log.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { credentials, user, client_name } = self;
        f.debug_struct("ConnectOptions")
            .field("credentials", credentials)
            .field("user", &user.as_ref().map(|(name, _)| (name, "<hidden>")))
            .field("client_name", client_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_stands_in_no_log() {
        let user = Some((String::from("anna"), String::from("open sesame")));
        let shown = format!("{:?}", ConnectOptions { user, ..Default::default() });
        assert!(shown.contains("anna") && !shown.contains("sesame"), "{shown}");
    }
}
