//! The way from any node to the leader of the system group.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use weft_core::ids::{GroupId, NodeId};
use weft_core::refusal::Refusal;
use weft_proto::link::MESSAGE_LIMIT;
use weft_proto::pb::site_client::SiteClient;
use weft_proto::status;

use super::map::MapCell;
use super::peers::Peers;
use crate::meta::{Group, Groups};

/// Metadata of a request that one node passed on to another: it is not passed on again.
pub const PASSED: &str = "weft-passed";

/// How long one node is given to answer before the next is asked.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Wait before all are asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// How a question is put to a node.
pub type Ask<Q, A> = fn(SiteClient<Channel>, Request<Q>) -> BoxFuture<'static, Result<Response<A>, Status>>;

/// Knows who may lead the system group, and asks until the leader has answered.
pub struct Route {
    own: NodeId,
    groups: Option<Arc<Groups>>,
    map: MapCell,
    peers: Peers,
    /// Addresses to ask when the map knows none that answers.
    known: Vec<String>,
    /// Who answered last.
    hint: Mutex<Option<NodeId>>,
}

impl Route {
    /// From node `own`; `groups` if it holds meta replicas.
    pub fn new(own: NodeId, groups: Option<Arc<Groups>>, map: MapCell, peers: Peers, known: Vec<String>) -> Route {
        Route { own, groups, map, peers, known, hint: Mutex::new(None) }
    }

    /// This node's replica of the system group.
    pub fn group(&self) -> Option<Arc<Group>> {
        self.groups.as_ref()?.group(GroupId::SYSTEM)
    }

    /// This node's replica of the system group, if it leads.
    pub fn led(&self) -> Option<Arc<Group>> {
        self.group().filter(|group| group.leading())
    }

    /// What to answer to a passed-on request that this node can't serve.
    pub fn not_leader(&self) -> Refusal {
        Refusal::NotLeader { group: GroupId::SYSTEM, leader: self.leader() }
    }

    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId> {
        self.group().and_then(|group| group.leader()).or(*self.hint.lock())
    }

    /// Asks the leader, wherever it is, until the time is up. A question whose answer was lost is asked again: whoever
    /// answers it sees to it that this does no harm.
    ///
    /// # Errors
    /// The leader's refusal; or, when the time is up, what stood in the way last.
    pub async fn ask<Q: Clone, A>(&self, time: Duration, question: &Q, ask: Ask<Q, A>) -> Result<A, Refusal> {
        let end = Instant::now() + time;
        let mut last = self.not_leader();
        loop {
            for (node, addr) in self.candidates() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last);
                }
                match self.ask_one(&addr, left.min(ATTEMPT), question, ask).await {
                    Ok(answer) => {
                        *self.hint.lock() = node;
                        return Ok(answer);
                    }
                    Err(Refusal::NotLeader { group, leader }) => {
                        let fresh = leader.is_some() && leader != node && leader != *self.hint.lock();
                        *self.hint.lock() = leader;
                        last = Refusal::NotLeader { group, leader };
                        if fresh {
                            break;
                        }
                    }
                    Err(Refusal::Busy { retry_after_ms }) => {
                        last = Refusal::Busy { retry_after_ms };
                        break;
                    }
                    Err(lost @ (Refusal::Unknown { .. } | Refusal::NotServed { .. })) => {
                        let mut hint = self.hint.lock();
                        if *hint == node {
                            *hint = None;
                        }
                        last = lost;
                    }
                    Err(refusal) => return Err(refusal),
                }
            }
            if self.led().is_some() {
                return Err(Refusal::Busy { retry_after_ms: 10 });
            }
            if Instant::now() + PAUSE >= end {
                return Err(last);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_one<Q: Clone, A>(
        &self,
        addr: &str,
        time: Duration,
        question: &Q,
        ask: Ask<Q, A>,
    ) -> Result<A, Refusal> {
        let mut request = Request::new(question.clone());
        request.metadata_mut().insert(PASSED, tonic::metadata::MetadataValue::from_static("1"));
        match tokio::time::timeout(time, ask(client(self.peers.addr(addr)?), request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(status::from_status(&status)),
            Err(_) => Err(Refusal::Unknown { why: format!("{addr} did not answer within {} ms", time.as_millis()) }),
        }
    }

    /// Whom to ask, the likeliest first.
    fn candidates(&self) -> Vec<(Option<NodeId>, String)> {
        let map = self.map.get();
        let first = [self.group().and_then(|group| group.leader()), *self.hint.lock()];
        let system = map.groups.iter().find(|group| group.id == GroupId::SYSTEM);
        let replicas = system.into_iter().flat_map(|group| &group.replicas).map(|replica| replica.node);
        let mut found: Vec<(Option<NodeId>, String)> = Vec::new();
        for node in first.into_iter().flatten().chain(replicas).filter(|node| *node != self.own) {
            if let Some(record) = map.nodes.iter().find(|record| record.id == node) {
                found.push((Some(node), record.addr.clone()));
            }
        }
        found.extend(self.known.iter().map(|addr| (None, addr.clone())));
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|(_, addr)| seen.insert(addr.clone()));
        found
    }
}

/// A client of another node's site service.
pub fn client(channel: Channel) -> SiteClient<Channel> {
    SiteClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}
