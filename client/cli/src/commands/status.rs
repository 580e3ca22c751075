//! `weft cluster status`: nodes, groups, leaders, placement, space, and whether all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use weft_client::site::{MemberState, NodeStatus, SiteMap};
use weft_client::{CatchUp, ChunkHealth, Client, GroupReport, Incarnation, NodeId, NodeReport, ReplicaId};

use super::volume::ShownVolume;
use crate::args::ConnectArgs;
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::table::{Align, Table};
use crate::{humane, output};

/// A node that says nothing for so long counts as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Replicas that a group has where there are enough meta nodes.
const USUAL_VOTERS: usize = 3;

/// Everything there is to know, as `--json` shows it.
#[derive(Serialize)]
pub(crate) struct Status {
    name: String,
    site: String,
    map_version: u64,
    /// Nothing is wrong: every node up and answering, every group led with all its voters, all placement served.
    pub(crate) healthy: bool,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    /// What was wrong and is mended, but should make somebody look.
    notes: Vec<String>,
    nodes: Vec<ShownNode>,
    groups: Vec<ShownGroup>,
    placement: Vec<ShownPg>,
    volumes: Vec<ShownVolume>,
}

#[derive(Serialize)]
struct ShownNode {
    id: u32,
    incarnation: String,
    addr: String,
    meta: bool,
    chunk: bool,
    /// What the site thinks of it: up, away, full.
    status: &'static str,
    /// It is being emptied, or was.
    draining: bool,
    /// Placement groups and replicas of metadata that it holds by the site's records.
    holds: usize,
    /// What it says of itself; `null` if it does not answer.
    report: Option<ShownReport>,
}

#[derive(Serialize)]
struct ShownReport {
    version: String,
    uptime_ms: u64,
    /// Seconds since 1970; 0: plain text.
    certificate_until: i64,
    map_version: u64,
    lease_left_ms: u32,
    total_bytes: u64,
    free_bytes: u64,
    chunk_bytes: u64,
    chunks: u64,
    chunk_health: ShownHealth,
    /// Damaged Raft logs that its data folder gave up since it was made.
    lost_logs: u32,
    /// Times that records of a group were found damaged or lost, since its start.
    lost_records: u64,
}

/// Since the node's start.
#[derive(Serialize)]
struct ShownHealth {
    /// Chunks read again to find what rots.
    reread: u64,
    reread_bytes: u64,
    damaged: u64,
    missing: u64,
    healed: u64,
    /// Damaged or missing and not healed yet.
    waiting: u64,
    /// Of these, those that no member gave when they were last asked.
    unhealed: u64,
    /// `null` if it has everything.
    catch_up: Option<ShownCatchUp>,
}

#[derive(Serialize)]
struct ShownCatchUp {
    groups: u64,
    /// Known to be lacking.
    chunks: u64,
    bytes: u64,
    done_chunks: u64,
    done_bytes: u64,
    percent: u64,
    bytes_per_s: u64,
    /// `null` while it is not known.
    left_ms: Option<u64>,
}

#[derive(Serialize)]
struct ShownGroup {
    id: u32,
    leader: Option<u32>,
    /// Nodes that should hold it.
    replicas: Vec<u32>,
    /// Nodes that say they hold it.
    members: Vec<ShownMember>,
    /// Who should hold it, each in which life.
    #[serde(skip)]
    wanted: Vec<ReplicaId>,
}

#[derive(Serialize)]
struct ShownMember {
    node: u32,
    leader: bool,
    term: u64,
    last_log: u64,
    committed: u64,
    applied: u64,
    snapshot: u64,
    purged: u64,
    voters: Vec<u32>,
    learners: Vec<u32>,
    /// Voters come or go, and it is not settled yet.
    changing: bool,
    /// Its records were lost and are being rebuilt.
    rebuilding: bool,
    /// Those who vote, each in which life.
    #[serde(skip)]
    voting: Vec<ReplicaId>,
}

#[derive(Serialize)]
struct ShownPg {
    id: u32,
    /// For volumes with so many copies.
    factor: u8,
    epoch: u64,
    /// As many members serve as there should be copies.
    healthy: bool,
    /// Somebody copies what is there, to take a place or to catch up.
    moving: bool,
    members: Vec<ShownPgMember>,
}

#[derive(Serialize)]
struct ShownPgMember {
    node: u32,
    incarnation: String,
    state: &'static str,
}

/// Shows it.
pub(crate) async fn run(to: &ConnectArgs, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let status = ask(&client).await?;
    if json {
        output::json(&status)?;
    } else {
        output::bytes(text(&status).as_bytes())?;
    }
    close(&client).await
}

/// Asks the site for its map and every node for itself.
pub(crate) async fn ask(client: &Client) -> Result<Status, Failure> {
    let map = client.refresh_map().await.doing("ask for the site map")?;
    let reports = join_all(map.nodes.iter().map(|node| async {
        let report = tokio::time::timeout(ANSWER_WITHIN, client.node_status(node.id)).await;
        (node.id, report.ok().and_then(Result::ok))
    }));
    let reports = reports.await.into_iter().filter_map(|(node, report)| Some((node, report?))).collect();
    Ok(status(&map, &reports))
}

/// Renewal begins at a third of a certificate's life, a month: what is left of less than this was not renewed in time.
const EXPIRES_SOON_S: i64 = 21 * 86_400;

fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn certificate_problem(node: u32, until: i64, now: i64, problems: &mut Vec<String>) {
    if until != 0 && until - now < EXPIRES_SOON_S {
        let days = (until - now) / 86_400;
        problems
            .push(format!("the certificate of node {node} expires in {days} days and was not renewed: see its log"));
    }
}

/// Puts together what the site says and what the nodes say.
fn status(map: &SiteMap, reports: &BTreeMap<NodeId, NodeReport>) -> Status {
    let nodes: Vec<ShownNode> = map.nodes.iter().map(|node| shown_node(map, node, reports.get(&node.id))).collect();
    let groups: Vec<ShownGroup> = map.groups.iter().map(|group| shown_group(group, reports)).collect();
    let placement: Vec<ShownPg> = map.pgs.iter().map(shown_pg).collect();
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for node in &nodes {
        if node.draining && node.holds == 0 {
            // Whether it is there makes no difference any more.
        } else if node.status != "up" {
            problems.push(format!("node {} at {} is {}", node.id, node.addr, node.status));
        } else if node.report.is_none() {
            problems.push(format!("node {} at {} does not answer", node.id, node.addr));
        }
        if let Some(report) = &node.report {
            chunk_problems(node.id, &report.chunk_health, &mut problems);
            notes.extend(node.mended(report));
            certificate_problem(node.id, report.certificate_until, now_s(), &mut problems);
        }
    }
    group_problems(map, &groups, reports, &mut problems);
    placement_problems(map, &placement, &mut problems);
    for volume in map.volumes.iter().filter(|volume| !volume.ready) {
        problems.push(format!("volume {} is still being made", volume.name));
    }
    if map.volumes.is_empty() {
        problems.push("the site has no volumes yet".into());
    }
    Status {
        name: map.name.clone(),
        site: format!("{:06x}", map.site.0),
        map_version: map.version,
        healthy: problems.is_empty(),
        problems,
        notes,
        nodes,
        groups,
        placement,
        volumes: map.volumes.iter().map(ShownVolume::from).collect(),
    }
}

fn group_problems(
    map: &SiteMap,
    groups: &[ShownGroup],
    reports: &BTreeMap<NodeId, NodeReport>,
    problems: &mut Vec<String>,
) {
    let meta_nodes = map.nodes.iter().filter(|node| node.meta && !node.draining).count();
    // Two nodes hold a group no safer than one: the planner may stay at one.
    let wanted = if meta_nodes < USUAL_VOTERS { 1 } else { USUAL_VOTERS };
    for group in groups {
        let Some(leader) = group.leader else {
            problems.push(format!("group {} has no leader", group.id));
            continue;
        };
        if group.replicas.len() < wanted {
            problems.push(format!("group {} has {} of {wanted} replicas", group.id, group.replicas.len()));
        }
        let leader = group.members.iter().find(|member| member.node == leader);
        if leader.is_none_or(|leader| leader.changing || leader.voting != group.wanted) {
            problems.push(format!("group {} is still taking in or letting go of members", group.id));
        }
        for lost in group.wanted.iter().filter(|lost| !map.nodes.iter().any(|node| node.meta_replica() == **lost)) {
            problems.push(format!("group {}: node {} lost its replica and has no new one yet", group.id, lost.node));
        }
        for member in group.members.iter().filter(|member| member.rebuilding) {
            problems.push(format!("group {}: node {} is rebuilding its records", group.id, member.node));
        }
        for node in &group.replicas {
            // Of nodes that say nothing it was said already.
            if reports.contains_key(&NodeId(*node)) && !group.members.iter().any(|member| member.node == *node) {
                problems.push(format!("group {}: node {node} does not serve its replica", group.id));
            }
        }
    }
}

fn chunk_problems(node: u32, health: &ShownHealth, problems: &mut Vec<String>) {
    if health.waiting > 0 {
        let lost = match health.unhealed {
            0 => String::new(),
            unhealed => format!(", {unhealed} of them whole on no member that was asked"),
        };
        problems.push(format!("node {node}: {} damaged or missing chunks are not healed{lost}", health.waiting));
    }
    if let Some(catch_up) = &health.catch_up {
        let left = catch_up.left_ms.map_or_else(String::new, |ms| format!(", {} left", humane::millis(ms)));
        problems.push(format!(
            "node {node} catches up: {} chunks ({}) to fetch, {} % done, {}/s{left}",
            catch_up.chunks,
            humane::bytes(catch_up.bytes),
            catch_up.percent,
            humane::bytes(catch_up.bytes_per_s),
        ));
    }
}

fn placement_problems(map: &SiteMap, placement: &[ShownPg], problems: &mut Vec<String>) {
    let chunk_nodes = map.nodes.iter().filter(|node| node.chunk && !node.draining).count();
    let mut factors: Vec<u8> = map.volumes.iter().map(|volume| volume.replication).collect();
    factors.sort_unstable();
    factors.dedup();
    for factor in factors {
        let of_factor: Vec<&ShownPg> = placement.iter().filter(|pg| pg.factor == factor).collect();
        let wanted = usize::from(factor).min(chunk_nodes);
        let ill = of_factor.iter().filter(|pg| pg.serving(map) < wanted).count();
        let lost: Vec<&&ShownPg> = of_factor.iter().filter(|pg| pg.serving(map) == 0).collect();
        if of_factor.is_empty() {
            problems.push(format!("there is no placement yet for {factor} copies"));
        } else if ill > 0 {
            problems.push(format!("{ill} of {} placement groups for {factor} copies are not whole", of_factor.len()));
        }
        for pg in lost {
            problems.push(pg.lost(map));
        }
        if chunk_nodes < 2 && factor > 1 {
            problems
                .push(format!("{factor} copies need 2 chunk nodes at the least to be written; there is {chunk_nodes}"));
        }
    }
}

impl ShownNode {
    /// What of it was damaged and is mended.
    fn mended(&self, report: &ShownReport) -> Vec<String> {
        let mut notes = Vec::new();
        let times = |count: u64| if count == 1 { "once".to_string() } else { format!("{count} times") };
        if report.lost_logs > 0 {
            let times = times(u64::from(report.lost_logs));
            notes.push(format!(
                "node {} gave up a damaged Raft log {times} since its data folder was made: look at its disk",
                self.id
            ));
        }
        if report.lost_records > 0 {
            let times = times(report.lost_records);
            notes.push(format!("node {} found records of a group damaged {times} since its start", self.id));
        }
        notes
    }
}

impl ShownPg {
    /// Members that serve and are still known to the site in the life that they had.
    fn serving(&self, map: &SiteMap) -> usize {
        let known = |id: u32| map.nodes.iter().find(|node| node.id.0 == id);
        let there = |member: &&ShownPgMember| {
            known(member.node).is_some_and(|node| format!("{:016x}", node.incarnation.0) == member.incarnation)
        };
        self.members.iter().filter(|member| member.state == "serving").filter(there).count()
    }

    /// Says that nobody who has everything is left, and what can be done.
    fn lost(&self, map: &SiteMap) -> String {
        let served: Vec<String> =
            self.members.iter().filter(|m| m.state == "serving").map(|m| m.node.to_string()).collect();
        let here = |m: &&ShownPgMember| m.state != "serving" && map.nodes.iter().any(|node| node.id.0 == m.node);
        let others: Vec<String> = self.members.iter().filter(here).map(|m| m.node.to_string()).collect();
        let mut text = format!(
            "placement group {}: the data of node {}, which had all of it, is lost: start that node with its former data \
             folder if you still have it",
            self.id,
            served.join(", ")
        );
        if !others.is_empty() {
            text += &format!("; node {} has a part of it", others.join(", "));
        }
        text
    }
}

fn shown_node(map: &SiteMap, node: &weft_client::site::Node, report: Option<&NodeReport>) -> ShownNode {
    let held = weft_client::site::plan::drain::remaining(map, node.id);
    let holds = held.pgs + held.groups.len();
    ShownNode {
        id: node.id.0,
        incarnation: format!("{:016x}", node.incarnation.0),
        addr: node.addr.clone(),
        meta: node.meta,
        chunk: node.chunk,
        draining: node.draining,
        holds,
        status: match node.status {
            NodeStatus::Up => "up",
            NodeStatus::Away => "away",
            NodeStatus::Full => "full",
        },
        report: report.map(|report| ShownReport {
            version: report.version.clone(),
            uptime_ms: report.uptime_ms,
            certificate_until: report.certificate_until,
            map_version: report.map_version,
            lease_left_ms: report.lease_left_ms,
            total_bytes: report.total_bytes,
            free_bytes: report.free_bytes,
            chunk_bytes: report.chunk_bytes,
            chunks: report.chunks,
            chunk_health: shown_health(&report.chunk_health),
            lost_logs: report.lost_logs,
            lost_records: report.lost_records,
        }),
    }
}

fn shown_health(health: &ChunkHealth) -> ShownHealth {
    let ChunkHealth { reread, reread_bytes, damaged, missing, healed, waiting, unhealed, .. } = *health;
    let catch_up = (health.catch_up.groups > 0).then(|| shown_catch_up(&health.catch_up));
    ShownHealth { reread, reread_bytes, damaged, missing, healed, waiting, unhealed, catch_up }
}

fn shown_catch_up(of: &CatchUp) -> ShownCatchUp {
    let all = of.bytes.saturating_add(of.done_bytes);
    let bytes_per_s = of.done_bytes.saturating_mul(1000) / of.ms.max(1);
    ShownCatchUp {
        groups: of.groups,
        chunks: of.chunks,
        bytes: of.bytes,
        done_chunks: of.done_chunks,
        done_bytes: of.done_bytes,
        percent: of.done_bytes.saturating_mul(100).checked_div(all).unwrap_or(0),
        bytes_per_s,
        left_ms: of.bytes.saturating_mul(1000).checked_div(bytes_per_s),
    }
}

fn shown_group(group: &weft_client::site::Group, reports: &BTreeMap<NodeId, NodeReport>) -> ShownGroup {
    let ids = |nodes: &[NodeId]| {
        let mut ids: Vec<u32> = nodes.iter().map(|node| node.0).collect();
        ids.sort_unstable();
        ids
    };
    let members: Vec<ShownMember> = reports
        .iter()
        .filter_map(|(node, report)| Some((node, report.groups.iter().find(|of| of.group == group.id)?)))
        .map(|(node, of)| ShownMember {
            node: node.0,
            leader: of.leader,
            term: of.term,
            last_log: of.last_log,
            committed: of.committed,
            applied: of.applied,
            snapshot: of.snapshot,
            purged: of.purged,
            voters: ids(&of.voters),
            learners: ids(&of.learners),
            changing: of.changing,
            rebuilding: of.rebuilding,
            voting: voting(of, group),
        })
        .collect();
    // A deposed leader that does not know yet has a lower term.
    let leader = members.iter().filter(|member| member.leader).max_by_key(|member| member.term);
    let replicas: Vec<NodeId> = group.replicas.iter().map(|replica| replica.node).collect();
    let mut wanted = group.replicas.clone();
    wanted.sort_unstable();
    ShownGroup { id: group.id.0, leader: leader.map(|member| member.node), replicas: ids(&replicas), members, wanted }
}

/// Who votes in a group. A node that lost what it held counts only in the life that it has now.
fn voting(of: &GroupReport, group: &weft_client::site::Group) -> Vec<ReplicaId> {
    let known = |node: &NodeId| group.replicas.iter().find(|replica| replica.node == *node).copied();
    let mut voting: Vec<ReplicaId> = match of.voter_lives.len() == of.voters.len() {
        true => of
            .voters
            .iter()
            .zip(&of.voter_lives)
            .map(|(node, life)| ReplicaId { node: *node, incarnation: *life })
            .collect(),
        // A node of an earlier version does not say in which lives they vote.
        false => of
            .voters
            .iter()
            .map(|node| known(node).unwrap_or(ReplicaId { node: *node, incarnation: Incarnation(0) }))
            .collect(),
    };
    voting.sort_unstable();
    voting
}

fn shown_pg(pg: &weft_client::site::Pg) -> ShownPg {
    ShownPg {
        id: pg.id.0,
        factor: pg.factor,
        epoch: pg.epoch.0,
        healthy: pg.members.iter().filter(|member| member.state == MemberState::Serving).count()
            >= usize::from(pg.factor),
        moving: pg.members.iter().any(|member| member.state == MemberState::Behind),
        members: pg
            .members
            .iter()
            .map(|member| ShownPgMember {
                node: member.replica.node.0,
                incarnation: format!("{:016x}", member.replica.incarnation.0),
                state: match member.state {
                    MemberState::Serving => "serving",
                    MemberState::Away => "away",
                    MemberState::Behind => "behind",
                    MemberState::Leaving => "leaving",
                },
            })
            .collect(),
    }
}

/// For people.
fn text(status: &Status) -> String {
    let health = if status.healthy { "healthy" } else { "not whole" };
    let mut out = format!("site {} ({}): {health}\n", status.name, status.site);
    for problem in &status.problems {
        out += &format!("  - {problem}\n");
    }
    for note in &status.notes {
        out += &format!("  (mended: {note})\n");
    }
    out += &format!("\n{}", node_table(status).render());
    out += &format!("\n{}", group_table(status).render());
    out += &format!("\n{}", placement_table(status).render());
    out
}

fn node_table(status: &Status) -> Table {
    use Align::{Left, Right};
    let head = [
        ("NODE", Right),
        ("ADDRESS", Left),
        ("ROLES", Left),
        ("STATUS", Left),
        ("UP FOR", Right),
        ("VERSION", Left),
        ("FREE", Right),
        ("OF", Right),
        ("CHUNKS", Right),
        ("IN THEM", Right),
        ("HEALED", Right),
        ("ILL", Right),
    ];
    let mut table = Table::new(head);
    for node in &status.nodes {
        let roles = match (node.meta, node.chunk) {
            (true, true) => "meta, chunk",
            (true, false) => "meta",
            (false, true) => "chunk",
            (false, false) => "none",
        };
        let said = |say: fn(&ShownReport) -> String| node.report.as_ref().map_or_else(|| "?".into(), say);
        table.row([
            node.id.to_string(),
            node.addr.clone(),
            roles.into(),
            match (node.draining, node.holds) {
                (true, 0) => "drained".into(),
                (true, _) => format!("{}, draining", node.status),
                (false, _) if node.report.is_none() && node.status == "up" => "silent".into(),
                (false, _) => node.status.into(),
            },
            said(|report| humane::millis(report.uptime_ms)),
            said(|report| report.version.clone()),
            said(|report| humane::bytes(report.free_bytes)),
            said(|report| humane::bytes(report.total_bytes)),
            said(|report| report.chunks.to_string()),
            said(|report| humane::bytes(report.chunk_bytes)),
            said(|report| report.chunk_health.healed.to_string()),
            said(|report| report.chunk_health.waiting.to_string()),
        ]);
    }
    table
}

fn group_table(status: &Status) -> Table {
    use Align::{Left, Right};
    let head = [
        ("GROUP", Right),
        ("LEADER", Right),
        ("REPLICAS", Left),
        ("TERM", Right),
        ("COMMITTED", Right),
        ("BEHIND", Left),
    ];
    let mut table = Table::new(head);
    let list = |nodes: &[u32]| nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    for group in &status.groups {
        let leader = group.members.iter().find(|member| Some(member.node) == group.leader);
        let committed = leader.map_or(0, |leader| leader.committed);
        // Those that lag by what is just under way are not worth a word.
        let behind: Vec<String> = group
            .members
            .iter()
            .filter(|member| group.replicas.contains(&member.node))
            .filter(|member| committed.saturating_sub(member.applied) > 100)
            .map(|member| format!("{} by {}", member.node, committed - member.applied))
            .collect();
        table.row([
            if group.id == 0 { "0 (system)".into() } else { group.id.to_string() },
            group.leader.map_or_else(|| "none".into(), |leader| leader.to_string()),
            list(&group.replicas),
            leader.map_or_else(|| "?".into(), |leader| leader.term.to_string()),
            leader.map_or_else(|| "?".into(), |leader| leader.committed.to_string()),
            behind.join(", "),
        ]);
    }
    table
}

fn placement_table(status: &Status) -> Table {
    use Align::Right;
    let head = [
        ("COPIES", Right),
        ("PLACEMENT GROUPS", Right),
        ("WHOLE", Right),
        ("LACKING", Right),
        ("COPYING", Right),
        ("VOLUMES", Right),
    ];
    let mut table = Table::new(head);
    let mut factors: Vec<u8> = status.placement.iter().map(|pg| pg.factor).collect();
    factors.sort_unstable();
    factors.dedup();
    for factor in factors {
        let all = status.placement.iter().filter(|pg| pg.factor == factor).count();
        let whole = status.placement.iter().filter(|pg| pg.factor == factor && pg.healthy).count();
        let moving = status.placement.iter().filter(|pg| pg.factor == factor && pg.moving).count();
        let volumes = status.volumes.iter().filter(|volume| volume.replication == factor).count();
        table.row([
            factor.to_string(),
            all.to_string(),
            whole.to_string(),
            (all - whole).to_string(),
            moving.to_string(),
            volumes.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests;
