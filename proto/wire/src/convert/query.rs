//! Questions and their answers.

use weft_core::ids::{GroupId, VolumeId};
use weft_core::limits::{MAX_MAP, MAX_READDIR};
use weft_core::name::{Name, XattrName};
use weft_core::namespace::inode::Dirent;
use weft_core::namespace::query::{Answer, Found, ListedEntry, Query, VolumeUse};
use weft_core::refusal::Refusal;

use super::attr::{attr, kind, parse_attr, parse_kind, parse_slot_ref, slot_ref};
use super::envelope::{Envelope, parse_envelope};
use super::extent::{extent, parse_extent};
use super::ids::parse_ino;
use super::{garbled, invalid, need};
use crate::pb::{self, query_reply::Answer as WireAnswer, query_request::Query as WireQuery};

/// A question as its server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedQuery {
    /// Who asks.
    pub envelope: Envelope,
    /// The group that should lead here.
    pub group: GroupId,
    /// The volume it is about.
    pub volume: VolumeId,
    /// The question. Limits are at most the largest allowed.
    pub query: Query,
}

/// A question as it is sent.
pub fn query_request(envelope: Envelope, group: GroupId, volume: VolumeId, query: &Query) -> pb::QueryRequest {
    pb::QueryRequest {
        envelope: Some(envelope.to_wire()),
        group: group.0,
        volume: volume.0,
        query: Some(wire_query(query)),
    }
}

/// Checks and takes a question.
///
/// # Errors
/// Whatever is wrong with it: see [`super::parse_envelope`], [`Name::parse`].
pub fn parse_query(wire: pb::QueryRequest) -> Result<ParsedQuery, Refusal> {
    Ok(ParsedQuery {
        envelope: parse_envelope(wire.envelope)?,
        group: GroupId(wire.group),
        volume: VolumeId(wire.volume),
        query: parse_question(need(wire.query, "a question known here")?)?,
    })
}

fn wire_query(query: &Query) -> WireQuery {
    match query {
        Query::Lookup { parent, name } => WireQuery::Lookup(pb::Lookup { parent: parent.0, name: name.to_bytes() }),
        Query::Getattr { ino } => WireQuery::Getattr(pb::Getattr { ino: ino.0 }),
        Query::Open { ino, read, write } => WireQuery::Open(pb::Open { ino: ino.0, read: *read, write: *write }),
        Query::Readdir { dir, after, limit, with_attrs } => WireQuery::Readdir(pb::Readdir {
            dir: dir.0,
            after: after.as_ref().map(Name::to_bytes),
            limit: *limit,
            with_attrs: *with_attrs,
        }),
        Query::Readlink { ino } => WireQuery::Readlink(pb::Readlink { ino: ino.0 }),
        Query::Map { ino, offset, limit } => WireQuery::Map(pb::ReadMap { ino: ino.0, offset: *offset, limit: *limit }),
        Query::GetXattr { ino, name } => WireQuery::GetXattr(pb::GetXattr { ino: ino.0, name: name.to_bytes() }),
        Query::ListXattr { ino } => WireQuery::ListXattr(pb::ListXattr { ino: ino.0 }),
        Query::Statfs => WireQuery::Statfs(pb::Statfs {}),
        Query::Access { ino, mask } => WireQuery::Access(pb::Access { ino: ino.0, mask: (*mask).into() }),
        Query::Slot { space, slot } => {
            WireQuery::Slot(pb::ReadSlot { slot: Some(pb::SlotRef { space: space.0, slot: slot.0 }) })
        }
    }
}

fn parse_question(wire: WireQuery) -> Result<Query, Refusal> {
    Ok(match wire {
        WireQuery::Lookup(pb::Lookup { parent, name }) => {
            Query::Lookup { parent: parse_ino(parent)?, name: Name::parse(name)? }
        }
        WireQuery::Getattr(pb::Getattr { ino }) => Query::Getattr { ino: parse_ino(ino)? },
        WireQuery::Open(pb::Open { ino, read, write }) => Query::Open { ino: parse_ino(ino)?, read, write },
        WireQuery::Readdir(pb::Readdir { dir, after, limit, with_attrs }) => Query::Readdir {
            dir: parse_ino(dir)?,
            after: after.map(Name::parse).transpose()?,
            limit: limit.min(MAX_READDIR),
            with_attrs,
        },
        WireQuery::Readlink(pb::Readlink { ino }) => Query::Readlink { ino: parse_ino(ino)? },
        WireQuery::Map(pb::ReadMap { ino, offset, limit }) => {
            Query::Map { ino: parse_ino(ino)?, offset, limit: limit.min(MAX_MAP) }
        }
        WireQuery::GetXattr(pb::GetXattr { ino, name }) => {
            Query::GetXattr { ino: parse_ino(ino)?, name: XattrName::parse(name)? }
        }
        WireQuery::ListXattr(pb::ListXattr { ino }) => Query::ListXattr { ino: parse_ino(ino)? },
        WireQuery::Statfs(pb::Statfs {}) => Query::Statfs,
        WireQuery::Access(pb::Access { ino, mask }) => match mask {
            0..=7 => Query::Access { ino: parse_ino(ino)?, mask: mask as u8 },
            _ => return Err(invalid(format!("access mask {mask} is above 7"))),
        },
        WireQuery::Slot(pb::ReadSlot { slot }) => {
            let slot = parse_slot_ref(slot)?;
            Query::Slot { space: slot.space, slot: slot.slot }
        }
    })
}

/// An answer as it is sent.
pub fn query_reply(answer: &Answer) -> pb::QueryReply {
    let answer = match answer {
        Answer::Found(found) => WireAnswer::Found(pb::Found {
            what: Some(match found {
                Found::Inode(of) => pb::found::What::Inode(attr(of)),
                Found::Junction(slot) => pb::found::What::Junction(slot_ref(*slot)),
            }),
        }),
        Answer::Attr(of) => WireAnswer::Attr(attr(of)),
        Answer::Entries { entries, end, dir } => WireAnswer::Entries(pb::Entries {
            entries: entries.iter().map(wire_entry).collect(),
            end: *end,
            dir: Some(attr(dir)),
        }),
        Answer::Map { attr: of, extents, more_from } => WireAnswer::Map(pb::FileMap {
            attr: Some(attr(of)),
            extents: extents.iter().map(extent).collect(),
            more_from: *more_from,
        }),
        Answer::Bytes(bytes) => WireAnswer::Bytes(bytes.clone()),
        Answer::Names(names) => WireAnswer::Names(pb::Names { names: names.clone() }),
        Answer::Statfs(VolumeUse { bytes, inodes, max_bytes, max_inodes }) => WireAnswer::Statfs(pb::VolumeUse {
            bytes: *bytes,
            inodes: *inodes,
            max_bytes: *max_bytes,
            max_inodes: *max_inodes,
        }),
        Answer::Slot(volume) => WireAnswer::Slot(volume.0),
        Answer::Done => WireAnswer::Done(pb::Done {}),
    };
    pb::QueryReply { answer: Some(answer) }
}

/// Checks and takes an answer.
///
/// # Errors
/// [`Refusal::Unknown`] if it can't be understood.
pub fn parse_query_reply(wire: pb::QueryReply) -> Result<Answer, Refusal> {
    parse_answer(wire).map_err(garbled)
}

fn parse_answer(wire: pb::QueryReply) -> Result<Answer, Refusal> {
    Ok(match need(wire.answer, "an answer known here")? {
        WireAnswer::Found(found) => Answer::Found(match need(found.what, "what was found")? {
            pb::found::What::Inode(of) => Found::Inode(parse_attr(Some(of))?),
            pb::found::What::Junction(slot) => Found::Junction(parse_slot_ref(Some(slot))?),
        }),
        WireAnswer::Attr(of) => Answer::Attr(parse_attr(Some(of))?),
        WireAnswer::Entries(pb::Entries { entries, end, dir }) => Answer::Entries {
            entries: entries.into_iter().map(parse_entry).collect::<Result<_, _>>()?,
            end,
            dir: parse_attr(dir)?,
        },
        WireAnswer::Map(pb::FileMap { attr: of, extents, more_from }) => Answer::Map {
            attr: parse_attr(of)?,
            extents: extents.into_iter().map(parse_extent).collect::<Result<_, _>>()?,
            more_from,
        },
        WireAnswer::Bytes(bytes) => Answer::Bytes(bytes),
        WireAnswer::Names(pb::Names { names }) => Answer::Names(names),
        WireAnswer::Statfs(pb::VolumeUse { bytes, inodes, max_bytes, max_inodes }) => {
            Answer::Statfs(VolumeUse { bytes, inodes, max_bytes, max_inodes })
        }
        WireAnswer::Slot(volume) => Answer::Slot(VolumeId(volume)),
        WireAnswer::Done(pb::Done {}) => Answer::Done,
    })
}

fn wire_entry(entry: &ListedEntry) -> pb::Entry {
    pb::Entry {
        name: entry.name.to_bytes(),
        what: Some(match entry.dirent {
            Dirent::Inode { ino, kind: of } => {
                pb::entry::What::Inode(pb::EntryInode { ino: ino.0, kind: kind(of).into() })
            }
            Dirent::Junction(slot) => pb::entry::What::Junction(slot_ref(slot)),
        }),
        attr: entry.attr.as_ref().map(attr),
    }
}

fn parse_entry(wire: pb::Entry) -> Result<ListedEntry, Refusal> {
    Ok(ListedEntry {
        name: Name::parse(wire.name)?,
        dirent: match need(wire.what, "what an entry stands for")? {
            pb::entry::What::Inode(pb::EntryInode { ino, kind }) => {
                Dirent::Inode { ino: parse_ino(ino)?, kind: parse_kind(kind)? }
            }
            pb::entry::What::Junction(slot) => Dirent::Junction(parse_slot_ref(Some(slot))?),
        },
        attr: wire.attr.map(|of| parse_attr(Some(of))).transpose()?,
    })
}
