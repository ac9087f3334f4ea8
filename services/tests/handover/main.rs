//! The invariants of the handover (README, "Invariants") under fault injection: a deterministic
//! simulation first, real processes second, and a naive handover that must fail both.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod checker;
mod clients;
mod foreign;
mod naive;
mod processes;
mod simulation;
mod truth;
mod wire;
mod world;
