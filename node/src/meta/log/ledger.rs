//! What the log knows in memory: each group's part, where every record lies, how much of each segment is still needed,
//! and what waits to be written. Only values: nothing here touches the disk.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::record::{self, HEAD, Head, Kind, Position, RECORDS};
use super::segment::{Name, Segment};
use super::{Failed, LogState};
use crate::parts::WriteDone;

/// A record that has no place yet.
pub(super) struct Waiting {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) index: u64,
    pub(super) payload: Bytes,
    /// What in memory it stands for: that takes the place of the record when it still carries this number.
    pub(super) ticket: u64,
    /// From this record on the log needs no older segment.
    pub(super) tail: Option<u32>,
}

/// Something of the queue: a record, or only somebody who waits for all before.
pub(super) struct Queued {
    pub(super) record: Option<Waiting>,
    pub(super) done: Option<WriteDone>,
}

/// Bytes to be written in one go.
pub(super) struct Frame {
    pub(super) flight: u64,
    pub(super) segment: Segment,
    pub(super) at: Position,
    pub(super) bytes: Bytes,
}

/// A frame on its way to the media, and who waits for it.
pub(super) struct Flight {
    pub(super) end: Position,
    pub(super) result: Option<Result<(), Failed>>,
    pub(super) dones: Vec<WriteDone>,
}

/// A segment of the log.
pub(super) struct Link {
    pub(super) segment: Segment,
    /// Where its records end so far.
    pub(super) end: Position,
    /// Bytes of records that are still needed.
    pub(super) live: u64,
}

/// A vote or a purge mark.
pub(super) struct Kept {
    pub(super) index: u64,
    pub(super) payload: Bytes,
    pub(super) ticket: u64,
    /// `None` until it has its place.
    pub(super) at: Option<Position>,
}

/// An entry.
pub(super) struct Entry {
    pub(super) ticket: u64,
    /// `None` until it has its place.
    pub(super) at: Option<Position>,
    pub(super) len: u32,
    /// In memory while it is recent.
    pub(super) payload: Option<Bytes>,
}

/// One group's part.
#[derive(Default)]
pub(super) struct Group {
    pub(super) vote: Option<Kept>,
    pub(super) purge: Option<Kept>,
    /// Index of the first entry, if there are any.
    pub(super) first: u64,
    pub(super) entries: VecDeque<Entry>,
}

impl Group {
    pub(super) fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn entry_mut(&mut self, index: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn last(&self) -> Option<u64> {
        (self.first + self.entries.len() as u64).checked_sub(1).filter(|_| !self.entries.is_empty())
    }

    /// The index the next entry must have; `None` if any will do.
    pub(super) fn next(&self) -> Option<u64> {
        match (self.last(), &self.purge) {
            (Some(last), _) => Some(last + 1),
            (None, Some(purge)) => Some(purge.index + 1),
            (None, None) => None,
        }
    }

    pub(super) fn state(&self) -> LogState {
        LogState {
            first: self.last().map(|_| self.first),
            last: self.last(),
            vote: self.vote.as_ref().map(|vote| vote.payload.clone()),
            purge: self.purge.as_ref().map(|purge| (purge.index, purge.payload.clone())),
        }
    }
}

/// Everything under the log's lock.
pub(super) struct Ledger {
    pub(super) segment_bytes: u32,
    pub(super) cache_limit: usize,
    pub(super) groups: BTreeMap<u32, Group>,
    /// Oldest first; records go to the last.
    pub(super) chain: VecDeque<Link>,
    /// The next segment, ready.
    pub(super) spare: Option<Segment>,
    pub(super) free: Vec<Name>,
    /// Number for the next segment made ready.
    pub(super) next_segment: u32,
    /// The oldest segment needed, as records say it.
    pub(super) tail: u32,
    pub(super) queue: VecDeque<Queued>,
    pub(super) outbox: VecDeque<Frame>,
    pub(super) issuing: bool,
    pub(super) flights: VecDeque<Flight>,
    /// Number of the first in `flights`.
    pub(super) first_flight: u64,
    pub(super) releasing: bool,
    /// All before it is on media.
    pub(super) durable: Position,
    /// Something was written that no later record marks as durable.
    pub(super) unmarked: bool,
    pub(super) broken: Option<Failed>,
    pub(super) tickets: u64,
    /// Entries in memory, oldest first: group, index, ticket, bytes.
    pub(super) cached: VecDeque<(u32, u64, u64, u32)>,
    pub(super) cached_bytes: usize,
    /// Bytes of the frame being put together, and where it begins.
    building: BytesMut,
    building_at: Position,
    building_dones: Vec<WriteDone>,
}

/// Bytes in memory for an entry besides its payload.
const ENTRY_COST: usize = 64;

impl Ledger {
    pub(super) fn new(segment_bytes: u32, cache_limit: usize, next_segment: u32, durable: Position) -> Ledger {
        Ledger {
            segment_bytes,
            cache_limit,
            groups: BTreeMap::new(),
            chain: VecDeque::new(),
            spare: None,
            free: Vec::new(),
            next_segment,
            tail: 0,
            queue: VecDeque::new(),
            outbox: VecDeque::new(),
            issuing: false,
            flights: VecDeque::new(),
            first_flight: 0,
            releasing: false,
            durable,
            unmarked: false,
            broken: None,
            tickets: 0,
            cached: VecDeque::new(),
            cached_bytes: 0,
            building: BytesMut::new(),
            building_at: Position::default(),
            building_dones: Vec::new(),
        }
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Whether a payload fits into a segment at all.
    pub(super) fn fits(&self, len: usize) -> bool {
        let room = self.segment_bytes - RECORDS - (HEAD + 8);
        record::size(len).is_some_and(|size| size <= room)
    }

    /// Gives places to what waits, as far as there is room, and frames to the outbox.
    pub(super) fn place_queued(&mut self) {
        while let Some(queued) = self.queue.pop_front() {
            if let Some(record) = &queued.record
                && !self.make_room(record.payload.len())
            {
                self.queue.push_front(queued);
                break;
            }
            if let Some(record) = queued.record {
                self.place(record);
            }
            if let Some(done) = queued.done {
                self.building_dones.push(done);
            }
        }
        self.finish_frame();
    }

    /// Goes on to the next segment if the last one is too full; false if there is no next one yet.
    fn make_room(&mut self, len: usize) -> bool {
        let Some(size) = record::size(len) else { return false };
        let end = self.chain.back().map(|link| link.end);
        if end.is_some_and(|end| end.offset() + size <= self.segment_bytes) {
            return true;
        }
        let Some(segment) = self.spare.take() else { return false };
        self.begin_segment(segment, end.unwrap_or_default());
        true
    }

    /// Takes a prepared segment as the one that records go to; `origin` is where the log goes on from.
    pub(super) fn begin_segment(&mut self, segment: Segment, origin: Position) {
        self.finish_frame();
        if self.tail == 0 {
            self.tail = segment.number;
        }
        let end = Position::new(segment.number, RECORDS);
        self.chain.push_back(Link { segment, end, live: 0 });
        self.put(Kind::Start, 0, 0, &origin.0.to_be_bytes());
    }

    /// Appends a record to the last segment, which has room. Says where it is and how long.
    fn put(&mut self, kind: Kind, group: u32, index: u64, payload: &[u8]) -> Option<(Position, u32)> {
        let link = self.chain.back_mut()?;
        let size = record::size(payload.len())?;
        let at = link.end;
        link.end = at.plus(size);
        if self.building.is_empty() {
            self.building_at = at;
        }
        let head = Head { kind, group, index, len: payload.len() as u32, mark: self.durable, tail: self.tail };
        record::encode(&mut self.building, link.segment.salt, at, &head, payload);
        // A mark that says all before it is durable leaves nothing to say.
        self.unmarked = kind != Kind::Mark || self.durable < at;
        Some((at, size))
    }

    fn place(&mut self, record: Waiting) {
        if let Some(tail) = record.tail {
            self.tail = tail;
        }
        let Some((at, size)) = self.put(record.kind, record.group, record.index, &record.payload) else { return };
        let Some(group) = self.groups.get_mut(&record.group) else { return };
        let slot = match record.kind {
            Kind::Entry | Kind::Carried => group
                .entry_mut(record.index)
                .filter(|entry| entry.ticket == record.ticket)
                .map(|entry| entry.at.replace(at)),
            Kind::Vote => {
                group.vote.as_mut().filter(|kept| kept.ticket == record.ticket).map(|kept| kept.at.replace(at))
            }
            Kind::Purge => {
                group.purge.as_mut().filter(|kept| kept.ticket == record.ticket).map(|kept| kept.at.replace(at))
            }
            Kind::Start | Kind::Mark | Kind::Truncate | Kind::Erase => None,
        };
        // What it stood for may be gone already; then nobody needs the record.
        if let Some(before) = slot {
            self.live_at(at, i64::from(size));
            if let Some(before) = before {
                self.live_at(before, -i64::from(size));
            }
        }
    }

    /// Counts bytes of the segment at a position as needed or no longer needed.
    pub(super) fn live_at(&mut self, at: Position, bytes: i64) {
        let link = self.chain.iter_mut().rev().find(|link| link.segment.number == at.segment());
        if let Some(link) = link {
            link.live = link.live.checked_add_signed(bytes).expect("each record is counted once and given back once");
        }
    }

    /// Closes the frame being put together.
    fn finish_frame(&mut self) {
        let dones = std::mem::take(&mut self.building_dones);
        if self.building.is_empty() {
            if dones.is_empty() {
                return;
            }
            // Nothing to write, only somebody to tell in turn.
            match self.flights.back_mut() {
                Some(flight) => flight.dones.extend(dones),
                None => {
                    let end = self.durable;
                    self.flights.push_back(Flight { end, result: Some(Ok(())), dones });
                }
            }
            return;
        }
        let Some(link) = self.chain.back() else { return };
        let flight = self.first_flight + self.flights.len() as u64;
        let bytes = self.building.split().freeze();
        self.outbox.push_back(Frame { flight, segment: link.segment.clone(), at: self.building_at, bytes });
        self.flights.push_back(Flight { end: link.end, result: None, dones });
    }

    /// Remembers an entry's bytes until they are old, and forgets the oldest that are on media.
    pub(super) fn cache(&mut self, group: u32, index: u64, ticket: u64, payload: &Bytes) {
        let Some(entry) = self.groups.get_mut(&group).and_then(|group| group.entry_mut(index)) else { return };
        if entry.ticket != ticket {
            return;
        }
        entry.payload = Some(payload.clone());
        self.cached.push_back((group, index, ticket, payload.len() as u32));
        self.cached_bytes += payload.len() + ENTRY_COST;
    }

    /// Forgets the oldest cached entries above the limit, as far as they are on media.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit
            && let Some((group, index, ticket, len)) = self.cached.front().copied()
        {
            if let Some(entry) = self.groups.get_mut(&group).and_then(|group| group.entry_mut(index))
                && entry.ticket == ticket
            {
                let size = record::size(entry.len as usize).unwrap_or(HEAD);
                if entry.at.is_none_or(|at| at.plus(size) > self.durable) {
                    return;
                }
                entry.payload = None;
            }
            self.cached.pop_front();
            self.cached_bytes -= len as usize + ENTRY_COST;
        }
    }

    /// Takes entries away: those before `first`, and those from `end` on.
    pub(super) fn remove_entries(&mut self, group: u32, first: Option<u64>, end: Option<u64>) {
        let mut gone = Vec::new();
        if let Some(group) = self.groups.get_mut(&group) {
            if let Some(first) = first {
                let count = first.saturating_sub(group.first).min(group.entries.len() as u64) as usize;
                gone.extend(group.entries.drain(..count));
                group.first += count as u64;
            }
            if let Some(end) = end {
                let keep = end.saturating_sub(group.first).min(group.entries.len() as u64) as usize;
                gone.extend(group.entries.drain(keep..));
            }
        }
        for entry in gone {
            if let Some(at) = entry.at {
                self.live_at(at, -i64::from(record::size(entry.len as usize).unwrap_or(HEAD)));
            }
        }
    }

    /// Replaces what is kept of a group besides entries: its vote or its purge mark.
    pub(super) fn keep(&mut self, group: u32, kind: Kind, kept: Option<Kept>) {
        let group = self.groups.entry(group).or_default();
        let slot = if kind == Kind::Vote { &mut group.vote } else { &mut group.purge };
        if let Some(Kept { at: Some(at), payload, .. }) = std::mem::replace(slot, kept) {
            let size = record::size(payload.len()).unwrap_or(HEAD);
            self.live_at(at, -i64::from(size));
        }
    }
}
