//! Which realms events may make.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::invalid::Invalid;
use super::topic::Realm;

/// The realms that the first event of one may make: a realm is a log, and a log takes room on the
/// bus, so that a typo in a topic must not make one everywhere. What exists already is not asked
/// about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealmList {
    /// Every realm, written `*`.
    Any,
    /// These alone, written `a,b`.
    Only(BTreeSet<Realm>),
}

impl RealmList {
    /// No realm: events go to those that exist.
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// True when an event may make the realm.
    pub fn allows(&self, realm: &Realm) -> bool {
        match self {
            Self::Any => true,
            Self::Only(realms) => realms.contains(realm),
        }
    }
}

impl FromStr for RealmList {
    type Err = Invalid;

    fn from_str(list: &str) -> Result<Self, Invalid> {
        if list.trim() == "*" {
            return Ok(Self::Any);
        }
        let realms = list.split(',').map(|realm| Realm::new(realm.trim()));
        let realms = realms.collect::<Result<_, _>>().map_err(|invalid| {
            Invalid::new(format!("{invalid}: name realms as a,b, or * alone for every realm"))
        })?;
        Ok(Self::Only(realms))
    }
}

impl fmt::Display for RealmList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Only(realms) if realms.is_empty() => f.write_str("none"),
            Self::Only(realms) => {
                let realms: Vec<&str> = realms.iter().map(Realm::as_str).collect();
                f.write_str(&realms.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let realm = |name: &str| Realm::new(name).unwrap();
        let list: RealmList = "orders, people,orders".parse().unwrap();
        assert_eq!(list.to_string(), "orders,people");
        assert!(list.allows(&realm("people")) && !list.allows(&realm("peolpe")));
        assert_eq!("*".parse::<RealmList>().unwrap(), RealmList::Any);
        assert!(RealmList::Any.allows(&realm("any")) && !RealmList::none().allows(&realm("any")));
        for wrong in ["", "a,", "a,*", "A", "a b"] {
            assert!(wrong.parse::<RealmList>().is_err(), "{wrong:?}");
        }
    }
}
