//! The chunk server: immutable runs of bytes, replicated over the members of a placement group.

pub mod index;
