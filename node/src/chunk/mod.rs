//! The chunk server: immutable runs of bytes, replicated over the members of a placement group.
//!
//! `store` keeps chunks on one disk: packed into large recycled segments (`format`, `segment`, `tend`), put into the
//! index when they are on media (`settle`), found again at a start (`recover`); the room of what is void goes back to the
//! disk (`give_back`). It never changes a chunk, and never
//! answers a put before it would survive a crash.
//!
//! `service` answers clients: a put is stored here and on the other members (`forward`) and acknowledged only under the
//! `right` to do so. `catchup` fetches what was written while this server was away. `server` holds it all together.

mod books;
mod catchup;
pub(crate) mod delete;
mod format;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod give_back;
mod heads;
pub mod index;
mod orphans;
mod recover;
mod right;
mod segment;
pub mod server;
pub mod service;
mod settle;
pub mod store;
mod tend;

pub use server::{ChunkServer, HeartbeatFacts};

#[cfg(test)]
mod tests;
