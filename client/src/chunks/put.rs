//! Uploading a chunk: into a healthy placement group, and into another one under a new id when that fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weft_core::broken::{self, Variant};
use weft_core::checksum::block_sums;
use weft_core::ids::{ChunkId, PgId, ReplicaId};
use weft_core::refusal::Refusal;
use weft_core::site::{MemberState, Pg};

use super::{Place, Stored};
use crate::client::Shared;
use crate::error::{Error, Result};
use crate::servers::{Call, PutChunk};
use crate::session::Session;
use crate::trial::Trial;

impl Shared {
    /// Stores a chunk on every live member of some placement group of the factor. Durable when it returns.
    pub(crate) async fn put_chunk(&self, session: &Session, factor: u8, data: Bytes) -> Result<Stored> {
        assert!(!data.is_empty(), "the planner makes no empty chunks");
        let mut trial = Trial::new(&self.options);
        let mut avoid = BTreeSet::new();
        let mut last = Refusal::Unknown { why: format!("no placement group with {factor} copies is known") };
        let mut all_full = true;
        loop {
            self.open()?;
            session.check()?;
            let Some((pg, to, addr)) = self.choose_pg(factor, &avoid) else {
                if all_full && matches!(last, Refusal::NoSpace { .. }) {
                    return Err(Error::Refused(last));
                }
                trial.pause(&*self.parts.dice, Duration::ZERO, &last.to_string()).await?;
                if let Err(refusal) = self.refresh().await {
                    tracing::debug!(%refusal, "refresh the site map");
                }
                avoid.clear();
                all_full = true;
                continue;
            };
            // A new id each time: what became of the last attempt is not known.
            let ticket = self.naming.begin();
            let chunk = ChunkId { client: session.client, counter: ticket.counter() };
            let stored = |len: usize| {
                let place = Place { chunk, pg: pg.id, len: len as u32 };
                Stored { place, ticket: Arc::new(ticket) }
            };
            let put = PutChunk {
                chunk,
                pg: pg.id,
                epoch: pg.epoch,
                to,
                data: data.clone(),
                sums: block_sums(chunk, 0, &data),
            };
            let (node, wait) = (to.node, trial.long_wait());
            let call = Call {
                client: session.client,
                space: session.space,
                map_version: self.topology.map().version,
                capability: session.capability(),
                wait,
                ..Call::default()
            };
            if broken::is(Variant::ExtentFirst) {
                let servers = self.servers.clone();
                tokio::spawn(async move { servers.put(&addr, call, put).await });
                return Ok(stored(data.len()));
            }
            let refusal = match tokio::time::timeout(wait + SLACK, self.servers.put(&addr, call, put)).await {
                Ok(Ok(_copies)) => {
                    self.topology.unshun(node);
                    return Ok(stored(data.len()));
                }
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::Unknown { why: format!("node {node} did not store a chunk in time") },
            };
            tracing::debug!(%chunk, pg = %pg.id, %node, %refusal, "store a chunk elsewhere");
            all_full &= matches!(refusal, Refusal::NoSpace { .. });
            match &refusal {
                Refusal::StalePlacement { .. } => {
                    trial.pause(&*self.parts.dice, Duration::ZERO, &refusal.to_string()).await?;
                    self.refresh_quietly().await;
                }
                Refusal::MayNotAcknowledge { .. } => {
                    // A member is silent and not given up yet. Another group may hold it as well: each try costs a
                    // chunk that nobody will name, so they are few until the map has changed.
                    avoid.insert(pg.id);
                    let before = self.topology.map().version;
                    self.refresh_quietly().await;
                    if self.topology.map().version == before {
                        trial.pause(&*self.parts.dice, UNCHANGED, &refusal.to_string()).await?;
                    }
                }
                Refusal::NotServed { .. } | Refusal::WrongRecipient { .. } => {
                    avoid.insert(pg.id);
                    self.refresh_quietly().await;
                }
                Refusal::Unknown { .. } | Refusal::DiskFailed { .. } => {
                    self.topology.shun(node);
                    avoid.insert(pg.id);
                    self.refresh_quietly().await;
                }
                Refusal::NoSpace { .. } | Refusal::Busy { .. } | Refusal::BadSum { .. } => {
                    avoid.insert(pg.id);
                }
                _ => return Err(Error::Refused(refusal)),
            }
            last = refusal;
            if trial.left().is_zero() {
                return Err(trial.over(&last.to_string()));
            }
        }
    }

    async fn refresh_quietly(&self) {
        if let Err(refusal) = self.refresh().await {
            tracing::debug!(%refusal, "refresh the site map");
        }
    }

    /// A placement group that can take a chunk, with the server to send it to: any of the healthiest.
    fn choose_pg(&self, factor: u8, avoid: &BTreeSet<PgId>) -> Option<(Pg, ReplicaId, String)> {
        let map = self.topology.map();
        let usable: Vec<(usize, &Pg, ReplicaId, &String)> = map
            .pgs
            .iter()
            .filter(|pg| pg.factor == factor && !avoid.contains(&pg.id))
            .filter_map(|pg| {
                let serving: Vec<_> = pg.members.iter().filter(|member| member.state == MemberState::Serving).collect();
                if serving.len() < usize::from(factor.min(2)) {
                    return None;
                }
                let first = serving.first()?;
                let node = map.nodes.iter().find(|node| node.id == first.replica.node)?;
                let ill = serving.iter().filter(|member| self.topology.shunned(member.replica.node)).count();
                // A silent first server costs a time-out, a missing copy safety, another silent one some time.
                let missing = usize::from(factor) - serving.len().min(usize::from(factor));
                let rank = if self.topology.looks_up(node) { 0 } else { 100 } + missing * 10 + ill;
                Some((rank, pg, first.replica, &node.addr))
            })
            .collect();
        let best = usable.iter().map(|(rank, ..)| *rank).min()?;
        let best: Vec<_> = usable.into_iter().filter(|(rank, ..)| *rank == best).collect();
        let (_, pg, to, addr) = best[(self.parts.dice.roll() % best.len() as u64) as usize];
        Some((pg.clone(), to, addr.clone()))
    }
}

/// Between tries while the map says nothing new.
const UNCHANGED: Duration = Duration::from_millis(250);

/// An attempt watches its own wait; this is the net below it.
const SLACK: Duration = Duration::from_millis(500);
