//! Where every record lies: one place for all keys of a meta group.
//!
//! A key is a table byte, fixed-width big-endian ids, and for names the name's bytes with a NUL behind them, so that
//! key order is id order and name order. Tables of one volume lie together (`VOLUME`, volume, table, key).
//!
//! **Extents are keyed by the offset where they END.** Extents of one map never overlap, so in order of their ends
//! they are also in order of their starts, and whatever overlaps a span is found by one forward scan that begins at
//! the first end beyond the span's start. With starts as keys the first overlapping extent would lie before the span,
//! and the view has no backward scan.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::CodecError;
use crate::codec::wire::{Code, Reader};
use crate::ids::{ChunkId, ClientId, GroupId, Ino, NodeId, PgId, PrincipalId, SlotId, SpaceId, VolumeId};
use crate::name::{Name, XattrName};

/// First byte of keys that belong to whoever holds the records (the applied log id, for instance); no key of this
/// crate begins with it.
pub const OUTSIDE: u8 = 0x00;
/// First byte that lies above all keys.
pub const END: u8 = 0xff;

const GROUP: u8 = 0x01;
const SITE: u8 = 0x02;
const HEADS: u8 = 0x03;
const ORPHANS: u8 = 0x04;
const CUTS: u8 = 0x05;
const SESSIONS: u8 = 0x06;
const REPLIES: u8 = 0x07;
const SLOTS: u8 = 0x08;
const CHUNKS: u8 = 0x09;
const FREED: u8 = 0x0a;
const SPACES: u8 = 0x0b;
const LEASES: u8 = 0x0c;
const DROPPED: u8 = 0x0d;
const SMALL: u8 = 0x0e;
const VOLUME: u8 = 0x10;

const INODE: u8 = 0x01;
const DIRENT: u8 = 0x02;
const EXTENT: u8 = 0x03;
const XATTR: u8 = 0x04;

/// A key being put together.
struct Key(BytesMut);

impl Key {
    fn of(table: u8) -> Key {
        let mut key = BytesMut::with_capacity(64);
        key.put_u8(table);
        Key(key)
    }

    fn u8(mut self, value: u8) -> Key {
        self.0.put_u8(value);
        self
    }

    fn u16(mut self, value: u16) -> Key {
        self.0.put_u16(value);
        self
    }

    fn u32(mut self, value: u32) -> Key {
        self.0.put_u32(value);
        self
    }

    fn u64(mut self, value: u64) -> Key {
        self.0.put_u64(value);
        self
    }

    fn name(mut self, name: &[u8]) -> Key {
        self.0.put_slice(name);
        self.0.put_u8(0);
        self
    }

    fn done(self) -> Bytes {
        self.0.freeze()
    }
}

/// All keys that begin with `prefix`: from it (inclusive) to the second (exclusive).
pub(crate) fn prefixed(prefix: &[u8]) -> (Bytes, Bytes) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    (Bytes::copy_from_slice(prefix), end.into())
}

/// The group's last time.
pub(crate) fn clock() -> Bytes {
    Key::of(GROUP).u8(1).done()
}

/// The group's feature level.
pub(crate) fn feature_level() -> Bytes {
    Key::of(GROUP).u8(2).done()
}

/// The site's own record.
pub(crate) fn site() -> Bytes {
    Key::of(SITE).u8(1).done()
}

/// A node of the site.
pub(crate) fn site_node(node: NodeId) -> Bytes {
    Key::of(SITE).u8(2).u32(node.0).done()
}

/// A group of the site.
pub(crate) fn site_group(group: GroupId) -> Bytes {
    Key::of(SITE).u8(3).u32(group.0).done()
}

/// A volume of the site.
pub(crate) fn site_volume(volume: VolumeId) -> Bytes {
    Key::of(SITE).u8(4).u64(volume.0).done()
}

/// A placement group of the site.
pub(crate) fn site_pg(pg: PgId) -> Bytes {
    Key::of(SITE).u8(5).u32(pg.0).done()
}

/// What the members of a placement group have seen.
pub(crate) fn site_past(pg: PgId) -> Bytes {
    Key::of(SITE).u8(6).u32(pg.0).done()
}

/// What the site keeps of trust.
pub(crate) fn site_trust() -> Bytes {
    Key::of(SITE).u8(80).done()
}

/// A user of the site.
pub(crate) fn site_user(user: PrincipalId) -> Bytes {
    Key::of(SITE).u8(81).u64(user.0).done()
}

/// A join token.
pub(crate) fn site_token(id: u64) -> Bytes {
    Key::of(SITE).u8(82).u64(id).done()
}

/// All nodes, groups, volumes or placement groups: the bounds of the table of `sample`, a key of it.
pub(crate) fn site_table(sample: &[u8]) -> (Bytes, Bytes) {
    prefixed(&sample[..2])
}

/// The head of a volume.
pub(crate) fn head(volume: VolumeId) -> Bytes {
    Key::of(HEADS).u64(volume.0).done()
}

/// All heads.
pub(crate) fn heads() -> (Bytes, Bytes) {
    prefixed(&[HEADS])
}

/// A volume that is being deleted, or was.
pub(crate) fn dropped(volume: VolumeId) -> Bytes {
    Key::of(DROPPED).u64(volume.0).done()
}

/// All of them.
pub(crate) fn all_dropped() -> (Bytes, Bytes) {
    prefixed(&[DROPPED])
}

/// Everything that a volume has in tables of its own, and what waits to be done for it, table by table.
pub(crate) fn all_of_volume(volume: VolumeId) -> [(Bytes, Bytes); 5] {
    [VOLUME, ORPHANS, CUTS, LEASES, SMALL].map(|table| prefixed(&Key::of(table).u64(volume.0).done()))
}

/// An inode that has no name any more.
pub(crate) fn orphan(volume: VolumeId, ino: Ino) -> Bytes {
    Key::of(ORPHANS).u64(volume.0).u64(ino.0).done()
}

/// All orphans.
pub(crate) fn orphans() -> (Bytes, Bytes) {
    prefixed(&[ORPHANS])
}

/// A file with extents that a truncation cut off and no step has removed.
pub(crate) fn cut(volume: VolumeId, ino: Ino) -> Bytes {
    Key::of(CUTS).u64(volume.0).u64(ino.0).done()
}

/// All such files.
pub(crate) fn cuts() -> (Bytes, Bytes) {
    prefixed(&[CUTS])
}

/// A file with so many extents of bytes that it waits for compaction.
pub(crate) fn small(volume: VolumeId, ino: Ino) -> Bytes {
    Key::of(SMALL).u64(volume.0).u64(ino.0).done()
}

/// All such files.
pub(crate) fn all_small() -> (Bytes, Bytes) {
    prefixed(&[SMALL])
}

/// A session.
pub(crate) fn session(space: SpaceId, client: ClientId) -> Bytes {
    Key::of(SESSIONS).u64(space.0).u64(client.0).done()
}

/// All sessions.
pub(crate) fn sessions() -> (Bytes, Bytes) {
    prefixed(&[SESSIONS])
}

/// The place of a reply in its session's ring.
pub(crate) fn reply(space: SpaceId, client: ClientId, place: u16) -> Bytes {
    Key::of(REPLIES).u64(space.0).u64(client.0).u16(place).done()
}

/// Whether a record is a reply of a session.
#[doc(hidden)]
pub fn is_reply(key: &[u8]) -> bool {
    key.first() == Some(&REPLIES)
}

/// All replies of a session.
pub(crate) fn replies(space: SpaceId, client: ClientId) -> (Bytes, Bytes) {
    prefixed(&Key::of(REPLIES).u64(space.0).u64(client.0).done())
}

/// What a slot holds.
pub(crate) fn slot(space: SpaceId, slot: SlotId) -> Bytes {
    Key::of(SLOTS).u64(space.0).u64(slot.0).done()
}

/// That a space lives in this group.
pub(crate) fn space(space: SpaceId) -> Bytes {
    Key::of(SPACES).u64(space.0).done()
}

/// A write lease on a directory.
pub(crate) fn lease(volume: VolumeId, dir: Ino) -> Bytes {
    Key::of(LEASES).u64(volume.0).u64(dir.0).done()
}

/// All write leases.
pub(crate) fn leases() -> (Bytes, Bytes) {
    prefixed(&[LEASES])
}

/// How often a chunk is named.
pub(crate) fn chunk(space: SpaceId, chunk: ChunkId) -> Bytes {
    Key::of(CHUNKS).u64(space.0).u64(chunk.client.0).u64(chunk.counter).done()
}

/// All chunks that are named.
pub(crate) fn chunks() -> (Bytes, Bytes) {
    prefixed(&[CHUNKS])
}

/// All chunks of a space that are named.
pub(crate) fn chunks_of(space: SpaceId) -> (Bytes, Bytes) {
    prefixed(&Key::of(CHUNKS).u64(space.0).done())
}

/// A chunk that is named no more.
pub(crate) fn freed(space: SpaceId, chunk: ChunkId) -> Bytes {
    Key::of(FREED).u64(space.0).u64(chunk.client.0).u64(chunk.counter).done()
}

/// All freed chunks.
pub(crate) fn all_freed() -> (Bytes, Bytes) {
    prefixed(&[FREED])
}

/// All freed chunks of a space.
pub(crate) fn freed_of(space: SpaceId) -> (Bytes, Bytes) {
    prefixed(&Key::of(FREED).u64(space.0).done())
}

fn table(volume: VolumeId, table: u8) -> Key {
    Key::of(VOLUME).u64(volume.0).u8(table)
}

/// An inode.
pub(crate) fn inode(volume: VolumeId, ino: Ino) -> Bytes {
    table(volume, INODE).u64(ino.0).done()
}

/// All inodes of a volume.
pub(crate) fn inodes(volume: VolumeId) -> (Bytes, Bytes) {
    prefixed(&table(volume, INODE).done())
}

/// A name in a directory.
pub(crate) fn dirent(volume: VolumeId, dir: Ino, name: &Name) -> Bytes {
    table(volume, DIRENT).u64(dir.0).name(name.as_bytes()).done()
}

/// The names of a directory, those behind `after` only.
pub(crate) fn dirents(volume: VolumeId, dir: Ino, after: Option<&Name>) -> (Bytes, Bytes) {
    let (first, end) = prefixed(&table(volume, DIRENT).u64(dir.0).done());
    let from = match after {
        // The NUL behind the name becomes a 1: above the name itself, below whatever it is a prefix of.
        Some(name) => {
            let mut key = BytesMut::from(&first[..]);
            key.put_slice(name.as_bytes());
            key.put_u8(1);
            key.freeze()
        }
        None => first,
    };
    (from, end)
}

/// All names of a volume.
pub(crate) fn all_dirents(volume: VolumeId) -> (Bytes, Bytes) {
    prefixed(&table(volume, DIRENT).done())
}

/// An extent, by the offset where it ends.
pub(crate) fn extent(volume: VolumeId, ino: Ino, generation: u32, end: u64) -> Bytes {
    table(volume, EXTENT).u64(ino.0).u32(generation).u64(end).done()
}

/// The extents of a file's map that end behind `offset`.
pub(crate) fn extents(volume: VolumeId, ino: Ino, generation: u32, offset: u64) -> (Bytes, Bytes) {
    let from = extent(volume, ino, generation, offset.saturating_add(1));
    (from, prefixed(&table(volume, EXTENT).u64(ino.0).u32(generation).done()).1)
}

/// The extents of a file's earlier maps, up to but without generation `below`.
pub(crate) fn old_extents(volume: VolumeId, ino: Ino, below: u32) -> (Bytes, Bytes) {
    (extent(volume, ino, 0, 0), extent(volume, ino, below, 0))
}

/// All extents of a file, of whatever generation.
pub(crate) fn file_extents(volume: VolumeId, ino: Ino) -> (Bytes, Bytes) {
    prefixed(&table(volume, EXTENT).u64(ino.0).done())
}

/// All extents of a volume.
pub(crate) fn all_extents(volume: VolumeId) -> (Bytes, Bytes) {
    prefixed(&table(volume, EXTENT).done())
}

/// An extended attribute.
pub(crate) fn xattr(volume: VolumeId, ino: Ino, name: &XattrName) -> Bytes {
    table(volume, XATTR).u64(ino.0).name(name.as_bytes()).done()
}

/// All extended attributes of an inode.
pub(crate) fn xattrs(volume: VolumeId, ino: Ino) -> (Bytes, Bytes) {
    prefixed(&table(volume, XATTR).u64(ino.0).done())
}

/// All extended attributes of a volume.
pub(crate) fn all_xattrs(volume: VolumeId) -> (Bytes, Bytes) {
    prefixed(&table(volume, XATTR).done())
}

/// Whether a key is in a volume's tables.
pub(crate) fn is_of_volume(key: &[u8]) -> bool {
    key.first() == Some(&VOLUME)
}

/// Whether a key is the count of a chunk.
pub(crate) fn is_chunk(key: &[u8]) -> bool {
    key.first() == Some(&CHUNKS)
}

/// Two ids behind the table byte: volume and inode of an orphan or a cut, space and client of a session.
pub(crate) fn two_ids(key: &[u8]) -> Result<(u64, u64), CodecError> {
    let mut from = Reader::new(key);
    from.u8()?;
    let ids = Code::take(&mut from)?;
    from.end()?;
    Ok(ids)
}

/// The volume of a head.
pub(crate) fn head_volume(key: &[u8]) -> Result<VolumeId, CodecError> {
    let mut from = Reader::new(key);
    from.u8()?;
    Code::take(&mut from)
}

/// Space and chunk of a reference or a freed chunk.
pub(crate) fn space_chunk(key: &[u8]) -> Result<(SpaceId, ChunkId), CodecError> {
    let mut from = Reader::new(key);
    from.u8()?;
    Code::take(&mut from)
}

/// The inode that a key of a volume's table is about, and what is behind it.
pub(crate) fn ino_and_rest(key: &[u8]) -> Result<(Ino, &[u8]), CodecError> {
    let rest = key.get(10..).ok_or(CodecError::Short)?;
    let (ino, rest) = rest.split_first_chunk::<8>().ok_or(CodecError::Short)?;
    Ok((Ino(u64::from_be_bytes(*ino)), rest))
}

/// Generation and end of an extent, from what is behind its inode.
pub(crate) fn extent_rest(rest: &[u8]) -> Result<(u32, u64), CodecError> {
    let mut from = Reader::new(rest);
    let place = Code::take(&mut from)?;
    from.end()?;
    Ok(place)
}

/// The name behind an inode, without its NUL.
pub(crate) fn name_rest(rest: &[u8]) -> Result<&[u8], CodecError> {
    match rest.split_last() {
        Some((0, name)) => Ok(name),
        _ => Err(CodecError::Invalid("name key")),
    }
}
