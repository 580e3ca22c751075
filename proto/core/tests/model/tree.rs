//! A file system as plainly as can be: a map of inodes, files as maps from offset to byte. Slow and obvious.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::{ChunkId, ClientId, Ino, VolumeId};
use weft_core::namespace::inode::{Attr, Extent, ExtentBody, Kind};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

pub(crate) const VOLUME: VolumeId = VolumeId(7);
const ROOT: u64 = 1;

/// A byte of a file, and the chunk it lies in if it does.
pub(crate) type Byte = (u8, Option<ChunkId>);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Files: names. Directories: 1 while it has one.
    pub(crate) names: u32,
    pub(crate) size: u64,
    pub(crate) bytes: BTreeMap<u64, Byte>,
    pub(crate) entries: BTreeMap<Vec<u8>, u64>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Bytes>,
    pub(crate) parent: u64,
    pub(crate) target: Bytes,
    pub(crate) rdev: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) btime: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Shared with the copy that an operation may have to be undone to.
    pub(crate) nodes: BTreeMap<u64, Rc<Node>>,
    pub(crate) next: u64,
    pub(crate) freed: BTreeSet<ChunkId>,
    /// What was put into chunks by compaction.
    pub(crate) compacted: Rc<BTreeMap<ChunkId, Bytes>>,
    /// Files made without a name, that have not got one yet.
    never_named: BTreeSet<u64>,
    pub(crate) max_bytes: u64,
    pub(crate) max_inodes: u64,
    now: Timestamp,
}

/// The byte that chunk `chunk` has at `at`: whatever, but always the same.
pub(crate) fn chunk_byte(chunk: ChunkId, at: u32) -> u8 {
    (chunk.counter as u8).wrapping_mul(31).wrapping_add(at as u8)
}

/// The bytes that an extent of a client says, by offset.
fn extent_bytes(extent: &Extent) -> BTreeMap<u64, Byte> {
    known_bytes(extent, &BTreeMap::new())
}

/// The bytes that an extent says, by offset; those of some chunks are known.
pub(crate) fn known_bytes(extent: &Extent, known: &BTreeMap<ChunkId, Bytes>) -> BTreeMap<u64, Byte> {
    let byte = |i: u32| match &extent.body {
        ExtentBody::Chunk { chunk, at, .. } if known.contains_key(chunk) => {
            (known[chunk][(at + i) as usize], Some(*chunk))
        }
        ExtentBody::Chunk { chunk, at, .. } => (chunk_byte(*chunk, at + i), Some(*chunk)),
        ExtentBody::Inline(bytes) => (bytes[i as usize], None),
        ExtentBody::Zero => (0, None),
    };
    (0..extent.len).map(|i| (extent.offset + u64::from(i), byte(i))).collect()
}

type Answer = Result<Outcome, Refusal>;

impl Tree {
    pub(crate) fn new(now: Timestamp) -> Tree {
        let mut tree = Tree {
            nodes: BTreeMap::new(),
            next: ROOT,
            freed: BTreeSet::new(),
            compacted: Rc::default(),
            never_named: BTreeSet::new(),
            max_bytes: 0,
            max_inodes: 0,
            now,
        };
        tree.make(&Cred::root(), ROOT, Kind::Directory, 0o777);
        tree
    }

    /// Does the operation whole, or not at all.
    pub(crate) fn run(&mut self, now: Timestamp, client: ClientId, cred: &Cred, op: &Op) -> Answer {
        let mut after = self.clone();
        after.now = now;
        let outcome = after.try_op(client, cred, op)?;
        let grew = |now: u64, was: u64, max: u64| max != 0 && now > was && now > max;
        if grew(after.used(), self.used(), self.max_bytes)
            || grew(after.nodes.len() as u64, self.nodes.len() as u64, self.max_inodes)
        {
            return Err(Refusal::QuotaExceeded);
        }
        after.note_freed(self);
        *self = after;
        Ok(outcome)
    }

    pub(crate) fn reap(&mut self, ino: u64) {
        let before = self.clone();
        if self.nodes.get(&ino).is_some_and(|node| node.names == 0) {
            self.nodes.remove(&ino);
        }
        self.note_freed(&before);
    }

    /// Bytes of a file lie in a chunk from now on, and are the same.
    pub(crate) fn compact(&mut self, ino: u64, at: u64, chunk: ChunkId, bytes: &[u8]) {
        for (at, value) in (at..).zip(bytes) {
            let byte = self.node(ino).bytes.get_mut(&at).expect("no byte is made by compaction");
            assert_eq!(*byte, (*value, None), "byte {at} of inode {ino}");
            byte.1 = Some(chunk);
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.nodes.values().map(|node| node.bytes.len() as u64).sum()
    }

    pub(crate) fn named(&self) -> BTreeSet<ChunkId> {
        self.nodes.values().flat_map(|node| node.bytes.values()).filter_map(|(_, chunk)| *chunk).collect()
    }

    fn note_freed(&mut self, before: &Tree) {
        let same = |ino: &u64, was: &Rc<Node>| self.nodes.get(ino).is_some_and(|is| Rc::ptr_eq(is, was));
        let changed = before.nodes.iter().filter(|(ino, was)| !same(ino, was)).flat_map(|(_, was)| was.bytes.values());
        let lost: BTreeSet<ChunkId> = changed.filter_map(|(_, chunk)| *chunk).collect();
        if !lost.is_empty() {
            let named = self.named();
            self.freed.extend(lost.difference(&named));
        }
    }

    pub(crate) fn attr(&self, ino: u64) -> Attr {
        let node = &self.nodes[&ino];
        let directories = node.entries.values().filter(|ino| self.nodes[ino].kind == Kind::Directory).count() as u32;
        let directory = node.kind == Kind::Directory;
        Attr {
            volume: VOLUME,
            ino: Ino(ino),
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: if directory && node.names > 0 { 2 + directories } else { node.names },
            size: if directory { node.entries.len() as u64 } else { node.size },
            allocated: node.bytes.len() as u64,
            rdev: node.rdev,
            atime: node.atime,
            mtime: node.mtime,
            ctime: node.ctime,
            btime: node.btime,
            generation: 0,
            version: 0,
            parent: Ino(if directory { node.parent } else { 0 }),
            acl: None,
            default_acl: None,
        }
    }

    fn try_op(&mut self, client: ClientId, cred: &Cred, op: &Op) -> Answer {
        match op {
            Op::Lease { .. } | Op::Held { .. } => panic!("leases have tests of their own"),
            Op::Mkdir { parent, name, mode } => {
                self.free_name(cred, parent.0, name.as_bytes())?;
                let ino = self.make(cred, parent.0, Kind::Directory, mode & 0o1777);
                self.name(parent.0, name.as_bytes(), ino)
            }
            Op::Create { parent, name, mode, exclusive } => {
                self.search(cred, parent.0)?;
                match self.nodes[&parent.0].entries.get(name.as_bytes()).copied() {
                    Some(ino) if !exclusive && self.nodes[&ino].kind == Kind::File => {
                        return Ok(Outcome::Created { attr: self.attr(ino), fresh: false });
                    }
                    Some(ino) if !exclusive && self.nodes[&ino].kind == Kind::Directory => {
                        return Err(Refusal::IsDirectory { ino: Ino(ino) });
                    }
                    _ => self.free_name(cred, parent.0, name.as_bytes())?,
                }
                let ino = self.make(cred, parent.0, Kind::File, *mode);
                self.name(parent.0, name.as_bytes(), ino)
            }
            Op::Tmpfile { parent, mode } => {
                self.directory(parent.0)?;
                self.may(cred, parent.0, 3)?;
                let ino = self.make(cred, parent.0, Kind::File, *mode);
                self.node(ino).names = 0;
                self.never_named.insert(ino);
                Ok(Outcome::Created { attr: self.attr(ino), fresh: true })
            }
            Op::Mknod { parent, name, kind, mode, rdev } => {
                self.free_name(cred, parent.0, name.as_bytes())?;
                let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                if device && cred.uid != 0 {
                    return Err(Refusal::NotPermitted);
                }
                let ino = self.make(cred, parent.0, *kind, *mode);
                self.node(ino).rdev = if device { *rdev } else { 0 };
                self.name(parent.0, name.as_bytes(), ino)
            }
            Op::Symlink { parent, name, target } => {
                if target.is_empty() {
                    return Err(Refusal::NoEntry);
                }
                self.free_name(cred, parent.0, name.as_bytes())?;
                let ino = self.make(cred, parent.0, Kind::Symlink, 0o777);
                let node = self.node(ino);
                node.target = target.clone();
                node.size = target.len() as u64;
                self.name(parent.0, name.as_bytes(), ino)
            }
            Op::Link { ino, parent, name } => {
                self.there(ino.0)?;
                self.free_name(cred, parent.0, name.as_bytes())?;
                if self.nodes[&ino.0].kind == Kind::Directory {
                    return Err(Refusal::NotPermitted);
                }
                if self.nodes[&ino.0].names == 0 && !self.never_named.remove(&ino.0) {
                    return Err(Refusal::NoEntry);
                }
                self.node(ino.0).names += 1;
                self.name(parent.0, name.as_bytes(), ino.0)?;
                self.node(ino.0).ctime = self.now;
                Ok(Outcome::Attr(self.attr(ino.0)))
            }
            Op::Unlink { parent, name } => {
                let ino = self.victim(cred, parent.0, name.as_bytes())?;
                if self.nodes[&ino].kind == Kind::Directory {
                    return Err(Refusal::IsDirectory { ino: Ino(ino) });
                }
                self.unname(parent.0, name.as_bytes());
                Ok(Outcome::Removed { attr: self.attr(ino) })
            }
            Op::Rmdir { parent, name } => {
                let ino = self.victim(cred, parent.0, name.as_bytes())?;
                if self.nodes[&ino].kind != Kind::Directory {
                    return Err(Refusal::NotDirectory { ino: Ino(ino) });
                }
                if !self.nodes[&ino].entries.is_empty() {
                    return Err(Refusal::NotEmpty { ino: Ino(ino) });
                }
                self.unname(parent.0, name.as_bytes());
                Ok(Outcome::Removed { attr: self.attr(ino) })
            }
            Op::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename(cred, (parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()), *mode)
            }
            Op::Setattr { ino, set } => {
                self.there(ino.0)?;
                self.set(cred, ino.0, set, false)?;
                Ok(Outcome::Attr(self.attr(ino.0)))
            }
            Op::Truncate { ino, size, set, opened } => {
                self.file(ino.0)?;
                if !opened {
                    self.may(cred, ino.0, 2)?;
                }
                let node = self.node(ino.0);
                node.size = *size;
                node.bytes.retain(|at, _| at < size);
                self.written(cred, ino.0);
                self.set(cred, ino.0, set, true)?;
                Ok(Outcome::Attr(self.attr(ino.0)))
            }
            Op::Commit(commit) => self.commit(client, cred, commit),
            Op::Allocate { ino, mode, offset, len } => {
                self.file(ino.0)?;
                if *len == 0 {
                    return Err(Refusal::Invalid { why: String::new() });
                }
                let node = self.node(ino.0);
                for at in *offset..offset + len {
                    match mode {
                        AllocateMode::PunchHole => drop(node.bytes.remove(&at)),
                        AllocateMode::Reserve | AllocateMode::ReserveKeepSize => {
                            node.bytes.entry(at).or_insert((0, None));
                        }
                        AllocateMode::ZeroRange | AllocateMode::ZeroRangeKeepSize => {
                            node.bytes.insert(at, (0, None));
                        }
                    }
                }
                if matches!(mode, AllocateMode::Reserve | AllocateMode::ZeroRange) {
                    node.size = node.size.max(offset + len);
                }
                self.written(cred, ino.0);
                Ok(Outcome::Attr(self.attr(ino.0)))
            }
            Op::CopyRange { source, source_offset, target, target_offset, len, .. } => {
                self.copy(cred, (source.0, *source_offset), (target.0, *target_offset), *len)
            }
            Op::SetXattr { ino, name, value, mode } => {
                self.there(ino.0)?;
                self.may_xattr(cred, ino.0, name.as_bytes())?;
                match (self.nodes[&ino.0].xattrs.contains_key(name.as_bytes()), mode) {
                    (true, XattrMode::Create) => return Err(Refusal::XattrExists),
                    (false, XattrMode::Replace) => return Err(Refusal::NoXattr),
                    _ => {}
                }
                self.node(ino.0).xattrs.insert(name.as_bytes().to_vec(), value.clone());
                self.node(ino.0).ctime = self.now;
                Ok(Outcome::Done)
            }
            Op::RemoveXattr { ino, name } => {
                self.there(ino.0)?;
                self.may_xattr(cred, ino.0, name.as_bytes())?;
                self.node(ino.0).xattrs.remove(name.as_bytes()).ok_or(Refusal::NoXattr)?;
                self.node(ino.0).ctime = self.now;
                Ok(Outcome::Done)
            }
            Op::MakeJunction { .. } | Op::RemoveJunction { .. } => panic!("junctions have tests of their own"),
        }
    }

    fn node(&mut self, ino: u64) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&ino).expect("it was asked for before"))
    }

    fn there(&self, ino: u64) -> Result<(), Refusal> {
        let stale = Refusal::NoInode { volume: VOLUME, ino: Ino(ino) };
        if self.nodes.contains_key(&ino) { Ok(()) } else { Err(stale) }
    }

    fn file(&self, ino: u64) -> Result<(), Refusal> {
        self.there(ino)?;
        match self.nodes[&ino].kind {
            Kind::File => Ok(()),
            Kind::Directory => Err(Refusal::IsDirectory { ino: Ino(ino) }),
            _ => Err(Refusal::Invalid { why: String::new() }),
        }
    }

    fn directory(&self, ino: u64) -> Result<(), Refusal> {
        self.there(ino)?;
        if self.nodes[&ino].kind != Kind::Directory {
            return Err(Refusal::NotDirectory { ino: Ino(ino) });
        }
        if self.nodes[&ino].names == 0 { Err(Refusal::NoEntry) } else { Ok(()) }
    }

    fn may(&self, cred: &Cred, ino: u64, rights: u16) -> Result<(), Refusal> {
        let node = &self.nodes[&ino];
        let class = if cred.uid == node.uid {
            node.mode >> 6
        } else if grouped(cred, node.gid) {
            node.mode >> 3
        } else {
            node.mode
        };
        if cred.uid == 0 || class & rights == rights { Ok(()) } else { Err(Refusal::Denied) }
    }

    fn search(&self, cred: &Cred, dir: u64) -> Result<(), Refusal> {
        self.directory(dir)?;
        self.may(cred, dir, 1)
    }

    fn free_name(&self, cred: &Cred, dir: u64, name: &[u8]) -> Result<(), Refusal> {
        self.search(cred, dir)?;
        if let Some(ino) = self.nodes[&dir].entries.get(name) {
            return Err(Refusal::Exists { ino: Ino(*ino) });
        }
        self.may(cred, dir, 3)
    }

    /// The inode behind a name that the caller may remove.
    fn victim(&self, cred: &Cred, dir: u64, name: &[u8]) -> Result<u64, Refusal> {
        self.search(cred, dir)?;
        let ino = *self.nodes[&dir].entries.get(name).ok_or(Refusal::NoEntry)?;
        self.may_remove(cred, dir, ino)?;
        Ok(ino)
    }

    fn may_remove(&self, cred: &Cred, dir: u64, ino: u64) -> Result<(), Refusal> {
        self.may(cred, dir, 3)?;
        let (dir, victim) = (&self.nodes[&dir], &self.nodes[&ino]);
        let owner = [0, dir.uid, victim.uid].contains(&cred.uid);
        if dir.mode & 0o1000 != 0 && !owner { Err(Refusal::NotPermitted) } else { Ok(()) }
    }

    fn make(&mut self, cred: &Cred, parent: u64, kind: Kind, mode: u16) -> u64 {
        let inherited = self.nodes.get(&parent).filter(|dir| dir.mode & 0o2000 != 0).map(|dir| dir.gid);
        let mut mode = mode;
        if let Some(gid) = inherited {
            if kind == Kind::Directory {
                mode |= 0o2000;
            } else if cred.uid != 0 && !grouped(cred, gid) && mode & 0o010 != 0 {
                mode &= !0o2000;
            }
        }
        let ino = self.next;
        self.next += 1;
        let node = Node {
            kind,
            mode,
            uid: cred.uid,
            gid: inherited.unwrap_or(cred.gid),
            names: 1,
            size: 0,
            bytes: BTreeMap::new(),
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            parent,
            target: Bytes::new(),
            rdev: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            btime: self.now,
        };
        self.nodes.insert(ino, Rc::new(node));
        ino
    }

    fn name(&mut self, dir: u64, name: &[u8], ino: u64) -> Answer {
        let now = self.now;
        let node = self.node(dir);
        node.entries.insert(name.to_vec(), ino);
        (node.mtime, node.ctime) = (now, now);
        Ok(Outcome::Created { attr: self.attr(ino), fresh: true })
    }

    fn unname(&mut self, dir: u64, name: &[u8]) {
        let now = self.now;
        let node = self.node(dir);
        let ino = node.entries.remove(name).expect("it was looked up before");
        (node.mtime, node.ctime) = (now, now);
        let node = self.node(ino);
        node.names -= 1;
        node.ctime = now;
    }

    /// Whether `ino` is `dir` or one of the directories above it.
    fn above(&self, ino: u64, mut dir: u64) -> bool {
        while dir != ino && dir != ROOT {
            dir = self.nodes[&dir].parent;
        }
        dir == ino
    }

    fn rename(&mut self, cred: &Cred, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Answer {
        self.directory(from.0)?;
        self.directory(to.0)?;
        self.search(cred, from.0)?;
        let ino = *self.nodes[&from.0].entries.get(from.1).ok_or(Refusal::NoEntry)?;
        self.search(cred, to.0)?;
        let there = self.nodes[&to.0].entries.get(to.1).copied();
        if let (Some(there), RenameMode::NoReplace) = (there, mode) {
            return Err(Refusal::Exists { ino: Ino(there) });
        }
        if there.is_none() && mode == RenameMode::Exchange {
            return Err(Refusal::NoEntry);
        }
        let is_dir = |ino: u64| self.nodes[&ino].kind == Kind::Directory;
        if is_dir(ino) && there != Some(ino) && self.above(ino, to.0) {
            return Err(Refusal::Loop { ino: Ino(ino) });
        }
        if let Some(there) = there.filter(|there| *there != ino && is_dir(*there) && self.above(*there, from.0)) {
            let ino = Ino(there);
            return Err(if mode == RenameMode::Exchange { Refusal::Loop { ino } } else { Refusal::NotEmpty { ino } });
        }
        if there == Some(ino) {
            return Ok(Outcome::Renamed { attr: self.attr(ino), replaced: None });
        }
        self.may_remove(cred, from.0, ino)?;
        match there {
            None => self.may(cred, to.0, 3)?,
            Some(there) => self.may_remove(cred, to.0, there)?,
        }
        if let Some(there) = there.filter(|_| mode != RenameMode::Exchange) {
            match (is_dir(ino), is_dir(there)) {
                (true, false) => return Err(Refusal::NotDirectory { ino: Ino(there) }),
                (false, true) => return Err(Refusal::IsDirectory { ino: Ino(there) }),
                (true, true) if !self.nodes[&there].entries.is_empty() => {
                    return Err(Refusal::NotEmpty { ino: Ino(there) });
                }
                _ => {}
            }
        }
        if from.0 != to.0 {
            if is_dir(ino) {
                self.may(cred, ino, 2)?;
            }
            if let Some(there) = there.filter(|there| mode == RenameMode::Exchange && is_dir(*there)) {
                self.may(cred, there, 2)?;
            }
        }
        let now = self.now;
        if mode == RenameMode::Exchange {
            let there = there.expect("asked above");
            self.name(from.0, from.1, there)?;
            self.name(to.0, to.1, ino)?;
            self.node(there).parent = from.0;
            self.node(there).ctime = now;
        } else {
            if there.is_some() {
                self.unname(to.0, to.1);
            }
            self.node(from.0).entries.remove(from.1);
            (self.node(from.0).mtime, self.node(from.0).ctime) = (now, now);
            self.name(to.0, to.1, ino)?;
        }
        self.node(ino).parent = to.0;
        self.node(ino).ctime = now;
        let replaced = there.filter(|_| mode != RenameMode::Exchange).map(|there| Box::new(self.attr(there)));
        Ok(Outcome::Renamed { attr: self.attr(ino), replaced })
    }

    fn set(&mut self, cred: &Cred, ino: u64, set: &SetAttr, writes: bool) -> Result<(), Refusal> {
        let now = self.now;
        let node = Rc::clone(&self.nodes[&ino]);
        let owner = cred.uid == 0 || cred.uid == node.uid;
        if cred.uid != 0 {
            let give = set.uid.is_some_and(|uid| !(owner && uid == node.uid));
            let group = set.gid.is_some_and(|gid| !(owner && (gid == node.gid || grouped(cred, gid))));
            if give || group {
                return Err(Refusal::NotPermitted);
            }
        }
        let explicit = |time: &Option<SetTime>| matches!(time, Some(SetTime::To(_)));
        if !owner && (explicit(&set.atime) || explicit(&set.mtime)) {
            return Err(Refusal::NotPermitted);
        }
        if !owner && !writes {
            match (set.atime.is_some(), set.mtime.is_some()) {
                (true, true) => self.may(cred, ino, 2)?,
                (false, false) => {}
                _ => return Err(Refusal::NotPermitted),
            }
        }
        if set.mode.is_some() && !owner {
            return Err(Refusal::NotPermitted);
        }
        let node = self.node(ino);
        let gid = set.gid.unwrap_or(node.gid);
        let keeps_sgid = cred.uid == 0 || grouped(cred, gid);
        if (set.uid.is_some() || set.gid.is_some()) && node.kind != Kind::Directory {
            node.mode &= !0o4000;
            if node.mode & 0o010 != 0 || !keeps_sgid {
                node.mode &= !0o2000;
            }
        }
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = gid;
        if let Some(mode) = set.mode {
            node.mode = if keeps_sgid { mode } else { mode & !0o2000 };
        }
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::To(time)) => time,
        };
        node.atime = time(set.atime, node.atime);
        node.mtime = time(set.mtime, node.mtime);
        node.ctime = now;
        Ok(())
    }

    /// What a change of bytes by the caller does besides.
    fn written(&mut self, cred: &Cred, ino: u64) {
        let now = self.now;
        let node = self.node(ino);
        (node.mtime, node.ctime) = (now, now);
        if cred.uid != 0 {
            drop_privilege(node);
        }
    }

    fn commit(&mut self, client: ClientId, cred: &Cred, commit: &Commit) -> Answer {
        let ino = commit.ino.0;
        self.file(ino)?;
        self.clone().set(cred, ino, &commit.set, true)?;
        // Byte by byte, who lies on top; then runs of the same extent, from the front.
        let mut top: BTreeMap<u64, (usize, Byte)> = BTreeMap::new();
        for (nth, extent) in commit.extents.iter().enumerate() {
            top.extend(extent_bytes(extent).into_iter().map(|(at, byte)| (at, (nth, byte))));
        }
        let end = top.last_key_value().map_or(0, |(at, _)| at + 1).max(commit.size_at_least);
        let grows = end > self.nodes[&ino].size;
        let mut run = None;
        let mut before = self.clone();
        for (at, (nth, byte)) in top {
            if run != Some((nth, at)) {
                // All of a run is there before what lay under it goes.
                self.note_freed(&before);
                before = self.clone();
                self.may_name(client, byte.1)?;
            }
            run = Some((nth, at + 1));
            self.node(ino).bytes.insert(at, byte);
        }
        self.note_freed(&before);
        let now = self.now;
        let node = self.node(ino);
        node.size = node.size.max(end);
        if grows || !commit.extents.is_empty() {
            node.mtime = commit.mtime.unwrap_or(now);
        } else if let Some(mtime) = commit.mtime {
            node.mtime = mtime;
        }
        if commit.clear_suid {
            drop_privilege(node);
        }
        self.set(cred, ino, &commit.set, true)?;
        Ok(Outcome::Attr(self.attr(ino)))
    }

    fn may_name(&self, client: ClientId, chunk: Option<ChunkId>) -> Result<(), Refusal> {
        let Some(chunk) = chunk else { return Ok(()) };
        let fresh = chunk.client == client && !self.freed.contains(&chunk);
        if self.named().contains(&chunk) || fresh { Ok(()) } else { Err(Refusal::ChunkNotYours { why: String::new() }) }
    }

    fn copy(&mut self, cred: &Cred, from: (u64, u64), to: (u64, u64), len: u64) -> Answer {
        self.file(to.0)?;
        self.file(from.0)?;
        let len = len.min(self.nodes[&from.0].size.saturating_sub(from.1));
        if len == 0 {
            return Ok(Outcome::Copied { len, attr: self.attr(to.0) });
        }
        if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(Refusal::Invalid { why: String::new() });
        }
        let source = self.nodes[&from.0].bytes.clone();
        let node = self.node(to.0);
        for i in 0..len {
            match source.get(&(from.1 + i)) {
                Some(byte) => drop(node.bytes.insert(to.1 + i, *byte)),
                None => drop(node.bytes.remove(&(to.1 + i))),
            }
        }
        node.size = node.size.max(to.1 + len);
        self.written(cred, to.0);
        Ok(Outcome::Copied { len, attr: self.attr(to.0) })
    }

    fn may_xattr(&self, cred: &Cred, ino: u64, name: &[u8]) -> Result<(), Refusal> {
        let node = &self.nodes[&ino];
        if name.starts_with(b"trusted.") {
            return if cred.uid == 0 { Ok(()) } else { Err(Refusal::NotPermitted) };
        }
        if !name.starts_with(b"user.") {
            return Err(Refusal::Unsupported { what: String::new() });
        }
        let sticky = node.kind == Kind::Directory && node.mode & 0o1000 != 0;
        if !matches!(node.kind, Kind::File | Kind::Directory) || sticky && ![0, node.uid].contains(&cred.uid) {
            return Err(Refusal::NotPermitted);
        }
        self.may(cred, ino, 2)
    }
}

fn grouped(cred: &Cred, gid: u32) -> bool {
    cred.gid == gid || cred.gids.contains(&gid)
}

fn drop_privilege(node: &mut Node) {
    node.mode &= !0o4000;
    if node.mode & 0o010 != 0 {
        node.mode &= !0o2000;
    }
}
