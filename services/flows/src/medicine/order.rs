//! What is ordered and what is delivered.

use std::fmt;

use bus::StoredMessage;
use serde::{Deserialize, Serialize};

/// A patient needs no more tabs at a time.
pub const MOST_TABS: u32 = 30;
const LONGEST_NAME: usize = 64;

/// A patient's need of tabs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabsOrder {
    /// Which order it is: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    pub id: String,
    /// Who needs them.
    pub patient: String,
    /// How many: 1 to [`MOST_TABS`].
    pub tabs: u32,
}

/// One tab that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabItem {
    /// Which tab it is, the same however often the order is made: `<order>-<number>`.
    pub id: String,
    /// The order it is of.
    pub order: String,
    /// Who needs it.
    pub patient: String,
    /// Its number in the order, from 1.
    pub number: u32,
    /// How many the order has.
    pub of: u32,
}

/// Why an order cannot be made. It never can: it is parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadOrder(String);

impl fmt::Display for BadOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadOrder {}

impl TabsOrder {
    /// Reads and checks an order.
    pub fn read(message: &StoredMessage) -> Result<Self, BadOrder> {
        let Some(body) = message.payload.as_deref() else {
            return Err(BadOrder(String::from("it has no body: an order is JSON")));
        };
        let order: Self = serde_json::from_slice(body)
            .map_err(|error| BadOrder(format!("it is no tabs order: {error}")))?;
        order.check()?;
        Ok(order)
    }

    /// Says what is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), BadOrder> {
        let Self { id, patient, tabs } = self;
        let is_name = |text: &str| {
            let bytes = text.as_bytes();
            (1..=LONGEST_NAME).contains(&bytes.len())
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        for (what, name) in [("id", id), ("patient", patient)] {
            if !is_name(name) {
                let asked = format!("1 to {LONGEST_NAME} characters of A-Z a-z 0-9 _ -");
                return Err(BadOrder(format!("{what} {name:?} is not {asked}")));
            }
        }
        match (1..=MOST_TABS).contains(tabs) {
            true => Ok(()),
            false => Err(BadOrder(format!("{tabs} tabs: an order is of 1 to {MOST_TABS}"))),
        }
    }

    /// Its tabs, one after another: none is there before it is asked for.
    pub fn items(&self) -> impl Iterator<Item = TabItem> + '_ {
        (1..=self.tabs).map(|number| TabItem {
            id: format!("{}-{number}", self.id),
            order: self.id.clone(),
            patient: self.patient.clone(),
            number,
            of: self.tabs,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bus::{Headers, Subject};
    use proptest::prelude::*;

    use super::*;

    fn stored(body: Option<&str>) -> StoredMessage {
        StoredMessage {
            sequence: 1,
            timestamp: SystemTime::UNIX_EPOCH,
            subject: Subject::new("tabs.orders").unwrap(),
            key: None,
            headers: Headers::new(),
            payload: body.map(|body| body.to_owned().into()),
        }
    }

    #[test]
    fn a_bad_order_says_what_is_wrong() {
        let reason = |body: Option<&str>| TabsOrder::read(&stored(body)).unwrap_err().to_string();
        assert_eq!(reason(None), "it has no body: an order is JSON");
        assert!(reason(Some("twelve")).starts_with("it is no tabs order: "));
        assert!(reason(Some(r#"{"id":"a","tabs":3}"#)).contains("missing field `patient`"));
        for tabs in ["0", "31", "4294967295"] {
            let body = format!(r#"{{"id":"a","patient":"anna","tabs":{tabs}}}"#);
            assert_eq!(reason(Some(&body)), format!("{tabs} tabs: an order is of 1 to 30"));
        }
        assert!(
            reason(Some(r#"{"id":"a b","patient":"anna","tabs":3}"#)).starts_with("id \"a b\"")
        );
        assert!(reason(Some(r#"{"id":"a","patient":"","tabs":3}"#)).starts_with("patient \"\""));
        assert!(reason(Some(r#"{"id":"a","patient":"anna","tabs":-1}"#)).contains("tabs order"));
    }

    proptest! {
        /// Whatever arrives is read or refused, and what is read is in bounds and has tabs of
        /// distinct ids that a second reading has too.
        #[test]
        fn an_order_is_refused_or_has_its_tabs(
            id in "[A-Za-z0-9_. -]{0,70}",
            tabs in any::<u32>().prop_map(|n| n % 40),
        ) {
            let order = TabsOrder { id, patient: String::from("anna"), tabs };
            let body = serde_json::to_string(&order).unwrap();
            if let Ok(read) = TabsOrder::read(&stored(Some(&body))) {
                prop_assert_eq!(&read, &order);
                let ids: Vec<_> = read.items().map(|item| item.id).collect();
                let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
                prop_assert_eq!(distinct.len(), tabs as usize);
                prop_assert!((1..=30).contains(&tabs));
                prop_assert_eq!(order.items().map(|item| item.id).collect::<Vec<_>>(), ids);
            }
        }
    }
}
