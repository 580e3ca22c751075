//! From chunks to the paths of the files that name them, in bounded pieces, of a view that stays as it is.
//!
//! A file does not know its names, so the extents of a space are read once for those who name the chunks, then the
//! names of their volumes twice: once for the files, once for the directories above them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::codec::{self, Head};
use crate::ids::{ChunkId, Ino, SpaceId, VolumeId};
use crate::keys;
use crate::limits::MAX_DEPTH;
use crate::namespace::inode::{Dirent, Extent, ExtentBody};
use crate::namespace::records::{self, damaged};
use crate::view::{View, ViewError};

/// Inodes that one search finds at the most.
pub const MAX_FOUND: usize = 10_000;
/// Names of one file that are told.
const MAX_NAMES: usize = 8;

/// A file that names some of the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// In which volume.
    pub volume: VolumeId,
    /// The file.
    pub ino: Ino,
    /// Which of the chunks.
    pub chunks: Vec<ChunkId>,
    /// Its paths below the volume's root, the first few; none if it has no name (any more).
    pub paths: Vec<Vec<u8>>,
}

/// A search under way. The same view must be given to every step.
pub struct Search {
    wanted: BTreeSet<ChunkId>,
    volumes: Vec<VolumeId>,
    at: usize,
    stage: Stage,
    cursor: Option<Bytes>,
    files: BTreeMap<Ino, BTreeSet<ChunkId>>,
    /// Names of the files, then of the directories above them.
    names: BTreeMap<Ino, Vec<(Ino, Vec<u8>)>>,
    directories: BTreeSet<Ino>,
    found: Vec<FoundFile>,
    more: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Extents,
    Files,
    Directories,
    Done,
}

impl Search {
    /// Looks in the volumes of a space for whoever names one of these chunks.
    ///
    /// # Errors
    /// The store failed, or a record does not decode.
    pub fn new(view: &dyn View, space: SpaceId, wanted: BTreeSet<ChunkId>) -> Result<Search, ViewError> {
        let mut volumes = Vec::new();
        records::scan(view, keys::heads(), |key, value| {
            let head: Head = codec::decode(value).map_err(|err| damaged(key, &err))?;
            if head.space == space {
                volumes.push(keys::head_volume(key).map_err(|err| damaged(key, &err))?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let stage = if volumes.is_empty() { Stage::Done } else { Stage::Extents };
        Ok(Search {
            wanted,
            volumes,
            at: 0,
            stage,
            cursor: None,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            directories: BTreeSet::new(),
            found: Vec::new(),
            more: false,
        })
    }

    /// What was found, and whether there is more than one search tells.
    pub fn into_found(self) -> (Vec<FoundFile>, bool) {
        (self.found, self.more)
    }

    /// Reads about `limit` records. False once nothing is left to read.
    ///
    /// # Errors
    /// The store failed, or a record does not decode.
    pub fn step(&mut self, view: &dyn View, limit: usize) -> Result<bool, ViewError> {
        let Some(volume) = self.volumes.get(self.at).copied() else { return Ok(false) };
        let finished = match self.stage {
            Stage::Extents => self.read_extents(view, volume, limit)?,
            Stage::Files | Stage::Directories => self.read_names(view, volume, limit)?,
            Stage::Done => return Ok(false),
        };
        if finished {
            self.stage = match self.stage {
                Stage::Extents if !self.files.is_empty() => Stage::Files,
                Stage::Files => {
                    self.climb(view, volume)?;
                    Stage::Directories
                }
                _ => {
                    self.end_volume(volume);
                    self.at += 1;
                    if self.at < self.volumes.len() { Stage::Extents } else { Stage::Done }
                }
            };
        }
        Ok(self.stage != Stage::Done)
    }

    fn piece(
        &mut self,
        view: &dyn View,
        (from, to): (Bytes, Bytes),
        limit: usize,
        mut each: impl FnMut(&mut Search, &[u8], &Bytes) -> Result<(), ViewError>,
    ) -> Result<bool, ViewError> {
        let from = self.cursor.take().unwrap_or(from);
        let mut left = limit.max(1);
        let mut next = None;
        records::scan(view, (from, to), |key, value| {
            if left == 0 {
                next = Some(Bytes::copy_from_slice(key));
                return Ok(ControlFlow::Break(()));
            }
            left -= 1;
            each(self, key, value)?;
            Ok(ControlFlow::Continue(()))
        })?;
        let finished = next.is_none();
        self.cursor = next;
        Ok(finished)
    }

    fn read_extents(&mut self, view: &dyn View, volume: VolumeId, limit: usize) -> Result<bool, ViewError> {
        self.piece(view, keys::all_extents(volume), limit, |search, key, value| {
            let extent: Extent = records::born(key, value)?;
            let ExtentBody::Chunk { chunk, .. } = extent.body else { return Ok(()) };
            if search.wanted.contains(&chunk) {
                let (ino, _) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
                if search.files.contains_key(&ino) || search.files.len() + search.found.len() < MAX_FOUND {
                    search.files.entry(ino).or_default().insert(chunk);
                } else {
                    search.more = true;
                }
            }
            Ok(())
        })
    }

    fn read_names(&mut self, view: &dyn View, volume: VolumeId, limit: usize) -> Result<bool, ViewError> {
        let of_files = self.stage == Stage::Files;
        self.piece(view, keys::all_dirents(volume), limit, |search, key, value| {
            let Dirent::Inode { ino, .. } = records::born(key, value)? else { return Ok(()) };
            let wanted = if of_files { search.files.contains_key(&ino) } else { search.directories.contains(&ino) };
            if wanted {
                let (parent, rest) = keys::ino_and_rest(key).map_err(|err| damaged(key, &err))?;
                let name = keys::name_rest(rest).map_err(|err| damaged(key, &err))?;
                let names = search.names.entry(ino).or_default();
                if names.len() < MAX_NAMES {
                    names.push((parent, name.to_vec()));
                }
            }
            Ok(())
        })
    }

    /// The directories above the files, by what their inodes say of their parents.
    fn climb(&mut self, view: &dyn View, volume: VolumeId) -> Result<(), ViewError> {
        let mut above: Vec<Ino> = self.names.values().flatten().map(|(parent, _)| *parent).collect();
        while let Some(dir) = above.pop() {
            if dir != Ino::ROOT
                && self.directories.insert(dir)
                && let Some(inode) = records::inode_if(view, volume, dir)?
            {
                above.push(inode.parent);
            }
        }
        Ok(())
    }

    fn end_volume(&mut self, volume: VolumeId) {
        for (ino, chunks) in std::mem::take(&mut self.files) {
            let names = self.names.get(&ino).map_or(&[][..], Vec::as_slice);
            let paths = names.iter().map(|(parent, name)| self.path(*parent, name)).collect();
            self.found.push(FoundFile { volume, ino, chunks: chunks.into_iter().collect(), paths });
        }
        self.names.clear();
        self.directories.clear();
    }

    /// `/a/b/name`; a directory whose name was not found is shown by its number.
    fn path(&self, parent: Ino, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name.to_vec()];
        let mut dir = parent;
        for _ in 0..MAX_DEPTH {
            if dir == Ino::ROOT {
                break;
            }
            let Some((above, name)) = self.names.get(&dir).and_then(|names| names.first()) else {
                parts.push(format!("<directory {dir}>").into_bytes());
                break;
            };
            parts.push(name.clone());
            dir = *above;
        }
        parts.iter().rev().flat_map(|part| [b"/", &part[..]].concat()).collect()
    }
}
