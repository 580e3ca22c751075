//! Entries come from memory while they are recent, else from their segments, neighbours in one read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, HEAD, Kind, Position};
use super::segment::{Name, Segment};
use super::{LogError, Shared, disk_error};

/// Bytes read in one go for several entries.
const MAX_SPAN: u64 = 4 << 20;
/// Bytes of other groups' records between two entries that are read over rather than skipped.
const MAX_GAP: u64 = 64 << 10;
/// How often entries are looked up again because their segment was reused meanwhile.
const TRIES: usize = 8;

/// An entry to be read from its segment.
struct Stored {
    /// Where in the answer it goes.
    slot: usize,
    index: u64,
    at: Position,
    len: u32,
    segment: Segment,
}

impl Shared {
    pub(super) async fn read(
        self: &Arc<Shared>,
        group: u32,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut tries = 0;
        loop {
            let (mut entries, mut stored) = self.look_up(group, &range, max_bytes);
            if stored.is_empty() {
                return Ok(entries);
            }
            // By place, since entries that were carried forward lie behind later ones.
            stored.sort_by_key(|stored| stored.at);
            match read_stored(group, &stored, &mut entries).await.map_err(disk_error("read entries"))? {
                None => return Ok(entries),
                Some(bad) => {
                    tries += 1;
                    let stored = &stored[bad];
                    if tries == TRIES || self.still_at(group, stored.index, stored.at) {
                        let damaged = LogError::Damaged {
                            segment: Name::Segment(stored.at.segment()).path(&self.folder).display().to_string(),
                            offset: u64::from(stored.at.offset()),
                            what: format!("entry {} of group {group} does not decode", stored.index),
                        };
                        // All replicas stop; whoever opens the log again finds out what else is lost.
                        self.give_up(&damaged.clone().into());
                        return Err(damaged);
                    }
                }
            }
        }
    }

    /// What memory has of the range, and where the rest lies.
    fn look_up(&self, group: u32, range: &Range<u64>, max_bytes: usize) -> (Vec<(u64, Bytes)>, Vec<Stored>) {
        let ledger = self.ledger.lock();
        let (mut entries, mut stored, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        let Some(found) = ledger.groups.get(&group) else { return (entries, stored) };
        let Some(last) = found.last() else { return (entries, stored) };
        for index in range.start.max(found.first)..range.end.min(last.saturating_add(1)) {
            let Some(entry) = found.entry(index) else { break };
            bytes = bytes.saturating_add(entry.len as usize);
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            let slot = entries.len();
            match (&entry.payload, entry.at) {
                (Some(payload), _) => entries.push((index, payload.clone())),
                (None, Some(at)) => {
                    let link = ledger.chain.iter().find(|link| link.segment.number == at.segment());
                    let Some(link) = link else { break };
                    entries.push((index, Bytes::new()));
                    stored.push(Stored { slot, index, at, len: entry.len, segment: link.segment.clone() });
                }
                // Without a place it is always in memory.
                (None, None) => break,
            }
        }
        (entries, stored)
    }

    fn still_at(&self, group: u32, index: u64, at: Position) -> bool {
        let ledger = self.ledger.lock();
        ledger.groups.get(&group).and_then(|group| group.entry(index)).is_some_and(|entry| entry.at == Some(at))
    }
}

/// Fills the slots of stored entries. Answers with the first that is not where it should be.
async fn read_stored(group: u32, stored: &[Stored], entries: &mut [(u64, Bytes)]) -> std::io::Result<Option<usize>> {
    let mut from = 0;
    while from < stored.len() {
        let start = stored[from].at;
        let mut to = from;
        let mut end = start;
        while let Some(next) = stored.get(to) {
            let next_end = next.at.plus(record::size(next.len as usize).unwrap_or(HEAD));
            let near = next.at.segment() == start.segment()
                && next.at.0.saturating_sub(end.0) <= MAX_GAP
                && next_end.0 - start.0 <= MAX_SPAN;
            if to > from && !near {
                break;
            }
            end = next_end;
            to += 1;
        }
        let bytes = stored[from].segment.file.read(u64::from(start.offset()), (end.0 - start.0) as usize).await?;
        for (n, stored) in stored.iter().enumerate().take(to).skip(from) {
            let record = bytes.slice((stored.at.0 - start.0) as usize..);
            match record::decode(stored.segment.salt, stored.at, &record) {
                Some((head, payload))
                    if head.group == group
                        && head.index == stored.index
                        && matches!(head.kind, Kind::Entry | Kind::Carried) =>
                {
                    // A slice of a long piece would keep the whole of it in memory.
                    let small = to - from > 1 && payload.len() < 4096;
                    entries[stored.slot].1 = if small { Bytes::copy_from_slice(&payload) } else { payload };
                }
                _ => return Ok(Some(n)),
            }
        }
        from = to;
    }
    Ok(None)
}
