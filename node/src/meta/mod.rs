//! The metadata side of a node: groups of records replicated with Raft.

pub mod log;
