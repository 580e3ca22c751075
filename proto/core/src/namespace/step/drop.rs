//! Deleting a volume, step by step. Between two steps every count is right: chunks are released with the extents that
//! named them.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::codec::{self, ChunkRef, Head};
use crate::ids::{ChunkId, SpaceId, VolumeId};
use crate::keys;
use crate::limits::STEP_RECORDS;
use crate::namespace::fail::Fail;
use crate::namespace::inode::{Extent, ExtentBody};
use crate::namespace::outcome::Outcome;
use crate::namespace::records::{self, damaged};
use crate::view::Overlay;

/// Takes one step. Repeating the last one changes nothing.
pub(crate) fn drop_volume(out: &mut Overlay<'_>, volume: VolumeId) -> Result<Outcome, Fail> {
    if let Some(head) = records::get::<Head>(out, &keys::head(volume))? {
        // From here on nothing finds it any more.
        out.remove(keys::head(volume));
        out.remove(keys::slot(head.space, head.slot));
        out.put(keys::dropped(volume), codec::encode(&Some(head)));
        return Ok(Outcome::Stepped { more: true });
    }
    let Some(Some(head)) = records::get::<Option<Head>>(out, &keys::dropped(volume))? else {
        return Ok(Outcome::Stepped { more: false });
    };
    let mut left = STEP_RECORDS;
    let mut extents: Vec<(Bytes, Extent)> = Vec::new();
    records::scan(out, keys::all_extents(volume), |key, value| {
        if extents.len() >= left {
            return Ok(ControlFlow::Break(()));
        }
        extents.push((Bytes::copy_from_slice(key), records::born(key, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    left -= extents.len();
    for (key, extent) in extents {
        out.remove(key);
        if let ExtentBody::Chunk { chunk, .. } = extent.body {
            release(out, head.space, chunk)?;
        }
    }
    for bounds in keys::all_of_volume(volume) {
        let mut found = Vec::new();
        records::scan(out, bounds, |key, _| {
            if found.len() >= left {
                return Ok(ControlFlow::Break(()));
            }
            found.push(Bytes::copy_from_slice(key));
            Ok(ControlFlow::Continue(()))
        })?;
        left -= found.len();
        found.into_iter().for_each(|key| out.remove(key));
    }
    if left > 0 {
        out.put(keys::dropped(volume), codec::encode(&None::<Head>));
    }
    Ok(Outcome::Stepped { more: left == 0 })
}

/// One name of a chunk is gone; a chunk that no other names moves to the freed.
fn release(out: &mut Overlay<'_>, space: SpaceId, chunk: ChunkId) -> Result<(), Fail> {
    let key = keys::chunk(space, chunk);
    let known: Option<ChunkRef> = records::get(out, &key)?;
    let known = known.ok_or_else(|| damaged(&key, &codec::CodecError::Invalid("a named chunk without a count")))?;
    if known.count > 1 {
        out.put(key, codec::encode(&ChunkRef { count: known.count - 1, ..known }));
    } else {
        out.remove(key);
        out.put(keys::freed(space, chunk), codec::encode(&ChunkRef { count: 0, ..known }));
    }
    Ok(())
}
