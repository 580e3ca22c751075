//! What Weft's processes say to each other: the protobuf schema, the gRPC code made from it, conversions between wire
//! and core types, and connections tuned for both small calls and chunks. The only crate that knows prost.

pub mod convert;
#[doc(hidden)]
pub mod fuzzing;
pub mod link;
pub mod status;
pub mod trust;

/// The generated messages, clients and servers.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod pb {
    tonic::include_proto!("weft.v1");
}

/// The protocol version spoken here: in every envelope, refused when different.
pub const PROTOCOL: u32 = 1;
