//! Layers around a call that can fail: deadline, bulkhead, circuit breaker, retry.
