//! The operator: work from a queue becomes Kubernetes Jobs, each once.
