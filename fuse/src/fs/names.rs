//! Names: looking them up, making, moving and removing them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_client::{Attr, Cred, Found, Kind, RenameMode, Volume};

use super::{Answer, State, TRIES, parse_name};
use crate::request::{Entry, Errno, NodeId, Process};

impl State {
    pub(super) async fn lookup(&self, cred: &Cred, parent: NodeId, name: Bytes) -> Answer<Entry> {
        let place = self.place(parent)?;
        let name = parse_name(name)?;
        let mut left = TRIES;
        loop {
            left -= 1;
            let (asked, at) = (self.inodes.now(), Instant::now());
            match place.volume.lookup(cred, place.ino, name.clone()).await? {
                Found::Inode(attr) => {
                    let node = self.sibling(&place, attr.ino);
                    if self.inodes.unchanged_since(node, asked) {
                        let entry = self.entry(&place.volume, attr, None).await?;
                        self.inodes.learn_dir(node, &entry.attr, asked, at);
                        return Ok(entry);
                    }
                    if left == 0 {
                        let entry = self.entry(&place.volume, attr, None).await?;
                        return Ok(Entry { ttl: Duration::ZERO, ..entry });
                    }
                }
                Found::Junction(slot) => {
                    let volume = place.volume.follow(slot).await?;
                    let attr = self.root_attr(cred, &volume).await?;
                    return self.entry(&volume, attr, Some(parent)).await;
                }
            }
        }
    }

    /// Attributes of a volume's root, as who crosses a junction to it sees them.
    pub(super) async fn root_attr(&self, cred: &Cred, volume: &Volume) -> Answer<Attr> {
        Ok(volume.getattr(cred, weft_client::Ino::ROOT).await?)
    }

    pub(super) async fn readlink(&self, process: Process, node: NodeId) -> Answer<Bytes> {
        let place = self.place(node)?;
        Ok(place.volume.readlink(&self.cred(process), place.ino).await?)
    }

    pub(super) async fn mknod(
        &self,
        process: Process,
        parent: NodeId,
        name: Bytes,
        (mode, umask): (u32, u16),
        rdev: u32,
    ) -> Answer<Entry> {
        let place = self.place(parent)?;
        let kind = match mode & libc::S_IFMT {
            // No kind means a regular file, as mknod(2) says.
            0 | libc::S_IFREG => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let (cred, name) = (Cred { umask, ..self.cred(process) }, parse_name(name)?);
        let attr = place.volume.mknod(&cred, place.ino, name, kind, permissions(mode), rdev).await?;
        self.inodes.entry_changed(parent, &attr, false);
        self.entry(&place.volume, attr, None).await
    }

    pub(super) async fn mkdir(
        &self,
        process: Process,
        parent: NodeId,
        name: Bytes,
        (mode, umask): (u32, u16),
    ) -> Answer<Entry> {
        let place = self.place(parent)?;
        let cred = Cred { umask, ..self.cred(process) };
        let attr = place.volume.mkdir(&cred, place.ino, parse_name(name)?, permissions(mode)).await?;
        self.inodes.entry_changed(parent, &attr, false);
        self.entry(&place.volume, attr, None).await
    }

    pub(super) async fn symlink(&self, process: Process, parent: NodeId, name: Bytes, target: Bytes) -> Answer<Entry> {
        let place = self.place(parent)?;
        let attr = place.volume.symlink(&self.cred(process), place.ino, parse_name(name)?, target).await?;
        self.inodes.entry_changed(parent, &attr, false);
        self.entry(&place.volume, attr, None).await
    }

    pub(super) async fn link(&self, process: Process, node: NodeId, parent: NodeId, name: Bytes) -> Answer<Entry> {
        let (source, place) = (self.place(node)?, self.place(parent)?);
        if source.volume.id() != place.volume.id() {
            return Err(Errno(libc::EXDEV));
        }
        let attr = place.volume.link(&self.cred(process), source.ino, place.ino, parse_name(name)?).await?;
        self.inodes.changed(node);
        self.inodes.entry_changed(parent, &attr, false);
        self.entry(&place.volume, attr, None).await
    }

    pub(super) async fn unlink(&self, process: Process, parent: NodeId, name: Bytes) -> Answer<()> {
        let place = self.place(parent)?;
        let attr = place.volume.unlink(&self.cred(process), place.ino, parse_name(name)?).await?;
        self.inodes.changed(self.sibling(&place, attr.ino));
        self.inodes.entry_changed(parent, &attr, true);
        Ok(())
    }

    pub(super) async fn rmdir(&self, process: Process, parent: NodeId, name: Bytes) -> Answer<()> {
        let place = self.place(parent)?;
        let attr = place.volume.rmdir(&self.cred(process), place.ino, parse_name(name)?).await?;
        self.inodes.renamed(self.sibling(&place, attr.ino));
        self.inodes.entry_changed(parent, &attr, true);
        Ok(())
    }

    pub(super) async fn rename(
        &self,
        process: Process,
        (parent, name): (NodeId, Bytes),
        (new_parent, new_name): (NodeId, Bytes),
        flags: u32,
    ) -> Answer<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let (source, target) = (self.place(parent)?, self.place(new_parent)?);
        if source.volume.id() != target.volume.id() {
            return Err(Errno(libc::EXDEV));
        }
        let (name, new_name) = (parse_name(name)?, parse_name(new_name)?);
        let cred = self.cred(process);
        let same = (source.ino, &name) == (target.ino, &new_name);
        let renamed = source.volume.rename(&cred, source.ino, name, target.ino, new_name, mode).await?;
        let moved = renamed.attr;
        self.inodes.changed(self.sibling(&source, moved.ino));
        if let Some(replaced) = &renamed.replaced {
            self.inodes.renamed(self.sibling(&source, replaced.ino));
        }
        // Two names of one file: nothing may have happened. What was exchanged is told of one side alone.
        if same || (moved.nlink > 1 && moved.kind != Kind::Directory) || mode == RenameMode::Exchange {
            self.inodes.renamed(parent);
            self.inodes.renamed(new_parent);
            return Ok(());
        }
        self.inodes.entry_moved(parent, new_parent, &moved, renamed.replaced.as_ref());
        Ok(())
    }
}

/// The permission bits of a mode; the umask goes to the servers beside it.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}
