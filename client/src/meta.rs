//! Calls on meta groups: the leader is found, followed and asked again until the answer is known.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use weft_core::ids::{GroupId, NodeId};
use weft_core::refusal::Refusal;

use crate::client::Shared;
use crate::error::{Error, Result};
use crate::trial::Trial;

/// Hints followed without a pause in between.
const MOST_HOPS: u32 = 4;

/// Why a call on a group failed.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Whether an earlier attempt may have been carried out: then not even a refusal says that nothing happened.
    pub(crate) ambiguous: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        failed.error
    }
}

/// What to do after an attempt that was not answered for good.
enum Next {
    /// Ask the node that is said to lead.
    Follow(NodeId),
    /// Ask another replica.
    Elsewhere,
    /// Ask the same one a little later.
    Later(Duration),
    /// It was answered.
    Refused,
}

fn next(refusal: &Refusal, ambiguous: &mut bool) -> Next {
    match refusal {
        Refusal::NotLeader { leader: Some(node), .. } => Next::Follow(*node),
        Refusal::NotLeader { leader: None, .. } | Refusal::NotServed { .. } | Refusal::WrongRecipient { .. } => {
            Next::Elsewhere
        }
        Refusal::Unknown { .. } | Refusal::DiskFailed { .. } => {
            *ambiguous = true;
            Next::Elsewhere
        }
        Refusal::Busy { retry_after_ms } => Next::Later(Duration::from_millis(u64::from(*retry_after_ms))),
        Refusal::WindowFull { .. } | Refusal::CutPending { .. } => Next::Later(Duration::ZERO),
        _ => Next::Refused,
    }
}

impl Shared {
    /// Makes `attempt`s (given an address and how long to wait) at the leader of a group until one is answered for good
    /// or the deadline has passed.
    pub(crate) async fn at_leader<T, F, Fut>(
        &self,
        group: GroupId,
        trial: &mut Trial,
        mut attempt: F,
    ) -> Result<T, Failed>
    where
        F: FnMut(String, Duration) -> Fut,
        Fut: Future<Output = Result<T, Refusal>>,
    {
        let mut tried = BTreeSet::new();
        let mut ambiguous = false;
        let mut hops = 0;
        let mut last = format!("no replica of group {group} is known");
        loop {
            self.open().map_err(|error| Failed { error, ambiguous })?;
            let leader = self.topology.leader(group).filter(|node| !tried.contains(node));
            let target = leader.or_else(|| self.pick_replica(group, &tried));
            let Some((node, addr)) = target.and_then(|id| self.topology.node(id)).map(|node| (node.id, node.addr))
            else {
                if let Some(unknown) = target {
                    self.topology.drop_leader(group, unknown);
                    tried.insert(unknown);
                }
                // Everybody was asked: the map may be old, an election may be under way.
                trial
                    .pause(&*self.parts.dice, Duration::ZERO, &last)
                    .await
                    .map_err(|error| Failed { error, ambiguous })?;
                if let Err(refusal) = self.refresh().await {
                    last = refusal.to_string();
                }
                tried.clear();
                hops = 0;
                continue;
            };
            let refusal = match tokio::time::timeout(trial.wait() + SLACK, attempt(addr, trial.wait())).await {
                Ok(Ok(answer)) => {
                    self.topology.set_leader(group, node);
                    self.topology.unshun(node);
                    return Ok(answer);
                }
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::Unknown { why: format!("node {node} did not answer in time") },
            };
            match next(&refusal, &mut ambiguous) {
                Next::Follow(to) if to != node && hops < MOST_HOPS => {
                    hops += 1;
                    tried.insert(node);
                    tried.remove(&to);
                    self.topology.set_leader(group, to);
                }
                Next::Follow(_) | Next::Elsewhere => {
                    if matches!(refusal, Refusal::Unknown { .. } | Refusal::DiskFailed { .. }) {
                        self.topology.shun(node);
                    }
                    self.topology.drop_leader(group, node);
                    tried.insert(node);
                }
                Next::Later(least) => {
                    self.topology.set_leader(group, node);
                    trial
                        .pause(&*self.parts.dice, least, &refusal.to_string())
                        .await
                        .map_err(|error| Failed { error, ambiguous })?;
                }
                Next::Refused => return Err(Failed { error: Error::Refused(refusal), ambiguous }),
            }
            last = refusal.to_string();
        }
    }

    /// A replica not tried yet, those that look up first.
    fn pick_replica(&self, group: GroupId, tried: &BTreeSet<NodeId>) -> Option<NodeId> {
        let replicas = self.topology.replicas(group);
        let looks_up = |id: &NodeId| self.topology.node(*id).is_some_and(|n| self.topology.looks_up(&n));
        let mut left = replicas.iter().filter(|id| !tried.contains(id));
        left.clone().find(|id| looks_up(id)).or_else(|| left.next()).copied()
    }
}

/// An attempt watches its own wait; this is the net below it.
const SLACK: Duration = Duration::from_millis(500);
