//! Open files: reading, writing and what makes written data durable.

use bytes::Bytes;
use weft_client::{AllocateMode, Attr, Cred, File, Refusal};

use super::names::permissions;
use super::{Answer, State, parse_name};
use crate::handles::OpenFile;
use crate::inodes::Place;
use crate::request::{Created, Errno, HandleId, NodeId, Opened, Process};

/// The kernel opens a program to run it with this flag beside `O_RDONLY`: the right to execute is needed, not to read.
const FMODE_EXEC: i32 = 0x20;
/// Most bytes that one copy reports: the answer has 32 bits.
const MAX_COPY: u64 = 1 << 30;

/// A byte of an open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) handle: HandleId,
    pub(super) offset: u64,
}

impl State {
    pub(super) async fn open(&self, process: Process, node: NodeId, flags: i32) -> Answer<Opened> {
        let place = self.place(node)?;
        let cred = self.cred(process);
        let (read, write) = rights(flags);
        let file = match place.volume.open(&cred, place.ino, read, write).await {
            Err(error) if error.refusal() == Some(&Refusal::Denied) && flags & FMODE_EXEC != 0 => {
                place.volume.access(&cred, place.ino, 1).await?;
                place.volume.open(&Cred::root(), place.ino, read, write).await?
            }
            opened => opened?,
        };
        let attr = file.attr().await?;
        Ok(self.opened(node, file, &attr, flags).await)
    }

    /// Gives an open file its handle. The kernel keeps its pages if they are of this version, and asks for the size
    /// again if it was told that of another one: who opens after a close elsewhere sees what was written there.
    async fn opened(&self, node: NodeId, file: File, attr: &Attr, flags: i32) -> Opened {
        let (_, writable) = rights(flags);
        self.claim_own_changes(node);
        let known = self.inodes.known(node, attr.version);
        if !known.attributes {
            self.notices.drop_attributes(node).await;
        }
        self.inodes.cached(node, attr.version);
        Opened {
            handle: self.handles.open_file(OpenFile { node, file, writable }),
            keep_cache: known.pages,
            no_flush: !writable,
            // The end may not be where the kernel believes it is, and its pages would then show the bytes elsewhere.
            direct: flags & libc::O_ACCMODE == libc::O_WRONLY && flags & libc::O_APPEND != 0,
        }
    }

    pub(super) async fn create(
        &self,
        process: Process,
        parent: NodeId,
        name: Bytes,
        (mode, umask): (u32, u16),
        flags: i32,
    ) -> Answer<Created> {
        let place = self.place(parent)?;
        let (cred, name) = (Cred { umask, ..self.cred(process) }, parse_name(name)?);
        let exclusive = flags & libc::O_EXCL != 0;
        let made = place.volume.create_file(&cred, place.ino, name, permissions(mode), exclusive).await;
        let (mut file, mut attr, fresh) = match made {
            // Something else got the name since the kernel looked: this makes it look again.
            Err(error) if !exclusive && error.errno() == libc::EEXIST => return Err(Errno(libc::ESTALE)),
            made => made?,
        };
        if fresh {
            self.inodes.entry_changed(parent, &attr, false);
        } else {
            // The kernel believes that the file is new and checks nothing.
            (file, attr) = self.open_found(&cred, &place, attr, flags).await?;
        }
        let entry = self.entry(&place.volume, attr.clone(), None).await?;
        let opened = self.opened(entry.node, file, &attr, flags).await;
        Ok(Created { entry, opened })
    }

    /// A file without a name in the volume of a directory; a link gives it one.
    pub(super) async fn tmpfile(
        &self,
        process: Process,
        parent: NodeId,
        (mode, umask): (u32, u16),
        flags: i32,
    ) -> Answer<Created> {
        let place = self.place(parent)?;
        let cred = Cred { umask, ..self.cred(process) };
        let (file, attr) = place.volume.create_nameless(&cred, place.ino, permissions(mode)).await?;
        let entry = self.entry(&place.volume, attr.clone(), None).await?;
        let opened = self.opened(entry.node, file, &attr, flags).await;
        Ok(Created { entry, opened })
    }

    async fn open_found(
        &self,
        cred: &Cred,
        place: &Place<weft_client::Volume>,
        found: Attr,
        flags: i32,
    ) -> Answer<(File, Attr)> {
        let (read, write) = rights(flags);
        let file = place.volume.open(cred, found.ino, read, write).await?;
        let attr = if flags & libc::O_TRUNC != 0 && write {
            let attr = file.truncate(0).await?;
            self.made(self.sibling(place, attr.ino), &attr);
            attr
        } else {
            file.attr().await?
        };
        Ok((file, attr))
    }

    pub(super) async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Answer<Bytes> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        Ok(open.file.read_at(offset, len as usize).await?)
    }

    pub(super) async fn write(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        data: Bytes,
        (flags, kill_suid): (i32, bool),
    ) -> Answer<u32> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        let len = data.len() as u32;
        if kill_suid {
            open.file.forgo_privilege();
        }
        if flags & libc::O_APPEND != 0 {
            let at = open.file.append(data).await?;
            if at != offset {
                tracing::debug!(node = node.0, at, offset, "the file's end was elsewhere than the kernel thought");
            }
        } else {
            open.file.write_at(offset, data).await?;
        }
        if flags & (libc::O_SYNC | libc::O_DSYNC) != 0 {
            self.commit(node, &open).await?;
        }
        Ok(len)
    }

    pub(super) async fn flush(&self, node: NodeId, handle: HandleId) -> Answer<()> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        if open.writable { self.commit(node, &open).await } else { Ok(()) }
    }

    /// A descriptor was closed: durable then, or below a write lease within a second.
    pub(super) async fn closed(&self, node: NodeId, handle: HandleId) -> Answer<()> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        if !open.writable {
            return Ok(());
        }
        let result = open.file.close().await;
        self.inodes.changed(node);
        self.claim_own_changes(node);
        Ok(result?)
    }

    async fn commit(&self, node: NodeId, open: &OpenFile) -> Answer<()> {
        let result = open.file.flush().await;
        self.inodes.changed(node);
        self.claim_own_changes(node);
        Ok(result?)
    }

    pub(super) async fn release(&self, node: NodeId, handle: HandleId) {
        let Some(open) = self.handles.close_file(handle) else { return };
        if let Err(error) = open.file.close().await {
            tracing::warn!(node = node.0, %error, "write what was left at the close of a file");
        }
        if open.writable {
            self.inodes.changed(node);
            let (version, ours_since) = open.file.versions();
            self.inodes.own_changes(node, ours_since, version);
        }
    }

    pub(super) async fn fallocate(
        &self,
        process: Process,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Answer<()> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        let mode = allocate_mode(mode).ok_or(Errno(libc::EOPNOTSUPP))?;
        let attr = open.file.volume().allocate(&self.cred(process), open.file.ino(), mode, offset, len).await?;
        self.made(node, &attr);
        Ok(())
    }

    pub(super) async fn lseek(&self, handle: HandleId, offset: i64, whence: i32) -> Answer<u64> {
        let open = self.handles.file(handle).ok_or(Errno(libc::EBADF))?;
        let offset = u64::try_from(offset).map_err(|_| Errno(libc::ENXIO))?;
        let found = match whence {
            libc::SEEK_DATA => open.file.seek_data(offset).await?,
            libc::SEEK_HOLE => open.file.seek_hole(offset).await?,
            _ => return Err(Errno(libc::EINVAL)),
        };
        found.ok_or(Errno(libc::ENXIO))
    }

    pub(super) async fn copy_range(
        &self,
        process: Process,
        source: Spot,
        (target_node, target): (NodeId, Spot),
        len: u64,
    ) -> Answer<u64> {
        let from = self.handles.file(source.handle).ok_or(Errno(libc::EBADF))?;
        let to = self.handles.file(target.handle).ok_or(Errno(libc::EBADF))?;
        let cred = self.cred(process);
        let len = len.min(MAX_COPY);
        let (volume, ino) = (from.file.volume(), from.file.ino());
        let (copied, attr) =
            volume.copy_range(&cred, ino, source.offset, to.file.volume(), to.file.ino(), target.offset, len).await?;
        self.made(target_node, &attr);
        Ok(copied)
    }
}

/// Whether a file opened so may be read and written.
fn rights(flags: i32) -> (bool, bool) {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        _ => (true, true),
    }
}

fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(AllocateMode::Reserve),
        KEEP => Some(AllocateMode::ReserveKeepSize),
        PUNCH => Some(AllocateMode::PunchHole),
        ZERO => Some(AllocateMode::ZeroRange),
        ZERO_KEEP => Some(AllocateMode::ZeroRangeKeepSize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_follow_the_open_flags() {
        assert_eq!(rights(libc::O_RDONLY | libc::O_NONBLOCK), (true, false));
        assert_eq!(rights(libc::O_WRONLY | libc::O_APPEND), (false, true));
        assert_eq!(rights(libc::O_RDWR), (true, true));
    }

    #[test]
    fn fallocate_modes_that_are_not_kept_are_refused() {
        assert_eq!(allocate_mode(0), Some(AllocateMode::Reserve));
        assert_eq!(
            allocate_mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            Some(AllocateMode::PunchHole)
        );
        assert_eq!(allocate_mode(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(allocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE), None);
    }
}
