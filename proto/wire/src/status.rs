//! Refusals as gRPC statuses and back: one table.
