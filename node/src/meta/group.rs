//! One meta group as this node takes part in it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use weft_core::codec;
use weft_core::entry::{Caller, Command, Entry};
use weft_core::ids::{GroupId, Ino, NodeId, ReplicaId, VolumeId};
use weft_core::limits::MAX_COMMAND;
use weft_core::namespace::lease;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;
use weft_core::view::{View, ViewError};

use super::leases::LeaseTable;
use super::machine::Machine;
use super::raft::{Consensus, GroupStatus};
use super::reads::Reads;
use super::sessions::SessionTable;
use crate::parts::Clock;
use crate::site::map::MapCell;

/// Entries proposed here and not yet answered, at the most; beyond it callers are pushed back.
const IN_FLIGHT: usize = 8192;
/// What a caller that is pushed back is told.
const RETRY_AFTER_MS: u32 = 20;
/// How long an entry may take where the caller does not say.
const PROPOSE_LIMIT: Duration = Duration::from_secs(10);
/// How long a read may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long after a replica was opened, with all its records read, one that can't be read is no reason to do so again.
const TRUSTED: Duration = Duration::from_secs(3);
/// Steps taken for one caller whose file is still being cut.
const CUT_STEPS: usize = 4096;

/// One group on this node.
pub struct Group {
    id: GroupId,
    consensus: Consensus,
    machine: Arc<Machine>,
    clock: Arc<dyn Clock>,
    map: MapCell,
    /// The latest time put into an entry.
    stamped: Mutex<Timestamp>,
    slots: Semaphore,
    reads: Reads,
    leading: watch::Sender<bool>,
    sessions: Mutex<SessionTable>,
    leases: Mutex<LeaseTable>,
    opened: Instant,
    /// A record could not be read.
    doubt: Notify,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        consensus: Consensus,
        machine: Arc<Machine>,
        clock: Arc<dyn Clock>,
        map: MapCell,
    ) -> Group {
        Group {
            id,
            consensus,
            machine,
            clock,
            map,
            stamped: Mutex::default(),
            slots: Semaphore::new(IN_FLIGHT),
            reads: Reads::default(),
            leading: watch::Sender::new(false),
            sessions: Mutex::default(),
            leases: Mutex::default(),
            opened: Instant::now(),
            doubt: Notify::new(),
        }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether this node leads it, as far as it knows.
    pub fn leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// The term in which this node leads it, as far as it knows: another one after another has led, however shortly.
    pub fn led_term(&self) -> Option<u64> {
        self.consensus.led_term().filter(|_| self.leading())
    }

    /// Sees changes of [`Group::leading`].
    pub fn watch_leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Which node leads, as far as this one knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.consensus.leader().map(|leader| leader.node)
    }

    /// Sees the index of the last entry applied here, at every change of it. Closed when the group is closed here.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.machine.watch_applied()
    }

    /// What this replica knows of the group.
    pub fn status(&self) -> GroupStatus {
        self.consensus.status()
    }

    /// Puts a command into the group's log and says what came of it. Answered once it is durable on a majority and
    /// applied here.
    ///
    /// # Errors
    /// The machine's refusal. `NotLeader`, `Busy`, `TooLarge`: the command was not taken. `Unknown`: it may or may not
    /// have been; asking again with the same sequence number is safe.
    pub async fn propose(&self, caller: Option<Caller>, command: Command) -> Result<Outcome, Refusal> {
        self.propose_within(caller, command, PROPOSE_LIMIT).await
    }

    /// [`Group::propose`] that gives up after `limit`. Where a file is still being cut, the cut is finished first.
    ///
    /// # Errors
    /// As there.
    pub async fn propose_within(
        &self,
        caller: Option<Caller>,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, Refusal> {
        let deadline = Instant::now() + limit;
        let volume = match &command {
            Command::Op { volume, .. } => Some(*volume),
            _ => None,
        };
        let mut entry = Entry { time: Timestamp::default(), caller, command };
        let mut steps = 0;
        loop {
            let result = self.propose_once(&mut entry, deadline).await;
            if let Err(Refusal::Leased { volume, dir }) = result {
                self.take_back(volume, dir, deadline).await?;
                continue;
            }
            let (Err(Refusal::CutPending { ino }), Some(volume)) = (&result, volume) else { return result };
            let ino = *ino;
            if !self.finish_cut(volume, ino, deadline, &mut steps).await? {
                return result;
            }
        }
    }

    /// Asks the holder of a write lease to give it up, and returns when it has, or has lost it by its silence.
    ///
    /// # Errors
    /// `Busy`: it is held still. `NotLeader`, `DiskFailed`.
    pub(crate) async fn take_back(&self, volume: VolumeId, dir: Ino, deadline: Instant) -> Result<(), Refusal> {
        let mut applied = self.watch_applied();
        let mut holder = None;
        loop {
            if !self.leading() {
                return Err(Refusal::NotLeader { group: self.id, leader: self.leader() });
            }
            applied.borrow_and_update();
            let Some(lease) = self.read_local(|view| lease::lease_of(view, volume, dir))? else {
                if let Some(key) = holder {
                    self.leases.lock().gone(key, (volume, dir));
                }
                return Ok(());
            };
            let key = (lease.client, lease.space);
            holder = Some(key);
            let recalled = self.leases.lock().recall(key, (volume, dir), Instant::now());
            let Err(silent_at) = recalled else {
                tracing::warn!(group = %self.id, client = %lease.client, %volume, %dir, "a silent client loses a lease");
                let command = Command::Revoke { volume, dir, client: lease.client };
                self.propose_once(&mut Entry { time: Timestamp::default(), caller: None, command }, deadline).await?;
                self.leases.lock().gone(key, (volume, dir));
                continue;
            };
            tokio::select! {
                biased;
                changed = applied.changed() => {
                    if changed.is_err() {
                        return Err(Refusal::NotLeader { group: self.id, leader: None });
                    }
                }
                () = tokio::time::sleep_until(silent_at.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(Refusal::Busy { retry_after_ms: RETRY_AFTER_MS });
                    }
                }
            }
        }
    }

    /// Takes steps until a file's cut is finished. Says whether it is.
    async fn finish_cut(
        &self,
        volume: VolumeId,
        ino: Ino,
        deadline: Instant,
        steps: &mut usize,
    ) -> Result<bool, Refusal> {
        while *steps < CUT_STEPS {
            *steps += 1;
            let command = Command::Step(Step::FinishCut { volume, ino });
            let mut entry = Entry { time: Timestamp::default(), caller: None, command };
            match self.propose_once(&mut entry, deadline).await? {
                Outcome::Stepped { more: true } => {}
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn propose_once(&self, entry: &mut Entry, deadline: Instant) -> Result<Outcome, Refusal> {
        if !self.leading() {
            return Err(Refusal::NotLeader { group: self.id, leader: self.leader() });
        }
        let busy = Refusal::Busy { retry_after_ms: RETRY_AFTER_MS };
        let _slot = self.slots.try_acquire().map_err(|_| busy)?;
        entry.time = self.stamp();
        let bytes = codec::encode_entry(entry);
        if bytes.len() > MAX_COMMAND {
            return Err(Refusal::TooLarge {
                what: "command".into(),
                size: bytes.len() as u64,
                limit: MAX_COMMAND as u64,
            });
        }
        match tokio::time::timeout_at(deadline, self.consensus.propose(bytes)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Unknown { why: "the entry was not applied in time".into() }),
        }
    }

    /// The wall clock, but never going back.
    fn stamp(&self) -> Timestamp {
        let mut stamped = self.stamped.lock();
        *stamped = (*stamped).max(self.clock.now());
        *stamped
    }

    /// The group's records as of a moment after this call, with everything in them that was answered before it. They
    /// stay as they are while one holds them, which some stores pay for with a copy: for small groups and rare use.
    ///
    /// # Errors
    /// `NotLeader`, also when no majority can be reached; `DiskFailed`.
    pub async fn linear_view(&self) -> Result<Arc<dyn View + Send + Sync>, Refusal> {
        self.barrier().await?;
        self.local_view()
    }

    /// Asks a question of the group's records, which have everything in them that was answered before this call.
    /// Nothing is applied while `ask` runs, so it must be quick.
    ///
    /// # Errors
    /// `NotLeader`, also when no majority can be reached; `DiskFailed`.
    pub async fn read<T>(&self, ask: impl FnOnce(&dyn View) -> Result<T, ViewError>) -> Result<T, Refusal> {
        self.barrier().await?;
        self.read_local(ask)
    }

    /// [`Group::read`] of the records as this replica has them, perhaps behind the leader's.
    ///
    /// # Errors
    /// `DiskFailed`.
    pub fn read_local<T>(&self, ask: impl FnOnce(&dyn View) -> Result<T, ViewError>) -> Result<T, Refusal> {
        self.machine.read(ask).map_err(|error| {
            tracing::error!(group = %self.id, %error, "read a record");
            if self.opened.elapsed() >= TRUSTED {
                self.doubt.notify_one();
            }
            Refusal::DiskFailed { why: error.to_string() }
        })
    }

    /// How this replica's records stood at a mark in the log, as soon as it has applied it, but not later than `within`.
    pub(crate) async fn marked(&self, mark: u64, within: Duration) -> Option<Arc<dyn View + Send + Sync>> {
        let mut applied = self.watch_applied();
        let deadline = Instant::now() + within;
        loop {
            applied.borrow_and_update();
            if let Some(view) = self.machine.marks().view(mark) {
                return Some(view);
            }
            match tokio::time::timeout_at(deadline, applied.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    async fn barrier(&self) -> Result<(), Refusal> {
        if !self.leading() {
            return Err(Refusal::NotLeader { group: self.id, leader: self.leader() });
        }
        match tokio::time::timeout(READ_LIMIT, self.reads.wait(|| self.consensus.read_barrier())).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::NotLeader { group: self.id, leader: None }),
        }
    }

    /// The group's records as this replica has them, perhaps behind the leader's. As [`Group::linear_view`], for small
    /// groups.
    ///
    /// # Errors
    /// `DiskFailed`.
    pub fn local_view(&self) -> Result<Arc<dyn View + Send + Sync>, Refusal> {
        self.machine.snapshot().map_err(|error| Refusal::DiskFailed { why: error.to_string() })
    }

    /// Takes one step from the members the group has towards these. Says whether there is nothing left to do. Asked of
    /// the leader, again and again.
    ///
    /// # Errors
    /// `NotLeader`; a new member's address is not in the site map yet; the change was not taken.
    pub async fn reconcile_members(&self, wanted: &[ReplicaId]) -> Result<bool, Refusal> {
        let wanted: BTreeSet<ReplicaId> = wanted.iter().copied().collect();
        let addr_of = |replica: ReplicaId| {
            let node = self.map.node(replica.node)?;
            (node.meta_replica() == replica).then_some(node.addr)
        };
        self.consensus.reconcile(&wanted, addr_of).await
    }

    /// Asks the group's replica on another node to take over the lead. Asked of the leader; answered before the other
    /// one leads, if it ever does.
    ///
    /// # Errors
    /// `NotLeader`; that node does not vote in the group; the replica was stopped.
    pub async fn transfer_lead(&self, to: NodeId) -> Result<(), Refusal> {
        self.consensus.transfer_lead(to).await
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn sessions(&self) -> &Mutex<SessionTable> {
        &self.sessions
    }

    pub(crate) fn leases(&self) -> &Mutex<LeaseTable> {
        &self.leases
    }

    /// Stops the replica.
    pub(crate) async fn close(&self) {
        self.consensus.shutdown().await;
        self.leading.send_replace(false);
    }

    /// Follows the replica until it stops, or its records must be looked through again, and says why.
    pub(crate) async fn follow(&self) -> String {
        let ended = self.consensus.watch_leading(|leading| {
            tracing::info!(group = %self.id, leading, "leadership");
            self.sessions.lock().lead(leading.then(Instant::now));
            self.leases.lock().lead(leading.then(Instant::now));
            self.leading.send_replace(leading);
        });
        tokio::select! {
            biased;
            why = ended => why,
            () = self.doubt.notified() => "a record can't be read".to_string(),
        }
    }
}
