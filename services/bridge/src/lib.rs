//! Bridges: Kafka topics into the log and back, each record once.
