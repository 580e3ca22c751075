//! A volume in its group.

use crate::ids::{SlotId, SpaceId, VolumeId};

/// Makes the records of a volume in its group: head, root directory, slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its space, which lives in this group.
    pub space: SpaceId,
    /// The slot that holds it.
    pub slot: SlotId,
    /// Mode of the root directory.
    pub mode: u16,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
}
