//! The seven stages of an order.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far an order is. The order of the variants is the order of the stages; their JSON names are
/// persisted: keep them stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// 1: the customer has ordered.
    OrderCreated,
    /// 2: the payment is open.
    PaymentCreated,
    /// 3: the money is there.
    PaymentMade,
    /// 4: the delivery system may fetch it.
    ReadyToShip,
    /// 5: the delivery system has it.
    Shipping,
    /// 6: it is on its way.
    Shipped,
    /// 7: the customer has it.
    Delivered,
}

impl Stage {
    /// Every stage, first to last.
    pub const ALL: [Self; 7] = [
        Self::OrderCreated,
        Self::PaymentCreated,
        Self::PaymentMade,
        Self::ReadyToShip,
        Self::Shipping,
        Self::Shipped,
        Self::Delivered,
    ];

    /// The stage after this one; none follows the last.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage > self)
    }

    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderCreated => "orderCreated",
            Self::PaymentCreated => "paymentCreated",
            Self::PaymentMade => "paymentMade",
            Self::ReadyToShip => "readyToShip",
            Self::Shipping => "shipping",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_under_their_names() {
        let mut walked = vec![Stage::OrderCreated];
        while let Some(next) = walked.last().unwrap().next() {
            walked.push(next);
        }
        assert_eq!(walked, Stage::ALL);
        for stage in Stage::ALL {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
        }
    }
}
