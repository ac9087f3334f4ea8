//! What a customer is told, and by which channel it was.

use bus::KeyValue;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::order::{Customer, OrderId};
use super::stage::Stage;
use super::topic::Topic;

/// What a customer is told of a stage. Persisted: keep the JSON stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// Unique for the order and the stage: `<order>.<stage>`.
    pub id: String,
    /// Whom.
    pub customer: Customer,
    /// The text.
    pub text: String,
    /// When it was texted, by RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texted: Option<String>,
    /// When it was mailed, by RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailed: Option<String>,
}

/// A way to the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The mobile role's.
    Text,
    /// The e-mail role's.
    Mail,
}

impl Notice {
    /// The notice of a fact about an order; the same from whoever writes it. None for an event
    /// that tells a customer nothing or names none.
    pub fn of(event: &Event) -> Option<Self> {
        let stage = event.data.status;
        let customer = event.data.customer.clone()?;
        if Topic::of_stage(stage) != event.topic {
            return None;
        }
        let order = &event.order;
        let text = match stage {
            Stage::OrderCreated => {
                let url = event.data.payment_url.as_deref()?;
                format!("Your order {order} is created. Pay here: {url}")
            }
            Stage::PaymentCreated => {
                let cents = event.data.amount_cents?;
                let (whole, rest) = (cents / 100, cents % 100);
                format!("The payment of {whole}.{rest:02} for your order {order} is open.")
            }
            Stage::PaymentMade => format!("The payment for your order {order} is made. Thank you!"),
            Stage::ReadyToShip => format!("Your order {order} is ready to ship."),
            Stage::Shipping => format!("Your order {order} is with the delivery service."),
            Stage::Shipped => format!("Your order {order} is shipped."),
            Stage::Delivered => format!("Your order {order} is delivered."),
        };
        let id = notice_id(order, stage);
        Some(Self { id, customer, text, texted: None, mailed: None })
    }

    /// When it went out by a channel.
    pub fn told(&self, channel: Channel) -> Option<&str> {
        match channel {
            Channel::Text => self.texted.as_deref(),
            Channel::Mail => self.mailed.as_deref(),
        }
    }

    fn tell(&mut self, channel: Channel, at: &str) {
        let told = match channel {
            Channel::Text => &mut self.texted,
            Channel::Mail => &mut self.mailed,
        };
        told.get_or_insert_with(|| at.to_owned());
    }
}

/// The notices of every order.
#[derive(Clone)]
pub(super) struct Notices(KeyValue);

impl Notices {
    pub(super) fn new(bucket: KeyValue) -> Self {
        Self(bucket)
    }

    /// Files a notice unless it is there.
    pub(super) async fn file(&self, notice: &Notice) -> bus::Result<()> {
        self.0.modify(&notice.id, |there| there.is_none().then(|| notice.clone())).await?;
        Ok(())
    }

    pub(super) async fn was_told(&self, notice: &Notice, channel: Channel) -> bus::Result<bool> {
        let there = self.0.get_json::<Notice>(&notice.id).await?;
        Ok(there.is_some_and(|(there, _)| there.told(channel).is_some()))
    }

    /// Records that it went out by a channel, filing it on the way.
    pub(super) async fn record(
        &self,
        notice: &Notice,
        channel: Channel,
        at: &str,
    ) -> bus::Result<()> {
        self.0
            .modify(&notice.id, |there: Option<Notice>| {
                let mut notice = there.unwrap_or_else(|| notice.clone());
                notice.tell(channel, at);
                Some(notice)
            })
            .await?;
        Ok(())
    }

    /// The notice of a stage, if it was filed.
    pub(super) async fn get(&self, order: &OrderId, stage: Stage) -> bus::Result<Option<Notice>> {
        Ok(self.0.get_json(notice_id(order, stage)).await?.map(|(notice, _)| notice))
    }
}

fn notice_id(order: &OrderId, stage: Stage) -> String {
    format!("{order}.{stage}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::event::Facts;

    #[test]
    fn a_customer_is_told_of_facts_once_for_each_stage() {
        let order = OrderId::of_key("1");
        let customer = Customer { name: "A".into(), email: "a@b.cd".into(), phone: "+1".into() };
        let notice = |topic, stage| {
            let facts = Facts {
                customer: Some(customer.clone()),
                amount_cents: Some(1205),
                payment_url: Some("http://pay".into()),
                ..Facts::of(stage)
            };
            Notice::of(&Event::new("s", topic, &order, "t", facts))
        };
        let mut ids: Vec<_> = Stage::ALL
            .map(|stage| notice(Topic::of_stage(stage), stage).expect("a notice").id)
            .into();
        ids.dedup();
        assert_eq!(ids.len(), 7);
        let open = notice(Topic::PaymentsCreated, Stage::PaymentCreated).unwrap();
        assert!(open.text.contains(" 12.05 "), "{}", open.text);
        assert_eq!(notice(Topic::DeliveryShipped, Stage::Shipped), None, "it is not recorded yet");
        assert_eq!(notice(Topic::LoggingEvents, Stage::Shipped), None);
    }
}
