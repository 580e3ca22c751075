//! Background work in bounded pieces, proposed by the leader and finished by whoever leads.

mod drop;
mod take;

pub(crate) use self::drop::drop_volume;
pub(crate) use self::take::{finish_cut, forget, reap};
use super::compact::Piece;
use crate::ids::{ChunkId, Ino, PgId, SpaceId, VolumeId};

/// One piece of background work. `Stepped`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Removes up to [`crate::limits::STEP_RECORDS`] records of orphans that no session claims, one orphan after the other; the
    /// inode of each goes last. Only the first [`crate::limits::STEP_ORPHANS`] are looked at.
    ReapOrphans {
        /// In which volume.
        volume: VolumeId,
        /// Which.
        inos: Vec<Ino>,
    },
    /// Removes up to [`crate::limits::STEP_RECORDS`] extents that a truncation cut off.
    FinishCut {
        /// In which volume.
        volume: VolumeId,
        /// Of which file.
        ino: Ino,
    },
    /// Forgets freed chunks that all members of their placement groups have deleted. Those whose uploader's session
    /// has not ended stay, so that they can't be named again. At most [`crate::limits::STEP_RECORDS`].
    ForgetFreed {
        /// In which space.
        space: SpaceId,
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// Deletes a volume: the first step makes it unknown to every operation and question, each later one removes up to
    /// [`crate::limits::STEP_RECORDS`] of its records. That it was here is remembered, so that it is not made again.
    DropVolume {
        /// Which.
        volume: VolumeId,
    },
    /// Bytes of a file's extent records now lie in a chunk that is durable ([`super::compact`]): stretches that are still
    /// as they were when they were gathered become pieces of it. `more`: the file waits for more of this.
    Compact {
        /// In which volume.
        volume: VolumeId,
        /// Of which file.
        ino: Ino,
        /// Uploaded by this session.
        chunk: ChunkId,
        /// Where its replicas are.
        pg: PgId,
        /// The stretches, in the order in which the chunk holds them; at most [`crate::limits::STEP_RECORDS`].
        pieces: Vec<Piece>,
    },
}

/// Work that waits in a group's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingSteps {
    /// Inodes without a name; each may be reaped once no session claims it.
    pub orphans: Vec<(VolumeId, Ino)>,
    /// Files with extents beyond a cut, or of an earlier map generation.
    pub cuts: Vec<(VolumeId, Ino)>,
}
