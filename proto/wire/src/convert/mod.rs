//! Wire messages to core types and back.
//!
//! The edge where bytes of strangers become values that are good everywhere: names are parsed, limits checked, unset
//! oneofs and unknown enum values refused, all exactly once and here. Nothing behind it checks again what a type says.
//! A request that does not parse is refused as what is wrong with it; an answer that does not parse is
//! [`Refusal::Unknown`](weft_core::refusal::Refusal::Unknown), since what was asked may have happened.

mod apply;
mod attr;
mod envelope;
mod extent;
mod ids;
mod query;
#[cfg(test)]
mod tests;

pub use apply::{ParsedApply, apply_reply, apply_request, parse_apply, parse_apply_reply};
pub use attr::{attr, parse_attr, parse_time, time};
pub use envelope::{Envelope, parse_envelope};
pub use extent::{extent, parse_extent};
pub use ids::{chunk_ref, inode_ref, parse_chunk_ref, parse_inode_ref, parse_replica, parse_volume_name, replica};
pub use query::{ParsedQuery, parse_query, parse_query_reply, query_reply, query_request};

use weft_core::refusal::Refusal;

pub(crate) fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Invalid { why: why.into() }
}

/// What a request may not be without.
fn need<T>(field: Option<T>, what: &str) -> Result<T, Refusal> {
    field.ok_or_else(|| invalid(format!("the message lacks {what}")))
}

/// An answer that can't be understood leaves open what happened.
fn garbled(refusal: Refusal) -> Refusal {
    Refusal::Unknown { why: format!("the answer can't be understood: {refusal}") }
}
