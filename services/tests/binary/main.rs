//! The binary as people run it: commands, shutdown, and a bus that goes away and comes back.

#![allow(clippy::expect_used)]

mod commands;
mod configuration;
mod doctor;
mod folder;
mod outage;
mod prefill_job;
mod realms;
mod shutdown;
mod support;
mod terminal;
