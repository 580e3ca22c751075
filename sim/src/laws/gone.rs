//! What nobody names goes: a while after the faults have stopped, no chunk server holds a chunk that was freed, or that was
//! never named and whose uploader's session has ended.

use std::time::Duration;

use weft_core::ids::{GroupId, ReplicaId, SpaceId};
use weft_core::machine::{self, ChunkState};
use weft_core::site::MemberState;
use weft_node::chunk::ChunkServer;
use weft_node::chunk::index::ChunkKey;

use crate::run::Violation;
use crate::state::NodeState;

const LAW: &str = "what nobody names goes";
/// Simulated time for it: some walks of the chunk servers, which are short in simulated settings.
const WITHIN: Duration = Duration::from_secs(60);
/// Chunks asked for at a time.
const PAGE: usize = 1000;

/// Looks through every chunk server. Call when the replicas of the groups are equal. Placement groups are left out that
/// are not whole: a member that is away could bring everything back, so nothing is deleted there. So are those whose
/// serving member lost its folder.
///
/// # Errors
/// A chunk is still there.
pub async fn check(nodes: &[NodeState]) -> Result<(), Violation> {
    let since = tokio::time::Instant::now();
    loop {
        match look(nodes) {
            Ok(()) => return Ok(()),
            Err(what) if since.elapsed() > WITHIN => return Err(Violation { law: LAW, what }),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// The first chunk that should be gone.
fn look(nodes: &[NodeState]) -> Result<(), String> {
    let map = nodes.iter().map(NodeState::map).max_by_key(|map| map.version).unwrap_or_default();
    let known = |replica: ReplicaId| map.nodes.iter().any(|node| node.replica() == replica);
    for pg in &map.pgs {
        if pg.members.iter().any(|member| member.state != MemberState::Serving || !known(member.replica)) {
            continue;
        }
        for (node, state) in nodes.iter().enumerate() {
            let Some(server) = state.chunks() else { continue };
            for key in chunks(&server, pg.id)? {
                if let Some(state) = is_garbage(nodes, key) {
                    return Err(format!("chunk {} of {} on node {node} is {state:?}", key.chunk, pg.id));
                }
            }
        }
    }
    Ok(())
}

fn chunks(server: &ChunkServer, pg: weft_core::ids::PgId) -> Result<Vec<ChunkKey>, String> {
    let mut found = Vec::new();
    let mut after: Option<(SpaceId, _)> = None;
    loop {
        let page = server.store().list(pg, after, PAGE).map_err(|refusal| refusal.to_string())?;
        after = page.last().map(|(key, _)| (key.space, key.chunk));
        let end = page.len() < PAGE;
        found.extend(page.into_iter().map(|(key, _)| key));
        if end {
            return Ok(found);
        }
    }
}

fn is_garbage(nodes: &[NodeState], key: ChunkKey) -> Option<ChunkState> {
    [GroupId(1), GroupId(2)].into_iter().find_map(|group| {
        let store = nodes.iter().find_map(|node| node.records.group(group))?;
        let state = machine::chunk_state(&*store, key.space, key.chunk).ok()?;
        matches!(state, ChunkState::Freed { .. } | ChunkState::Abandoned).then_some(state)
    })
}
