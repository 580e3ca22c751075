//! A full recount: what every count of a group's records should be, found the slow and obvious way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::codec::wire::Code;
use crate::codec::{ChunkRef, Head};
use crate::ids::{ChunkId, Ino, SpaceId, VolumeId};
use crate::keys;
use crate::limits::COMPACT_FROM;
use crate::namespace::inode::{Dirent, Extent, ExtentBody, Inode, Kind};
use crate::namespace::map::is_small;
use crate::namespace::records::{self, damaged};
use crate::namespace::tx::is_directory;
use crate::view::{View, ViewError};

/// What is wrong with the records of a group, in words; nothing if all counts are right. Reads every record and holds
/// most of them in memory: for tests and for checking small stores.
///
/// # Errors
/// The store failed, or a record does not decode.
pub fn recount(view: &dyn View) -> Result<Vec<String>, ViewError> {
    let mut wrong = Vec::new();
    let mut named: BTreeMap<(SpaceId, ChunkId), u64> = BTreeMap::new();
    for (key, head) in all::<Head>(view, keys::heads(), false)? {
        let volume = keys::head_volume(&key).map_err(|err| damaged(&key, &err))?;
        recount_volume(view, volume, &head, &mut named, &mut wrong)?;
    }
    // Of a volume that is being deleted only the names of chunks still count.
    for (key, head) in all::<Option<Head>>(view, keys::all_dropped(), false)? {
        let volume = keys::head_volume(&key).map_err(|err| damaged(&key, &err))?;
        let Some(head) = head else { continue };
        for (_, extent) in all::<Extent>(view, keys::all_extents(volume), true)? {
            if let ExtentBody::Chunk { chunk, .. } = extent.body {
                *named.entry((head.space, chunk)).or_default() += 1;
            }
        }
    }
    for (key, known) in all::<ChunkRef>(view, keys::chunks(), false)? {
        let id = keys::space_chunk(&key).map_err(|err| damaged(&key, &err))?;
        let found = named.remove(&id).unwrap_or(0);
        if found != known.count {
            wrong.push(format!("chunk {} of space {}: {} names, {found} found", id.1, id.0, known.count));
        }
        if view.get(&keys::freed(id.0, id.1))?.is_some() {
            wrong.push(format!("chunk {} of space {} is named and freed", id.1, id.0));
        }
    }
    for ((space, chunk), found) in named {
        wrong.push(format!("chunk {chunk} of space {space}: no count, {found} found"));
    }
    Ok(wrong)
}

fn recount_volume(
    view: &dyn View,
    volume: VolumeId,
    head: &Head,
    named: &mut BTreeMap<(SpaceId, ChunkId), u64>,
    wrong: &mut Vec<String>,
) -> Result<(), ViewError> {
    let mut say = |what: String| wrong.push(format!("volume {volume}: {what}"));
    let inodes: BTreeMap<Ino, Inode> = by_ino(all(view, keys::inodes(volume), true)?)?.into_iter().collect();
    let dirents: Vec<(Ino, Dirent)> = by_ino(all(view, keys::all_dirents(volume), true)?)?;

    if head.inodes != inodes.len() as u64 {
        say(format!("{} inodes, {} found", head.inodes, inodes.len()));
    }
    let bytes: u64 = inodes.values().map(|inode| inode.allocated).sum();
    if head.bytes != bytes {
        say(format!("{} bytes, {bytes} found", head.bytes));
    }
    for (parent, dirent) in &dirents {
        match dirent {
            Dirent::Junction(_) => {}
            Dirent::Inode { ino, kind } => match inodes.get(ino) {
                None => say(format!("directory {parent} names inode {ino}, which is missing")),
                Some(inode) if inode.kind != *kind => say(format!("inode {ino} is no {kind:?}")),
                Some(inode) if *kind == Kind::Directory && inode.parent != *parent => {
                    say(format!("directory {ino} lies in {parent}, not in {}", inode.parent));
                }
                Some(_) => {}
            },
        }
        if inodes.get(parent).is_none_or(|dir| dir.kind != Kind::Directory || dir.nlink == 0) {
            say(format!("inode {parent} has names in it, and is no directory"));
        }
    }
    for (ino, inode) in &inodes {
        let names = dirents.iter().filter(|(_, d)| matches!(d, Dirent::Inode { ino: named, .. } if named == ino));
        let names = names.count() as u32 + u32::from(*ino == Ino::ROOT);
        let within: Vec<Dirent> = dirents.iter().filter(|(parent, _)| parent == ino).map(|(_, d)| *d).collect();
        let nlink = match inode.kind {
            Kind::Directory if names == 0 => 0,
            Kind::Directory => 2 + within.iter().filter(|d| is_directory(**d)).count() as u32,
            _ => names,
        };
        if inode.nlink != nlink {
            say(format!("inode {ino}: nlink {}, {nlink} found", inode.nlink));
        }
        if inode.kind == Kind::Directory && inode.size != within.len() as u64 {
            say(format!("directory {ino}: size {}, {} found", inode.size, within.len()));
        }
        if view.get(&keys::orphan(volume, *ino))?.is_some() != (nlink == 0) {
            say(format!("inode {ino}: nlink {nlink}, but its orphan record says otherwise"));
        }
    }
    recount_extents(view, volume, head.space, &inodes, named, &mut say)?;
    let mut listed: BTreeMap<Ino, u32> = BTreeMap::new();
    for (key, _) in all::<bytes::Bytes>(view, keys::all_xattrs(volume), true)? {
        let (ino, name) = keys::ino_and_rest(&key).map_err(|err| damaged(&key, &err))?;
        *listed.entry(ino).or_default() += name.len() as u32;
    }
    // An orphan loses its attributes in steps, and its sum with the last of them.
    for (ino, inode) in inodes.iter().filter(|(_, inode)| inode.nlink > 0) {
        let found = listed.get(ino).copied().unwrap_or(0);
        if inode.xattr_list != found {
            say(format!("inode {ino}: {} bytes of attribute names, {found} found", inode.xattr_list));
        }
    }
    Ok(())
}

fn recount_extents(
    view: &dyn View,
    volume: VolumeId,
    space: SpaceId,
    inodes: &BTreeMap<Ino, Inode>,
    named: &mut BTreeMap<(SpaceId, ChunkId), u64>,
    say: &mut dyn FnMut(String),
) -> Result<(), ViewError> {
    let mut allocated: BTreeMap<Ino, u64> = BTreeMap::new();
    let mut small: BTreeMap<Ino, u32> = BTreeMap::new();
    let mut unfinished: BTreeSet<Ino> = BTreeSet::new();
    let mut last: Option<(Ino, u32, u64)> = None;
    for (key, extent) in all::<Extent>(view, keys::all_extents(volume), true)? {
        let (ino, rest) = keys::ino_and_rest(&key).map_err(|err| damaged(&key, &err))?;
        let (generation, end) = keys::extent_rest(rest).map_err(|err| damaged(&key, &err))?;
        if extent.span().end != end || extent.check().is_err() {
            say(format!("inode {ino}: extent {extent:?} lies at {end}"));
        }
        if last.is_some_and(|(i, g, e)| (i, g) == (ino, generation) && e > extent.offset) {
            say(format!("inode {ino}: extents overlap at {}", extent.offset));
        }
        last = Some((ino, generation, end));
        if let ExtentBody::Chunk { chunk, .. } = extent.body {
            *named.entry((space, chunk)).or_default() += 1;
        }
        match inodes.get(&ino) {
            None => say(format!("inode {ino} is missing, but has extents")),
            Some(inode) if generation > inode.generation => say(format!("inode {ino}: extent of a later generation")),
            Some(inode) if generation < inode.generation => {
                unfinished.insert(ino);
            }
            Some(inode) => {
                *allocated.entry(ino).or_default() += u64::from(extent.len);
                *small.entry(ino).or_default() += u32::from(is_small(&extent));
                if inode.cut_at.is_some_and(|cut| extent.offset < cut && end > cut) {
                    say(format!("inode {ino}: an extent lies across the cut"));
                }
            }
        }
    }
    for (ino, inode) in inodes {
        let found = allocated.get(ino).copied().unwrap_or(0);
        if inode.allocated != found {
            say(format!("inode {ino}: {} bytes allocated, {found} found", inode.allocated));
        }
        let found = small.get(ino).copied().unwrap_or(0);
        if inode.small != found {
            say(format!("inode {ino}: {} extents of bytes, {found} found", inode.small));
        }
        if inode.small >= COMPACT_FROM && view.get(&keys::small(volume, *ino))?.is_none() {
            say(format!("inode {ino} waits for compaction, and nobody knows of it"));
        }
        if inode.cut_at.is_some_and(|cut| inode.size > cut) {
            say(format!("inode {ino} is longer than its cut"));
        }
        let waits = unfinished.contains(ino) || inode.cut_at.is_some();
        if waits && view.get(&keys::cut(volume, *ino))?.is_none() {
            say(format!("inode {ino} waits for a step that nobody knows of"));
        }
    }
    Ok(())
}

fn all<T: Code>(
    view: &dyn View,
    bounds: (bytes::Bytes, bytes::Bytes),
    born: bool,
) -> Result<Vec<(Vec<u8>, T)>, ViewError> {
    let mut found = Vec::new();
    records::scan(view, bounds, |key, value| {
        let value = if born {
            records::born(key, value)?
        } else {
            crate::codec::decode(value).map_err(|err| damaged(key, &err))?
        };
        found.push((key.to_vec(), value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn by_ino<T>(records: Vec<(Vec<u8>, T)>) -> Result<Vec<(Ino, T)>, ViewError> {
    let ino = |key: &[u8]| keys::ino_and_rest(key).map(|(ino, _)| ino).map_err(|err| damaged(key, &err));
    records.into_iter().map(|(key, value)| Ok((ino(&key)?, value))).collect()
}
