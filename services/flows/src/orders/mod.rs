//! Orders: a customer orders, pays, and follows the order through seven stages until it is there.
//!
//! ```text
//! POST /orders ─► ordering ── orders-created ──► payment ── payments-created ─┐
//!                    ▲  ▲                        POST /payments/{order}       │
//!                    │  └──────────── payments-made ◄─────┘ ◄────────────────┘
//!                    ├── orders-ready-to-ship ──► delivery ── delivery-shipping ─┐
//!                    │                            PUT /deliveries/{order}/...    │
//!                    └◄── delivery-shipped, delivery-delivered ◄─────────────────┘
//!                    └── orders-shipping, orders-shipped, orders-delivered
//!
//! notification, mobile, email ◄── the seven facts: orders-* and payments-*
//! logging                     ◄── logging-events, of ordering, payment and delivery
//! ```
//!
//! The state machine is in [`journey`]; how a change and what is published because of it stay
//! together is in `desk`. Everything that arrives twice is recognised by what it is about: an order
//! by its idempotency key, a payment by order and attempt, a claim by its stage, a notice by order
//! and stage. Nothing is decided by a clock or by who is first.
//!
//! # Where the document contradicts itself
//!
//! - **The notification topic** is struck out, and the cycle still uses it. It is out: eleven
//!   topics remain, as counted. Whoever was to listen to it listens to the facts themselves,
//!   `orders-*` and `payments-*`, one topic for each stage.
//! - **Notification** is called a producer, and there is nothing left to produce to. It consumes, as
//!   the table of topics says, and files what each customer is to be told; mobile and e-mail
//!   consume too, each in its own group, and send. Neither waits for notification.
//! - **The delivery topics** list notification as a consumer. They are reports; what ordering makes
//!   of them is the fact. A customer hears of a stage once, when it is recorded, not twice, and never
//!   of a report that is held.
//! - **Payments are created** by the payment system, by the table, and by the order service, by the
//!   list of stages. The order service makes the payment together with the order, so that whoever
//!   has its URL can pay at once; the payment system hears of it by `orders-created` and says
//!   `payments-created`. The URL is made of the order's id: answering needs no call to anyone.
//! - **Ordering follows the payment topics**, as the cycle says and the table does not.
//! - **"Shipped" by REST or by topic**: both. Couriers report to the delivery system over REST, and
//!   it tells ordering by topic, so that a report is taken while ordering is away.
//! - **Instances**: two of ordering and of payment, in groups of these names, in each process that
//!   runs the role; more processes join the same groups.
//!
//! # What holds
//!
//! Each order enters its stages in order, each once; no order is made twice for an idempotency key,
//! no payment twice for an order. Each customer gets one text and one e-mail for each stage; where a
//! process dies between sending and recording, the same once more under the same id (for e-mails the
//! `Message-ID`). A customer's notices are not ordered among each other. Events are CloudEvents in
//! JSON, keyed by the order.
//!
//! There is no authentication: the roles listen where they are told, loopback by default.

mod crew;
mod desk;
mod event;
mod follow;
mod http;
pub mod journey;
mod notice;
mod order;
mod payment;
pub mod roles;
mod settings;
mod sinks;
mod smtp;
mod stage;
mod topic;
mod topology;

pub use event::{Event, Facts};
pub use notice::{Channel, Notice};
pub use order::{BadField, Customer, Item, NewOrder, Order, OrderId, Step};
pub use payment::{Attempt, Pay, Payment, Refused};
pub(crate) use settings::SETTINGS;
pub use settings::Settings;
pub use sinks::{Sink, Sinks, Told, Unsent};
pub use stage::Stage;
pub use topic::Topic;
pub use topology::{DEAD_LETTERS, prepare_with};

use futures_util::FutureExt;

use crate::flow::Flow;

/// The flow.
pub const FLOW: Flow = Flow {
    name: "orders",
    about: "A customer orders, pays, and follows the order until it is delivered",
    roles: roles::ROLES,
    prepare: |context| topology::prepare(context).boxed(),
};
