//! Replicas are byte-equal at the same applied id: once the fabric is quiet, the record stores of a group hold the same
//! bytes on every node.

use std::time::Duration;

use bytes::Bytes;
use weft_core::ids::GroupId;
use weft_node::records;

use crate::run::Violation;
use crate::site::host;
use crate::state::NodeState;

const LAW: &str = "replicas are byte-equal at the same applied id";
/// Simulated time in which replicas that may differ by entries still on their way must become equal.
const QUIET: Duration = Duration::from_secs(30);

/// Compares the groups of all nodes, waiting for those that still apply.
///
/// # Errors
/// Two replicas differ for good, or at the same applied id.
pub async fn check(nodes: &[NodeState]) -> Result<(), Violation> {
    let since = tokio::time::Instant::now();
    loop {
        match compare(nodes)? {
            None => return Ok(()),
            Some(what) if since.elapsed() > QUIET => return Err(Violation { law: LAW, what }),
            Some(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

/// What still differs.
fn compare(nodes: &[NodeState]) -> Result<Option<String>, Violation> {
    let map = nodes.iter().map(NodeState::map).max_by_key(|map| map.version).unwrap_or_default();
    for group in [GroupId::SYSTEM, GroupId(1), GroupId(2)] {
        let members = map.groups.iter().find(|record| record.id == group).map(|record| &record.replicas[..]);
        let mut first: Option<(usize, Vec<(Bytes, Bytes)>)> = None;
        for replica in members.unwrap_or_default() {
            let Some(at) = map.nodes.iter().find(|node| node.meta_replica() == *replica) else {
                return Ok(Some(format!("replica {replica} of group {group} is lost")));
            };
            let Some(node) = (0..nodes.len()).find(|node| at.addr.starts_with(&format!("{}:", host(*node)))) else {
                return Ok(Some(format!("nobody is at {}", at.addr)));
            };
            let Some(store) = nodes[node].records.group(group) else {
                return Ok(Some(format!("node {node} holds no replica of group {group}")));
            };
            let found = records::collect(&*store, &[], usize::MAX)
                .map_err(|error| Violation { law: LAW, what: error.to_string() })?;
            let Some((other, expected)) = &first else {
                first = Some((node, found));
                continue;
            };
            if let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at)) {
                let (a, b) = (expected.get(at), found.get(at));
                return Ok(Some(format!("group {group}, record {at}: node {other} has {a:?}, node {node} {b:?}")));
            }
        }
    }
    Ok(None)
}
