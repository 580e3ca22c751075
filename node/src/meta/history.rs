//! What a stopped node's log says, entry by entry: to look into, and to feed to a model.

use std::io;
use std::path::Path;
use std::sync::Arc;

use weft_core::codec::decode_entry;
use weft_core::entry::Entry;
use weft_core::ids::GroupId;

use super::forsake::LOG_FOLDER;
use super::log::SegmentLog;
use super::raft::logged_command;
use crate::parts::{Dice, Disk};

/// Bytes read at a time.
const PIECE: usize = 4 << 20;

/// The commands in a group's log, with their indexes, in order: those that were not given back yet. The newest may not
/// be committed. The node must not run.
///
/// # Errors
/// The log can't be opened or read.
pub async fn read_log(disk: Arc<dyn Disk>, dice: Arc<dyn Dice>, group: GroupId) -> io::Result<Vec<(u64, Entry)>> {
    let (log, states) = SegmentLog::open(disk, Path::new(LOG_FOLDER), dice).await.map_err(io::Error::other)?;
    let Some(last) = states.get(&group).and_then(|state| state.last) else { return Ok(Vec::new()) };
    let mut next = states.get(&group).and_then(|state| state.first).unwrap_or(0);
    let part = log.group(group);
    let mut entries = Vec::new();
    while next <= last {
        let piece = part.read(next..last + 1, PIECE).await.map_err(io::Error::other)?;
        if piece.is_empty() {
            return Err(io::Error::other(format!("entry {next} of group {group} is missing")));
        }
        for (index, bytes) in piece {
            next = index + 1;
            if let Some(command) = logged_command(bytes)? {
                entries.push((index, decode_entry(&command).map_err(io::Error::other)?));
            }
        }
    }
    Ok(entries)
}
