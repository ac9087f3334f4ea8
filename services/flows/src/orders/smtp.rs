//! E-mails by SMTP.

use std::fs;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use tokio::sync::Semaphore;
use url::Url;

use super::settings::Settings;
use super::sinks::{Sink, Told, Unsent};
use crate::flow::Failure;

/// How long a server may take for one command.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections at once: mail servers take few from one address.
const MAX_CONNECTIONS: usize = 16;

/// A mail server.
///
/// Each e-mail has a connection of its own. lettre's pool gives a connection back in the middle of a
/// dialogue when a send is cancelled, and the next e-mail on it can then go to the one before's
/// address.
pub(super) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    connections: Semaphore,
}

impl Smtp {
    /// Connects with the first e-mail, not here.
    pub(super) fn new(url: &str, settings: &Settings) -> Result<Self, Failure> {
        let parsed = Url::parse(url).map_err(|error| format!("--smtp: {error}"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            let way = "write user and password on two lines of a file, and name it in \
                       --smtp-credentials";
            return Err(format!("--smtp holds credentials: {way}").into());
        }
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .map_err(|error| format!("--smtp: {error}"))?
            .timeout(Some(PATIENCE));
        if let Some(path) = &settings.smtp_credentials {
            let place = path.display();
            let text = fs::read_to_string(path).map_err(|error| format!("{place}: {error}"))?;
            let (user, password) = text
                .trim_end()
                .split_once('\n')
                .ok_or_else(|| format!("{place} is not two lines, user and password"))?;
            let (user, password) = (user.trim_end(), password.trim_end());
            builder = builder.credentials(Credentials::new(user.to_owned(), password.to_owned()));
        }
        let from = settings.from.parse::<Mailbox>();
        let from = from.map_err(|error| format!("--from: {error}"))?;
        let connections = Semaphore::new(MAX_CONNECTIONS);
        Ok(Self { transport: builder.build(), from, connections })
    }

    /// The e-mail, with a `Message-ID` that is the same each time: mail servers and readers keep
    /// one of several with the same (RFC 5322, 3.6.4).
    fn compose(&self, told: &Told) -> Result<Message, Failure> {
        // An event may come from anywhere, and lettre panics on a name of several lines.
        let name = told.name.replace(char::is_control, " ");
        let to = Mailbox::new(Some(name), told.to.parse()?);
        let id = format!("<{}@{}>", told.id, self.from.email.domain());
        let order = told.id.split('.').next().unwrap_or_default();
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(format!("Your order {order}"))
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN)
            .body(told.text.clone())?;
        Ok(message)
    }
}

#[async_trait]
impl Sink for Smtp {
    async fn send(&self, told: &Told) -> Result<(), Unsent> {
        let message = self.compose(told).map_err(Unsent::Never)?;
        let connection = self.connections.acquire().await;
        let _connection = connection.map_err(|closed| Unsent::Later(closed.into()))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            // RFC 5321, 4.2.1: 5yz means that the same would be refused again.
            Err(error) if error.is_permanent() => Err(Unsent::Never(error.into())),
            Err(error) => Err(Unsent::Later(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_e_mail_has_one_identity_and_no_line_of_anybody_else() {
        let smtp = Smtp::new("smtp://127.0.0.1:1", &Settings::default()).unwrap();
        let told = Told {
            id: "abc.shipped".into(),
            name: "Anna\r\nBcc: eve@evil.org".into(),
            to: "anna@mail.org".into(),
            text: "Your order abc is shipped.".into(),
        };
        let mail = String::from_utf8(smtp.compose(&told).unwrap().formatted()).unwrap();
        assert!(mail.contains("Message-ID: <abc.shipped@lockgate.example>\r\n"), "{mail}");
        assert!(mail.contains("\r\nSubject: Your order abc\r\n"), "{mail}");
        assert!(!mail.contains("\nBcc"), "{mail}");
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let refused = |url: &str, settings: &Settings| {
            Smtp::new(url, settings).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let settings = Settings::default();
        let secret = refused("smtp://anna:secret@mail.org", &settings);
        assert!(secret.contains("--smtp-credentials") && !secret.contains("secret@"), "{secret}");
        assert!(refused("mail.org", &settings).starts_with("--smtp"));
        let nobody = Settings { from: "nobody".into(), ..Settings::default() };
        assert!(refused("smtp://mail.org", &nobody).starts_with("--from"));
    }
}
