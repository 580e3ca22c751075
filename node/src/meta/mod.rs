//! The metadata side of a node: groups of records, each replicated with Raft.
//!
//! [`Groups`] holds all groups of the node, [`Group`] is one of them. `raft/` is the replica (openraft, and nothing else
//! knows it), `log/` the segment log that all of them share, `machine` applies what is committed to the records.
//! [`MetaService`] answers clients, [`RaftService`] the other replicas; `duties` are what a leader does unasked.
//!
//! What always holds: a reply is sent only after the entry is on a majority's media and applied; the log is given back
//! only up to what the record store has made durable; a replica that lost records neither answers nor leads; a node whose
//! log lost something is another member of its groups from then on (`forsake`).

pub(crate) mod compact;
mod duties;
mod forsake;
mod garbage;
mod group;
mod groups;
mod history;
mod leases;
pub mod log;
mod machine;
mod marks;
mod orphans;
mod raft;
mod reads;
mod replicas;
mod service;
mod sessions;
mod spool;
mod upload;

pub use group::Group;
pub use groups::Groups;
pub use history::read_log;
pub use raft::GroupStatus;
#[doc(hidden)]
pub use raft::codec::fuzzing as raft_fuzzing;
pub use replicas::RaftService;
pub use service::MetaService;

#[cfg(test)]
mod tests;
