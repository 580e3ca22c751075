//! Typed reading of a volume's records, for operations and questions alike.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::codec::wire::{Code, CodecError};
use crate::codec::{self, ChunkRef, Head};
use crate::ids::{ChunkId, Ino, SpaceId, VolumeId};
use crate::keys;
use crate::name::{Name, XattrName};
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Attr, Dirent, Extent, Inode};
use crate::refusal::Refusal;
use crate::view::{View, ViewError};

/// A record that does not decode means a damaged store, or bytes of a newer version.
pub(crate) fn damaged(key: &[u8], err: &CodecError) -> ViewError {
    ViewError(format!("record {key:02x?}: {err}"))
}

pub(crate) fn get<T: Code>(view: &dyn View, key: &[u8]) -> Result<Option<T>, ViewError> {
    view.get(key)?.map(|bytes| codec::decode(&bytes).map_err(|err| damaged(key, &err))).transpose()
}

pub(crate) fn get_born<T: Code>(view: &dyn View, key: &[u8]) -> Result<Option<T>, ViewError> {
    view.get(key)?.map(|bytes| born(key, &bytes)).transpose()
}

/// The value of a volume's record.
pub(crate) fn born<T: Code>(key: &[u8], bytes: &[u8]) -> Result<T, ViewError> {
    let (_, value) = codec::decode_born(bytes).map_err(|err| damaged(key, &err))?;
    Ok(value)
}

/// Scans until `each` breaks or fails.
pub(crate) fn scan(
    view: &dyn View,
    (from, to): (Bytes, Bytes),
    mut each: impl FnMut(&[u8], &Bytes) -> Result<ControlFlow<()>, ViewError>,
) -> Result<(), ViewError> {
    let mut failed = None;
    view.scan(&from, &to, &mut |key, value| match each(key, value) {
        Ok(flow) => flow,
        Err(err) => {
            failed = Some(err);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

pub(crate) fn head(view: &dyn View, volume: VolumeId) -> Result<Head, Fail> {
    get(view, &keys::head(volume))?.ok_or_else(|| Refusal::NoVolume { what: volume.to_string() }.into())
}

pub(crate) fn inode_if(view: &dyn View, volume: VolumeId, ino: Ino) -> Result<Option<Inode>, ViewError> {
    get_born(view, &keys::inode(volume, ino))
}

pub(crate) fn inode(view: &dyn View, volume: VolumeId, ino: Ino) -> Result<Inode, Fail> {
    inode_if(view, volume, ino)?.ok_or_else(|| Refusal::NoInode { volume, ino }.into())
}

/// An inode that a record of the same volume names, so that its absence is damage.
pub(crate) fn named_inode(view: &dyn View, volume: VolumeId, ino: Ino) -> Result<Inode, ViewError> {
    inode_if(view, volume, ino)?
        .ok_or_else(|| ViewError(format!("volume {volume} names inode {ino}, which is missing")))
}

pub(crate) fn dirent(view: &dyn View, volume: VolumeId, dir: Ino, name: &Name) -> Result<Option<Dirent>, ViewError> {
    get_born(view, &keys::dirent(volume, dir, name))
}

pub(crate) fn xattr(view: &dyn View, volume: VolumeId, ino: Ino, name: &XattrName) -> Result<Option<Bytes>, ViewError> {
    get_born(view, &keys::xattr(volume, ino, name))
}

pub(crate) fn chunk_ref(view: &dyn View, space: SpaceId, chunk: ChunkId) -> Result<Option<ChunkRef>, ViewError> {
    get(view, &keys::chunk(space, chunk))
}

/// The extents of a file's present map that end behind `offset`, in order, until `each` breaks.
pub(crate) fn extents(
    view: &dyn View,
    volume: VolumeId,
    ino: Ino,
    generation: u32,
    offset: u64,
    mut each: impl FnMut(Extent) -> ControlFlow<()>,
) -> Result<(), ViewError> {
    scan(view, keys::extents(volume, ino, generation, offset), |key, value| Ok(each(born(key, value)?)))
}

/// What stat shows of an inode.
pub(crate) fn attr(volume: VolumeId, ino: Ino, inode: &Inode) -> Attr {
    Attr {
        volume,
        ino,
        kind: inode.kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink,
        size: inode.size,
        allocated: inode.allocated,
        rdev: inode.rdev,
        atime: inode.atime,
        mtime: inode.mtime,
        ctime: inode.ctime,
        btime: inode.btime,
        generation: inode.generation,
        version: inode.version,
        parent: inode.parent,
        acl: inode.acl.clone(),
        default_acl: inode.default_acl.clone(),
    }
}
