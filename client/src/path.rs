//! Walking paths: directories, junctions into other volumes, symbolic links.

use std::collections::VecDeque;

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::Ino;
use weft_core::name::Name;
use weft_core::namespace::inode::{Attr, Kind};
use weft_core::namespace::query::Found;
use weft_core::refusal::Refusal;
use weft_core::site::ROOT_VOLUME;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::volume::Volume;

/// Symbolic links followed in one path (as Linux does): ELOOP beyond.
const MAX_FOLLOWED: u32 = 40;

/// What a path leads to.
#[derive(Clone)]
pub struct Resolved {
    /// The volume it ends in: behind a junction, the volume there.
    pub volume: Volume,
    /// What it leads to there; behind a junction, that volume's root.
    pub found: Attr,
}

/// The directory of a path's last name.
#[derive(Clone)]
pub struct ResolvedParent {
    /// The directory's volume.
    pub volume: Volume,
    /// The directory.
    pub parent: Ino,
    /// The last name, which may or may not exist.
    pub name: Name,
}

impl Client {
    /// Walks a path from the root volume's root through directories, junctions and symbolic links; a symbolic link at
    /// the end is not followed. Names are separated by `/`, `.` and `..` mean what they mean everywhere.
    ///
    /// # Errors
    /// As those of path lookup in POSIX: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG.
    pub async fn resolve(&self, cred: &Cred, path: &[u8]) -> Result<Resolved> {
        self.walk(cred, path, false).await
    }

    /// The same, and a symbolic link at the end is followed.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn resolve_follow(&self, cred: &Cred, path: &[u8]) -> Result<Resolved> {
        self.walk(cred, path, true).await
    }

    /// Walks to the directory of a path's last name, which need not exist.
    ///
    /// # Errors
    /// As [`Client::resolve`]; EINVAL for a path without a last name, such as `/` or `a/..`.
    pub async fn resolve_parent(&self, cred: &Cred, path: &[u8]) -> Result<ResolvedParent> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let name = Name::parse(Bytes::copy_from_slice(&path[start..end]))?;
        let at = self.walk(cred, &path[..start], true).await?;
        if at.found.kind != Kind::Directory {
            return Err(Error::Refused(Refusal::NotDirectory { ino: at.found.ino }));
        }
        Ok(ResolvedParent { volume: at.volume, parent: at.found.ino, name })
    }

    async fn walk(&self, cred: &Cred, path: &[u8], follow_last: bool) -> Result<Resolved> {
        let root = self.root_of(cred, self.volume(ROOT_VOLUME).await?).await?;
        let mut trail = vec![root];
        let mut left: VecDeque<Bytes> = components(path);
        let mut followed = 0;
        while let Some(component) = left.pop_front() {
            let here = trail[trail.len() - 1].clone();
            if here.found.kind != Kind::Directory {
                return Err(Error::Refused(Refusal::NotDirectory { ino: here.found.ino }));
            }
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    if trail.len() > 1 {
                        trail.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let found = match here.volume.lookup(cred, here.found.ino, Name::parse(component)?).await? {
                Found::Inode(found) => found,
                Found::Junction(slot) => {
                    trail.push(self.root_of(cred, self.follow(slot).await?).await?);
                    continue;
                }
            };
            if found.kind != Kind::Symlink || (left.is_empty() && !follow_last) {
                trail.push(Resolved { volume: here.volume, found });
                continue;
            }
            followed += 1;
            if followed > MAX_FOLLOWED {
                return Err(Error::Refused(Refusal::TooDeep));
            }
            let target = here.volume.readlink(cred, found.ino).await?;
            if target.first() == Some(&b'/') {
                trail.truncate(1);
            }
            for component in components(&target).into_iter().rev() {
                left.push_front(component);
            }
        }
        Ok(trail.swap_remove(trail.len() - 1))
    }

    async fn root_of(&self, cred: &Cred, volume: Volume) -> Result<Resolved> {
        let found = volume.getattr(cred, Ino::ROOT).await?;
        Ok(Resolved { volume, found })
    }
}

/// A slash at the end asks for a directory: it leaves an empty last name, which only a directory has.
fn components(path: &[u8]) -> VecDeque<Bytes> {
    let all: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let last = all.len() - 1;
    all.into_iter()
        .enumerate()
        .filter(|(at, name)| !name.is_empty() || *at == last)
        .map(|(_, name)| Bytes::copy_from_slice(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_at_its_slashes() {
        let names = |path: &[u8]| components(path).iter().map(|name| name.to_vec()).collect::<Vec<_>>();
        assert_eq!(names(b"/a//b"), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(names(b"a/"), [b"a".to_vec(), b"".to_vec()]);
        assert_eq!(names(b"/"), [b"".to_vec()]);
        assert_eq!(names(b""), [b"".to_vec()]);
    }
}
