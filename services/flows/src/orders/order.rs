//! An order: what a customer sends, and what ordering keeps of it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::journey::Journey;
use super::stage::Stage;

const MAX_ITEMS: usize = 100;
const MAX_QUANTITY: u32 = 1000;
const MAX_PRICE_CENTS: u64 = 100_000_000;
const MAX_TEXT_BYTES: usize = 200;
const ID_LENGTH: usize = 26;

/// The name of an order: 26 characters of `a-z 2-7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId(String);

impl OrderId {
    /// The order that a request with this idempotency key makes: the same for the same key, so
    /// that two requests, in two processes, cannot make two.
    pub fn of_key(idempotency_key: &str) -> Self {
        let digest = Sha256::digest(idempotency_key.as_bytes());
        let (id, _) = digest.split_at(16);
        Self(BASE32_NOPAD.encode(id).to_ascii_lowercase())
    }

    /// The id as text; a valid token of a subject.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrderId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
        if text.len() == ID_LENGTH && text.bytes().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is no order id: it is {ID_LENGTH} characters of a-z 2-7"))
    }
}

impl TryFrom<String> for OrderId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.0
    }
}

/// Who ordered, and where notices go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// How they are addressed.
    pub name: String,
    /// Where e-mails go.
    pub email: String,
    /// Where texts go, as E.164 has it: `+4930123456`.
    pub phone: String,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// What.
    pub name: String,
    /// How many.
    pub quantity: u32,
    /// What one costs, in cents.
    pub price_cents: u64,
}

/// What a customer sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// Who.
    pub customer: Customer,
    /// What: 1 to 100 lines.
    pub items: Vec<Item>,
}

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {rule}")]
pub struct BadField {
    /// Which, as a path: `items[0].quantity`.
    pub field: String,
    /// What it would have to be.
    pub rule: String,
}

impl NewOrder {
    /// Checks every field; the first that breaks a rule is named.
    pub fn check(&self) -> Result<(), BadField> {
        let Customer { name, email, phone } = &self.customer;
        check_text("customer.name", name)?;
        if email.len() > MAX_TEXT_BYTES || email.parse::<lettre::Address>().is_err() {
            return bad(
                "customer.email",
                "is no e-mail address: write, for example, anna@mail.org",
            );
        }
        let digits = phone.strip_prefix('+').unwrap_or_default();
        if !(7..=15).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return bad("customer.phone", "is + and 7 to 15 digits, for example +4930123456");
        }
        if !(1..=MAX_ITEMS).contains(&self.items.len()) {
            return bad("items", format!("holds 1 to {MAX_ITEMS} lines"));
        }
        for (at, Item { name, quantity, price_cents }) in self.items.iter().enumerate() {
            check_text(&format!("items[{at}].name"), name)?;
            if !(1..=MAX_QUANTITY).contains(quantity) {
                return bad(format!("items[{at}].quantity"), format!("is 1 to {MAX_QUANTITY}"));
            }
            if !(1..=MAX_PRICE_CENTS).contains(price_cents) {
                return bad(
                    format!("items[{at}].priceCents"),
                    format!("is 1 to {MAX_PRICE_CENTS}"),
                );
            }
        }
        Ok(())
    }

    /// What it costs, in cents. What was checked stays far below overflow.
    pub fn amount_cents(&self) -> u64 {
        let cost = |item: &Item| item.price_cents.saturating_mul(u64::from(item.quantity));
        self.items.iter().map(cost).fold(0, u64::saturating_add)
    }
}

fn check_text(field: &str, text: &str) -> Result<(), BadField> {
    if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return bad(field, format!("is 1 to {MAX_TEXT_BYTES} bytes of text on one line"));
    }
    Ok(())
}

fn bad(field: impl Into<String>, rule: impl Into<String>) -> Result<(), BadField> {
    Err(BadField { field: field.into(), rule: rule.into() })
}

/// A stage that an order has entered, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub stage: Stage,
    /// When, by RFC 3339.
    pub at: String,
}

/// What ordering keeps. Persisted: keep the JSON stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Its name.
    pub id: OrderId,
    /// As it was ordered.
    pub ordered: NewOrder,
    /// Where it is paid.
    pub payment_url: String,
    /// Where it stands.
    pub journey: Journey,
    /// The stages it has entered, in their order.
    pub steps: Vec<Step>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> NewOrder {
        let customer = Customer {
            name: "Anna".into(),
            email: "anna@mail.org".into(),
            phone: "+4930123456".into(),
        };
        let tea = Item { name: "tea".into(), quantity: 2, price_cents: 450 };
        NewOrder { customer, items: vec![tea] }
    }

    #[test]
    fn the_field_at_fault_is_named() {
        order().check().unwrap();
        assert_eq!(order().amount_cents(), 900);
        type Spoil = fn(&mut NewOrder);
        let faults: [(&str, Spoil); 8] = [
            ("customer.name", |order| order.customer.name = "Anna\r\nBcc: x@y.z".into()),
            ("customer.email", |order| order.customer.email = "anna".into()),
            ("customer.phone", |order| order.customer.phone = "030123456".into()),
            ("items", |order| order.items.clear()),
            ("items", |order| order.items = vec![order.items[0].clone(); 101]),
            ("items[0].name", |order| order.items[0].name = " ".into()),
            ("items[0].quantity", |order| order.items[0].quantity = 0),
            ("items[0].priceCents", |order| order.items[0].price_cents = MAX_PRICE_CENTS + 1),
        ];
        for (field, spoil) in faults {
            let mut order = order();
            spoil(&mut order);
            assert_eq!(order.check().unwrap_err().field, field);
        }
    }

    #[test]
    fn an_id_follows_from_its_key_and_is_a_token() {
        let id = OrderId::of_key("a key");
        assert_eq!(id, OrderId::of_key("a key"));
        assert_ne!(id, OrderId::of_key("another"));
        assert_eq!(id.as_str().parse::<OrderId>().unwrap(), id);
        for wrong in ["", "a.b", &id.as_str().to_uppercase(), &format!("{id}a")] {
            assert!(wrong.parse::<OrderId>().is_err(), "{wrong:?}");
        }
    }
}
