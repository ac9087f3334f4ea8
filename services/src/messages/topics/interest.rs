//! What a reader wants: topics, and perhaps one key.

use bus::SubjectFilter;

use crate::model::{Key, Realm, TopicSet};

/// See the module's documentation. Cheap enough to clone for each reader.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::messages) struct Interest {
    /// The topics.
    pub(in crate::messages) topics: TopicSet,
    /// Events of this key alone; of every key without.
    pub(in crate::messages) key: Option<Key>,
}

impl Interest {
    /// What to filter the log of a realm by. A key is looked for as Lockgate writes it: the log
    /// cannot tell in which other ways publishers outside may have written it.
    pub(super) fn filters(&self, realm: &Realm) -> Vec<SubjectFilter> {
        let filters = self.topics.filters(realm);
        let Some(key) = &self.key else { return filters };
        let token = key.to_token();
        let of_key = |filter: SubjectFilter| {
            let place = filter.as_str().strip_suffix('*')?;
            SubjectFilter::new(format!("{place}{token}")).ok()
        };
        filters.into_iter().filter_map(of_key).collect()
    }

    /// True when an event of this key, of a topic that matches, is wanted.
    pub(super) fn wants(&self, key: &Key) -> bool {
        self.key.as_ref().is_none_or(|wanted| wanted == key)
    }

    /// What tokens are bound to: a token of other topics or another key is none.
    pub(super) fn purpose(&self) -> String {
        let topics: Vec<String> = self.topics.clone().into();
        let key = self.key.as_ref().map_or_else(String::new, Key::to_token);
        let is_of_key = self.key.is_some();
        format!("topics {} {is_of_key} {key}", topics.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_narrows_the_filters_and_binds_the_token() {
        let topics = TopicSet::parse(&["orders.*", "tabs.open"]).unwrap();
        let all = Interest { topics: topics.clone(), key: None };
        let one = Interest { topics, key: Some(Key::new("a.b").unwrap()) };
        let realm = Realm::new("orders").unwrap();
        let shown = |interest: &Interest| {
            let filters = interest.filters(&realm);
            filters.iter().map(|filter| filter.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&all), ["events.orders.*.*"]);
        assert_eq!(shown(&one), ["events.orders.*.a=2Eb"]);
        assert!(one.wants(&Key::new("a.b").unwrap()) && !one.wants(&Key::new("a").unwrap()));
        assert_ne!(all.purpose(), one.purpose());
    }
}
