//! What this machine keeps of a subscription: its secret, and where it stopped reading.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::failure::Failure;
use crate::model::{RowsDigest, SubscriptionName};

/// A subscription on a server, kept in one file that only this user can read. Keep stable.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Opens the subscription.
    pub(crate) secret: String,
    /// Which life of the name the position belongs to.
    #[serde(default)]
    pub(crate) uid: String,
    /// Where reading stopped.
    #[serde(default)]
    pub(crate) position: Position,
}

/// Without the secret, so that it stands in no log.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, position, secret: _ } = self;
        f.debug_struct("Kept").field("uid", uid).field("position", position).finish_non_exhaustive()
    }
}

/// How far an event stream was read, and what a prefill that was cut short added up to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Resumes the stream; none before its first event.
    pub(crate) resume: Option<String>,
    /// The generation that was read.
    pub(crate) generation: u32,
    /// True between the start and the end of a prefill.
    pub(crate) in_prefill: bool,
    /// Rows of the prefill so far.
    pub(crate) rows: u64,
    /// Over those rows.
    #[serde(with = "hex")]
    pub(crate) digest: RowsDigest,
    /// Per realm the log sequence of the last event.
    pub(crate) at: BTreeMap<String, u64>,
}

/// The file of one subscription.
#[derive(Debug)]
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    /// The file of `name` on `server`, below `$XDG_STATE_HOME/lockgate` or
    /// `~/.local/state/lockgate`.
    pub(crate) fn of(server: &Url, name: &SubscriptionName) -> Result<Self, Failure> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let base = absolute("XDG_STATE_HOME").or_else(home).ok_or_else(|| {
            Failure::new("there is no place to keep the secret\n  set HOME or XDG_STATE_HOME")
        })?;
        Ok(Self::below(&base.join("lockgate"), server, name))
    }

    fn below(base: &Path, server: &Url, name: &SubscriptionName) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
        let text = server.as_str().trim_end_matches('/').replace("://", "_");
        let server: String = text.chars().map(plain).collect();
        Self(base.join(server).join(format!("{name}.json")))
    }

    /// What is kept, if anything.
    pub(crate) fn load(&self) -> Result<Option<Kept>, Failure> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let path = self.0.display();
            Failure::new(format!("{path} is not understood: {error}\n  remove it to start over"))
        })
    }

    /// Replaces what is kept, whole or not at all.
    pub(crate) fn save(&self, kept: &Kept) -> Result<(), Failure> {
        self.write(kept).map_err(|error| self.failed("written", &error))
    }

    /// Forgets it.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != IoErrorKind::NotFound => {
                Err(self.failed("removed", &error))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, kept: &Kept) -> std::io::Result<()> {
        let next = self.0.with_extension(format!("{}.new", std::process::id()));
        if let Some(directory) = self.0.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut open = fs::OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(kept)?)?;
        fs::rename(&next, &self.0)
    }

    fn failed(&self, done: &str, error: &std::io::Error) -> Failure {
        Failure::new(format!("{} cannot be {done}: {error}", self.0.display()))
    }
}

mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::RowsDigest;

    pub(super) fn serialize<S: Serializer>(digest: &RowsDigest, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&digest.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<RowsDigest, D::Error> {
        let hex = String::deserialize(d)?;
        RowsDigest::from_hex(&hex).ok_or_else(|| D::Error::custom("digest is not 64 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let server = Url::parse("http://127.0.0.1:8080/").unwrap();
        let name = SubscriptionName::new("people").unwrap();
        let file = StateFile::below(directory.path(), &server, &name);
        assert!(file.0.ends_with("http_127.0.0.1_8080/people.json"), "{}", file.0.display());
        assert_eq!(file.load().unwrap(), None);

        let position = Position { resume: Some("t".into()), rows: 3, ..Position::default() };
        let kept = Kept { secret: "s".into(), uid: "u".into(), position };
        file.save(&kept).unwrap();
        file.save(&kept).unwrap();
        assert_eq!(file.load().unwrap(), Some(kept));
        let mode = fs::metadata(&file.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(file.0.parent().unwrap()).unwrap().count(), 1);

        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }
}
