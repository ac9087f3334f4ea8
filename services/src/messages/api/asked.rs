//! What a client of stream mode asks for, in whichever way it can say it.
//!
//! A browser's `EventSource` sends a header on reconnect. Polyfills put the id into the query, under
//! names of their own, beside what they add against caches; and a page's own code may write the
//! parameters empty on its first connection. So names are read without regard to their case and
//! separators, an empty value is none, and what is unknown is left alone.

use axum::http::{HeaderMap, HeaderName};
use url::form_urlencoded;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The query and headers of a request for a stream, as far as they say where and by what right.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The token to resume by.
    pub(super) resume: Option<String>,
    /// Instead of the secret: see [`crate::messages::tickets`].
    pub(super) ticket: Option<String>,
}

impl Asked {
    /// Reads a request. The header wins: on reconnect a browser repeats the URL and adds the newer
    /// id as header. Then what a polyfill adds, which is newer than the page's own `after`.
    pub(super) fn read(query: &str, headers: &HeaderMap) -> Self {
        let (mut after, mut last_id, mut ticket) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match plain(&name).as_str() {
                "after" => &mut after,
                // The second is amvtek's polyfill's.
                "lasteventid" | "evslasteventid" => &mut last_id,
                "ticket" => &mut ticket,
                _ => continue,
            };
            if !value.is_empty() {
                // What stands twice was added behind.
                *slot = Some(value.into_owned());
            }
        }
        let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
        let header = header.filter(|id| !id.is_empty()).map(String::from);
        Self { resume: header.or(last_id).or(after), ticket }
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> (Option<String>, Option<String>) {
        let Asked { resume, ticket } = Asked::read(query, &HeaderMap::new());
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
}
