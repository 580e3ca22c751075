//! The Raft log of a node: one row of segment files shared by all its groups.
//!
//! Appending takes memory only; the disk seam's writer flushes many appends at once and the answers come in order.
//! Segments are written to their full length before use and used again when nothing in them is needed, so a durable
//! append changes no file-system metadata. What is still needed of an old segment (votes, purge marks, the few entries
//! of a quiet group) is written again at the front before the segment is reused. Truncations need not be: they concern
//! only what is older than they are, and segments are reused strictly oldest first.
//!
//! Every record says how far the log was durable when it was written. At a start the log may end early only behind
//! that mark; a record lost before it is damage, and an error: the replicas of this node have then forgotten something
//! they promised, and must give up their votes (`meta/forsake.rs`). When appends pause, and at an orderly end, a record
//! says that all is durable. So rot can be taken for a torn end only where it hits what was written in the last moments
//! before a crash.
//!
//! It knows nothing of Raft but entries with an index, a vote, truncation and purge.

#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod read;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use weft_core::broken::{self, Variant};
use weft_core::ids::GroupId;

use self::ledger::{Entry, Group, Kept, Ledger, Link, Queued, Waiting};
use self::record::{Header, Kind, RECORDS};
use crate::parts::{Dice, Disk, WriteDone};

/// Sizes and times of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Bytes of one segment file, up to 1 GiB; an entry must fit into one.
    pub segment_bytes: u32,
    /// Bytes of recent entries kept in memory, over all groups.
    pub cache_bytes: usize,
    /// How long after the last append a record says that it is durable.
    pub quiet: Duration,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings { segment_bytes: 64 << 20, cache_bytes: 32 << 20, quiet: Duration::from_millis(50) }
    }
}

/// Why the log can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("{doing}: {why}")]
    Disk {
        /// What was being done.
        doing: String,
        /// The kind of the disk's error.
        kind: io::ErrorKind,
        /// Its words.
        why: String,
    },
    /// Something that was durable is not there any more. All replicas of this node have lost what they promised.
    #[error("log damaged: {segment} at {offset}: {what}")]
    Damaged {
        /// Path of the segment.
        segment: String,
        /// Offset in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        let kind = match &error {
            LogError::Disk { kind, .. } => *kind,
            LogError::Damaged { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

fn disk_error(doing: impl std::fmt::Display) -> impl FnOnce(io::Error) -> LogError {
    let doing = format!("raft log: {doing}");
    move |error| LogError::Disk { doing, kind: error.kind(), why: error.to_string() }
}

/// The first failed write: every later one fails like it.
#[derive(Clone, Debug)]
struct Failed {
    kind: io::ErrorKind,
    why: String,
}

impl Failed {
    fn new(error: &io::Error) -> Failed {
        Failed { kind: error.kind(), why: format!("raft log: {error}") }
    }

    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.why.clone())
    }
}

/// What a group has in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Index of the first entry.
    pub first: Option<u64>,
    /// Index of the last entry.
    pub last: Option<u64>,
    /// What `save_vote` last saved.
    pub vote: Option<Bytes>,
    /// Index and marker of the last `purge_upto`.
    pub purge: Option<(u64, Bytes)>,
}

/// What the log takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Segments in use, the spare and free ones not counted.
    pub segments: usize,
    /// Bytes of one.
    pub segment_bytes: u64,
    /// Bytes of records still needed.
    pub live_bytes: u64,
    /// Whether a write failed, so that no further one succeeds.
    pub broken: bool,
}

/// The log. Dropping it and all its groups' handles closes the files; what was not answered may be lost.
pub struct SegmentLog {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    dice: Arc<dyn Dice>,
    settings: LogSettings,
    ledger: Mutex<Ledger>,
    /// Wakes the upkeep.
    work: Arc<Notify>,
}

impl SegmentLog {
    /// Opens the log in `folder` with the default settings; makes it if there is none. Starts its upkeep as a task.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if something durable is lost, else the disk's.
    pub async fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        dice: Arc<dyn Dice>,
    ) -> Result<(Arc<SegmentLog>, BTreeMap<GroupId, LogState>), LogError> {
        SegmentLog::open_with(disk, folder, dice, LogSettings::default()).await
    }

    /// [`SegmentLog::open`] with other settings. The size of segments may change from one start to the next.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// If a segment is smaller than 8 KiB or larger than 1 GiB.
    pub async fn open_with(
        disk: Arc<dyn Disk>,
        folder: &Path,
        dice: Arc<dyn Dice>,
        settings: LogSettings,
    ) -> Result<(Arc<SegmentLog>, BTreeMap<GroupId, LogState>), LogError> {
        let len = settings.segment_bytes;
        assert!((8 << 10..=1 << 30).contains(&len), "a log segment of {len} bytes makes no sense");
        disk.make_folder(folder).await.map_err(disk_error("make the folder"))?;
        let found = recover::recover(&*disk, folder).await?;
        // What was read may have been only in the page cache; from here on it is taken for durable.
        for (segment, _) in &found.live {
            segment.file.sync().await.map_err(disk_error("flush a segment"))?;
        }
        let mut ledger = Ledger::new(len, settings.cache_bytes, found.next, found.end);
        ledger.free = found.free;
        for (segment, end) in found.live {
            if ledger.tail == 0 {
                ledger.tail = segment.number;
            }
            ledger.chain.push_back(Link { segment, end, live: 0 });
        }
        for (group, found) in found.groups {
            restore(&mut ledger, group, found);
        }
        let states = ledger.groups.iter().map(|(group, found)| (GroupId(*group), found.state())).collect();
        let shared = Shared {
            disk,
            folder: folder.to_path_buf(),
            dice,
            settings,
            ledger: Mutex::new(ledger),
            work: Arc::new(Notify::new()),
        };
        let shared = Arc::new(shared);
        // A new segment at each start: what was torn is never written over, and this segment's first record says
        // for good where the log was taken to end.
        let segment = shared.prepare_segment().await.map_err(disk_error("make a segment"))?;
        {
            let mut ledger = shared.ledger.lock();
            ledger.begin_segment(segment, found.end);
        }
        shared.durable(Vec::new()).await.map_err(disk_error("begin a segment"))?;
        upkeep::start(&shared);
        Ok((Arc::new(SegmentLog { shared }), states))
    }

    /// A group's part of the log, empty if it is new.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog { shared: self.shared.clone(), group: group.0 }
    }

    /// What it takes on disk.
    pub fn status(&self) -> LogStatus {
        let ledger = self.shared.ledger.lock();
        LogStatus {
            segments: ledger.chain.len(),
            segment_bytes: u64::from(ledger.segment_bytes),
            live_bytes: ledger.chain.iter().map(|link| link.live).sum(),
            broken: ledger.broken.is_some(),
        }
    }

    /// Waits until everything appended before is durable and marked so. Further appends remain possible.
    ///
    /// # Errors
    /// A write failed.
    pub async fn flush(&self) -> io::Result<()> {
        self.shared.durable(Vec::new()).await?;
        self.shared.durable(vec![Waiting::mark(None)]).await
    }
}

/// Puts what recovery found of a group into the ledger.
fn restore(ledger: &mut Ledger, group: u32, found: recover::FoundGroup) {
    let mut kept = |index, payload: Bytes, at| {
        let size = record::size(payload.len()).unwrap_or(record::HEAD);
        ledger.live_at(at, i64::from(size));
        Kept { index, payload, ticket: ledger.ticket(), at: Some(at) }
    };
    let vote = found.vote.map(|(payload, at)| kept(0, payload, at));
    let purge = found.purge.map(|(index, payload, at)| kept(index, payload, at));
    let first = found.entries.first_key_value().map_or(0, |(index, _)| *index);
    let mut entries = VecDeque::with_capacity(found.entries.len());
    for (at, len) in found.entries.into_values() {
        ledger.live_at(at, i64::from(record::size(len as usize).unwrap_or(record::HEAD)));
        entries.push_back(Entry { ticket: ledger.ticket(), at: Some(at), len, payload: None });
    }
    ledger.groups.insert(group, Group { vote, purge, first, entries });
}

impl Waiting {
    fn mark(tail: Option<u32>) -> Waiting {
        Waiting { kind: Kind::Mark, group: 0, index: 0, payload: Bytes::new(), ticket: 0, tail }
    }
}

impl Shared {
    /// A segment with a new number and salt, from a free file if there is one.
    async fn prepare_segment(&self) -> io::Result<segment::Segment> {
        let (free, header) = {
            let mut ledger = self.ledger.lock();
            let number = ledger.next_segment;
            // 2^32 segments of 64 MiB outlast every disk.
            ledger.next_segment = number.checked_add(1).expect("segment numbers do not run out");
            // Odd, so that no stamp is zero.
            let salt = if broken::is(Variant::SegmentUnsalted) { 1 } else { self.dice.roll() | 1 };
            (ledger.free.pop(), Header { segment: number, salt })
        };
        let made = segment::prepare(&*self.disk, &self.folder, free, header, self.settings.segment_bytes).await;
        if let (Err(_), Some(free)) = (&made, free) {
            self.ledger.lock().free.push(free);
        }
        made
    }

    /// Queues records made under the lock, and whom to tell when they are on media; then sees to their writing.
    fn submit(self: &Arc<Shared>, make: impl FnOnce(&mut Ledger) -> io::Result<Vec<Waiting>>, done: WriteDone) {
        let mut ledger = self.ledger.lock();
        let made = match &ledger.broken {
            Some(broken) => Err(broken.error()),
            None => make(&mut ledger),
        };
        let records = match made {
            Ok(records) => records,
            Err(error) => {
                drop(ledger);
                return done(Err(error));
            }
        };
        let was_unmarked = ledger.unmarked;
        let mut done = Some(done);
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            let done = if records.peek().is_none() { done.take() } else { None };
            ledger.queue.push_back(Queued { record: Some(record), done });
        }
        if let Some(done) = done {
            ledger.queue.push_back(Queued { record: None, done: Some(done) });
        }
        ledger.place_queued();
        let wake = ledger.spare.is_none() || !was_unmarked;
        drop(ledger);
        self.issue();
        if wake {
            self.work.notify_one();
        }
    }

    /// [`Shared::submit`] as a future.
    async fn durable(self: &Arc<Shared>, records: Vec<Waiting>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.submit(
            |_| Ok(records),
            Box::new(move |result| {
                // Whoever no longer waits no longer needs the answer.
                let _ = done.send(result);
            }),
        );
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the disk was shut down")))
    }

    /// Hands the frames of the outbox to their files, in order, outside the lock: the answer may come at once.
    fn issue(self: &Arc<Shared>) {
        let mut ledger = self.ledger.lock();
        if ledger.issuing {
            return;
        }
        ledger.issuing = true;
        while let Some(frame) = ledger.outbox.pop_front() {
            drop(ledger);
            let shared = self.clone();
            let done = Box::new(move |result| shared.landed(frame.flight, result));
            let (file, offset) = (&frame.segment.file, u64::from(frame.at.offset()));
            match broken::is(Variant::LogUnflushed) {
                false => file.write_durable(offset, vec![frame.bytes], done),
                true => file.write(offset, vec![frame.bytes], done),
            }
            ledger = self.ledger.lock();
        }
        ledger.issuing = false;
        drop(ledger);
        self.release();
    }

    fn landed(&self, flight: u64, result: io::Result<()>) {
        {
            let mut ledger = self.ledger.lock();
            let at = flight.checked_sub(ledger.first_flight).and_then(|at| usize::try_from(at).ok());
            let flight = at.and_then(|at| ledger.flights.get_mut(at));
            if let Some(flight) = flight {
                flight.result = Some(result.map_err(|error| Failed::new(&error)));
            }
        }
        self.release();
    }

    /// Answers those whose records, and all before, are on media: in order, from one thread at a time.
    fn release(&self) {
        let mut ledger = self.ledger.lock();
        if ledger.releasing {
            return;
        }
        ledger.releasing = true;
        loop {
            let mut answers = Vec::new();
            while ledger.flights.front().is_some_and(|flight| flight.result.is_some()) {
                let Some(flight) = ledger.flights.pop_front() else { break };
                ledger.first_flight += 1;
                let result = match (&ledger.broken, flight.result) {
                    (Some(broken), _) => Err(broken.clone()),
                    (None, Some(result)) => result,
                    (None, None) => Ok(()),
                };
                match &result {
                    Ok(()) => ledger.durable = ledger.durable.max(flight.end),
                    Err(failed) => ledger.broken = Some(failed.clone()),
                }
                answers.extend(flight.dones.into_iter().map(|done| (done, result.clone())));
            }
            if let Some(broken) = ledger.broken.clone() {
                // Nothing behind a failed write may count: a log with a hole is no log.
                let waiting = std::mem::take(&mut ledger.queue);
                answers.extend(waiting.into_iter().filter_map(|queued| Some((queued.done?, Err(broken.clone())))));
            }
            ledger.evict();
            if answers.is_empty() {
                break;
            }
            drop(ledger);
            for (done, result) in answers {
                done(result.map_err(|failed| failed.error()));
            }
            ledger = self.ledger.lock();
        }
        ledger.releasing = false;
    }

    /// Gives the log up.
    fn give_up(&self, error: &io::Error) {
        self.ledger.lock().broken.get_or_insert_with(|| Failed::new(error));
        self.release();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.work.notify_one();
    }
}

/// One group's part of the log. Clones share it. Calls take effect in the order in which they are made, also for
/// reads, whether or not they are durable yet; answers come in the same order.
#[derive(Clone)]
pub struct GroupLog {
    shared: Arc<Shared>,
    group: u32,
}

impl GroupLog {
    /// Appends entries; each index is one above the one before, and the first one above the last in the log, or the
    /// last purged, if there is any. `done` is called when they are on media.
    ///
    /// # Errors
    /// Through `done`: `InvalidInput` for an index out of turn or an entry larger than a segment, and nothing was
    /// appended; otherwise the disk's, and the log takes nothing any more.
    pub fn append(&self, entries: Vec<(u64, Bytes)>, done: WriteDone) {
        let id = self.group;
        self.shared.submit(
            |ledger| {
                let mut next = ledger.groups.get(&id).and_then(Group::next);
                for (index, payload) in &entries {
                    if next.is_some_and(|next| next != *index) {
                        let why = format!("group {id}: entry {index} out of turn, expected {next:?}");
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                    }
                    if !ledger.fits(payload.len()) {
                        let why = format!("group {id}: entry {index} of {} bytes is too large", payload.len());
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                    }
                    next = index.checked_add(1);
                }
                let mut records = Vec::with_capacity(entries.len());
                for (index, payload) in entries {
                    let ticket = ledger.ticket();
                    let group = ledger.groups.entry(id).or_default();
                    if group.entries.is_empty() {
                        group.first = index;
                    }
                    group.entries.push_back(Entry { ticket, at: None, len: payload.len() as u32, payload: None });
                    ledger.cache(id, index, ticket, &payload);
                    records.push(Waiting { kind: Kind::Entry, group: id, index, payload, ticket, tail: None });
                }
                Ok(records)
            },
            done,
        );
    }

    /// Replaces the vote. Small: at most 4 KiB.
    ///
    /// # Errors
    /// Through `done`.
    pub fn save_vote(&self, vote: Bytes, done: WriteDone) {
        self.keep(Kind::Vote, 0, vote, done);
    }

    /// Removes the entries behind `index`, all of them for `None`.
    ///
    /// # Errors
    /// Through `done`.
    pub fn truncate_after(&self, index: Option<u64>, done: WriteDone) {
        let group = self.group;
        let end = index.map_or(0, |index| index.saturating_add(1));
        self.shared.submit(
            |ledger| {
                ledger.remove_entries(group, None, Some(end));
                Ok(vec![Waiting {
                    kind: Kind::Truncate,
                    group,
                    index: end,
                    payload: Bytes::new(),
                    ticket: 0,
                    tail: None,
                }])
            },
            done,
        );
    }

    /// Removes the entries up to and with `index`, and remembers index and marker (at most 4 KiB, the last purged
    /// log id). The next entry after an empty log must follow `index`. A lower index than before changes nothing.
    ///
    /// # Errors
    /// Through `done`.
    pub fn purge_upto(&self, index: u64, marker: Bytes, done: WriteDone) {
        self.keep(Kind::Purge, index, marker, done);
    }

    /// Removes everything the group has in the log.
    ///
    /// # Errors
    /// Through `done`.
    pub fn erase(&self, done: WriteDone) {
        let group = self.group;
        self.shared.submit(
            |ledger| {
                ledger.remove_entries(group, None, Some(0));
                ledger.keep(group, Kind::Vote, None);
                ledger.keep(group, Kind::Purge, None);
                ledger.groups.remove(&group);
                Ok(vec![Waiting { kind: Kind::Erase, group, index: 0, payload: Bytes::new(), ticket: 0, tail: None }])
            },
            done,
        );
    }

    /// Entries of the range, in order, from the first that is there; fewer than asked for beyond `max_bytes` of
    /// payload, but at least one if there is any.
    ///
    /// # Errors
    /// The disk's, or [`LogError::Damaged`] for an entry that does not decode any more.
    pub async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        self.shared.read(self.group, range, max_bytes).await
    }

    /// What the group has.
    pub fn state(&self) -> LogState {
        self.shared.ledger.lock().groups.get(&self.group).map(Group::state).unwrap_or_default()
    }

    fn keep(&self, kind: Kind, index: u64, payload: Bytes, done: WriteDone) {
        let group = self.group;
        self.shared.submit(
            |ledger| {
                if payload.len() > RECORDS as usize {
                    let why = format!("group {group}: a vote or marker of {} bytes is too large", payload.len());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                }
                if kind == Kind::Purge
                    && let Some(found) = ledger.groups.get(&group)
                {
                    if found.purge.as_ref().is_some_and(|purge| purge.index > index) {
                        return Ok(Vec::new());
                    }
                    if found.last().is_some() && found.first > index.saturating_add(1) {
                        let why = format!("group {group}: purge up to {index} leaves a gap before {}", found.first);
                        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                    }
                }
                let ticket = ledger.ticket();
                ledger.keep(group, kind, Some(Kept { index, payload: payload.clone(), ticket, at: None }));
                if kind == Kind::Purge {
                    ledger.remove_entries(group, index.checked_add(1), None);
                }
                Ok(vec![Waiting { kind, group, index, payload, ticket, tail: None }])
            },
            done,
        );
    }
}
