//! Extended attributes.

use bytes::{Bytes, BytesMut};
use weft_client::{XattrMode, XattrName};

use super::{Answer, State};
use crate::request::{Errno, NodeId, Process, Xattr};

/// Kept by no volume: rights are the mode bits, labels and capabilities of programs are not honoured on a mount.
/// Answered here, since `ls` and every start of a program ask.
const UNSUPPORTED: [&[u8]; 3] = [b"system.posix_acl_", b"security.selinux", b"security.capability"];

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
        place.volume.set_xattr(&self.cred(process), place.ino, name, value, mode).await?;
        self.inodes.changed(node);
        Ok(())
    }

    pub(super) async fn get_xattr(&self, process: Process, node: NodeId, name: Bytes, size: u32) -> Answer<Xattr> {
        let place = self.place(node)?;
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

    #[test]
    fn what_no_volume_keeps_is_not_asked_for() {
        for name in ["system.posix_acl_access", "security.selinux", "security.capability"] {
            assert_eq!(parse(Bytes::from_static(name.as_bytes())), Err(Errno(libc::EOPNOTSUPP)));
        }
        assert!(parse(Bytes::from_static(b"user.comment")).is_ok());
    }
}
