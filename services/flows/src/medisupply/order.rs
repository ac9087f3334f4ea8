//! Orders: as they are sent, and as they stand.

use serde::{Deserialize, Serialize};

/// The longest order id, in bytes.
const MAX_ID: usize = 128;
/// The longest name of a product, in bytes.
const MAX_PRODUCT: usize = 512;

/// An order as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// Who it is: the same id is the same order.
    pub order_id: String,
    /// What is ordered.
    pub product: String,
    /// How many.
    pub quantity: u32,
}

impl NewOrder {
    /// Reads an order from JSON; otherwise says what is wrong with it, for whoever sent it.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let order: Self = serde_json::from_slice(body).map_err(|why| {
            format!("the body is no order, which has order_id, product and quantity: {why}")
        })?;
        let id = order.order_id.len();
        if id == 0 || id > MAX_ID {
            return Err(format!("order_id has {id} bytes: give it 1 to {MAX_ID}"));
        }
        if order.product.len() > MAX_PRODUCT {
            return Err(format!("product has more than {MAX_PRODUCT} bytes: shorten it"));
        }
        Ok(order)
    }
}

/// Where an order stands. It leaves `Processing` once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Not decided yet: queued, under way, or parked until the external service has recovered.
    Processing,
    /// The external service found it valid.
    Validated,
    /// The external service found it invalid.
    Rejected,
    /// The external service refused to decide, for good.
    Failed,
}

/// An order as it is kept. Keep the names stable: they are in buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// As it was sent.
    #[serde(flatten)]
    pub order: NewOrder,
    /// Where it stands.
    pub status: Status,
    /// Why, where the external service gave a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True while it waits for the external service to recover.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parked: bool,
    /// How often its status has changed: never more than once.
    #[serde(default)]
    pub changes: u32,
}

impl Order {
    pub(super) fn new(order: NewOrder) -> Self {
        Self { order, status: Status::Processing, reason: None, parked: false, changes: 0 }
    }

    /// The order after it was decided; `None` where it is already, and must not change.
    pub(super) fn decided(self, status: Status, reason: Option<String>) -> Option<Self> {
        let changes = self.changes + 1;
        let open = self.status == Status::Processing;
        open.then_some(Self { status, reason, parked: false, changes, ..self })
    }
}

/// An order id in letters that a bucket's key, a message's id and a header can have: reversible, so
/// that no two ids share one.
pub(super) fn key(order_id: &str) -> String {
    use std::fmt::Write as _;
    let mut key = String::with_capacity(order_id.len());
    for byte in order_id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => key.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(key, "={byte:02X}")),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_decided_once() {
        let order = NewOrder { order_id: "a".into(), product: "b".into(), quantity: 1 };
        let decided = Order::new(order).decided(Status::Validated, None).unwrap();
        assert_eq!((decided.status, decided.changes), (Status::Validated, 1));
        assert_eq!(decided.decided(Status::Failed, None), None);
    }

    #[test]
    fn ids_that_differ_have_keys_that_differ() {
        assert_eq!(key("test-001"), "test-001");
        assert_eq!(key("a.b*=ä"), "a=2Eb=2A=3D=C3=A4");
    }

    #[test]
    fn what_is_kept_stays_readable() {
        let kept = r#"{"order_id":"a","product":"b","quantity":1,"status":"Processing"}"#;
        let order: Order = serde_json::from_str(kept).unwrap();
        let written = serde_json::to_string(&order).unwrap();
        assert_eq!(written, kept.replace('}', r#","changes":0}"#));
        assert_eq!(serde_json::from_str::<Order>(&written).unwrap(), order);
    }

    #[test]
    fn a_sender_is_told_what_is_wrong() {
        for (body, said) in [
            ("{", "is no order"),
            (r#"{"order_id":"a","product":"b","quantity":-1}"#, "invalid value"),
            (r#"{"order_id":"","product":"b","quantity":1}"#, "order_id has 0 bytes"),
        ] {
            let why = NewOrder::parse(body.as_bytes()).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
