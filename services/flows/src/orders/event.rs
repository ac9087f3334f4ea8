//! What goes over the topics: CloudEvents in JSON (structured mode), which any bridge and any
//! foreign consumer reads, on NATS as on Kafka.

use bus::{Error, ErrorKind, FromMessage, Message, Received};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::order::{Customer, OrderId};
use super::stage::Stage;
use super::topic::Topic;

const CONTENT_TYPE: &str = "application/cloudevents+json";

/// An event about an order. Its JSON is on the topics and in the records: keep it stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    specversion: SpecVersion,
    /// The same for the same event, whoever publishes it however often: a valid subject.
    pub id: String,
    /// Which system says it: `/orders/ordering`.
    pub source: String,
    /// On which topic.
    #[serde(rename = "type")]
    pub topic: Topic,
    /// The order that it is about, and the key of the message.
    #[serde(rename = "subject")]
    pub order: OrderId,
    /// When it happened, by RFC 3339.
    pub time: String,
    /// What is said.
    pub data: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SpecVersion {
    #[serde(rename = "1.0")]
    V1,
}

/// What an event says of its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// How far it is, to whoever says it.
    pub status: Stage,
    /// Whom to tell; not for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Customer>,
    /// What it costs, in cents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_cents: Option<u64>,
    /// Where it is paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_url: Option<String>,
    /// The payment that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<String>,
}

impl Facts {
    /// No more than how far it is.
    pub fn of(status: Stage) -> Self {
        Self { status, customer: None, amount_cents: None, payment_url: None, payment_id: None }
    }
}

impl Event {
    /// An event of a system, with an id made of the order and the topic: a system says each thing
    /// once of an order.
    pub fn new(system: &str, topic: Topic, order: &OrderId, time: &str, data: Facts) -> Self {
        Self {
            specversion: SpecVersion::V1,
            id: format!("{order}.{}", topic.name()),
            source: format!("/orders/{system}"),
            topic,
            order: order.clone(),
            time: time.to_owned(),
            data,
        }
    }

    /// The entry in the log that goes with this event. What only concerns the customer is left
    /// out.
    pub fn log_entry(&self) -> Self {
        let data =
            Facts { payment_id: self.data.payment_id.clone(), ..Facts::of(self.data.status) };
        let name = self.topic.name();
        Self {
            id: format!("{}.{}.{name}", self.order, Topic::LoggingEvents.name()),
            topic: Topic::LoggingEvents,
            data,
            ..self.clone()
        }
    }

    /// The message that carries it. `with_id` where the backend recognises a repeat.
    pub(super) fn message(&self, with_id: bool) -> bus::Result<Message> {
        let body = serde_json::to_vec(self).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "an event cannot be written as JSON", source)
        })?;
        let message = Message::new(self.topic.name(), body)?
            .key(self.order.as_str())
            .header("content-type", CONTENT_TYPE)?;
        Ok(if with_id { message.id(self.id.as_str()) } else { message })
    }
}

impl FromMessage for Event {
    fn from_message(received: Received) -> bus::Result<Self> {
        received.message.json()
    }
}

/// Now, as it is written in events and records.
pub(super) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    // The one failure is a year beyond 9999.
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_a_cloud_event_and_stable() {
        let order = OrderId::of_key("1");
        let time = "2026-11-29T10:00:00Z";
        let facts = Facts { payment_id: Some("p".into()), ..Facts::of(Stage::PaymentMade) };
        let event = Event::new("payment", Topic::PaymentsMade, &order, time, facts);
        let json = serde_json::json!({
            "specversion": "1.0", "id": format!("{order}.payments-made"),
            "source": "/orders/payment", "type": "payments.made", "subject": order,
            "time": time, "data": { "status": "paymentMade", "paymentId": "p" },
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), json);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }

    #[test]
    fn the_log_learns_nothing_of_the_customer() {
        let customer = Customer { name: "A".into(), email: "a@b.c".into(), phone: "+1".into() };
        let facts = Facts { customer: Some(customer), ..Facts::of(Stage::OrderCreated) };
        let order = OrderId::of_key("1");
        let event = Event::new("ordering", Topic::OrdersCreated, &order, "t", facts);
        let entry = event.log_entry();
        assert_eq!(entry.topic, Topic::LoggingEvents);
        assert_eq!(entry.id, format!("{order}.logging-events.orders-created"));
        assert_eq!(entry.data, Facts::of(Stage::OrderCreated));
        bus::Subject::new(&entry.id).unwrap();
    }
}
