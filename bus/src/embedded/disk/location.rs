//! `embedded:///path` as a folder and a policy.

use std::path::PathBuf;

use url::Url;

use super::SyncPolicy;
use crate::error::{Error, Result};

/// Where a backend is, and how it syncs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) path: PathBuf,
    pub(super) policy: SyncPolicy,
}

impl Location {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{url:?} names no folder: write embedded:///absolute/path, with ?sync=each or \
                 ?sync=interval behind it if you like"
            ))
        };
        // The crate knows how to turn a path into a folder for `file:` alone.
        let rest = url.strip_prefix("embedded:///").ok_or_else(wrong)?;
        let mut parsed = Url::parse(&format!("file:///{rest}")).map_err(|_| wrong())?;
        let mut policy = SyncPolicy::default();
        for (name, value) in parsed.query_pairs() {
            policy = match (&*name, &*value) {
                ("sync", "each") => SyncPolicy::Each,
                ("sync", "interval") => SyncPolicy::Interval,
                _ => {
                    return Err(Error::invalid(format!(
                        "{name}={value} in {url:?} is no option: use sync=each or sync=interval"
                    )));
                }
            };
        }
        parsed.set_query(None);
        if parsed.fragment().is_some() || parsed.path() == "/" {
            return Err(wrong());
        }
        let path = parsed.to_file_path().map_err(|()| wrong())?;
        Ok(Self { path, policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_policy_are_read_and_nothing_else() {
        let parse = |url: &str| Location::parse(url).map(|l| (l.path, l.policy));
        let path = |path: &str| PathBuf::from(path);
        assert_eq!(parse("embedded:///a/b").unwrap(), (path("/a/b"), SyncPolicy::Each));
        assert_eq!(
            parse("embedded:///a%20b?sync=interval").unwrap(),
            (path("/a b"), SyncPolicy::Interval)
        );
        assert_eq!(parse("embedded:///a?sync=each").unwrap().1, SyncPolicy::Each);
        for bad in ["embedded://a", "embedded:a", "embedded:///", "embedded:///a?sync=never"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("embedded:///a?fsync=each").is_err() && parse("embedded:///a#b").is_err());
    }
}
