//! The recount of a large store: in bounded pieces, with bounded memory, of a view that stays as it is.
//!
//! Finds what [`recount`](crate::namespace::recount) finds, in the same words. It looks at a window of inodes after the
//! other, and for each reads the names of the whole volume once; then at windows of the counted chunks, and for each
//! reads the extents of the whole group once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::codec::{self, ChunkRef, Head};
use crate::ids::{ChunkId, Ino, SpaceId, VolumeId};
use crate::keys;
use crate::limits::COMPACT_FROM;
use crate::namespace::inode::{Dirent, Extent, ExtentBody, Inode, Kind};
use crate::namespace::map::is_small;
use crate::namespace::records::{self, damaged};
use crate::namespace::tx::is_directory;
use crate::view::{View, ViewError};

/// Inodes, or chunks, that are looked at together.
pub const WINDOW: usize = 256 << 10;

/// A recount under way. The same view must be given to every step.
pub struct Audit {
    window: usize,
    only: Option<Vec<SpaceId>>,
    volumes: Vec<(VolumeId, Head)>,
    /// Volumes whose extents name chunks: those, and those being deleted.
    users: Vec<(VolumeId, SpaceId)>,
    /// Which of the volumes is looked at.
    at: usize,
    stage: Stage,
    cursor: Option<Bytes>,
    /// The first and the last inode of the window.
    first: Ino,
    last: Ino,
    inodes: BTreeMap<Ino, Seen>,
    extent_before: Option<(Ino, u32, u64)>,
    inode_count: u64,
    byte_count: u64,
    chunks: BTreeMap<(SpaceId, ChunkId), Counted>,
    first_chunk: (SpaceId, ChunkId),
    /// The last chunk of the window; `None`: all from the first on.
    last_chunk: Option<(SpaceId, ChunkId)>,
    wrong: Vec<String>,
    records: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Inodes,
    Within,
    Names,
    Extents,
    Xattrs,
    Judge,
    Chunks,
    Users,
    JudgeChunks,
    Done,
}

/// What a window remembers of an inode: what its record says, and what was found.
struct Seen {
    kind: Kind,
    parent: Ino,
    nlink: u32,
    size: u64,
    allocated: u64,
    small: u32,
    generation: u32,
    cut_at: Option<u64>,
    xattr_list: u32,
    names: u32,
    within: u64,
    directories: u32,
    bytes: u64,
    small_found: u32,
    attribute_names: u32,
    unfinished: bool,
}

/// `None` for a chunk that has no count.
#[derive(Default)]
struct Counted {
    count: Option<u64>,
    found: u64,
}

impl Audit {
    /// A recount of the volumes of these spaces, or of all that the group has.
    ///
    /// # Errors
    /// The store failed, or a record does not decode.
    pub fn new(view: &dyn View, only: Option<Vec<SpaceId>>, window: usize) -> Result<Audit, ViewError> {
        let mut volumes = Vec::new();
        records::scan(view, keys::heads(), |key, value| {
            let volume = keys::head_volume(key).map_err(|err| damaged(key, &err))?;
            let head: Head = codec::decode(value).map_err(|err| damaged(key, &err))?;
            if only.as_ref().is_none_or(|only| only.contains(&head.space)) {
                volumes.push((volume, head));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut users: Vec<_> = volumes.iter().map(|(volume, head): &(_, Head)| (*volume, head.space)).collect();
        records::scan(view, keys::all_dropped(), |key, value| {
            let volume = keys::head_volume(key).map_err(|err| damaged(key, &err))?;
            let head: Option<Head> = codec::decode(value).map_err(|err| damaged(key, &err))?;
            users.extend(head.map(|head| (volume, head.space)));
            Ok(ControlFlow::Continue(()))
        })?;
        let stage = if volumes.is_empty() { Stage::Chunks } else { Stage::Inodes };
        Ok(Audit {
            window: window.max(1),
            only,
            volumes,
            users,
            at: 0,
            stage,
            cursor: None,
            first: Ino(0),
            last: Ino(u64::MAX),
            inodes: BTreeMap::new(),
            extent_before: None,
            inode_count: 0,
            byte_count: 0,
            chunks: BTreeMap::new(),
            first_chunk: (SpaceId(0), ChunkId::default()),
            last_chunk: None,
            wrong: Vec::new(),
            records: 0,
        })
    }

    /// What was found wrong since the last call, in words.
    pub fn take_wrong(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wrong)
    }

    /// Records read so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Reads about `limit` records. False once nothing is left to read.
    ///
    /// # Errors
    /// The store failed, or a record does not decode.
    pub fn step(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let finished = match self.stage {
            Stage::Inodes => self.read_inodes(view, limit)?,
            Stage::Within | Stage::Names => self.read_dirents(view, limit)?,
            Stage::Extents => self.read_extents(view, limit)?,
            Stage::Xattrs => self.read_xattrs(view, limit)?,
            Stage::Judge => self.judge(view, limit)?,
            Stage::Chunks => self.read_chunks(view, limit)?,
            Stage::Users => self.read_users(view, limit)?,
            Stage::JudgeChunks => self.judge_chunks(),
            Stage::Done => return Ok(false),
        };
        if finished {
            self.cursor = None;
            self.advance();
        }
        Ok(self.stage != Stage::Done)
    }

    fn advance(&mut self) {
        self.stage = match self.stage {
            Stage::Inodes => Stage::Within,
            Stage::Within => Stage::Names,
            Stage::Names => Stage::Extents,
            Stage::Extents => Stage::Xattrs,
            Stage::Xattrs => Stage::Judge,
            Stage::Judge if self.last != Ino(u64::MAX) => {
                self.first = Ino(self.last.0 + 1);
                Stage::Inodes
            }
            Stage::Judge => {
                self.end_volume();
                if self.at < self.volumes.len() {
                    Stage::Inodes
                } else {
                    self.at = 0;
                    Stage::Chunks
                }
            }
            Stage::Chunks => Stage::Users,
            // Each volume has a turn.
            Stage::Users if self.at < self.users.len() => Stage::Users,
            Stage::Users => Stage::JudgeChunks,
            Stage::JudgeChunks => match self.last_chunk {
                Some((space, chunk)) => {
                    self.at = 0;
                    self.first_chunk = after(space, chunk);
                    Stage::Chunks
                }
                None => Stage::Done,
            },
            Stage::Done => Stage::Done,
        };
    }

    fn end_volume(&mut self) {
        let head = &self.volumes[self.at].1;
        let (inodes, bytes) = (head.inodes, head.bytes);
        let (found, found_bytes) = (self.inode_count, self.byte_count);
        if inodes != found {
            self.say(format!("{inodes} inodes, {found} found"));
        }
        if bytes != found_bytes {
            self.say(format!("{bytes} bytes, {found_bytes} found"));
        }
        self.at += 1;
        (self.inode_count, self.byte_count, self.first) = (0, 0, Ino(0));
        self.extent_before = None;
    }

    fn volume(&self) -> VolumeId {
        self.volumes[self.at].0
    }

    fn say(&mut self, what: String) {
        let volume = self.volume();
        self.wrong.push(format!("volume {volume}: {what}"));
    }

    /// Calls `each` for records from where the last piece ended; true at the end of the bounds. `each` breaks at a record
    /// that is to be read again.
    fn piece(
        &mut self,
        view: &dyn View,
        (from, to): (Bytes, Bytes),
        limit: usize,
        mut each: impl FnMut(&mut Audit, &[u8], &Bytes) -> Result<ControlFlow<()>, ViewError>,
    ) -> Result<bool, ViewError> {
        let from = self.cursor.take().unwrap_or(from);
        let mut left = limit.max(1);
        let mut next = None;
        records::scan(view, (from, to), |key, value| {
            if left == 0 || each(self, key, value)?.is_break() {
                next = Some(Bytes::copy_from_slice(key));
                return Ok(ControlFlow::Break(()));
            }
            left -= 1;
            self.records += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        let finished = next.is_none();
        self.cursor = next;
        Ok(finished)
    }

    /// The keys of the window in a table of the volume; `at` gives the first key of an inode.
    fn windowed(&self, whole: (Bytes, Bytes), at: impl Fn(Ino) -> Bytes) -> (Bytes, Bytes) {
        let to = if self.last == Ino(u64::MAX) { whole.1 } else { at(Ino(self.last.0 + 1)) };
        (at(self.first), to)
    }

    fn read_inodes(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let volume = self.volume();
        let bounds = (keys::inode(volume, self.first), keys::inodes(volume).1);
        self.last = Ino(u64::MAX);
        let mut full = false;
        let finished = self.piece(view, bounds, limit, |audit, key, value| {
            let (ino, _) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
            let inode: Inode = records::born(key, value)?;
            if audit.inodes.len() >= audit.window {
                // The window ends just below this one.
                audit.last = Ino(ino.0 - 1);
                full = true;
                return Ok(ControlFlow::Break(()));
            }
            audit.inodes.insert(ino, Seen::new(&inode));
            audit.inode_count += 1;
            audit.byte_count += inode.allocated;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(finished || full)
    }

    /// In the first pass names of the window's directories, in the second all that lead to an inode of the window.
    fn read_dirents(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let volume = self.volume();
        let whole = keys::all_dirents(volume);
        let (inside, bounds) = match self.stage {
            Stage::Within => (true, self.windowed(whole, |ino| keys::dirents(volume, ino, None).0)),
            _ => (false, whole),
        };
        self.piece(view, bounds, limit, |audit, key, value| {
            let (parent, _) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
            let dirent: Dirent = records::born(key, value)?;
            if inside {
                match audit.inodes.get_mut(&parent) {
                    Some(dir) if dir.kind == Kind::Directory && dir.nlink > 0 => dir.count(dirent),
                    dir => {
                        if let Some(dir) = dir {
                            dir.count(dirent);
                        }
                        audit.say(format!("inode {parent} has names in it, and is no directory"));
                    }
                }
            } else if let Dirent::Inode { ino, kind } = dirent
                && (audit.first..=audit.last).contains(&ino)
            {
                match audit.inodes.get_mut(&ino) {
                    Some(inode) => {
                        inode.names += 1;
                        let above = inode.parent;
                        if inode.kind != kind {
                            audit.say(format!("inode {ino} is no {kind:?}"));
                        } else if kind == Kind::Directory && above != parent {
                            audit.say(format!("directory {ino} lies in {parent}, not in {above}"));
                        }
                    }
                    None => audit.say(format!("directory {parent} names inode {ino}, which is missing")),
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn read_extents(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let volume = self.volume();
        let bounds = self.windowed(keys::all_extents(volume), |ino| keys::file_extents(volume, ino).0);
        self.piece(view, bounds, limit, |audit, key, value| {
            let (ino, rest) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
            let (generation, end) = keys::extent_rest(rest).map_err(|err| damaged(key, &err))?;
            let extent: Extent = records::born(key, value)?;
            if extent.span().end != end || extent.check().is_err() {
                audit.say(format!("inode {ino}: extent {extent:?} lies at {end}"));
            }
            if audit.extent_before.is_some_and(|(i, g, e)| (i, g) == (ino, generation) && e > extent.offset) {
                audit.say(format!("inode {ino}: extents overlap at {}", extent.offset));
            }
            audit.extent_before = Some((ino, generation, end));
            match audit.inodes.get_mut(&ino) {
                None => audit.say(format!("inode {ino} is missing, but has extents")),
                Some(inode) if generation > inode.generation => {
                    audit.say(format!("inode {ino}: extent of a later generation"));
                }
                Some(inode) if generation < inode.generation => inode.unfinished = true,
                Some(inode) => {
                    inode.bytes += u64::from(extent.len);
                    inode.small_found += u32::from(is_small(&extent));
                    if inode.cut_at.is_some_and(|cut| extent.offset < cut && end > cut) {
                        audit.say(format!("inode {ino}: an extent lies across the cut"));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn read_xattrs(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let volume = self.volume();
        let bounds = self.windowed(keys::all_xattrs(volume), |ino| keys::xattrs(volume, ino).0);
        self.piece(view, bounds, limit, |audit, key, _| {
            let (ino, name) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
            if let Some(inode) = audit.inodes.get_mut(&ino) {
                inode.attribute_names += name.len() as u32;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn judge(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let volume = self.volume();
        for _ in 0..limit.max(1) {
            let Some((ino, inode)) = self.inodes.pop_first() else { return Ok(true) };
            let names = inode.names + u32::from(ino == Ino::ROOT);
            let nlink = match inode.kind {
                Kind::Directory if names == 0 => 0,
                Kind::Directory => 2 + inode.directories,
                _ => names,
            };
            if inode.nlink != nlink {
                self.say(format!("inode {ino}: nlink {}, {nlink} found", inode.nlink));
            }
            if inode.kind == Kind::Directory && inode.size != inode.within {
                self.say(format!("directory {ino}: size {}, {} found", inode.size, inode.within));
            }
            if view.get(&keys::orphan(volume, ino))?.is_some() != (nlink == 0) {
                self.say(format!("inode {ino}: nlink {nlink}, but its orphan record says otherwise"));
            }
            if inode.allocated != inode.bytes {
                self.say(format!("inode {ino}: {} bytes allocated, {} found", inode.allocated, inode.bytes));
            }
            if inode.small != inode.small_found {
                self.say(format!("inode {ino}: {} extents of bytes, {} found", inode.small, inode.small_found));
            }
            if inode.small >= COMPACT_FROM && view.get(&keys::small(volume, ino))?.is_none() {
                self.say(format!("inode {ino} waits for compaction, and nobody knows of it"));
            }
            if inode.cut_at.is_some_and(|cut| inode.size > cut) {
                self.say(format!("inode {ino} is longer than its cut"));
            }
            let waits = inode.unfinished || inode.cut_at.is_some();
            if waits && view.get(&keys::cut(volume, ino))?.is_none() {
                self.say(format!("inode {ino} waits for a step that nobody knows of"));
            }
            // An orphan loses its attributes in steps, and its sum with the last of them.
            if inode.nlink > 0 && inode.xattr_list != inode.attribute_names {
                let (known, found) = (inode.xattr_list, inode.attribute_names);
                self.say(format!("inode {ino}: {known} bytes of attribute names, {found} found"));
            }
        }
        Ok(self.inodes.is_empty())
    }

    fn read_chunks(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let bounds = (keys::chunk(self.first_chunk.0, self.first_chunk.1), keys::chunks().1);
        self.last_chunk = None;
        let mut full = false;
        let finished = self.piece(view, bounds, limit, |audit, key, value| {
            let id = keys::space_chunk(key).map_err(|err| damaged(key, &err))?;
            if audit.chunks.len() >= audit.window {
                full = true;
                return Ok(ControlFlow::Break(()));
            }
            if audit.only.as_ref().is_none_or(|only| only.contains(&id.0)) {
                let known: ChunkRef = codec::decode(value).map_err(|err| damaged(key, &err))?;
                audit.chunks.insert(id, Counted { count: Some(known.count), found: 0 });
                if view.get(&keys::freed(id.0, id.1))?.is_some() {
                    audit.wrong.push(format!("chunk {} of space {} is named and freed", id.1, id.0));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if full {
            self.last_chunk = self.chunks.last_key_value().map(|(id, _)| *id);
        }
        Ok(finished || full)
    }

    /// Counts the names of the window's chunks in one volume after the other.
    fn read_users(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let Some((volume, space)) = self.users.get(self.at).copied() else { return Ok(true) };
        let finished = self.piece(view, keys::all_extents(volume), limit, |audit, key, value| {
            let extent: Extent = records::born(key, value)?;
            if let ExtentBody::Chunk { chunk, .. } = extent.body {
                let id = (space, chunk);
                if id >= audit.first_chunk && audit.last_chunk.is_none_or(|last| id <= last) {
                    audit.chunks.entry(id).or_default().found += 1;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.at += usize::from(finished);
        Ok(finished)
    }

    fn judge_chunks(&mut self) -> bool {
        for ((space, chunk), Counted { count, found }) in std::mem::take(&mut self.chunks) {
            match count {
                Some(count) if count == found => {}
                Some(count) => {
                    self.wrong.push(format!("chunk {chunk} of space {space}: {count} names, {found} found"));
                }
                None => self.wrong.push(format!("chunk {chunk} of space {space}: no count, {found} found")),
            }
        }
        true
    }
}

impl Seen {
    fn new(inode: &Inode) -> Seen {
        Seen {
            kind: inode.kind,
            parent: inode.parent,
            nlink: inode.nlink,
            size: inode.size,
            allocated: inode.allocated,
            small: inode.small,
            generation: inode.generation,
            cut_at: inode.cut_at,
            xattr_list: inode.xattr_list,
            names: 0,
            within: 0,
            directories: 0,
            bytes: 0,
            small_found: 0,
            attribute_names: 0,
            unfinished: false,
        }
    }

    fn count(&mut self, dirent: Dirent) {
        self.within += 1;
        self.directories += u32::from(is_directory(dirent));
    }
}

/// The chunk next in order.
fn after(space: SpaceId, chunk: ChunkId) -> (SpaceId, ChunkId) {
    match chunk.counter.checked_add(1) {
        Some(counter) => (space, ChunkId { counter, ..chunk }),
        None => (space, ChunkId { client: crate::ids::ClientId(chunk.client.0.saturating_add(1)), counter: 0 }),
    }
}
