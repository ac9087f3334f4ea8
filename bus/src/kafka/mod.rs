//! The backend on Kafka.

mod desk;
mod lease;
mod token;
mod watermark;
