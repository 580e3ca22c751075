//! The namespace of volumes: files, directories and what belongs to them, as records of a meta group.
//!
//! [`crate::machine::apply`] is the only door for change; one file per operation under `ops/`. [`query`] answers
//! questions. Nothing here keeps state: everything is in the records of the view.

pub mod audit;
pub mod compact;
pub(crate) mod fail;
pub mod garbage;
pub mod inode;
pub mod lease;
pub(crate) mod map;
pub mod op;
pub(crate) mod ops;
pub mod outcome;
pub mod query;
pub(crate) mod records;
pub mod recount;
pub mod search;
pub(crate) mod session;
pub mod step;
pub(crate) mod tx;
pub mod volume;
