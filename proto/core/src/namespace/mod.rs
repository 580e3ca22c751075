//! The namespace of volumes: files, directories and what belongs to them, as records of a meta group.
//!
//! [`crate::machine::apply`] is the only door for change; one file per operation under `ops/`. [`query`] answers
//! questions. Nothing here keeps state: everything is in the records of the view.

pub(crate) mod fail;
pub mod inode;
pub mod op;
pub mod outcome;
pub mod query;
pub mod step;
pub mod volume;
