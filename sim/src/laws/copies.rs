//! What is named is durable on enough replicas: once the fabric is quiet, every chunk that an extent names is whole on
//! every server that serves its placement group. A client that reads sees one copy only; here the others are read too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_core::ids::{GroupId, ReplicaId, SpaceId};
use weft_core::machine::{self, ChunkState};
use weft_core::site::{MemberState, Pg, PgMember, SiteMap};
use weft_node::chunk::ChunkServer;
use weft_node::chunk::index::ChunkKey;

use crate::run::Violation;
use crate::site::host;
use crate::state::NodeState;

const LAW: &str = "what is named is whole on all who serve it";
/// Simulated time in which servers that were just started must answer, and in which everything that rotted must be found
/// and healed.
const QUIET: Duration = Duration::from_secs(40);
/// Chunks asked for at a time.
const PAGE: usize = 1000;

/// Reads every copy of every named chunk, from the disk. Call when the replicas of the groups are equal. Placement groups
/// whose serving member lost its folder are left out: if no other serves, they stay as they are until people decide.
///
/// # Errors
/// A copy is missing or damaged.
pub async fn check(nodes: &[NodeState]) -> Result<(), Violation> {
    let since = tokio::time::Instant::now();
    loop {
        match compare(nodes).await {
            Ok(()) => return Ok(()),
            Err(what) if since.elapsed() > QUIET => return Err(Violation { law: LAW, what }),
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

/// The first copy that is not whole.
async fn compare(nodes: &[NodeState]) -> Result<(), String> {
    let map = nodes.iter().map(NodeState::map).max_by_key(|map| map.version).unwrap_or_default();
    let lost = |replica: ReplicaId| !map.nodes.iter().any(|node| node.replica() == replica);
    let serves = |member: &PgMember| member.state == MemberState::Serving;
    for pg in &map.pgs {
        if pg.members.iter().any(|member| serves(member) && lost(member.replica)) {
            continue;
        }
        let servers = servers(nodes, &map, pg)?;
        let mut chunks = BTreeMap::new();
        for (_, server) in &servers {
            let mut after: Option<(SpaceId, _)> = None;
            loop {
                let page = server.store().list(pg.id, after, PAGE).map_err(|refusal| refusal.to_string())?;
                after = page.last().map(|(key, _)| (key.space, key.chunk));
                let end = page.len() < PAGE;
                chunks.extend(page);
                if end {
                    break;
                }
            }
        }
        for (key, _) in chunks.into_iter().filter(|(key, _)| is_named(nodes, &map, *key)) {
            for (node, server) in &servers {
                let read = server.store().reread(key).await;
                read.map_err(|refusal| format!("chunk {} of {} on node {node}: {refusal}", key.chunk, pg.id))?;
            }
        }
    }
    Ok(())
}

/// The harness's nodes that serve a placement group.
fn servers(nodes: &[NodeState], map: &SiteMap, pg: &Pg) -> Result<Vec<(usize, Arc<ChunkServer>)>, String> {
    let find = |replica: ReplicaId| {
        let at = map.nodes.iter().find(|node| node.replica() == replica)?;
        let node = (0..nodes.len()).find(|node| at.addr.starts_with(&format!("{}:", host(*node))))?;
        Some((node, nodes[node].chunks()?))
    };
    let serving = pg.members.iter().filter(|member| member.state == MemberState::Serving);
    serving.map(|member| find(member.replica).ok_or_else(|| format!("{} does not run", member.replica))).collect()
}

fn is_named(nodes: &[NodeState], map: &SiteMap, key: ChunkKey) -> bool {
    [GroupId(1), GroupId(2)].into_iter().any(|group| {
        // Whoever is no member any more has records of former times.
        let member = |node: usize| {
            let replicas = map.groups.iter().filter(|of| of.id == group).flat_map(|of| &of.replicas);
            let mut at = replicas.filter_map(|replica| map.nodes.iter().find(|known| known.replica() == *replica));
            at.any(|known| known.addr.starts_with(&format!("{}:", host(node))))
        };
        let mut members = (0..nodes.len()).filter(|node| member(*node));
        let store = members.find_map(|node| nodes[node].records.group(group));
        let state = store.and_then(|store| machine::chunk_state(&*store, key.space, key.chunk).ok());
        matches!(state, Some(ChunkState::Named { .. }))
    })
}
