//! The types that openraft is told to work with.

use std::fmt;

use bytes::Bytes;
use weft_core::ids::ReplicaId;
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;

use super::states::States;

/// Where a member answers, `host:port`, as it was when the member was added. The site map, where newer, goes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`.
    pub(crate) addr: String,
}

/// What one log entry says: an encoded [`weft_core::entry::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What came of an entry; `None` for those that openraft adds itself. Never leaves the process.
pub(crate) type Reply = Option<Result<Outcome, Refusal>>;

openraft::declare_raft_types!(
    /// Members are replicas: a node and the life of its data folder.
    pub(crate) TypeConfig:
        D = Payload,
        R = Reply,
        NodeId = ReplicaId,
        Node = Address,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, States>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::alias::EntryPayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<ReplicaId, Address>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, super::states::Image>;
