//! openraft's state machine over the group's [`Machine`]: batches of entries in, replies out, snapshots of the records.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::oneshot;
use weft_core::view::View;

use super::codec::{self, Position};
use super::log::LogStore;
use super::types::{EntryPayload, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::meta::machine::Machine;
use crate::meta::spool::Spool;

/// Entries applied in one write to the store.
const BATCH: usize = 256;

/// Records of a snapshot.
pub(crate) enum Image {
    /// A view of the store, to be sent.
    View(Arc<dyn View + Send + Sync>),
    /// What was received, to be installed.
    Spooled(Spool),
    /// Nothing: the store was lost and is being rebuilt. Never sent, since such a replica does not lead.
    Missing,
}

/// The state machine of a group as openraft drives it: one call at a time.
pub(crate) struct States {
    machine: Arc<Machine>,
    log: LogStore,
    position: Position,
    /// Set while the store is being rebuilt: says how far the records have come once it is done.
    rebuilt: Option<oneshot::Receiver<Position>>,
}

impl States {
    /// The state of a store that is as far as `position`. While `rebuilt` is unanswered the store is not touched, and
    /// `position` says where the log begins.
    pub(crate) fn new(
        machine: Arc<Machine>,
        log: LogStore,
        position: Position,
        rebuilt: Option<oneshot::Receiver<Position>>,
    ) -> States {
        log.note_members(&position.membership);
        States { machine, log, position, rebuilt }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.position.applied, last_membership: self.position.membership.clone() }
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut payloads = Vec::with_capacity(batch.len());
        let mut positions = Vec::with_capacity(batch.len());
        let mut responders: Vec<Option<ApplyResponder<TypeConfig>>> = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            // After a rebuild the store may be ahead of what openraft knows.
            if self.position.applied.is_some_and(|applied| entry.log_id.index <= applied.index) {
                if let Some(responder) = responder {
                    responder.send(None);
                }
                continue;
            }
            let (payload, membership) = match entry.payload {
                EntryPayload::Blank => (None, None),
                EntryPayload::Normal(Payload(bytes)) => (Some(bytes), None),
                EntryPayload::Membership(membership) => {
                    (None, Some(StoredMembership::new(Some(entry.log_id), membership)))
                }
            };
            payloads.push(payload);
            positions.push((entry.log_id, membership));
            responders.push(responder);
        }
        let Some((last, _)) = positions.last() else {
            return Ok(());
        };
        let last = *last;
        let mut position = self.position.clone();
        let mut next = positions.into_iter();
        let mut upto = 0;
        let replies = self.machine.apply(payloads, |count| {
            for (log_id, membership) in next.by_ref().take(count - upto) {
                position.applied = Some(log_id);
                if let Some(membership) = membership {
                    position.membership = membership;
                }
            }
            upto = count;
            (position.applied.map_or(0, |applied| applied.index), codec::encode(&position))
        })?;
        assert!(position.applied == Some(last), "the machine asks for the position behind its last entry");
        if position.membership != self.position.membership {
            self.log.note_members(&position.membership);
        }
        self.position = position;
        for (responder, reply) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }
}

/// Makes durable what was applied when it was made. That is all a snapshot is, the store being the state; its records
/// are read only when they are sent.
pub(crate) struct Builder {
    machine: Arc<Machine>,
    meta: SnapshotMeta,
    /// Whether the store is whole.
    whole: bool,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if self.whole {
            // The log is given back up to here once this returns.
            self.machine.persist().await?;
        }
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Image::Missing })
    }
}

impl RaftStateMachine<TypeConfig> for States {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        if let Some(rebuilt) = self.rebuilt.take() {
            let position = rebuilt.await.map_err(|_| io::Error::other("the rebuild was given up"))?;
            self.log.note_members(&position.membership);
            self.position = position;
        }
        let mut batch = Vec::new();
        while let Some(item) = entries.try_next().await? {
            batch.push(item);
            if batch.len() == BATCH {
                self.apply_batch(std::mem::take(&mut batch)).await?;
                tokio::task::yield_now().await;
            }
        }
        self.apply_batch(batch).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let whole = self.rebuilt.is_none();
        Builder { machine: self.machine.clone(), meta: self.meta(), whole }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let spool = match image {
            Image::Spooled(spool) => spool,
            Image::View(_) | Image::Missing => return Err(io::Error::other("a snapshot that was not received")),
        };
        let position = Position { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let index = meta.last_log_id.map_or(0, |last| last.index);
        self.machine.install(spool, index, codec::encode(&position)).await?;
        self.log.note_members(&position.membership);
        self.position = position;
        self.rebuilt = None;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.position.applied.is_none() {
            return Ok(None);
        }
        let snapshot = match &self.rebuilt {
            Some(_) => Image::Missing,
            None => Image::View(self.machine.snapshot()?),
        };
        Ok(Some(Snapshot { meta: self.meta(), snapshot }))
    }
}
