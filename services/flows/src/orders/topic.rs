//! The eleven topics, by the names of the document.

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// A topic: a stream of this name, with the name as its one subject, on every backend. In JSON it
/// is the `type` of its events: `orders.ready-to-ship`, realm and topic of a Lockgate log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Topic {
    /// Ordering: an order is there.
    #[serde(rename = "orders.created")]
    OrdersCreated,
    /// Ordering: an order is paid and waits for the delivery system.
    #[serde(rename = "orders.ready-to-ship")]
    OrdersReadyToShip,
    /// Ordering: the delivery system has it, and that is recorded.
    #[serde(rename = "orders.shipping")]
    OrdersShipping,
    /// Ordering: it is on its way, and that is recorded.
    #[serde(rename = "orders.shipped")]
    OrdersShipped,
    /// Ordering: it has arrived, and that is recorded.
    #[serde(rename = "orders.delivered")]
    OrdersDelivered,
    /// Payment: a payment is open.
    #[serde(rename = "payments.created")]
    PaymentsCreated,
    /// Payment: the money is there.
    #[serde(rename = "payments.made")]
    PaymentsMade,
    /// Delivery: it has taken the order over.
    #[serde(rename = "delivery.shipping")]
    DeliveryShipping,
    /// Delivery: a courier reports that it is on its way.
    #[serde(rename = "delivery.shipped")]
    DeliveryShipped,
    /// Delivery: a courier reports that it has arrived.
    #[serde(rename = "delivery.delivered")]
    DeliveryDelivered,
    /// All three: what they did, for the log.
    #[serde(rename = "logging.events")]
    LoggingEvents,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 11] = [
        Self::OrdersCreated,
        Self::OrdersReadyToShip,
        Self::OrdersShipping,
        Self::OrdersShipped,
        Self::OrdersDelivered,
        Self::PaymentsCreated,
        Self::PaymentsMade,
        Self::DeliveryShipping,
        Self::DeliveryShipped,
        Self::DeliveryDelivered,
        Self::LoggingEvents,
    ];

    /// The name of its stream, of its subject, and of its topic on Kafka.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrdersCreated => "orders-created",
            Self::OrdersReadyToShip => "orders-ready-to-ship",
            Self::OrdersShipping => "orders-shipping",
            Self::OrdersShipped => "orders-shipped",
            Self::OrdersDelivered => "orders-delivered",
            Self::PaymentsCreated => "payments-created",
            Self::PaymentsMade => "payments-made",
            Self::DeliveryShipping => "delivery-shipping",
            Self::DeliveryShipped => "delivery-shipped",
            Self::DeliveryDelivered => "delivery-delivered",
            Self::LoggingEvents => "logging-events",
        }
    }

    /// The topic on which it is said, as a fact, that an order has entered `stage`. Each stage has
    /// one, so that whoever follows these seven hears of each stage once.
    pub fn of_stage(stage: Stage) -> Self {
        match stage {
            Stage::OrderCreated => Self::OrdersCreated,
            Stage::PaymentCreated => Self::PaymentsCreated,
            Stage::PaymentMade => Self::PaymentsMade,
            Stage::ReadyToShip => Self::OrdersReadyToShip,
            Stage::Shipping => Self::OrdersShipping,
            Stage::Shipped => Self::OrdersShipped,
            Stage::Delivered => Self::OrdersDelivered,
        }
    }

    /// The stage that a message on this topic claims towards the ordering system: see
    /// [`super::journey`]. None on what ordering says itself.
    pub fn claims(self) -> Option<Stage> {
        match self {
            Self::PaymentsCreated => Some(Stage::PaymentCreated),
            Self::PaymentsMade => Some(Stage::PaymentMade),
            Self::DeliveryShipping => Some(Stage::Shipping),
            Self::DeliveryShipped => Some(Stage::Shipped),
            Self::DeliveryDelivered => Some(Stage::Delivered),
            _ => None,
        }
    }

    /// Its place in [`Topic::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_everywhere_and_types_are_their_realm_and_topic() {
        for (at, topic) in Topic::ALL.into_iter().enumerate() {
            assert_eq!(topic.index(), at);
            bus::StreamName::new(topic.name()).unwrap();
            bus::SubjectFilter::new(topic.name()).unwrap();
            let kind = topic.name().replacen('-', ".", 1);
            assert_eq!(serde_json::to_value(topic).unwrap(), kind);
        }
    }
}
