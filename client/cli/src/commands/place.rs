//! `weft node list|drain|undrain|remove`: what is to become of nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;
use weft_client::site::plan::drain::{Remaining, remaining};
use weft_client::site::{Node, NodeStatus, SiteMap};
use weft_client::{Client, NodeId, NodeReport};

use crate::args::{ConnectArgs, NodeCommand};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::interrupt::{Interrupts, until_interrupted};
use crate::table::{Align, Table};
use crate::{humane, output};

/// Time between two looks at a drain.
const LOOK: Duration = Duration::from_millis(500);
/// A node that says nothing for so long counts as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Does one of the four.
pub(crate) async fn run(to: &ConnectArgs, order: NodeCommand) -> Result<(), Failure> {
    match order {
        NodeCommand::List { json } => until_interrupted(list(to, json)).await,
        NodeCommand::Drain { node, no_wait, json } => drain(to, NodeId(node), no_wait, json).await,
        NodeCommand::Undrain { node, json } => until_interrupted(undrain(to, NodeId(node), json)).await,
        NodeCommand::Remove { node, force, json } => until_interrupted(remove(to, NodeId(node), force, json)).await,
    }
}

/// How far a node is from being empty, as `--json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Drained {
    node: u32,
    draining: bool,
    /// Nothing would be missing without it.
    safe: bool,
    /// Placement groups it is a member of.
    pgs: usize,
    /// Of these, on the move.
    moving: usize,
    /// Bytes of chunks that must be copied yet, about.
    bytes: u64,
    /// Metadata groups it holds a replica of, by the site's records or by their leaders' word.
    groups: Vec<u32>,
    /// Why it does not go on.
    stalls: Vec<String>,
}

#[derive(Serialize)]
struct ShownNode {
    id: u32,
    addr: String,
    meta: bool,
    chunk: bool,
    status: &'static str,
    draining: bool,
    host: String,
    rack: String,
    zone: String,
    pgs: usize,
    replicas: usize,
    /// `null` if it does not answer.
    chunk_bytes: Option<u64>,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

type Reports = BTreeMap<NodeId, NodeReport>;

async fn reports(client: &Client, map: &SiteMap) -> Reports {
    let asked = map.nodes.iter().map(|node| async {
        let report = tokio::time::timeout(ANSWER_WITHIN, client.node_status(node.id)).await;
        Some((node.id, report.ok()?.ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn list(to: &ConnectArgs, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let map = client.refresh_map().await.doing("list nodes")?;
    let reports = reports(&client, &map).await;
    let shown: Vec<ShownNode> = map.nodes.iter().map(|node| shown(&map, node, reports.get(&node.id))).collect();
    if json {
        output::json(&shown)?;
    } else {
        output::bytes(table(&shown).render().as_bytes())?;
    }
    close(&client).await
}

fn shown(map: &SiteMap, node: &Node, report: Option<&NodeReport>) -> ShownNode {
    let held = remaining(map, node.id);
    ShownNode {
        id: node.id.0,
        addr: node.addr.clone(),
        meta: node.meta,
        chunk: node.chunk,
        status: status(node.status),
        draining: node.draining,
        host: node.labels.host.clone(),
        rack: node.labels.rack.clone(),
        zone: node.labels.zone.clone(),
        pgs: held.pgs,
        replicas: held.groups.len(),
        chunk_bytes: report.map(|report| report.chunk_bytes),
        free_bytes: report.map(|report| report.free_bytes),
        total_bytes: report.map(|report| report.total_bytes),
    }
}

fn status(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Up => "up",
        NodeStatus::Away => "away",
        NodeStatus::Full => "full",
    }
}

fn table(nodes: &[ShownNode]) -> Table {
    use Align::{Left, Right};
    let head = [
        ("NODE", Right),
        ("ADDRESS", Left),
        ("STATUS", Left),
        ("HOST", Left),
        ("RACK", Left),
        ("ZONE", Left),
        ("PGS", Right),
        ("REPLICAS", Right),
        ("IN CHUNKS", Right),
        ("FREE", Right),
        ("OF", Right),
    ];
    let mut table = Table::new(head);
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "?".into(), humane::bytes);
    let label = |label: &String| if label.is_empty() { "-".into() } else { label.clone() };
    for node in nodes {
        let drain = match (node.draining, node.pgs + node.replicas) {
            (false, _) => "",
            (true, 0) => ", drained",
            (true, _) => ", draining",
        };
        table.row([
            node.id.to_string(),
            node.addr.clone(),
            format!("{}{drain}", node.status),
            label(&node.host),
            label(&node.rack),
            label(&node.zone),
            node.pgs.to_string(),
            node.replicas.to_string(),
            bytes(node.chunk_bytes),
            bytes(node.free_bytes),
            bytes(node.total_bytes),
        ]);
    }
    table
}

/// Ends when the node holds nothing, or at once; Ctrl-C ends the waiting only.
async fn drain(to: &ConnectArgs, node: NodeId, no_wait: bool, json: bool) -> Result<(), Failure> {
    let mut interrupts = Interrupts::take()?;
    let client = tokio::select! {
        biased;
        () = interrupts.next() => return Err(Failure::interrupted()),
        client = connect(to) => client?,
    };
    tokio::select! {
        biased;
        () = interrupts.next() => return Err(Failure::interrupted().hint(goes_on(node))),
        ordered = client.drain_node(node, true) => drop(ordered.doing(format!("drain node {node}"))?),
    }
    let mut pace = Pace::default();
    loop {
        let now = tokio::select! {
            biased;
            () = interrupts.next() => return Err(Failure::interrupted().hint(goes_on(node))),
            now = look(&client, node, &mut pace) => now?,
        };
        if now.safe || no_wait {
            return finish(&client, &now, json).await;
        }
        if !now.draining {
            return Err(Failure::new(format!("node {node} is no longer drained: somebody ended it")));
        }
        if !json {
            pace.tell(&now)?;
        }
        tokio::select! {
            biased;
            () = interrupts.next() => return Err(Failure::interrupted().hint(goes_on(node))),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn goes_on(node: NodeId) -> String {
    format!("the drain of node {node} goes on; `weft node undrain {node}` ends it")
}

async fn finish(client: &Client, now: &Drained, json: bool) -> Result<(), Failure> {
    if json {
        output::json(now)?;
    } else if now.safe {
        let node = now.node;
        output::line(format!("node {node} holds nothing any more: it is safe to stop it and take it away"))?;
        output::line(format!("then: weft node remove {node}"))?;
    } else {
        output::line(format!("node {} is being drained: {}", now.node, left(now)))?;
        for stall in &now.stalls {
            output::line(format!("  it can't go on: {stall}"))?;
        }
    }
    close(client).await
}

/// Asks the site for its records, and the leaders of the groups whether the node still votes there.
async fn look(client: &Client, node: NodeId, pace: &mut Pace) -> Result<Drained, Failure> {
    let map = client.refresh_map().await.doing("ask for the site map")?;
    let Some(record) = map.nodes.iter().find(|known| known.id == node) else {
        return Err(Failure::new(format!("node {node} is not of this site any more")));
    };
    let reports = reports(client, &map).await;
    let held = reports.get(&node).map_or(0, |report| report.chunk_bytes);
    let mut now = judge(&map, record, &reports);
    now.bytes = pace.bytes_left(held, now.pgs);
    Ok(now)
}

/// What is left. It is safe only once the leader of every group says that the node is no member there.
fn judge(map: &SiteMap, node: &Node, reports: &Reports) -> Drained {
    let Remaining { pgs, moving, groups, mut stalls } = remaining(map, node.id);
    let mut groups: Vec<u32> = groups.iter().map(|group| group.0).collect();
    for group in &map.groups {
        let replicas = reports.values().flat_map(|report| &report.groups).filter(|of| of.group == group.id);
        match replicas.filter(|of| of.leader).max_by_key(|of| of.term) {
            Some(leader) if leader.voters.contains(&node.id) || leader.learners.contains(&node.id) => {
                groups.push(group.id.0);
            }
            Some(_) => {}
            None => {
                groups.push(group.id.0);
                stalls.push(format!("metadata group {} has no leader that answers", group.id));
            }
        }
    }
    groups.sort_unstable();
    groups.dedup();
    let safe = node.draining && pgs == 0 && groups.is_empty();
    Drained { node: node.id.0, draining: node.draining, safe, pgs, moving, bytes: 0, groups, stalls }
}

/// What was left at the beginning, and what was said last.
#[derive(Default)]
struct Pace {
    begun: Option<(Instant, usize, u64)>,
    said: Option<Drained>,
}

impl Pace {
    /// What a node held when it began, in the measure in which its placement groups are left: copies stay on the node
    /// for a while when it has left.
    fn bytes_left(&mut self, held: u64, pgs: usize) -> u64 {
        let (_, all, bytes) = *self.begun.get_or_insert((Instant::now(), pgs, held));
        if all == 0 { 0 } else { (u128::from(bytes) * pgs as u128 / all as u128) as u64 }
    }

    /// Says what is left where it has changed.
    fn tell(&mut self, now: &Drained) -> Result<(), Failure> {
        let same = |said: &Drained| Drained { moving: said.moving, ..now.clone() } == *said;
        if self.said.as_ref().is_some_and(same) {
            return Ok(());
        }
        output::line(format!("{}{}", left(now), self.rate(now)))?;
        let known = |stall: &String| self.said.as_ref().is_some_and(|said| said.stalls.contains(stall));
        for stall in now.stalls.iter().filter(|stall| !known(stall)) {
            output::line(format!("  it can't go on: {stall}"))?;
        }
        self.said = Some(now.clone());
        Ok(())
    }

    fn rate(&self, now: &Drained) -> String {
        let Some((since, _, all)) = self.begun else { return String::new() };
        let (seconds, moved) = (since.elapsed().as_secs_f64(), all.saturating_sub(now.bytes));
        if moved == 0 || seconds < 1.0 {
            return String::new();
        }
        let rate = moved as f64 / seconds;
        let left = (now.bytes as f64 / rate * 1000.0) as u64;
        format!("; {}/s, about {} left", humane::bytes(rate as u64), humane::millis(left))
    }
}

fn left(now: &Drained) -> String {
    let mut text = format!("{} placement groups left, {} of them on the move", now.pgs, now.moving);
    if now.bytes > 0 {
        text += &format!(", about {}", humane::bytes(now.bytes));
    }
    match now.groups.len() {
        0 => {}
        groups => text += &format!(", replicas of {groups} metadata groups"),
    }
    text
}

async fn undrain(to: &ConnectArgs, node: NodeId, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let map = client.drain_node(node, false).await.doing(format!("undrain node {node}"))?;
    match map.nodes.iter().find(|known| known.id == node).filter(|_| json) {
        Some(record) => output::json(&judge(&map, record, &reports(&client, &map).await))?,
        None => output::line(format!("node {node} takes part again; it gets its share of chunks little by little"))?,
    }
    close(&client).await
}

async fn remove(to: &ConnectArgs, node: NodeId, force: bool, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let map = client.remove_node(node, force).await.doing(format!("remove node {node}"))?;
    if json {
        output::json(&serde_json::json!({ "node": node.0, "removed": true, "map_version": map.version }))?;
    } else {
        output::line(format!("node {node} is removed: its data folder can be deleted"))?;
    }
    close(&client).await
}

#[cfg(test)]
mod tests {
    use weft_client::site::{Group, MemberState, Pg, PgMember};
    use weft_client::{GroupId, GroupReport};
    use weft_core::ids::{PgEpoch, PgId};

    use super::*;

    /// Four nodes, the last of them drained; a group led by node 1; one placement group.
    fn site(members: &[(u32, MemberState)], voters: &[u32]) -> (SiteMap, Reports) {
        let node = |id| Node { id: NodeId(id), meta: true, chunk: true, draining: id == 4, ..Node::default() };
        let nodes: Vec<Node> = (1..=4).map(node).collect();
        let member = |(id, state): &(u32, MemberState)| PgMember { replica: node(*id).replica(), state: *state };
        let members = members.iter().map(member).collect();
        let map = SiteMap {
            nodes: nodes.clone(),
            groups: vec![Group { id: GroupId(0), replicas: nodes[..3].iter().map(Node::replica).collect() }],
            pgs: vec![Pg { id: PgId(1), factor: 2, epoch: PgEpoch(1), members }],
            ..SiteMap::default()
        };
        let voters = voters.iter().copied().map(NodeId).collect();
        let group = GroupReport { leader: true, term: 1, voters, ..GroupReport::default() };
        (map, [(NodeId(1), NodeReport { groups: vec![group], ..NodeReport::default() })].into())
    }

    #[test]
    fn it_is_safe_only_when_nobody_counts_on_the_node() {
        use MemberState::{Leaving, Serving};
        let judged = |members: &[_], voters: &[u32]| {
            let (map, reports) = site(members, voters);
            judge(&map, &map.nodes[3], &reports)
        };
        let there = [(1, Serving), (2, Serving)];
        assert!(judged(&there, &[1, 2, 3]).safe);
        let leaving = judged(&[there[0], there[1], (4, Leaving)], &[1, 2, 3]);
        assert_eq!((leaving.safe, leaving.pgs, leaving.moving), (false, 1, 1));
        let votes = judged(&there, &[1, 2, 3, 4]);
        assert_eq!((votes.safe, votes.groups), (false, vec![0]), "the leader has not let it go yet");
        let (map, _) = site(&there, &[]);
        let unknown = judge(&map, &map.nodes[3], &Reports::new());
        assert!(!unknown.safe && unknown.stalls[0].contains("no leader"), "{unknown:?}");
        let (mut map, reports) = site(&there, &[1, 2, 3]);
        map.nodes[3].draining = false;
        assert!(!judge(&map, &map.nodes[3], &reports).safe, "it may get something at any moment");
    }

    #[test]
    fn what_is_left_is_said_with_rate_and_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.bytes_left(1 << 30, 40), 1 << 30);
        assert_eq!(pace.bytes_left(1 << 30, 10), 1 << 28, "copies that have moved lie on the node still");
        let now = Drained {
            node: 4,
            draining: true,
            safe: false,
            pgs: 10,
            moving: 4,
            bytes: 1 << 28,
            groups: vec![0, 2],
            stalls: vec![],
        };
        let said = "10 placement groups left, 4 of them on the move, about 256 MiB, replicas of 2 metadata groups";
        assert_eq!(left(&now), said);
        pace.begun = pace.begun.map(|(at, pgs, bytes)| (at - Duration::from_secs(3), pgs, bytes));
        let rate = pace.rate(&now);
        assert!(
            rate.starts_with("; 256 MiB/s, about 1s left") || rate.starts_with("; 255 MiB/s, about 1s left"),
            "{rate}"
        );
    }
}
