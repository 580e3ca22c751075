//! Extended attributes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_client::{Attr, XattrMode, XattrName};

use super::{Answer, State};
use crate::request::{Errno, NodeId, Process, Xattr};

/// Kept by no volume: labels and capabilities of programs are not honoured on a mount. Answered here, since `ls` and
/// every start of a program ask.
const UNSUPPORTED: [&[u8]; 2] = [b"security.selinux", b"security.capability"];
/// What access lists show as.
const ACL: &[u8] = b"system.posix_acl_";
/// How long it is believed that an inode has no access list: as long as the kernel may believe its mode.
const BELIEVED: Duration = Duration::from_secs(1);
/// Nodes remembered at the most; when there are more, all are forgotten.
const REMEMBERED: usize = 65_536;

/// Inodes that had no access list when the kernel was last told their attributes: `ls -l` asks for the list of each file
/// right behind its attributes.
#[derive(Default)]
pub(super) struct PlainNodes(Mutex<BTreeMap<NodeId, Known>>);

#[derive(Clone, Copy)]
enum Known {
    Plain(Instant),
    /// Its list was set: attributes that were asked for before may still be on their way.
    Changed(Instant),
}

impl PlainNodes {
    /// The kernel is told these attributes.
    pub(super) fn told(&self, node: NodeId, attr: &Attr) {
        let mut plain = self.0.lock();
        if matches!(plain.get(&node), Some(Known::Changed(at)) if at.elapsed() < BELIEVED) {
            return;
        }
        if attr.acl.is_some() || attr.default_acl.is_some() {
            plain.remove(&node);
            return;
        }
        if plain.len() >= REMEMBERED {
            plain.clear();
        }
        plain.insert(node, Known::Plain(Instant::now()));
    }

    fn changed(&self, node: NodeId) {
        self.0.lock().insert(node, Known::Changed(Instant::now()));
    }

    fn knows(&self, node: NodeId) -> bool {
        matches!(self.0.lock().get(&node), Some(Known::Plain(told)) if told.elapsed() < BELIEVED)
    }
}

impl State {
    pub(super) async fn set_xattr(
        &self,
        process: Process,
        node: NodeId,
        name: Bytes,
        value: Bytes,
        flags: i32,
    ) -> Answer<()> {
        let place = self.place(node)?;
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let name = parse(name)?;
        let result = place.volume.set_xattr(&self.cred(process), place.ino, name, value, mode).await;
        self.plain.changed(node);
        self.inodes.changed(node);
        result?;
        Ok(())
    }

    pub(super) async fn get_xattr(&self, process: Process, node: NodeId, name: Bytes, size: u32) -> Answer<Xattr> {
        let place = self.place(node)?;
        if name.starts_with(ACL) && self.plain.knows(node) {
            return Err(Errno(libc::ENODATA));
        }
        let name = parse(name)?;
        let value = place.volume.get_xattr(&self.cred(process), place.ino, name).await?;
        sized(value, size)
    }

    pub(super) async fn list_xattr(&self, process: Process, node: NodeId, size: u32) -> Answer<Xattr> {
        let place = self.place(node)?;
        let names = place.volume.list_xattr(&self.cred(process), place.ino).await?;
        let mut list = BytesMut::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names {
            list.extend_from_slice(&name);
            list.extend_from_slice(&[0]);
        }
        sized(list.freeze(), size)
    }

    pub(super) async fn remove_xattr(&self, process: Process, node: NodeId, name: Bytes) -> Answer<()> {
        let place = self.place(node)?;
        let name = parse(name)?;
        place.volume.remove_xattr(&self.cred(process), place.ino, name).await?;
        self.inodes.changed(node);
        Ok(())
    }
}

fn parse(name: Bytes) -> Answer<XattrName> {
    if UNSUPPORTED.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    XattrName::parse(name).map_err(|refusal| Errno(refusal.errno()))
}

/// The bytes, if the asker gave room for them; how many there are, if it asked for that.
fn sized(bytes: Bytes, size: u32) -> Answer<Xattr> {
    let len = bytes.len() as u32;
    match size {
        0 => Ok(Xattr::Len(len)),
        size if len <= size => Ok(Xattr::Bytes(bytes)),
        _ => Err(Errno(libc::ERANGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_given_when_there_is_room_for_it() {
        let value = Bytes::from_static(b"four");
        assert_eq!(sized(value.clone(), 0), Ok(Xattr::Len(4)));
        assert_eq!(sized(value.clone(), 4), Ok(Xattr::Bytes(value.clone())));
        assert_eq!(sized(value, 3), Err(Errno(libc::ERANGE)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_inode_without_a_list_is_known_for_as_long_as_its_mode() {
        let plain = PlainNodes::default();
        let attr = Attr {
            volume: weft_core::ids::VolumeId(1),
            ino: weft_core::ids::Ino(5),
            kind: weft_client::Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            allocated: 0,
            rdev: 0,
            atime: Default::default(),
            mtime: Default::default(),
            ctime: Default::default(),
            btime: Default::default(),
            generation: 0,
            version: 1,
            parent: weft_core::ids::Ino(0),
            acl: None,
            default_acl: None,
        };
        let node = NodeId(5);
        assert!(!plain.knows(node));
        plain.told(node, &attr);
        assert!(plain.knows(node));
        tokio::time::sleep(BELIEVED).await;
        assert!(!plain.knows(node), "another mount may have set one");
        // Attributes that were asked for before the list was set come late.
        plain.changed(node);
        plain.told(node, &attr);
        assert!(!plain.knows(node));
    }

    #[test]
    fn what_no_volume_keeps_is_not_asked_for() {
        for name in ["security.selinux", "security.capability"] {
            assert_eq!(parse(Bytes::from_static(name.as_bytes())), Err(Errno(libc::EOPNOTSUPP)));
        }
        assert!(parse(Bytes::from_static(b"user.comment")).is_ok());
    }
}
