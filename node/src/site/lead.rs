//! What the leader of the system group answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_core::entry::Command;
use weft_core::ids::{NodeId, ReplicaId, SiteId, TenantId};
use weft_core::limits::MAX_CLIENT_IDS;
use weft_core::namespace::outcome::Outcome;
use weft_core::refusal::Refusal;
use weft_core::site::{NodeJoin, SiteCommand, SiteMap, SiteOutcome, Volume};

use super::beats::{Beat, Beats, Heard};
use super::map::MapCell;
use crate::meta::Group;
use crate::trust::desk::Desk;

/// How long a proposal is waited for.
pub(super) const PROPOSE: Duration = Duration::from_secs(3);
/// How long the asker waits for the records of a new volume before it is told to come again.
const READY: Duration = Duration::from_millis(1500);

/// A lease and, where the node's is older, the newest site map.
pub struct Granted {
    /// From the sending of the heartbeat; zero: none.
    pub lease: Duration,
    /// The newest map.
    pub map: Arc<SiteMap>,
}

/// The leader's side of the site: who was heard of, and what is asked of it.
pub struct Lead {
    map: MapCell,
    lease: Duration,
    /// Silence after which others take a node's place.
    pub(super) repair_after: Duration,
    pub(super) beats: Mutex<Beats>,
    /// For what is asked about trust.
    pub(crate) desk: Desk,
}

impl Lead {
    /// Knows nobody yet.
    pub fn new(map: MapCell, lease: Duration, repair_after: Duration, desk: Desk) -> Lead {
        Lead { map, lease, repair_after, desk, beats: Mutex::new(Beats::new(lease, Instant::now())) }
    }

    /// Proposes a change of what the system group keeps.
    ///
    /// # Errors
    /// The machine's refusal; not the leader; unknown when there was no answer in time.
    pub async fn propose(&self, group: &Group, command: SiteCommand) -> Result<SiteOutcome, Refusal> {
        let outcome = tokio::time::timeout(PROPOSE, group.propose(None, Command::Site(command)))
            .await
            .unwrap_or_else(|_| Err(Refusal::Unknown { why: "the system group did not answer in time".into() }))?;
        super::refresh(group, &self.map)?;
        match outcome {
            Outcome::Site(outcome) => Ok(outcome),
            _ => Err(Refusal::Unknown { why: "the system group answered something else".into() }),
        }
    }

    /// A heartbeat came in.
    ///
    /// # Errors
    /// Not the leader, or the site knows the sender's node in another life.
    pub async fn heartbeat(&self, group: &Group, from: ReplicaId, beat: Beat) -> Result<Granted, Refusal> {
        self.known(from)?;
        self.beats.lock().note(Instant::now(), from, beat);
        // A leader that was replaced without knowing may not grant: the one after it counts from its own beginning.
        tokio::time::timeout(PROPOSE, group.linear_view())
            .await
            .unwrap_or_else(|_| Err(Refusal::Unknown { why: "no majority answered in time".into() }))?;
        let may = self.beats.lock().may_grant(from);
        // Only after that question: where the answer is yes again, what took the node out is in this map.
        super::refresh(group, &self.map)?;
        Ok(Granted { lease: if may { self.lease } else { Duration::ZERO }, map: self.map.get() })
    }

    /// Which site it is.
    pub(crate) fn site(&self) -> SiteId {
        self.map.get().site
    }

    pub(crate) fn known(&self, replica: ReplicaId) -> Result<(), Refusal> {
        match self.map.node(replica.node) {
            Some(node) if node.incarnation == replica.incarnation => Ok(()),
            Some(_) => Err(Refusal::WrongRecipient {
                why: format!("node {} of this site is another data folder's", replica.node),
            }),
            None => Err(Refusal::WrongRecipient {
                why: format!(
                    "node {} was removed from this site: to bring the machine back, empty its data folder and join again",
                    replica.node
                ),
            }),
        }
    }

    /// A node is to be emptied, or no longer.
    ///
    /// # Errors
    /// As [`Lead::propose`]; there is no such node.
    pub async fn drain_node(&self, group: &Group, node: NodeId, on: bool) -> Result<Arc<SiteMap>, Refusal> {
        self.propose(group, SiteCommand::DrainNode { node, on }).await?;
        Ok(self.map.get())
    }

    /// The site forgets a node. Asked again when it has done so, it is content.
    ///
    /// # Errors
    /// As [`Lead::propose`]; the node holds something yet, or may hold a lease.
    pub async fn remove_node(&self, group: &Group, node: NodeId, force: bool) -> Result<Arc<SiteMap>, Refusal> {
        super::refresh(group, &self.map)?;
        let command = SiteCommand::RemoveNode { node, force };
        if !self.beats.lock().condemn(Instant::now(), &self.map.get(), &command) {
            return Err(Refusal::Invalid {
                why: format!("node {node} was heard of lately: stop it first, or drain it"),
            });
        }
        // What was condemned for it is settled by the duties.
        self.propose(group, command).await?;
        Ok(self.map.get())
    }

    /// A data folder asks in.
    ///
    /// # Errors
    /// As [`Lead::propose`]; another node is at its address, or may be.
    pub async fn join(&self, group: &Group, join: NodeJoin) -> Result<(NodeId, SiteId, String), Refusal> {
        self.must_be_free(&join)?;
        match self.propose(group, SiteCommand::Join(join)).await? {
            SiteOutcome::Joined { node, site } => Ok((node, site, self.map.get().name.clone())),
            other => Err(unexpected(&other)),
        }
    }

    /// Whoever joins at the address of a node takes that node's place: not while it lives.
    fn must_be_free(&self, join: &NodeJoin) -> Result<(), Refusal> {
        let map = self.map.get();
        let Some(there) = map.nodes.iter().find(|node| node.addr == join.addr && node.incarnation != join.incarnation)
        else {
            return Ok(());
        };
        match self.beats.lock().heard(Instant::now(), there.replica()) {
            Heard::Silent(_) => Ok(()),
            Heard::Unsure => Err(Refusal::Busy { retry_after_ms: 500 }),
            Heard::Alive(_) => Err(Refusal::Invalid {
                why: format!(
                    "node {} of site {} runs at {}: stop it first, or give the new node another address",
                    there.id, map.name, join.addr
                ),
            }),
        }
    }

    /// Makes a volume, or finds it under the same token; answers once it can be used.
    ///
    /// # Errors
    /// As [`Lead::propose`]; `Busy` while its records are not there.
    pub async fn create_volume(
        &self,
        group: &Group,
        name: String,
        replication: u8,
        token: u64,
        tenant: TenantId,
    ) -> Result<Volume, Refusal> {
        let command = SiteCommand::CreateVolume { name, replication, token, tenant };
        let volume = match self.propose(group, command).await? {
            SiteOutcome::Volume(volume) => volume,
            other => return Err(unexpected(&other)),
        };
        let mut maps = self.map.watch();
        let ready = maps.wait_for(|map| map.volumes.iter().any(|known| known.id == volume.id && known.ready));
        match tokio::time::timeout(READY, ready).await {
            Ok(Ok(_)) => Ok(Volume { ready: true, ..volume }),
            Ok(Err(_)) | Err(_) => Err(Refusal::Busy { retry_after_ms: 100 }),
        }
    }

    /// Hands out client ids: the site, the first counter and how many.
    ///
    /// # Errors
    /// As [`Lead::propose`].
    pub async fn client_ids(&self, group: &Group, count: u32) -> Result<(SiteId, u64, u32), Refusal> {
        let count = count.clamp(1, MAX_CLIENT_IDS);
        match self.propose(group, SiteCommand::ClientIds { count }).await? {
            SiteOutcome::ClientIds { site, first, count } => Ok((site, first, count)),
            other => Err(unexpected(&other)),
        }
    }

    /// Volumes that are being deleted, and whose records were reported to be gone.
    pub(super) fn dropped(&self, map: &SiteMap, heard: impl Iterator<Item = Beat>) -> Vec<SiteCommand> {
        let said: BTreeSet<_> = heard.flat_map(|beat| beat.dropped).collect();
        map.volumes
            .iter()
            .filter(|volume| volume.deleting && said.contains(&volume.id))
            .map(|volume| SiteCommand::VolumeGone { volume: volume.id })
            .collect()
    }

    /// Volumes that were reported to have their records, and that the map still lists as not ready.
    pub(super) fn attached(&self, map: &SiteMap, heard: impl Iterator<Item = Beat>) -> Vec<SiteCommand> {
        let said: BTreeSet<_> = heard.flat_map(|beat| beat.attached).collect();
        map.volumes
            .iter()
            .filter(|volume| !volume.ready && said.contains(&volume.id))
            .map(|volume| SiteCommand::VolumeReady { volume: volume.id })
            .collect()
    }
}

fn unexpected(outcome: &SiteOutcome) -> Refusal {
    Refusal::Unknown { why: format!("the system group answered {outcome:?}") }
}
