//! What a client of stream mode asks for, in whichever way it can say it.
//!
//! A browser's `EventSource` sends a header on reconnect. Polyfills put the id into the query, under
//! names of their own, beside what they add against caches; and a page's own code may write the
//! parameters empty on its first connection. So names are read without regard to their case and
//! separators, an empty value is none, and what is unknown is left alone.

use axum::http::{HeaderMap, HeaderName};
use serde_json::json;
use url::form_urlencoded;

use crate::http::Problem;
use crate::limits::MAX_PULL_MESSAGES;
use crate::messages::socket::Credit;
use crate::messages::stream::From;
use crate::model::Invalid;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The query and headers of a request for a stream, as far as they say where and by what right.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The token to resume by.
    pub(super) resume: Option<String>,
    /// Instead of the secret: see [`crate::messages::tickets`].
    pub(super) ticket: Option<String>,
    mode: Option<String>,
    from: Option<String>,
    max_per_key: Option<String>,
    credit: Option<String>,
    credit_bytes: Option<String>,
}

/// Who holds the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The client, by its token.
    Stream,
    /// The server, by acks.
    Queue,
}

impl Asked {
    /// Reads a request. The header wins: on reconnect a browser repeats the URL and adds the newer
    /// id as header. Then what a polyfill adds, which is newer than the page's own `after`.
    pub(super) fn read(query: &str, headers: &HeaderMap) -> Self {
        let (mut after, mut last_id, mut asked) = (None, None, Self::default());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match plain(&name).as_str() {
                "after" => &mut after,
                // The second is amvtek's polyfill's.
                "lasteventid" | "evslasteventid" => &mut last_id,
                "ticket" => &mut asked.ticket,
                "mode" => &mut asked.mode,
                "from" => &mut asked.from,
                "maxperkey" => &mut asked.max_per_key,
                "credit" => &mut asked.credit,
                "creditbytes" => &mut asked.credit_bytes,
                _ => continue,
            };
            if !value.is_empty() {
                // What stands twice was added behind.
                *slot = Some(value.into_owned());
            }
        }
        let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
        let header = header.filter(|id| !id.is_empty()).map(String::from);
        Self { resume: header.or(last_id).or(after), ..asked }
    }

    /// The mode that is asked for.
    pub(super) fn mode(&self, by_default: Mode) -> Result<Mode, Problem> {
        match self.mode.as_deref() {
            None => Ok(by_default),
            Some("stream") => Ok(Mode::Stream),
            Some("queue") => Ok(Mode::Queue),
            Some(other) => {
                let why = Invalid::new(format!("mode is {other:?}: ask for stream or queue"));
                Err(Problem::invalid("mode", &why))
            }
        }
    }

    /// Where a stream begins that does not resume; `None` for its start.
    pub(super) fn from(&self) -> Result<Option<From>, Problem> {
        let from = self.from.as_deref().filter(|_| self.resume.is_none());
        from.map(From::parse).transpose().map_err(|why| Problem::invalid("from", &why))
    }

    /// How many events of a key are taken at once.
    pub(super) fn max_per_key(&self) -> Result<usize, Problem> {
        let Some(text) = self.max_per_key.as_deref() else { return Ok(MAX_PULL_MESSAGES) };
        match text.parse() {
            Ok(max) if (1..=MAX_PULL_MESSAGES).contains(&max) => Ok(max),
            _ => {
                let why = Invalid::new(format!(
                    "max_per_key is {text:?}: ask for 1 to {MAX_PULL_MESSAGES}"
                ));
                Err(Problem::invalid("max_per_key", &why).with("limit", json!(MAX_PULL_MESSAGES)))
            }
        }
    }

    /// What is granted with the request.
    pub(super) fn credit(&self) -> Result<Credit, Problem> {
        let number = |field: &'static str, text: &Option<String>| match text.as_deref() {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                let why = Invalid::new(format!("{field} is {text:?}: write a number"));
                Problem::invalid(field, &why)
            }),
        };
        let messages: Option<u64> = number("credit", &self.credit)?;
        let mut credit = Credit::default();
        credit.grant(messages.unwrap_or(0), number("credit_bytes", &self.credit_bytes)?);
        Ok(credit)
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> (Option<String>, Option<String>) {
        let Asked { resume, ticket, .. } = Asked::read(query, &HeaderMap::new());
        (resume, ticket)
    }

    #[test]
    fn each_usual_spelling_resumes() {
        for name in [
            "lastEventId",
            "Last-Event-ID",
            "lastEventID",
            "evs_last_event_id",
            "after",
            "last_event_id",
            "LASTEVENTID",
        ] {
            let found = read(&format!("ticket=t&{name}=a%2Bb&_=17&r=0.1&evs_preamble"));
            assert_eq!(found, (Some("a+b".into()), Some("t".into())), "{name}");
        }
        assert_eq!(read("after=&lastEventId=&ticket=&_="), (None, None));
        assert_eq!(read(""), (None, None));
    }

    #[test]
    fn the_newest_wins() {
        let resume = |query: &str| read(query).0.unwrap();
        assert_eq!(resume("lastEventId=new&after=old"), "new");
        assert_eq!(resume("after=old&after=new"), "new");
        assert_eq!(resume("after=old&lastEventId="), "old");
        let mut headers = HeaderMap::new();
        headers.insert(LAST_EVENT_ID, "newest".parse().unwrap());
        assert_eq!(Asked::read("after=old", &headers).resume.as_deref(), Some("newest"));
        headers.insert(LAST_EVENT_ID, "".parse().unwrap());
        assert_eq!(Asked::read("after=old", &headers).resume.as_deref(), Some("old"));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let asked = |query: &str| Asked::read(query, &HeaderMap::new());
        assert_eq!(asked("mode=queue").mode(Mode::Stream).unwrap(), Mode::Queue);
        assert_eq!(asked("mode=").mode(Mode::Stream).unwrap(), Mode::Stream);
        assert!(asked("mode=both").mode(Mode::Stream).unwrap_err().detail().contains("both"));
        assert_eq!(asked("").max_per_key().unwrap(), MAX_PULL_MESSAGES);
        assert_eq!(asked("max_per_key=1").max_per_key().unwrap(), 1);
        for bad in ["max_per_key=0", "max_per_key=1001", "max-per-key=many"] {
            assert!(asked(bad).max_per_key().is_err(), "{bad}");
        }
        let mut credit = Credit::default();
        credit.grant(5, Some(7));
        assert_eq!(asked("credit=5&credit_bytes=7").credit().unwrap(), credit);
        assert!(asked("credit=-1").credit().is_err());
        assert_eq!(asked("from=now&after=t").from().unwrap(), None, "a token is newer");
        assert!(asked("from=yesterday").from().is_err());
    }
}
