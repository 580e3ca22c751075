//! The machine's answers against what the plain tree knows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use weft_core::entry::Cred;
use weft_core::ids::{ChunkId, ClientId, Ino, SpaceId};
use weft_core::machine::{self, ChunkState};
use weft_core::namespace::inode::{Attr, Dirent, Kind};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Found, Query};
use weft_core::refusal::Refusal;
use weft_core::view::View;

use super::tree::{Node, Tree, VOLUME, known_bytes};

/// All that can be asked, against all that the model knows. `chunks`: all that were ever uploaded.
pub(crate) fn compare(records: &dyn View, tree: &Tree, space: SpaceId, chunks: &[ChunkId]) {
    assert_eq!(machine::recount(records).expect("a map in memory does not fail"), Vec::<String>::new());
    let Ok(Answer::Statfs(used)) = ask(records, Query::Statfs) else { panic!("no statfs") };
    assert_eq!((used.bytes, used.inodes), (tree.used(), tree.nodes.len() as u64));
    for (ino, node) in &tree.nodes {
        let Ok(Answer::Attr(attr)) = ask(records, Query::Getattr { ino: Ino(*ino) }) else { panic!("no inode {ino}") };
        assert_eq!(plain_attr(attr), tree.attr(*ino));
        let Ok(Answer::Names(names)) = ask(records, Query::ListXattr { ino: Ino(*ino) }) else { panic!("no names") };
        assert_eq!(names, node.xattrs.keys().cloned().map(Bytes::from).collect::<Vec<_>>());
        match node.kind {
            Kind::Directory => assert_eq!(listing(records, Ino(*ino)), node.entries),
            Kind::File => compare_bytes(records, *ino, node, &tree.compacted),
            Kind::Symlink => {
                assert_eq!(ask(records, Query::Readlink { ino: Ino(*ino) }), Ok(Answer::Bytes(node.target.clone())));
            }
            _ => {}
        }
    }
    let never = Query::Getattr { ino: Ino(tree.next) };
    assert!(matches!(ask(records, never), Err(Refusal::NoInode { .. })));
    let named = tree.named();
    for chunk in chunks {
        let state = machine::chunk_state(records, space, *chunk).expect("a map in memory does not fail");
        match state {
            ChunkState::Named { .. } => assert!(named.contains(chunk)),
            ChunkState::Freed { .. } => assert!(tree.freed.contains(chunk) && !named.contains(chunk)),
            ChunkState::Open | ChunkState::Abandoned | ChunkState::Unknown => {
                assert!(!tree.freed.contains(chunk) && !named.contains(chunk));
            }
        }
    }
    let freed: BTreeSet<ChunkId> =
        machine::freed_chunks(records, space, None, usize::MAX).expect("a map").iter().map(|f| f.chunk).collect();
    assert_eq!(freed, tree.freed);
}

fn ask(records: &dyn View, query: Query) -> Result<Answer, Refusal> {
    machine::query(records, VOLUME, ClientId(0), &Cred::root(), &query).expect("a map in memory does not fail")
}

/// A directory's names, fetched two at a time.
fn listing(records: &dyn View, dir: Ino) -> BTreeMap<Vec<u8>, u64> {
    let mut listing = BTreeMap::new();
    let mut after = None;
    loop {
        let query = Query::Readdir { dir, after: after.clone(), limit: 2, with_attrs: true };
        let Ok(Answer::Entries { entries, end, .. }) = ask(records, query) else { panic!("no entries") };
        for entry in entries {
            let Dirent::Inode { ino, kind } = entry.dirent else { panic!("a junction") };
            assert_eq!(entry.attr.map(|attr| (attr.ino, attr.kind)), Some((ino, kind)));
            let found = ask(records, Query::Lookup { parent: dir, name: entry.name.clone() });
            assert!(matches!(found, Ok(Answer::Found(Found::Inode(attr))) if attr.ino == ino));
            assert!(listing.insert(entry.name.as_bytes().to_vec(), ino.0).is_none(), "a name came twice");
            after = Some(entry.name);
        }
        if end {
            return listing;
        }
    }
}

/// A file's bytes, by its map, fetched two extents at a time.
fn compare_bytes(records: &dyn View, ino: u64, node: &Node, compacted: &BTreeMap<ChunkId, Bytes>) {
    let (mut found, mut from, mut end) = (BTreeMap::new(), Some(0), 0);
    while let Some(offset) = from {
        let query = Query::Map { ino: Ino(ino), offset, limit: 2 };
        let Ok(Answer::Map { extents, more_from, .. }) = ask(records, query) else { panic!("no map") };
        for extent in extents {
            assert!(extent.offset >= end, "extents in order, without overlap");
            end = extent.offset + u64::from(extent.len);
            found.extend(known_bytes(&extent, compacted));
        }
        from = more_from;
    }
    let expected: BTreeMap<_, _> = node.bytes.range(..node.size).map(|(at, byte)| (*at, *byte)).collect();
    assert_eq!(found, expected, "bytes of inode {ino}");
}

/// Without what the model does not keep: version, map generation.
fn plain_attr(attr: Attr) -> Attr {
    Attr { version: 0, generation: 0, ..attr }
}

/// A reply without what the model does not keep.
pub(crate) fn plain(reply: Result<Outcome, Refusal>) -> Result<Outcome, String> {
    match reply {
        Ok(Outcome::Created { attr, fresh }) => Ok(Outcome::Created { attr: plain_attr(attr), fresh }),
        Ok(Outcome::Attr(attr)) => Ok(Outcome::Attr(plain_attr(attr))),
        Ok(Outcome::Removed { attr }) => Ok(Outcome::Removed { attr: plain_attr(attr) }),
        Ok(Outcome::Renamed { attr, replaced }) => {
            Ok(Outcome::Renamed { attr: plain_attr(attr), replaced: replaced.map(|attr| Box::new(plain_attr(*attr))) })
        }
        Ok(Outcome::Copied { len, attr }) => Ok(Outcome::Copied { len, attr: plain_attr(attr) }),
        Ok(other) => Ok(other),
        Err(refusal) => Err(plain_refusal(&refusal)),
    }
}

/// A refusal without its words, which the model does not choose.
pub(crate) fn plain_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Invalid { .. } => "invalid".into(),
        Refusal::Unsupported { .. } => "unsupported".into(),
        Refusal::ChunkNotYours { .. } => "not yours".into(),
        other => format!("{other:?}"),
    }
}
