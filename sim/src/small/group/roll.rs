//! Operations at random, mostly on what there is.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use weft_core::entry::Cred;
use weft_core::ids::{ChunkId, Ino, PgId, SlotId, SpaceId, VolumeId};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::inode::{Extent, ExtentBody, Kind, SlotRef};
use weft_core::namespace::op::{AllocateMode, Commit, Op, RenameMode, SetAttr, SetTime, XattrMode};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::Query;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use super::clients::Client;
use super::sessions::Reply;

/// Bytes of a small chunk; the plain tree knows no others.
const SMALL_CHUNK: u32 = 64;
/// Inodes of a kind that are remembered of a volume.
const REMEMBERED: usize = 40;
/// Chunks that are remembered of a space.
const CHUNKS: usize = 400;

/// A chunk that somebody uploaded.
#[derive(Clone, Copy)]
pub(super) struct Uploaded {
    pub(super) chunk: ChunkId,
    pg: PgId,
    len: u32,
}

/// What is known to be there, or to have been.
#[derive(Default)]
pub(super) struct Known {
    inodes: BTreeMap<(VolumeId, bool), Vec<Ino>>,
    others: BTreeMap<VolumeId, Vec<Ino>>,
    /// A file of each volume that grows large.
    large: BTreeMap<VolumeId, Ino>,
    pub(super) chunks: BTreeMap<SpaceId, Vec<Uploaded>>,
}

impl Known {
    /// Learns from what came of an operation.
    pub(super) fn learn(&mut self, rng: &mut SmallRng, volume: VolumeId, reply: &Reply) {
        if let Err(Refusal::NoInode { volume, ino }) = reply
            && self.large.get(volume) == Some(ino)
        {
            self.large.remove(volume);
        }
        let Ok(Outcome::Created { attr, fresh: true }) = reply else { return };
        if attr.kind == Kind::File {
            self.large.entry(volume).or_insert(attr.ino);
        }
        let list = match attr.kind {
            Kind::Directory | Kind::File => self.inodes.entry((volume, attr.kind == Kind::Directory)).or_default(),
            _ => self.others.entry(volume).or_default(),
        };
        list.push(attr.ino);
        if list.len() > REMEMBERED {
            list.swap_remove(rng.random_range(0..list.len()));
        }
    }

    fn directory(&self, rng: &mut SmallRng, volume: VolumeId) -> Ino {
        match rng.random_range(0..20u32) {
            0 => self.any(rng, volume),
            1..=6 => Ino::ROOT,
            _ => self.inodes.get(&(volume, true)).and_then(|list| list.choose(rng)).copied().unwrap_or(Ino::ROOT),
        }
    }

    fn file(&self, rng: &mut SmallRng, volume: VolumeId) -> Ino {
        let known = self.inodes.get(&(volume, false)).and_then(|list| list.choose(rng)).copied();
        known.filter(|_| rng.random_range(0..25u32) > 0).unwrap_or_else(|| self.any(rng, volume))
    }

    pub(super) fn any(&self, rng: &mut SmallRng, volume: VolumeId) -> Ino {
        let lists = [self.inodes.get(&(volume, true)), self.inodes.get(&(volume, false)), self.others.get(&volume)];
        let list = lists.choose(rng).copied().flatten();
        let known = list.and_then(|list| list.choose(rng)).copied();
        known.unwrap_or(Ino(rng.random_range(0..60)))
    }

    fn is_crowded(&self, volume: VolumeId) -> bool {
        let count = |directory| self.inodes.get(&(volume, directory)).map_or(0, Vec::len);
        count(true) + count(false) >= REMEMBERED
    }
}

/// Where operations go.
pub(super) struct Ground<'a> {
    pub(super) known: &'a mut Known,
    pub(super) volume: VolumeId,
    /// Another volume of the group, maybe the same, maybe of another space.
    pub(super) other: VolumeId,
    /// Large files, long names and junctions too: what the plain tree does not know.
    pub(super) wide: bool,
}

pub(super) fn cred(rng: &mut SmallRng) -> Cred {
    match rng.random_range(0..6u32) {
        0..=3 => Cred::root(),
        4 => Cred { uid: 1000, gid: 1000, gids: vec![2000], ..Cred::default() },
        _ => Cred { uid: 1001, gid: 2000, gids: vec![], ..Cred::default() },
    }
}

fn name(rng: &mut SmallRng, wide: bool) -> Name {
    let letter = b'a' + rng.random_range(0..4u8);
    let len = if wide && rng.random_range(0..40u32) == 0 { 255 } else { rng.random_range(1..4) };
    Name::parse(vec![letter; len]).expect("a good name")
}

fn mode(rng: &mut SmallRng) -> u16 {
    // Mostly such that others get on with it.
    rng.random_range(0..0o10000u16) | if rng.random_range(0..8u32) > 0 { 0o777 } else { 0 }
}

fn attribute(rng: &mut SmallRng) -> XattrName {
    let names = ["user.a", "user.ab", "trusted.t", "weft.x"];
    XattrName::parse(*names.choose(rng).expect("there are some")).expect("a good name")
}

fn set_attr(rng: &mut SmallRng) -> SetAttr {
    let maybe = |rng: &mut SmallRng| rng.random_range(0..3u32) == 0;
    let time = |rng: &mut SmallRng| match rng.random_range(0..4u32) {
        0 => Some(SetTime::Now),
        1 => Some(SetTime::To(Timestamp::from_nanos(rng.random_range(0..1 << 40)))),
        _ => None,
    };
    SetAttr {
        mode: maybe(rng).then(|| mode(rng)),
        uid: maybe(rng).then(|| [0, 1000, 1001][rng.random_range(0..3)]),
        gid: maybe(rng).then(|| [0, 1000, 2000][rng.random_range(0..3)]),
        atime: time(rng),
        mtime: time(rng),
        ctime: None,
    }
}

/// An operation of a client.
pub(super) fn op(rng: &mut SmallRng, ground: &mut Ground<'_>, client: &mut Client) -> Op {
    let (volume, wide) = (ground.volume, ground.wide);
    if wide && rng.random_range(0..7u32) == 0 {
        return large(rng, ground, client);
    }
    let parent = ground.known.directory(rng, volume);
    let name = |rng: &mut SmallRng| name(rng, wide);
    if ground.known.is_crowded(volume) && rng.random_range(0..3u32) == 0 {
        let name = name(rng);
        return if rng.random() { Op::Unlink { parent, name } } else { Op::Rmdir { parent, name } };
    }
    let span = |rng: &mut SmallRng| (rng.random_range(0..128u64), rng.random_range(0..64u64));
    match rng.random_range(0..100u32) {
        0..=6 => Op::Mkdir { parent, name: name(rng), mode: mode(rng) },
        7..=17 => Op::Create { parent, name: name(rng), mode: mode(rng), exclusive: rng.random() },
        18..=20 => {
            let kinds = [Kind::File, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
            let kind = *kinds.choose(rng).expect("there are some");
            Op::Mknod { parent, name: name(rng), kind, mode: mode(rng), rdev: 0x103 }
        }
        21..=22 => {
            let target = Bytes::from(vec![b't'; rng.random_range(0..3)]);
            Op::Symlink { parent, name: name(rng), target }
        }
        23..=26 => {
            let ino = if rng.random() { ground.known.any(rng, volume) } else { ground.known.file(rng, volume) };
            Op::Link { ino, parent, name: name(rng) }
        }
        27..=32 => Op::Unlink { parent, name: name(rng) },
        33..=36 => Op::Rmdir { parent, name: name(rng) },
        37..=45 => {
            let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            let new_parent = if rng.random() { parent } else { ground.known.directory(rng, volume) };
            let (from, to) = (name(rng), name(rng));
            let mode = *modes.choose(rng).expect("there are some");
            Op::Rename { parent, name: from, new_parent, new_name: to, mode }
        }
        46..=51 => Op::Setattr { ino: ground.known.any(rng, volume), set: set_attr(rng) },
        52..=57 => {
            let set = if rng.random_range(0..4u32) == 0 { set_attr(rng) } else { SetAttr::default() };
            let size = if rng.random_range(0..4u32) == 0 { 0 } else { span(rng).0 };
            Op::Truncate { ino: ground.known.file(rng, volume), size, set, opened: rng.random() }
        }
        58..=77 => {
            let count = rng.random_range(0..4);
            let extents = (0..count).map(|_| small_extent(rng, ground, client)).collect();
            Op::Commit(Commit {
                ino: ground.known.file(rng, volume),
                extents,
                size_at_least: if rng.random() { 0 } else { span(rng).0 },
                mtime: rng.random::<bool>().then(|| Timestamp::from_nanos(rng.random_range(0..1 << 40))),
                set: if rng.random_range(0..4u32) == 0 { set_attr(rng) } else { SetAttr::default() },
                clear_suid: rng.random(),
            })
        }
        78..=84 => {
            let (offset, len) = span(rng);
            Op::Allocate { ino: ground.known.file(rng, volume), mode: allocate_mode(rng), offset, len }
        }
        85..=89 => {
            let ((source_offset, _), (target_offset, len)) = (span(rng), span(rng));
            let source_volume = ground.other;
            Op::CopyRange {
                source_volume,
                source: ground.known.file(rng, source_volume),
                source_offset,
                target: ground.known.file(rng, volume),
                target_offset,
                len: 3 * len,
            }
        }
        90..=95 => {
            let modes = [XattrMode::Set, XattrMode::Create, XattrMode::Replace];
            let mode = *modes.choose(rng).expect("there are some");
            let value = Bytes::from(vec![1; rng.random_range(0..40)]);
            Op::SetXattr { ino: ground.known.any(rng, volume), name: attribute(rng), value, mode }
        }
        96..=98 => Op::RemoveXattr { ino: ground.known.any(rng, volume), name: attribute(rng) },
        _ if wide => {
            let slot = SlotRef { space: SpaceId(3), slot: SlotId(rng.random_range(0..9)) };
            let name = name(rng);
            if rng.random() { Op::MakeJunction { parent, name, slot } } else { Op::RemoveJunction { parent, name } }
        }
        _ => Op::Unlink { parent, name: name(rng) },
    }
}

fn allocate_mode(rng: &mut SmallRng) -> AllocateMode {
    let modes = [
        AllocateMode::Reserve,
        AllocateMode::ReserveKeepSize,
        AllocateMode::PunchHole,
        AllocateMode::ZeroRange,
        AllocateMode::ZeroRangeKeepSize,
    ];
    *modes.choose(rng).expect("there are some")
}

/// One uploaded before, by whomever, or a new one of the client's.
fn chunk(rng: &mut SmallRng, ground: &mut Ground<'_>, client: &mut Client, len: u32) -> Uploaded {
    let list = ground.known.chunks.entry(client.space).or_default();
    if rng.random()
        && let Some(known) = list.choose(rng)
    {
        return *known;
    }
    let made = fresh_chunk(client, len);
    if list.len() < CHUNKS {
        list.push(made);
    } else {
        let at = rng.random_range(0..list.len());
        list[at] = made;
    }
    made
}

fn fresh_chunk(client: &mut Client, len: u32) -> Uploaded {
    client.chunks += 1;
    let chunk = ChunkId { client: client.id, counter: client.chunks };
    Uploaded { chunk, pg: PgId(1 + client.chunks as u32 % 3), len }
}

fn small_extent(rng: &mut SmallRng, ground: &mut Ground<'_>, client: &mut Client) -> Extent {
    let len = rng.random_range(1..=40u32);
    let body = match rng.random_range(0..4u32) {
        0 => ExtentBody::Inline((0..len).map(|_| rng.random::<u8>()).collect()),
        1 => ExtentBody::Zero,
        _ => {
            let at = rng.random_range(0..=SMALL_CHUNK - 40);
            let Uploaded { chunk, pg, len } = chunk(rng, ground, client, SMALL_CHUNK);
            // Now and then somebody claims another place for it.
            let pg = if ground.wide && rng.random_range(0..30u32) == 0 { PgId(pg.0 + 1) } else { pg };
            ExtentBody::Chunk { chunk, pg, at, chunk_len: len }
        }
    };
    Extent { offset: rng.random_range(0..128), len, body }
}

/// Operations on files of thousands of extents, so that the bounds of one command are reached.
fn large(rng: &mut SmallRng, ground: &mut Ground<'_>, client: &mut Client) -> Op {
    const STRIDE: u64 = 16;
    let known = ground.known.large.get(&ground.volume).copied().unwrap_or(Ino(2));
    let other = ground.known.file(rng, ground.volume);
    let file = |rng: &mut SmallRng| if rng.random_range(0..4u32) == 0 { other } else { known };
    let ino = file(rng);
    let places = 4096;
    let span = |rng: &mut SmallRng| {
        let from = rng.random_range(0..places) * STRIDE;
        (from, rng.random_range(1..=places * STRIDE - from))
    };
    match rng.random_range(0..10u32) {
        0..=4 => {
            let count = rng.random_range(200..=512u64);
            let first = rng.random_range(0..places - count);
            // All of one chunk, or each of its own: then taking one away changes three records.
            let single = rng.random::<bool>();
            let one = chunk(rng, ground, client, 4096);
            let extents = (first..first + count).map(|place| {
                let len = rng.random_range(1..=STRIDE as u32);
                let body = match rng.random_range(0..6u32) {
                    0 => ExtentBody::Inline(vec![place as u8; len as usize].into()),
                    1 => ExtentBody::Zero,
                    _ => {
                        let of = if single { one } else { fresh_chunk(client, 4096) };
                        let at = rng.random_range(0..=of.len - len);
                        ExtentBody::Chunk { chunk: of.chunk, pg: of.pg, at, chunk_len: of.len }
                    }
                };
                Extent { offset: place * STRIDE, len, body }
            });
            Op::Commit(Commit {
                ino,
                extents: extents.collect(),
                size_at_least: 0,
                mtime: None,
                set: SetAttr::default(),
                clear_suid: false,
            })
        }
        5 => {
            let size = if rng.random() { 0 } else { span(rng).0 };
            Op::Truncate { ino, size, set: SetAttr::default(), opened: true }
        }
        6..=7 => {
            let (offset, len) = span(rng);
            Op::Allocate { ino, mode: allocate_mode(rng), offset, len }
        }
        8 => {
            let ((source_offset, len), (target_offset, _)) = (span(rng), span(rng));
            Op::CopyRange {
                source_volume: ground.volume,
                source: file(rng),
                source_offset,
                target: ino,
                target_offset,
                len,
            }
        }
        _ => {
            let extent = Extent { offset: span(rng).0, len: 4 << 20, body: ExtentBody::Zero };
            Op::Commit(Commit {
                ino,
                extents: vec![extent],
                size_at_least: 0,
                mtime: None,
                set: SetAttr::default(),
                clear_suid: true,
            })
        }
    }
}

/// A question about a volume.
pub(super) fn question(rng: &mut SmallRng, known: &Known, volume: VolumeId) -> Query {
    let ino = known.any(rng, volume);
    match rng.random_range(0..10u32) {
        0 | 1 => Query::Lookup { parent: known.directory(rng, volume), name: name(rng, false) },
        2 => Query::Getattr { ino },
        3 => Query::Open { ino, read: rng.random(), write: rng.random() },
        4 => {
            let after = rng.random::<bool>().then(|| name(rng, false));
            let dir = known.directory(rng, volume);
            Query::Readdir { dir, after, limit: rng.random_range(0..8), with_attrs: rng.random() }
        }
        5 => Query::Readlink { ino },
        6 => Query::Map { ino, offset: rng.random_range(0..1000), limit: rng.random_range(0..8) },
        7 => Query::GetXattr { ino, name: attribute(rng) },
        8 => Query::ListXattr { ino },
        _ => Query::Access { ino, mask: rng.random_range(0..8) },
    }
}
