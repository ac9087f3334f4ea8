//! The operator: work from a queue becomes Kubernetes Jobs, each once.
//!
//! It needs one namespace, no custom resources and no cluster role. It takes **prefill tasks** from
//! Lockgate's work queue: for each it makes a suspended Job and the ConfigMap that is its input,
//! releases at most so many at a time, the oldest first, holds the task's lease meanwhile, reports
//! the outcome, and settles the task only then ([`plan`] has the steps, [`conclude`] the outcomes).
//! And it gives any other **work queue** as many Jobs as its backlog needs ([`queue_plan`]).
//!
//! Two functions without side effects decide; [`prefills`] and [`queues`] look, ask them, and act
//! through [`cluster`]. Nothing is remembered from one look to the next, so that a process that is
//! killed between any two steps leaves nothing that the next one does not find and finish.
//!
//! What the API server is asked, it is asked without a cache: a look begins with a consistent list,
//! and where that fails nothing is done. A watch says only when to look.

pub mod cluster;
pub mod conclude;
pub mod config;
mod connections;
pub mod health;
pub mod manifest;
pub mod metrics;
pub mod names;
pub mod operator;
pub mod plan;
pub mod pod;
pub mod prefills;
pub mod queue_plan;
pub mod queues;
pub mod tasks;

pub use cluster::Cluster;
pub use config::{Config, ConfigError};
pub use health::Health;
pub use metrics::Metrics;
pub use operator::Operator;
