//! What leaders do unasked. The leader of the system group calls nodes away and back, and gives groups and placement
//! groups their members as weft-core's planner says. The leader of any group brings its Raft membership in line with
//! the site map and makes the records of new volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use weft_core::entry::Command;
use weft_core::ids::{GroupId, NodeId, VolumeId};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::namespace::volume::AttachVolume;
use weft_core::refusal::Refusal;
use weft_core::site::plan::{Seen, plan};
use weft_core::site::{SiteCommand, SiteMap};

use super::beats::{Beat, Heard};
use super::heart::Standing;
use super::lead::{Lead, PROPOSE};
use super::route::Route;
use crate::meta::{Group, Groups};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// A step of membership may copy a group's state to a new replica first.
const MEMBERS: Duration = Duration::from_secs(60);
/// Steps taken in a row to remove a volume's records, before other duties get their turn.
const DROP_STEPS: usize = 64;
/// Mode of a new volume's root directory: anybody may make things in it, and remove only what is theirs.
const ROOT_MODE: u16 = 0o1777;

/// Looks after the site while this node leads the system group.
pub async fn run_system(route: Arc<Route>, lead: Arc<Lead>, standing: Arc<Standing>, mut stop: watch::Receiver<bool>) {
    loop {
        let began = Instant::now();
        let led = route.led();
        lead.beats.lock().look(began, led.as_ref().and_then(|group| group.led_term()));
        if let Some(group) = led
            && let Err(refusal) = look(&lead, &group, &standing).await
        {
            tracing::debug!(%refusal, "duties of the system group");
        }
        if !next_look(began, &mut stop).await {
            return;
        }
    }
}

async fn look(lead: &Lead, group: &Group, standing: &Standing) -> Result<(), Refusal> {
    super::refresh(group, &standing.map)?;
    let map = standing.map.get();
    if map.version == 0 {
        // The first entry is on its way.
        return Ok(());
    }
    for command in wanted(lead, &map) {
        if !lead.beats.lock().condemn(Instant::now(), &map, &command) {
            continue;
        }
        tracing::info!(?command, "change the site");
        lead.propose(group, command).await?;
        lead.beats.lock().settle();
    }
    if lead.beats.lock().is_unsettled() {
        // An entry that changes nothing: once it is applied, all before it are settled.
        lead.propose(group, SiteCommand::NodeStatus { changes: Vec::new() }).await?;
        lead.beats.lock().settle();
    }
    Ok(())
}

/// What should change, given who was heard of.
fn wanted(lead: &Lead, map: &SiteMap) -> Vec<SiteCommand> {
    let now = Instant::now();
    let heard: BTreeMap<_, Heard> = {
        let beats = lead.beats.lock();
        map.nodes.iter().map(|node| (node.id, beats.heard(now, node.replica()))).collect()
    };
    let alive: BTreeMap<_, &Beat> = heard
        .iter()
        .filter_map(|(node, heard)| match heard {
            Heard::Alive(beat) => Some((*node, beat)),
            Heard::Silent(_) | Heard::Unsure => None,
        })
        .collect();
    let mut commands: Vec<SiteCommand> = map
        .nodes
        .iter()
        .filter_map(|node| Some((node, *alive.get(&node.id)?)))
        .filter(|(node, beat)| node.addr != beat.addr || node.labels != beat.labels || node.lost_logs < beat.lost_logs)
        .map(|(node, beat)| SiteCommand::UpdateNode {
            replica: node.replica(),
            addr: beat.addr.clone(),
            labels: beat.labels.clone(),
            lost_logs: beat.lost_logs,
        })
        .collect();
    if !commands.is_empty() {
        // Where machines stand is known before anything is put on them.
        return commands;
    }
    commands.extend(lead.attached(map, alive.values().map(|beat| (*beat).clone())));
    commands.extend(lead.dropped(map, alive.values().map(|beat| (*beat).clone())));
    commands.extend(plan(map, &seen(&heard, lead.repair_after)));
    commands
}

/// Looks after the groups that this node leads.
pub async fn run_groups(groups: Arc<Groups>, standing: Arc<Standing>, mut stop: watch::Receiver<bool>) {
    let mut steps: BTreeMap<GroupId, JoinHandle<()>> = BTreeMap::new();
    loop {
        let began = Instant::now();
        let map = standing.map.get();
        for record in &map.groups {
            if steps.get(&record.id).is_some_and(|step| !step.is_finished()) {
                continue;
            }
            let Some(group) = groups.group(record.id).filter(|group| group.leading()) else { continue };
            let (map, standing) = (map.clone(), standing.clone());
            steps.insert(record.id, tokio::spawn(async move { look_after(&group, &map, &standing).await }));
        }
        if !next_look(began, &mut stop).await {
            return steps.values().for_each(JoinHandle::abort);
        }
    }
}

async fn look_after(group: &Group, map: &SiteMap, standing: &Standing) {
    for volume in map.volumes.iter().filter(|volume| volume.group == group.id() && !volume.ready) {
        if standing.has_attached(volume.id) {
            continue;
        }
        let command = Command::AttachVolume(AttachVolume {
            volume: volume.id,
            space: volume.space,
            slot: volume.slot,
            mode: ROOT_MODE,
            uid: 0,
            gid: 0,
        });
        match tokio::time::timeout(PROPOSE, group.propose(None, command)).await {
            Ok(Ok(_)) => standing.attached(volume.id),
            Ok(Err(refusal)) => tracing::debug!(volume = %volume.id, %refusal, "make a volume's records"),
            Err(_) => tracing::debug!(volume = %volume.id, "make a volume's records: no answer in time"),
        }
    }
    for volume in map.volumes.iter().filter(|volume| volume.group == group.id() && volume.deleting) {
        if !standing.has_dropped(volume.id) && drop_records(group, volume.id).await {
            standing.dropped(volume.id);
        }
    }
    let Some(record) = map.groups.iter().find(|record| record.id == group.id()) else { return };
    match tokio::time::timeout(MEMBERS, group.reconcile_members(&record.replicas)).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => tracing::debug!(group = %group.id(), %refusal, "bring members in line"),
        Err(_) => tracing::warn!(group = %group.id(), "bring members in line: no answer in time"),
    }
}

/// Takes steps towards a volume's end. Says whether it has come.
async fn drop_records(group: &Group, volume: VolumeId) -> bool {
    for _ in 0..DROP_STEPS {
        let command = Command::Step(Step::DropVolume { volume });
        match tokio::time::timeout(PROPOSE, group.propose(None, command)).await {
            Ok(Ok(Outcome::Stepped { more: true })) => {}
            Ok(Ok(_)) => return true,
            Ok(Err(refusal)) => {
                tracing::debug!(%volume, %refusal, "remove a volume's records");
                return false;
            }
            Err(_) => {
                tracing::debug!(%volume, "remove a volume's records: no answer in time");
                return false;
            }
        }
    }
    false
}

/// Waits for the next look; `false` when the node stops.
async fn next_look(began: Instant, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        () = crate::node::stopped(stop) => false,
        () = tokio::time::sleep_until(began + LOOK) => true,
    }
}

/// What the planner needs to know of who was heard of.
fn seen(heard: &BTreeMap<NodeId, Heard>, repair_after: Duration) -> Seen {
    let nodes = heard.iter().map(|(node, heard)| (*node, heard.presence())).collect();
    Seen { nodes, repair_after_ms: repair_after.as_millis() as u64 }
}
