//! Where what is on the bus is not as this process would have made it. That is said and left
//! alone: who declared it knows why.

use std::fmt;

use bus::topology::{Action, Change, Difference};
use bus::{Bus, Topology};

use super::{Store, StoreOptions};
use crate::model::{Realm, names};

/// As many names are written out; the others are counted.
const NAMED: usize = 3;

/// One difference, and everything that has it: the logs of many realms often share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The streams and buckets, for example `stream events-people`.
    pub what: Vec<String>,
    /// The field, with what the bus has and what this process would have asked for.
    pub difference: Difference,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, difference: Difference { field, has, wants, fixed } } = self;
        let named: Vec<&str> = what.iter().take(NAMED).map(String::as_str).collect();
        f.write_str(&named.join(", "))?;
        match what.len().saturating_sub(NAMED) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        let keeps = if what.len() == 1 { "keeps" } else { "keep" };
        write!(f, " {keeps} {field} {has}, although this process would have made it {wants}: ")?;
        match fixed {
            true => f.write_str("fixed when it was created, to be declared as it is"),
            false => f.write_str("to change it, declare it and run `lockgate topology apply FILE`"),
        }
    }
}

impl Store {
    /// How the streams and buckets of Lockgate, and the logs of the realms that exist, differ from
    /// what this process would have made. Changes nothing.
    pub async fn drift(&self) -> Result<Vec<Drift>, bus::Error> {
        let declared = self.options.topology(&self.realms().await?)?;
        Ok(collect(self.bus().compare_topology(&declared).await?))
    }
}

/// The same of what a bus has, by [`super::existing_topology`], for who has not opened the store.
pub(crate) async fn drift_of(
    bus: &Bus,
    has: &Topology,
    options: &StoreOptions,
) -> Result<Vec<Drift>, bus::Error> {
    let realms: Vec<Realm> =
        has.streams.iter().filter_map(|stream| names::realm_of_log(&stream.name)).collect();
    Ok(collect(bus.compare_topology(&options.topology(&realms)?).await?))
}

fn collect(changes: Vec<Change>) -> Vec<Drift> {
    let mut found: Vec<Drift> = Vec::new();
    for Change { what, action, differences } in changes {
        if action == Action::Create {
            continue;
        }
        for difference in differences {
            match found.iter_mut().find(|known| known.difference == difference) {
                Some(known) => known.what.push(what.clone()),
                None => found.push(Drift { what: vec![what.clone()], difference }),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_once_with_everything_that_has_it() {
        let difference = Difference {
            field: "max-bytes",
            has: "3000".into(),
            wants: "1000".into(),
            fixed: false,
        };
        let change = |name: &str| Change {
            what: format!("stream events-{name}"),
            action: Action::Update,
            differences: vec![difference.clone()],
        };
        let missing = Change { action: Action::Create, differences: Vec::new(), ..change("new") };
        let found = collect(vec![missing, change("a"), change("b"), change("c"), change("d")]);
        let [drift] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            drift.to_string(),
            "stream events-a, stream events-b, stream events-c and 1 more keep max-bytes 3000, \
             although this process would have made it 1000: to change it, declare it and run \
             `lockgate topology apply FILE`"
        );
    }
}
