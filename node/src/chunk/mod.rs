//! The chunk server: immutable runs of bytes, replicated over the members of a placement group.
//!
//! `store` keeps chunks on one disk: packed into large recycled segments (`format`, `segment`, `tend`), put into the
//! index when they are on media (`settle`), found again at a start (`recover`). It never changes a chunk, and never
//! answers a put before it would survive a crash.

pub(crate) mod books;
pub(crate) mod format;
pub(crate) mod heads;
pub mod index;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod settle;
pub mod store;
pub(crate) mod tend;
