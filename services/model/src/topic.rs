//! Realms, topics and the patterns a subscription names.

use std::fmt;
use std::str::FromStr;

use bus::SubjectFilter;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;

const MAX_TOKEN_BYTES: usize = 64;
/// What the realm of a demo begins with; 16 hexadecimal digits follow.
const DEMO: &str = "demo-";
/// How many patterns one subscription may name.
pub(crate) const MAX_PATTERNS: usize = 64;

/// The first token of a topic: which log an event belongs to. `[a-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Realm(String);

impl Realm {
    /// Parses a realm.
    pub fn new(realm: impl Into<String>) -> Result<Self, Invalid> {
        let realm = realm.into();
        if is_token(&realm) {
            return Ok(Self(realm));
        }
        Err(Invalid::new(format!("{realm:?} is not a realm: 1 to 64 characters of a-z 0-9 _ -")))
    }

    /// The realm of one run of `lockgate demo`. Only patterns that name it include it, so that a
    /// demo on a bus that others use is no business of theirs.
    pub fn of_demo(run: &str) -> Result<Self, Invalid> {
        Self::new(format!("{DEMO}{run}"))
    }

    /// The realm as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_of_demo(realm: &str) -> bool {
    realm.strip_prefix(DEMO).is_some_and(|run| {
        run.len() == 16 && run.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Realm {
    type Error = Invalid;
    fn try_from(realm: String) -> Result<Self, Invalid> {
        Self::new(realm)
    }
}

impl From<Realm> for String {
    fn from(realm: Realm) -> Self {
        realm.0
    }
}

/// Where an event belongs, for example `directory.user`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    /// The log it is in.
    pub realm: Realm,
    /// The second token.
    pub name: String,
}

impl FromStr for Topic {
    type Err = Invalid;

    fn from_str(topic: &str) -> Result<Self, Invalid> {
        match topic.split_once('.') {
            Some((realm, name)) if is_token(realm) && is_token(name) => {
                Ok(Self { realm: Realm(realm.to_owned()), name: name.to_owned() })
            }
            _ => Err(Invalid::new(format!(
                "{topic:?} is not a topic: a topic is realm.topic, for example orders.created, \
                 each 1 to 64 characters of a-z 0-9 _ -"
            ))),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.realm, self.name)
    }
}

/// `realm.topic` where either token may be `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct TopicPattern {
    realm: Option<String>,
    name: Option<String>,
}

impl TopicPattern {
    fn covers(&self, other: &Self) -> bool {
        let wide =
            |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || mine == theirs;
        wide(&self.realm, &other.realm) && wide(&self.name, &other.name)
    }

    fn includes(&self, realm: &str) -> bool {
        match self.realm.as_deref() {
            Some(own) => own == realm,
            None => !is_of_demo(realm),
        }
    }

    fn matches(&self, realm: &str, name: &str) -> bool {
        self.includes(realm) && self.name.as_deref().is_none_or(|own| own == name)
    }
}

impl FromStr for TopicPattern {
    type Err = Invalid;

    fn from_str(pattern: &str) -> Result<Self, Invalid> {
        let part = |token: &str| match token {
            "*" => Some(None),
            token if is_token(token) => Some(Some(token.to_owned())),
            _ => None,
        };
        let parsed = pattern
            .split_once('.')
            .and_then(|(realm, name)| Some(Self { realm: part(realm)?, name: part(name)? }));
        parsed.ok_or_else(|| {
            Invalid::new(format!(
                "is {pattern:?}: a topic is realm.topic, for example orders.created or orders.*"
            ))
        })
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_star = |token: &Option<String>| token.clone().unwrap_or_else(|| String::from("*"));
        write!(f, "{}.{}", or_star(&self.realm), or_star(&self.name))
    }
}

/// The topics of a subscription: 1 to 64 patterns, sorted, none covered by another, so that equal
/// sets are written the same way and no two filters of a consumer overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct TopicSet(Vec<TopicPattern>);

impl TopicSet {
    /// Parses patterns. An error names the one at fault by its place: `topics[1] is "orders": ...`.
    pub fn parse(patterns: &[impl AsRef<str>]) -> Result<Self, Invalid> {
        if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
            let counted = patterns.len();
            return Err(Invalid::new(format!(
                "topics has {counted} entries: name 1 to {MAX_PATTERNS}"
            )));
        }
        let mut parsed = Vec::with_capacity(patterns.len());
        for (at, pattern) in patterns.iter().enumerate() {
            let pattern: TopicPattern = pattern
                .as_ref()
                .parse()
                .map_err(|invalid: Invalid| Invalid::new(format!("topics[{at}] {invalid}")))?;
            parsed.push(pattern);
        }
        parsed.sort();
        parsed.dedup();
        let kept = parsed
            .iter()
            .filter(|one| !parsed.iter().any(|other| other != *one && other.covers(one)))
            .cloned()
            .collect();
        Ok(Self(kept))
    }

    /// True when a pattern can match a topic of the realm.
    pub fn includes_realm(&self, realm: &Realm) -> bool {
        self.0.iter().any(|pattern| pattern.includes(realm.as_str()))
    }

    /// True when a pattern matches the topic.
    pub fn matches(&self, topic: &Topic) -> bool {
        self.0.iter().any(|pattern| pattern.matches(topic.realm.as_str(), &topic.name))
    }

    /// What to filter the realm's log by; empty when no pattern includes the realm.
    pub fn filters(&self, realm: &Realm) -> Vec<SubjectFilter> {
        let of_realm = |pattern: &&TopicPattern| pattern.includes(realm.as_str());
        let mut names: Vec<Option<&str>> =
            self.0.iter().filter(of_realm).map(|pattern| pattern.name.as_deref()).collect();
        if names.contains(&None) {
            names = vec![None];
        }
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| {
                let name = name.unwrap_or("*");
                SubjectFilter::new(format!("{}.{realm}.{name}.*", super::names::EVENTS)).ok()
            })
            .collect()
    }

    /// True when no pattern stands for realms that it does not name.
    pub fn names_every_realm(&self) -> bool {
        self.0.iter().all(|pattern| pattern.realm.is_some())
    }

    /// The realms that are named without a wildcard.
    pub fn named_realms(&self) -> Vec<Realm> {
        let mut realms: Vec<_> = self.0.iter().filter_map(|p| p.realm.clone().map(Realm)).collect();
        realms.dedup();
        realms
    }
}

impl TryFrom<Vec<String>> for TopicSet {
    type Error = Invalid;
    fn try_from(patterns: Vec<String>) -> Result<Self, Invalid> {
        Self::parse(&patterns)
    }
}

impl From<TopicSet> for Vec<String> {
    fn from(topics: TopicSet) -> Self {
        topics.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for TopicSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<String> = self.clone().into();
        f.write_str(&patterns.join(","))
    }
}

fn is_token(token: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && token.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(patterns: &[&str]) -> TopicSet {
        TopicSet::parse(patterns).unwrap()
    }

    #[test]
    fn equal_sets_are_written_the_same_way_and_nothing_overlaps() {
        let wide = set(&["orders.created", "orders.*", "orders.created", "directory.user"]);
        assert_eq!(wide.to_string(), "directory.user,orders.*");
        assert_eq!(set(&["orders.*", "*.*"]).to_string(), "*.*");
        let realm = Realm::new("orders").unwrap();
        let filters = set(&["*.created", "orders.created", "orders.paid"]).filters(&realm);
        let filters: Vec<_> = filters.iter().map(SubjectFilter::as_str).collect();
        assert_eq!(filters, ["events.orders.created.*", "events.orders.paid.*"]);
    }

    #[test]
    fn an_error_names_the_entry_and_the_way_out() {
        let error = TopicSet::parse(&["a.b", "orders"]).unwrap_err().to_string();
        assert!(
            error.starts_with("topics[1] is \"orders\"") && error.contains("orders.*"),
            "{error}"
        );
        assert!(TopicSet::parse(&Vec::<String>::new()).is_err());
        for bad in ["a.b.c", "A.b", ".b", "a.", "a.>", "a b.c"] {
            assert!(TopicSet::parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_leaves_the_realm_of_a_demo_out() {
        let demo = Realm::of_demo("00ff00ff00ff00ff").unwrap();
        let (wide, own) = (set(&["*.*"]), set(&[&format!("{demo}.*")]));
        let topic = format!("{demo}.user").parse().unwrap();
        assert!(own.includes_realm(&demo) && own.matches(&topic) && own.filters(&demo).len() == 1);
        assert!(!wide.includes_realm(&demo) && !wide.matches(&topic));
        assert!(wide.filters(&demo).is_empty());
        let shop = Realm::new("demo-shop").unwrap();
        assert!(wide.includes_realm(&shop), "one that a person chose is like any other");
    }

    #[test]
    fn matching_follows_either_wildcard() {
        let topics = set(&["directory.*", "*.created"]);
        assert!(topics.matches(&"directory.user".parse().unwrap()));
        assert!(topics.matches(&"orders.created".parse().unwrap()));
        assert!(!topics.matches(&"orders.paid".parse().unwrap()));
        assert!(topics.includes_realm(&Realm::new("any").unwrap()));
        assert_eq!(topics.named_realms(), [Realm::new("directory").unwrap()]);
        assert!(!topics.names_every_realm() && set(&["directory.*"]).names_every_realm());
    }
}
