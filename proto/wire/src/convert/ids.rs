//! Identities made of several numbers, and names that are not of the namespace.

use weft_core::ids::{ChunkId, ClientId, Incarnation, Ino, NodeId, ReplicaId, VolumeId};
use weft_core::limits::MAX_NAME;
use weft_core::refusal::Refusal;

use super::{invalid, need};
use crate::pb;

/// A chunk's id as it is sent.
pub fn chunk_ref(chunk: ChunkId) -> pb::ChunkRef {
    pb::ChunkRef { client: chunk.client.0, counter: chunk.counter }
}

/// Takes a chunk's id.
///
/// # Errors
/// It is missing.
pub fn parse_chunk_ref(wire: Option<pb::ChunkRef>) -> Result<ChunkId, Refusal> {
    let wire = need(wire, "a chunk id")?;
    Ok(ChunkId { client: ClientId(wire.client), counter: wire.counter })
}

/// A replica's id as it is sent.
pub fn replica(replica: ReplicaId) -> pb::Replica {
    pb::Replica { node: replica.node.0, incarnation: replica.incarnation.0 }
}

/// Takes a replica's id.
///
/// # Errors
/// It is missing.
pub fn parse_replica(wire: Option<pb::Replica>) -> Result<ReplicaId, Refusal> {
    let wire = need(wire, "a replica id")?;
    Ok(ReplicaId { node: NodeId(wire.node), incarnation: Incarnation(wire.incarnation) })
}

/// An inode of some volume as it is sent.
pub fn inode_ref(volume: VolumeId, ino: Ino) -> pb::InodeRef {
    pb::InodeRef { volume: volume.0, ino: ino.0 }
}

/// Takes an inode of some volume.
///
/// # Errors
/// The inode number has more than 40 bits.
pub fn parse_inode_ref(wire: pb::InodeRef) -> Result<(VolumeId, Ino), Refusal> {
    Ok((VolumeId(wire.volume), parse_ino(wire.ino)?))
}

pub(super) fn parse_ino(ino: u64) -> Result<Ino, Refusal> {
    if ino > Ino::MAX.0 {
        return Err(invalid(format!("inode number {ino} has more than 40 bits")));
    }
    Ok(Ino(ino))
}

/// Checks and takes a volume's name: 1 to 255 characters of `A-Z a-z 0-9 . _ -`, the first a letter, digit or `_`.
///
/// # Errors
/// It is too long or has other characters.
pub fn parse_volume_name(name: String) -> Result<String, Refusal> {
    if name.len() > MAX_NAME {
        return Err(Refusal::NameTooLong { len: name.len() as u64 });
    }
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !good || !name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(invalid(format!(
            "{name:?} is no name for a volume: letters, digits, `_`, `-` and `.`, not beginning with `-` or `.`"
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_back_as_sent() {
        let chunk = ChunkId { client: ClientId(7), counter: u64::MAX };
        assert_eq!(parse_chunk_ref(Some(chunk_ref(chunk))), Ok(chunk));
        let member = ReplicaId { node: NodeId(3), incarnation: Incarnation(u64::MAX) };
        assert_eq!(parse_replica(Some(replica(member))), Ok(member));
        assert_eq!(parse_inode_ref(inode_ref(VolumeId(2), Ino::MAX)), Ok((VolumeId(2), Ino::MAX)));
        assert!(parse_inode_ref(pb::InodeRef { volume: 2, ino: 1 << 40 }).is_err());
        assert!(parse_chunk_ref(None).is_err());
        assert!(parse_replica(None).is_err());
    }

    #[test]
    fn volume_names() {
        for good in ["root", "a", "Team_7", "x-1.2", "_"] {
            assert_eq!(parse_volume_name(good.into()), Ok(good.to_string()));
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a\0", "ü"] {
            assert!(parse_volume_name(bad.into()).is_err(), "{bad:?}");
        }
        assert_eq!(parse_volume_name("x".repeat(256)), Err(Refusal::NameTooLong { len: 256 }));
    }
}
