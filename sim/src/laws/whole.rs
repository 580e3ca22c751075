//! Placement heals: once nothing breaks any more, every placement group has as many serving members as it should have
//! copies, none of them on a node that is to be emptied, as far as there are enough nodes.

use std::time::Duration;

use weft_core::site::{MemberState, Node, NodeStatus, Pg, PgMember, SiteMap};

use crate::run::Violation;
use crate::state::NodeState;

const LAW: &str = "placement groups are whole again";
/// Simulated time in which what is missing must be copied.
const QUIET: Duration = Duration::from_secs(100);

/// Waits until all that can be whole is. Placement groups whose serving members lost their folders are left out: they
/// stay as they are until people decide.
///
/// # Errors
/// Something is not whole in time.
pub async fn check(nodes: &[NodeState]) -> Result<(), Violation> {
    let since = tokio::time::Instant::now();
    loop {
        let map = nodes.iter().map(NodeState::map).max_by_key(|map| map.version).unwrap_or_default();
        match map.pgs.iter().find_map(|pg| lacks(&map, pg)) {
            None => return Ok(()),
            Some(what) if since.elapsed() > QUIET => return Err(Violation { law: LAW, what }),
            Some(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

fn lacks(map: &SiteMap, pg: &Pg) -> Option<String> {
    let able: Vec<&Node> =
        map.nodes.iter().filter(|node| node.chunk && node.status == NodeStatus::Up && !node.draining).collect();
    let known = |member: &PgMember| map.nodes.iter().any(|node| node.replica() == member.replica);
    let serves = |member: &PgMember| member.state == MemberState::Serving && known(member);
    if !pg.members.iter().any(serves) || able.len() < usize::from(pg.factor) {
        return None;
    }
    let stays = |member: &PgMember| serves(member) && able.iter().any(|node| node.replica() == member.replica);
    let whole = pg.members.iter().all(stays) && pg.members.len() == usize::from(pg.factor);
    (!whole).then(|| format!("{pg:?} with {} nodes to choose from", able.len()))
}
