//! The backend on Kafka.

mod watermark;
