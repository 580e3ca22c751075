//! How much fits in: what `df` shows.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use weft_client::Volume;
use weft_client::site::NodeStatus;

use super::{Answer, State};
use crate::request::{NodeId, Process, Statfs};

/// What is shown as the size of a volume without a limit while no node says how much room it has.
const UNLIMITED_BYTES: u64 = 1 << 50;
const UNLIMITED_INODES: u64 = 1 << 40;
/// How long the free space of the nodes is believed. Other volumes are written meanwhile, so it is never exact.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Free bytes on the disks of all chunk servers, as they last said.
#[derive(Default)]
pub(super) struct Capacity(tokio::sync::Mutex<Option<(Instant, u64)>>);

impl State {
    pub(super) async fn statfs(&self, process: Process, node: NodeId) -> Answer<Statfs> {
        let place = self.place(node)?;
        let used = place.volume.statfs(&self.cred(process)).await?;
        let copies = u64::from(place.volume.info().replication.max(1));
        let free_disks = match self.capacity.free(&place.volume).await {
            0 => UNLIMITED_BYTES,
            free => free / copies,
        };
        let left = |limit: u64, used: u64, unlimited: u64| match limit {
            0 => unlimited,
            limit => limit.saturating_sub(used).min(unlimited),
        };
        let free_bytes = left(used.max_bytes, used.bytes, free_disks);
        let free_inodes = left(used.max_inodes, used.inodes, UNLIMITED_INODES);
        Ok(Statfs {
            bytes: used.bytes.saturating_add(free_bytes),
            free_bytes,
            inodes: used.inodes.saturating_add(free_inodes),
            free_inodes,
        })
    }
}

impl Capacity {
    async fn free(&self, volume: &Volume) -> u64 {
        let mut known = self.0.lock().await;
        if let Some((asked, free)) = *known
            && asked.elapsed() < BELIEVED
        {
            return free;
        }
        let map = volume.client().site_map();
        let mut asked = JoinSet::new();
        for node in map.nodes.iter().filter(|node| node.chunk && node.status != NodeStatus::Away) {
            let (client, id) = (volume.client().clone(), node.id);
            asked.spawn(async move { timeout(PATIENCE, client.node_status(id)).await });
        }
        let mut free = 0u64;
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Ok(report))) => free = free.saturating_add(report.free_bytes),
                Ok(Ok(Err(error))) => tracing::debug!(%error, "ask a node for its free space"),
                Ok(Err(_)) | Err(_) => tracing::debug!("a node does not say its free space in time"),
            }
        }
        *known = Some((Instant::now(), free));
        free
    }
}
