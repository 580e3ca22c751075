//! Bytes of what openraft keeps in the log and sends between replicas. Each top-level value begins with a version;
//! whatever comes from a disk or a peer is parsed with every length checked, and garbage is an error.

#[doc(hidden)]
pub mod fuzzing;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use weft_core::ids::{Incarnation, NodeId, ReplicaId};

use super::types::{
    Address, Entry, EntryPayload, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, TypeConfig,
    Vote,
};

/// The version written before every top-level value.
const VERSION: u8 = 1;
/// Bytes of an address at the most.
const MAX_ADDR: usize = 1024;
/// Members of a group, or entries of a message, at the most: far beyond any real one.
const MAX_COUNT: usize = 1 << 16;

/// The bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("garbled {what}")]
pub(crate) struct Garbled {
    /// What was being read.
    pub(crate) what: &'static str,
}

impl From<Garbled> for std::io::Error {
    fn from(garbled: Garbled) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, garbled)
    }
}

/// A value with a byte form of its own.
pub(crate) trait Wire: Sized {
    /// What it is called in errors.
    const WHAT: &'static str;
    /// Appends its bytes.
    fn write(&self, out: &mut BytesMut);
    /// Takes its bytes from the front.
    fn read(from: &mut Bytes) -> Result<Self, Garbled>;
}

/// The bytes of a value, with the version before it.
pub(crate) fn encode<T: Wire>(value: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(VERSION);
    value.write(&mut out);
    out.freeze()
}

/// The value of whole bytes. What they hold is shared, not copied.
///
/// # Errors
/// They are of another version, cut short, too long, or say what can't be.
pub(crate) fn decode<T: Wire>(bytes: Bytes) -> Result<T, Garbled> {
    let mut bytes = bytes;
    if take_u8(&mut bytes, T::WHAT)? != VERSION {
        return Err(Garbled { what: T::WHAT });
    }
    let value = T::read(&mut bytes)?;
    if bytes.has_remaining() { Err(Garbled { what: T::WHAT }) } else { Ok(value) }
}

fn take_u8(from: &mut Bytes, what: &'static str) -> Result<u8, Garbled> {
    if from.remaining() < 1 { Err(Garbled { what }) } else { Ok(from.get_u8()) }
}

fn take_u32(from: &mut Bytes, what: &'static str) -> Result<u32, Garbled> {
    if from.remaining() < 4 { Err(Garbled { what }) } else { Ok(from.get_u32()) }
}

fn take_u64(from: &mut Bytes, what: &'static str) -> Result<u64, Garbled> {
    if from.remaining() < 8 { Err(Garbled { what }) } else { Ok(from.get_u64()) }
}

fn take_count(from: &mut Bytes, what: &'static str) -> Result<usize, Garbled> {
    let count = take_u32(from, what)? as usize;
    if count > MAX_COUNT || count > from.remaining() { Err(Garbled { what }) } else { Ok(count) }
}

fn take_bytes(from: &mut Bytes, what: &'static str) -> Result<Bytes, Garbled> {
    let len = take_u32(from, what)? as usize;
    if len > from.remaining() { Err(Garbled { what }) } else { Ok(from.split_to(len)) }
}

impl Wire for bool {
    const WHAT: &'static str = "flag";
    fn write(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    fn read(from: &mut Bytes) -> Result<bool, Garbled> {
        match take_u8(from, Self::WHAT)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbled { what: Self::WHAT }),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    const WHAT: &'static str = T::WHAT;
    fn write(&self, out: &mut BytesMut) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }
    fn read(from: &mut Bytes) -> Result<Option<T>, Garbled> {
        Ok(if bool::read(from)? { Some(T::read(from)?) } else { None })
    }
}

impl Wire for ReplicaId {
    const WHAT: &'static str = "replica id";
    fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.node.0);
        out.put_u64(self.incarnation.0);
    }
    fn read(from: &mut Bytes) -> Result<ReplicaId, Garbled> {
        let node = NodeId(take_u32(from, Self::WHAT)?);
        Ok(ReplicaId { node, incarnation: Incarnation(take_u64(from, Self::WHAT)?) })
    }
}

impl Wire for Vote {
    const WHAT: &'static str = "vote";
    fn write(&self, out: &mut BytesMut) {
        self.leader_id.write(out);
        self.committed.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Vote, Garbled> {
        Ok(Vote { leader_id: LeaderId::read(from)?, committed: bool::read(from)? })
    }
}

impl Wire for LogId {
    const WHAT: &'static str = "log id";
    fn write(&self, out: &mut BytesMut) {
        self.leader_id.write(out);
        out.put_u64(self.index);
    }
    fn read(from: &mut Bytes) -> Result<LogId, Garbled> {
        let leader = LeaderId::read(from)?;
        // One below the end, so that "the next index" always exists.
        match take_u64(from, Self::WHAT)? {
            u64::MAX => Err(Garbled { what: Self::WHAT }),
            index => Ok(LogId::new(leader, index)),
        }
    }
}

impl Wire for LeaderId {
    const WHAT: &'static str = "leader id";
    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.term);
        self.node_id.write(out);
    }
    fn read(from: &mut Bytes) -> Result<LeaderId, Garbled> {
        Ok(LeaderId::new(take_u64(from, Self::WHAT)?, ReplicaId::read(from)?))
    }
}

impl Wire for Membership {
    const WHAT: &'static str = "membership";
    fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.get_joint_config().len() as u32);
        for voters in self.get_joint_config() {
            out.put_u32(voters.len() as u32);
            for voter in voters {
                voter.write(out);
            }
        }
        out.put_u32(self.nodes().count() as u32);
        for (id, node) in self.nodes() {
            id.write(out);
            out.put_u32(node.addr.len() as u32);
            out.put_slice(node.addr.as_bytes());
        }
    }
    fn read(from: &mut Bytes) -> Result<Membership, Garbled> {
        let mut configs = Vec::new();
        for _ in 0..take_count(from, Self::WHAT)? {
            let mut voters = BTreeSet::new();
            for _ in 0..take_count(from, Self::WHAT)? {
                voters.insert(ReplicaId::read(from)?);
            }
            configs.push(voters);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..take_count(from, Self::WHAT)? {
            let id = ReplicaId::read(from)?;
            let addr = take_bytes(from, Self::WHAT)?;
            let addr = std::str::from_utf8(&addr).ok().filter(|addr| addr.len() <= MAX_ADDR);
            let addr = addr.ok_or(Garbled { what: Self::WHAT })?.to_string();
            nodes.insert(id, Address { addr });
        }
        Membership::new(configs, nodes).map_err(|_| Garbled { what: Self::WHAT })
    }
}

impl Wire for StoredMembership {
    const WHAT: &'static str = "stored membership";
    fn write(&self, out: &mut BytesMut) {
        self.log_id().write(out);
        self.membership().write(out);
    }
    fn read(from: &mut Bytes) -> Result<StoredMembership, Garbled> {
        let log_id = Option::read(from)?;
        Ok(StoredMembership::new(log_id, Membership::read(from)?))
    }
}

impl Wire for SnapshotMeta {
    const WHAT: &'static str = "snapshot meta";
    fn write(&self, out: &mut BytesMut) {
        self.last_log_id.write(out);
        self.last_membership.write(out);
    }
    fn read(from: &mut Bytes) -> Result<SnapshotMeta, Garbled> {
        let last_log_id = Option::read(from)?;
        Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::read(from)? })
    }
}

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

impl Wire for Entry {
    const WHAT: &'static str = "log entry";
    fn write(&self, out: &mut BytesMut) {
        self.log_id.write(out);
        match &self.payload {
            EntryPayload::Blank => out.put_u8(BLANK),
            EntryPayload::Normal(Payload(bytes)) => {
                out.put_u8(NORMAL);
                out.put_u32(bytes.len() as u32);
                out.put_slice(bytes);
            }
            EntryPayload::Membership(membership) => {
                out.put_u8(MEMBERSHIP);
                membership.write(out);
            }
        }
    }
    fn read(from: &mut Bytes) -> Result<Entry, Garbled> {
        let log_id = LogId::read(from)?;
        let payload = match take_u8(from, Self::WHAT)? {
            BLANK => EntryPayload::Blank,
            NORMAL => EntryPayload::Normal(Payload(take_bytes(from, Self::WHAT)?)),
            MEMBERSHIP => EntryPayload::Membership(Membership::read(from)?),
            _ => return Err(Garbled { what: Self::WHAT }),
        };
        Ok(Entry { log_id, payload })
    }
}

/// Bytes of an entry besides its payload.
pub(crate) const ENTRY_HEAD: usize = 64;

/// [`encode`] of an entry into a buffer of the right size.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let payload = match &entry.payload {
        EntryPayload::Normal(Payload(bytes)) => bytes.len(),
        EntryPayload::Blank => 0,
        EntryPayload::Membership(_) => 256,
    };
    let mut out = BytesMut::with_capacity(ENTRY_HEAD + payload);
    out.put_u8(VERSION);
    entry.write(&mut out);
    out.freeze()
}

impl Wire for AppendEntriesRequest<TypeConfig> {
    const WHAT: &'static str = "append request";
    fn write(&self, out: &mut BytesMut) {
        let payloads: usize = self.entries.iter().map(entry_len).sum();
        out.reserve(payloads + 128);
        self.vote.write(out);
        self.prev_log_id.write(out);
        self.leader_commit.write(out);
        out.put_u32(self.entries.len() as u32);
        for entry in &self.entries {
            entry.write(out);
        }
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let vote = Vote::read(from)?;
        let prev_log_id: Option<LogId> = Option::read(from)?;
        let leader_commit = Option::read(from)?;
        let count = take_count(from, Self::WHAT)?;
        let mut entries = Vec::with_capacity(count.min(4096));
        let mut next = prev_log_id.map_or(0, |prev| prev.index + 1);
        for at in 0..count {
            let entry = Entry::read(from)?;
            // openraft takes it for granted that entries follow each other.
            if entry.log_id.index != next && (at > 0 || prev_log_id.is_some()) {
                return Err(Garbled { what: Self::WHAT });
            }
            next = entry.log_id.index + 1;
            entries.push(entry);
        }
        Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
    }
}

/// About how many bytes an entry takes.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    ENTRY_HEAD
        + match &entry.payload {
            EntryPayload::Normal(Payload(bytes)) => bytes.len(),
            EntryPayload::Blank => 0,
            EntryPayload::Membership(membership) => membership.nodes().count() * 64,
        }
}

impl Wire for AppendEntriesResponse<TypeConfig> {
    const WHAT: &'static str = "append response";
    fn write(&self, out: &mut BytesMut) {
        match self {
            AppendEntriesResponse::Success => out.put_u8(0),
            AppendEntriesResponse::PartialSuccess(matching) => {
                out.put_u8(1);
                matching.write(out);
            }
            AppendEntriesResponse::Conflict => out.put_u8(2),
            AppendEntriesResponse::HigherVote(vote) => {
                out.put_u8(3);
                vote.write(out);
            }
        }
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        Ok(match take_u8(from, Self::WHAT)? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(Option::read(from)?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(Vote::read(from)?),
            _ => return Err(Garbled { what: Self::WHAT }),
        })
    }
}

impl Wire for StreamAppendResult<TypeConfig> {
    const WHAT: &'static str = "append answer";
    fn write(&self, out: &mut BytesMut) {
        match self {
            Ok(matching) => {
                out.put_u8(0);
                matching.write(out);
            }
            Err(StreamAppendError::Conflict(at)) => {
                out.put_u8(1);
                at.write(out);
            }
            Err(StreamAppendError::HigherVote(vote)) => {
                out.put_u8(2);
                vote.write(out);
            }
        }
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        Ok(match take_u8(from, Self::WHAT)? {
            0 => Ok(Option::read(from)?),
            1 => Err(StreamAppendError::Conflict(LogId::read(from)?)),
            2 => Err(StreamAppendError::HigherVote(Vote::read(from)?)),
            _ => return Err(Garbled { what: Self::WHAT }),
        })
    }
}

impl Wire for VoteRequest<TypeConfig> {
    const WHAT: &'static str = "vote request";
    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        self.last_log_id.write(out);
        self.leadership_transfer.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let vote = Vote::read(from)?;
        let last_log_id = Option::read(from)?;
        Ok(VoteRequest { vote, last_log_id, leadership_transfer: bool::read(from)? })
    }
}

impl Wire for VoteResponse<TypeConfig> {
    const WHAT: &'static str = "vote response";
    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        self.vote_granted.write(out);
        self.last_log_id.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let vote = Vote::read(from)?;
        let vote_granted = bool::read(from)?;
        Ok(VoteResponse { vote, vote_granted, last_log_id: Option::read(from)? })
    }
}

impl Wire for TransferLeaderRequest<TypeConfig> {
    const WHAT: &'static str = "transfer request";
    fn write(&self, out: &mut BytesMut) {
        self.from_leader().write(out);
        self.to_node_id().write(out);
        self.last_log_id().copied().write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let leader = Vote::read(from)?;
        let to = ReplicaId::read(from)?;
        Ok(TransferLeaderRequest::new(leader, to, Option::read(from)?))
    }
}

impl Wire for TransferLeaderResponse<TypeConfig> {
    const WHAT: &'static str = "transfer response";
    fn write(&self, out: &mut BytesMut) {
        match self {
            Ok(()) => out.put_u8(0),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                out.put_u8(1);
                expected.write(out);
                actual.write(out);
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                out.put_u8(2);
                expected.write(out);
                actual.write(out);
            }
        }
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        Ok(match take_u8(from, Self::WHAT)? {
            0 => Ok(()),
            1 => {
                let expected = Vote::read(from)?;
                Err(TransferLeaderError::VoteChanged { expected, actual: Vote::read(from)? })
            }
            2 => {
                let expected = Option::read(from)?;
                Err(TransferLeaderError::LogNotFlushed { expected, actual: Option::read(from)? })
            }
            _ => return Err(Garbled { what: Self::WHAT }),
        })
    }
}

impl Wire for SnapshotResponse<TypeConfig> {
    const WHAT: &'static str = "snapshot response";
    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        Ok(SnapshotResponse::new(Vote::read(from)?))
    }
}

/// Where a log begins: the last entry given back, and who was a member then. With it a replica that lost its records
/// still knows its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PurgeMark {
    /// The last entry given back.
    pub(crate) log_id: LogId,
    /// The members as of some entry at or after it.
    pub(crate) membership: StoredMembership,
}

impl Wire for PurgeMark {
    const WHAT: &'static str = "purge mark";
    fn write(&self, out: &mut BytesMut) {
        self.log_id.write(out);
        self.membership.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let log_id = LogId::read(from)?;
        Ok(PurgeMark { log_id, membership: StoredMembership::read(from)? })
    }
}

/// How far the records of a store have come: kept among them, written in one batch with what the entries changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last entry applied.
    pub(crate) applied: Option<LogId>,
    /// The members as of it.
    pub(crate) membership: StoredMembership,
}

impl Wire for Position {
    const WHAT: &'static str = "position";
    fn write(&self, out: &mut BytesMut) {
        self.applied.write(out);
        self.membership.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let applied = Option::read(from)?;
        Ok(Position { applied, membership: StoredMembership::read(from)? })
    }
}

/// What goes before a snapshot's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    /// The sender's vote.
    pub(crate) vote: Vote,
    /// What the snapshot covers.
    pub(crate) meta: SnapshotMeta,
    /// Whether the receiver asked for it, since it lost its records.
    pub(crate) asked: bool,
}

impl Wire for SnapshotHead {
    const WHAT: &'static str = "snapshot head";
    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        self.meta.write(out);
        self.asked.write(out);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let vote = Vote::read(from)?;
        let meta = SnapshotMeta::read(from)?;
        Ok(SnapshotHead { vote, meta, asked: bool::read(from)? })
    }
}

/// Some records of a snapshot, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotPiece {
    /// Keys and values.
    pub(crate) records: Vec<(Bytes, Bytes)>,
}

impl Wire for SnapshotPiece {
    const WHAT: &'static str = "snapshot piece";
    fn write(&self, out: &mut BytesMut) {
        out.reserve(self.records.iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>() + 8);
        out.put_u32(self.records.len() as u32);
        for (key, value) in &self.records {
            out.put_u32(key.len() as u32);
            out.put_slice(key);
            out.put_u32(value.len() as u32);
            out.put_slice(value);
        }
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let count = take_u32(from, Self::WHAT)? as usize;
        if count > from.remaining() {
            return Err(Garbled { what: Self::WHAT });
        }
        let mut records = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            let key = take_bytes(from, Self::WHAT)?;
            records.push((key, take_bytes(from, Self::WHAT)?));
        }
        Ok(SnapshotPiece { records })
    }
}

/// What goes behind a snapshot's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotEnd {
    /// How many records were sent.
    pub(crate) records: u64,
    /// CRC-32 over the bytes of all pieces.
    pub(crate) sum: u32,
}

impl Wire for SnapshotEnd {
    const WHAT: &'static str = "snapshot end";
    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.records);
        out.put_u32(self.sum);
    }
    fn read(from: &mut Bytes) -> Result<Self, Garbled> {
        let records = take_u64(from, Self::WHAT)?;
        Ok(SnapshotEnd { records, sum: take_u32(from, Self::WHAT)? })
    }
}

#[cfg(test)]
mod tests;
