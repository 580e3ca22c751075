//! openraft's log storage over the node's segment log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::codec::{self, PurgeMark};
use super::types::{Entry, EntryPayload, LogId, Payload, StoredMembership, TypeConfig, Vote};
use crate::meta::log::GroupLog;
use crate::parts::WriteDone;

/// Bytes of entries read at a time, unless a single entry has more: in one message to a follower, and for applying.
const READ_BYTES: usize = 2 << 20;

/// The log of one group. Cloning shares it.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Inner>);

struct Inner {
    log: GroupLog,
    /// The last vote saved, so that reading it costs nothing.
    vote: Mutex<Option<Vote>>,
    /// The members as of the last applied entry, for purge marks.
    members: Mutex<StoredMembership>,
    purged: Mutex<Option<PurgeMark>>,
}

impl LogStore {
    /// The log of a group as it was recovered.
    ///
    /// # Errors
    /// Its vote or purge mark are garbled.
    pub(crate) fn new(log: GroupLog) -> io::Result<LogStore> {
        let state = log.state();
        let vote = state.vote.map(codec::decode::<Vote>).transpose()?;
        let purged = state.purge.map(|(_, mark)| codec::decode::<PurgeMark>(mark)).transpose()?;
        let members = purged.as_ref().map(|mark| mark.membership.clone()).unwrap_or_default();
        Ok(LogStore(Arc::new(Inner {
            log,
            vote: Mutex::new(vote),
            members: Mutex::new(members),
            purged: Mutex::new(purged),
        })))
    }

    /// The last vote saved. Given to nobody before it is here.
    pub(crate) fn vote(&self) -> Option<Vote> {
        *self.0.vote.lock()
    }

    /// Whether the group has nothing in the log: not even a vote.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.0.log.state();
        state.last.is_none() && state.vote.is_none() && state.purge.is_none()
    }

    /// Where the log begins.
    pub(crate) fn purged(&self) -> Option<PurgeMark> {
        self.0.purged.lock().clone()
    }

    /// Takes note of the members as of the last applied entry.
    pub(crate) fn note_members(&self, members: &StoredMembership) {
        self.0.members.lock().clone_from(members);
    }

    /// The id of the entry at an index, if the log holds it.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) async fn id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        Ok(self.read(index, index + 1, 1).await?.pop().map(|entry| entry.log_id))
    }

    /// Cuts off the entries from an index on.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) async fn cut_from(&self, index: u64) -> io::Result<()> {
        durably(|done| self.0.log.truncate_after(index.checked_sub(1), done)).await
    }

    /// Entries from an index on; fewer than asked for beyond `max_bytes`, but at least one if there is any.
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let found = self.0.log.read(from..to, max_bytes).await.map_err(io::Error::other)?;
        let mut entries = Vec::with_capacity(found.len());
        for (index, bytes) in found {
            let entry: Entry = codec::decode(bytes)?;
            if entry.log_id.index != index {
                let why = "a log entry lies at another index than its own";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

async fn durably(write: impl FnOnce(WriteDone)) -> io::Result<()> {
    let (done, wait) = oneshot::channel();
    write(Box::new(move |result| {
        // Whoever no longer waits no longer needs the answer.
        let _ = done.send(result);
    }));
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the log was shut down")))
}

fn bounds(range: &impl RangeBounds<u64>, end: u64) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&from) => from,
        Bound::Excluded(&from) => from + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&to) => to + 1,
        Bound::Excluded(&to) => to,
        Bound::Unbounded => end,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range, u64::MAX);
        self.read(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.0.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, READ_BYTES).await?;
        // Asked for by the stream to a member that was removed while it stood still: the log is no longer kept for it, and
        // what is left of it must not be sent as if it followed.
        match entries.first() {
            Some(first) if first.log_id.index != start => Ok(Vec::new()),
            _ => Ok(entries),
        }
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range, u64::MAX);
        let read = futures::stream::unfold((self.clone(), from), move |(log, at)| async move {
            if at >= to {
                return None;
            }
            let (items, next) = match log.read(at, to, READ_BYTES).await {
                Ok(entries) => match entries.last() {
                    Some(last) => {
                        let next = last.log_id.index + 1;
                        (entries.into_iter().map(Ok).collect(), next)
                    }
                    None if to == u64::MAX => return None,
                    // Its write failed, and the replica is about to hear: what is applied must not jump over it.
                    None => (vec![Err(io::Error::other(format!("entry {at} is not in the log")))], to),
                },
                Err(error) => (vec![Err(error)], to),
            };
            Some((futures::stream::iter(items), (log, next)))
        });
        futures::StreamExt::flatten(read)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.0.purged.lock().as_ref().map(|mark| mark.log_id);
        let last_log_id = match self.0.log.state().last {
            Some(last) if last_purged_log_id.is_none_or(|purged| last > purged.index) => self.id_at(last).await?,
            _ => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last_log_id.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = codec::encode(vote);
        durably(|done| self.0.log.save_vote(bytes, done)).await?;
        *self.0.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<(u64, Bytes)> =
            entries.into_iter().map(|entry| (entry.log_id.index, codec::encode_entry(&entry))).collect();
        self.0.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.cut_from(last_log_id.map_or(0, |last| last.index + 1)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mark = PurgeMark { log_id, membership: self.0.members.lock().clone() };
        let bytes = codec::encode(&mark);
        durably(|done| self.0.log.purge_upto(log_id.index, bytes, done)).await?;
        *self.0.purged.lock() = Some(mark);
        Ok(())
    }
}

/// The command in the bytes of a log entry; `None` for what openraft adds itself.
///
/// # Errors
/// They are no log entry.
pub(crate) fn logged_command(bytes: Bytes) -> io::Result<Option<Bytes>> {
    let entry: Entry = codec::decode(bytes)?;
    Ok(match entry.payload {
        EntryPayload::Normal(Payload(command)) => Some(command),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use openraft::vote::RaftLeaderId;
    use weft_core::ids::{GroupId, Incarnation, NodeId, ReplicaId};

    use super::*;
    use crate::disk::MemDisk;
    use crate::meta::log::SegmentLog;
    use crate::meta::raft::types::LeaderId;
    use crate::real::OsDice;

    #[tokio::test]
    async fn what_is_left_behind_a_purge_is_not_given_for_what_was_purged() {
        let disk = Arc::new(MemDisk::new());
        let (log, _) = SegmentLog::open(disk, Path::new("raft"), Arc::new(OsDice)).await.expect("a log");
        let log = log.group(GroupId(1));
        let me = ReplicaId { node: NodeId(1), incarnation: Incarnation(1) };
        let id = |index| LogId::new(LeaderId::new(1, me), index);
        let entry = |index| Entry { log_id: id(index), payload: EntryPayload::Blank };
        let entries = (1..=20).map(|index| (index, codec::encode_entry(&entry(index)))).collect();
        durably(|done| log.append(entries, done)).await.expect("appended");
        let mut store = LogStore::new(log).expect("a store");
        let indexes = |entries: Vec<Entry>| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
        assert_eq!(indexes(store.limited_get_log_entries(5, 8).await.expect("read")), [5, 6, 7]);
        store.purge(id(10)).await.expect("purged");
        assert_eq!(indexes(store.limited_get_log_entries(5, 15).await.expect("read")), Vec::<u64>::new());
        assert_eq!(indexes(store.limited_get_log_entries(11, 13).await.expect("read")), [11, 12]);
    }
}
