//! Where e-mails and texts go: traits to plug a provider in, and what there is without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::settings::Settings;
use super::smtp::Smtp;
use crate::flow::Failure;

/// A text or e-mail to one customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The same for the same notice, however often it is sent: who receives it twice, after a
    /// crash between sending and recording, can tell.
    pub id: String,
    /// The customer's name.
    pub name: String,
    /// A phone number or an e-mail address.
    pub to: String,
    /// What is said.
    pub text: String,
}

/// Why something did not go out.
#[derive(Debug, thiserror::Error)]
pub enum Unsent {
    /// It can be tried again.
    #[error("not now: {0}")]
    Later(#[source] Failure),
    /// It would fail the next time too.
    #[error("refused: {0}")]
    Never(#[source] Failure),
}

/// A provider of texts or e-mails. Called from many tasks at once.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Sends it. `Ok` means that the provider has taken it over.
    async fn send(&self, told: &Told) -> Result<(), Unsent>;
}

/// The sinks of the flow.
#[derive(Clone)]
pub struct Sinks {
    /// For texts.
    pub texts: Arc<dyn Sink>,
    /// For e-mails.
    pub mails: Arc<dyn Sink>,
}

impl Sinks {
    /// As the settings say: e-mails by SMTP and texts to a file; what is not set up is a line in
    /// the log.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let texts: Arc<dyn Sink> = match &settings.texts {
            Some(path) => Arc::new(LineFile::new(path)),
            None => Arc::new(LogLine("text")),
        };
        let mails: Arc<dyn Sink> = match &settings.smtp {
            Some(url) => Arc::new(Smtp::new(url, settings)?),
            None => Arc::new(LogLine("e-mail")),
        };
        Ok(Self { texts, mails })
    }
}

/// Says it in the log of the process.
struct LogLine(&'static str);

#[async_trait]
impl Sink for LogLine {
    async fn send(&self, told: &Told) -> Result<(), Unsent> {
        let Told { id, to, text, .. } = told;
        tracing::info!(id, to, "{}: {text}", self.0);
        Ok(())
    }
}

/// Appends JSON on a line each to a file, which is made when the first comes.
struct LineFile {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl LineFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: Mutex::new(None) }
    }

    async fn append(&self, line: &[u8]) -> std::io::Result<()> {
        let mut file = self.file.lock().await;
        let file = match &mut *file {
            Some(file) => file,
            empty => {
                let opened = OpenOptions::new().create(true).append(true).open(&self.path).await?;
                empty.insert(opened)
            }
        };
        file.write_all(line).await?;
        file.flush().await
    }
}

#[async_trait]
impl Sink for LineFile {
    async fn send(&self, told: &Told) -> Result<(), Unsent> {
        let mut line = serde_json::to_vec(told).map_err(|error| Unsent::Never(error.into()))?;
        line.push(b'\n');
        self.append(&line).await.map_err(|error| {
            Unsent::Later(format!("{} cannot be written: {error}", self.path.display()).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn texts_are_lines_of_json_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let texts = folder.path().join("texts");
        let settings = Settings { texts: Some(texts.clone()), ..Settings::default() };
        let sinks = Sinks::new(&settings).unwrap();
        for id in ["1", "2"] {
            let (id, name, to) = (id.into(), "Anna".into(), "+4930123456".into());
            sinks.texts.send(&Told { id, name, to, text: "hello".into() }).await.unwrap();
        }
        let written = std::fs::read_to_string(texts).unwrap();
        let second = r#"{"id":"2","name":"Anna","to":"+4930123456","text":"hello"}"#;
        assert_eq!(written.lines().nth(1), Some(second));
    }
}
