//! A payment: the rules by which it is made, once. They are pure.

use serde::{Deserialize, Serialize};

use super::event::{Event, Facts};
use super::order::{Customer, OrderId};
use super::stage::Stage;
use super::topic::Topic;

/// Attempts at one payment.
const MAX_ATTEMPTS: u32 = 10;

/// A payment of an order, with every attempt at it. The record is the ledger: an attempt is made
/// by the write that records it. Persisted: keep the JSON stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    /// What is paid.
    pub order: OrderId,
    /// Who is told.
    pub customer: Customer,
    /// How much, in cents.
    pub amount_cents: u64,
    /// True once `payments-created` was said.
    pub announced: bool,
    /// Each attempt; number 1 first.
    pub attempts: Vec<Attempt>,
}

/// One attempt at a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1; unique with the order.
    pub number: u32,
    /// True when the money was taken.
    pub made: bool,
    /// The end of the card's number; no more of it is kept.
    pub card: String,
    /// When, by RFC 3339.
    pub at: String,
}

/// What a customer asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pay {
    /// Which attempt this is, from 1. The same number again asks for the same attempt again.
    pub attempt: u32,
    /// The number of a card: 12 to 19 digits, with spaces or without.
    pub card: String,
}

/// Why an attempt is not even recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// An attempt was made: there is nothing left to pay.
    #[error("it is paid already, by attempt {by}")]
    Paid {
        /// The attempt that was made.
        by: u32,
    },
    /// The number is neither a known attempt nor the next one.
    #[error("the next attempt is number {next}")]
    OutOfTurn {
        /// The number to use.
        next: u32,
    },
    /// The number stands for an attempt with another card.
    #[error("attempt {number} was with another card: the next attempt is number {next}")]
    OtherCard {
        /// The number that was used.
        number: u32,
        /// The number to use.
        next: u32,
    },
    /// There were too many.
    #[error("{MAX_ATTEMPTS} attempts were declined, and there are no more")]
    TooMany,
}

impl Payment {
    /// A payment that nobody has tried yet.
    pub fn open(order: OrderId, customer: Customer, amount_cents: u64) -> Self {
        Self { order, customer, amount_cents, announced: false, attempts: Vec::new() }
    }

    /// The attempt that was made, if one was.
    pub fn made(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.made)
    }

    /// The payment's name, known before it is made: the order and the attempt.
    pub fn id(&self, attempt: u32) -> String {
        format!("{}.{attempt}", self.order)
    }

    /// Says that the payment is open; nothing the second time.
    pub fn announce(&mut self, at: &str) -> Vec<Event> {
        if std::mem::replace(&mut self.announced, true) {
            return Vec::new();
        }
        self.say(Topic::PaymentsCreated, Stage::PaymentCreated, None, at)
    }

    /// Tries to pay. `Ok(None)`: the attempt is known and stays as it was. Otherwise it is recorded,
    /// made or declined, with the events that go with it.
    pub fn pay(&mut self, pay: &Pay, at: &str) -> Result<Option<Vec<Event>>, Refused> {
        let next = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let Pay { attempt: number, card } = pay;
        let (number, digits) = (*number, digits(card));
        let end = digits.get(digits.len().saturating_sub(4)..).unwrap_or_default().to_owned();
        if let Some(known) = self.attempts.iter().find(|attempt| attempt.number == number) {
            return match known.card == end {
                true => Ok(None),
                false => Err(Refused::OtherCard { number, next }),
            };
        }
        if let Some(made) = self.made() {
            return Err(Refused::Paid { by: made.number });
        }
        if number != next {
            return Err(Refused::OutOfTurn { next });
        }
        if number > MAX_ATTEMPTS {
            return Err(Refused::TooMany);
        }
        let made = is_card(&digits);
        self.attempts.push(Attempt { number, made, card: end, at: at.to_owned() });
        let mut events = self.announce(at);
        if made {
            let id = Some(self.id(number));
            events.extend(self.say(Topic::PaymentsMade, Stage::PaymentMade, id, at));
        }
        Ok(Some(events))
    }

    fn say(&self, topic: Topic, status: Stage, payment_id: Option<String>, at: &str) -> Vec<Event> {
        let facts = Facts {
            customer: Some(self.customer.clone()),
            amount_cents: Some(self.amount_cents),
            payment_id,
            ..Facts::of(status)
        };
        let event = Event::new("payment", topic, &self.order, at, facts);
        let entry = event.log_entry();
        vec![event, entry]
    }
}

fn digits(card: &str) -> String {
    card.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The check that every card number passes (ISO/IEC 7812-1, annex B: Luhn), and its length.
fn is_card(digits: &str) -> bool {
    let fits = (12..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let weigh = |(at, byte): (usize, u8)| {
        let digit = u32::from(byte.saturating_sub(b'0'));
        if at % 2 == 1 { doubled(digit) } else { digit }
    };
    fits && digits.bytes().rev().enumerate().map(weigh).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "4242 4242 4242 4242";
    const BAD: &str = "4242 4242 4242 4241";

    fn payment() -> Payment {
        let customer =
            Customer { name: "A".into(), email: "a@b.cd".into(), phone: "+4930123".into() };
        Payment::open(OrderId::of_key("1"), customer, 900)
    }

    fn pay(attempt: u32, card: &str) -> Pay {
        Pay { attempt, card: card.into() }
    }

    #[test]
    fn a_declined_attempt_is_followed_by_the_next_and_a_made_one_by_none() {
        let mut payment = payment();
        let announced = payment.pay(&pay(1, BAD), "t").unwrap().unwrap();
        assert_eq!(announced[0].topic, Topic::PaymentsCreated);
        assert_eq!(payment.pay(&pay(1, BAD), "t"), Ok(None));
        assert_eq!(payment.pay(&pay(3, GOOD), "t"), Err(Refused::OutOfTurn { next: 2 }));
        let events = payment.pay(&pay(2, GOOD), "t").unwrap().unwrap();
        let topics: Vec<_> = events.iter().map(|event| event.topic).collect();
        assert_eq!(topics, [Topic::PaymentsMade, Topic::LoggingEvents]);
        let id = format!("{}.2", payment.order);
        assert!(events.iter().all(|event| event.data.payment_id.as_ref() == Some(&id)));
        assert_eq!(payment.pay(&pay(2, GOOD), "t"), Ok(None));
        assert_eq!(payment.pay(&pay(3, GOOD), "t"), Err(Refused::Paid { by: 2 }));
        let other = Err(Refused::OtherCard { number: 2, next: 3 });
        assert_eq!(payment.pay(&pay(2, "4000 0566 5566 5556"), "t"), other);
        assert_eq!(payment.announce("t"), []);
    }

    #[test]
    fn card_numbers_are_checked() {
        for good in [GOOD, "4242424242424242", "5555 5555 5555 4444", "378282246310005"] {
            assert!(is_card(&digits(good)), "{good}");
        }
        for bad in [BAD, "", "0000", "42424242424242424242", "4242 4242 4242 424x"] {
            assert!(!is_card(&digits(bad)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_it_is_paid_at_most_once(
            asked in prop::collection::vec((0_u32..14, prop::bool::ANY), 0..60),
        ) {
            let (mut payment, mut made) = (payment(), 0);
            for (attempt, good) in asked {
                let before = payment.clone();
                match payment.pay(&pay(attempt, if good { GOOD } else { BAD }), "t") {
                    Ok(Some(events)) => {
                        made += events.iter().filter(|e| e.topic == Topic::PaymentsMade).count();
                    }
                    Ok(None) | Err(_) => prop_assert_eq!(&before, &payment),
                }
            }
            prop_assert!(made <= 1);
            prop_assert_eq!(made == 1, payment.made().is_some());
            let numbers = payment.attempts.iter().map(|attempt| attempt.number);
            prop_assert!(numbers.eq(1..=payment.attempts.len() as u32));
        }
    }
}
