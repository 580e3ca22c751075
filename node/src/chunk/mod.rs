//! The chunk server: immutable runs of bytes, replicated over the members of a placement group.
//!
//! `store` keeps chunks on one disk: packed into large recycled segments (`format`, `segment`, `tend`), put into the
//! index when they are on media (`settle`), found again at a start (`recover`); the room of what is void goes back to the
//! disk (`give_back`). It never changes a chunk, and never
//! answers a put before it would survive a crash.
//!
//! `service` answers clients: a put is stored here and on the other members (`forward`) and acknowledged only under the
//! `right` to do so. `server` holds it all together.
//!
//! `catchup` fetches what was written while this server was away; `compare` finds what is missing here, by digests
//! (`digest`); `scrub` rereads everything, slowly; `heal` puts a whole copy (`fetch`) in place of what reads, rereading
//! and comparing found damaged or missing (`sick`: the list).

mod books;
mod catchup;
mod compare;
pub(crate) mod delete;
mod digest;
mod fetch;
mod format;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod give_back;
mod heads;
mod heal;
pub mod index;
mod orphans;
mod recover;
mod right;
mod scrub;
mod segment;
pub mod server;
pub mod service;
mod settle;
mod sick;
pub mod store;
mod tend;

pub use catchup::Tally;
pub(crate) use forward::peer;
pub use server::{ChunkHealth, ChunkServer, HeartbeatFacts};

#[cfg(test)]
mod tests;
