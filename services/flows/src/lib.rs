//! Flows: small systems on the bus, each a set of roles that run together or one by one.
//!
//! A flow is a folder with a `FLOW`, and a line in [`FLOWS`]. Its roles are small files on `bus`: one
//! that is started with others in a process does not know it, and each runs on every backend that has
//! what it needs.

mod counters;
mod flow;
mod http;
mod run;
mod settings;

pub mod medicine;
pub mod medisupply;
pub mod orders;
pub mod profile;

pub use counters::{Counter, Counters, Gauge, Reading};
pub use flow::{Context, Failure, Flow, Launch, Role, Tell};
pub use run::run;
pub use settings::{Kind, Setting, Settings};

/// Every flow.
pub const FLOWS: &[&Flow] = &[&medicine::FLOW, &orders::FLOW, &profile::FLOW, &medisupply::FLOW];

/// What can be set of a flow, where anything can.
const SETTINGS: &[(&str, &[&Setting])] = &[
    ("medicine", medicine::SETTINGS),
    ("orders", orders::SETTINGS),
    ("profile", profile::SETTINGS),
    ("medisupply", medisupply::SETTINGS),
];

impl Flow {
    /// The flow of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FLOWS.iter().copied().find(|flow| flow.name == name)
    }

    /// What can be set of it.
    pub fn settings(&self) -> &'static [&'static Setting] {
        let of = SETTINGS.iter().find(|(name, _)| *name == self.name);
        of.map_or(&[], |(_, settings)| settings)
    }

    /// Its role of this name.
    pub fn role(&'static self, name: &str) -> Option<&'static Role> {
        self.roles.iter().find(|role| role.name == name)
    }
}
