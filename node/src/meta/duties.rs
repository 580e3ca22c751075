//! What a node does for its groups unasked: making records durable, asking for lost ones, and, where it leads, finishing
//! cuts, letting nameless inodes go and ending sessions that fell silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use weft_core::entry::Command;
use weft_core::ids::{Ino, VolumeId};
use weft_core::limits::STEP_ORPHANS;
use weft_core::machine;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;

use super::group::Group;
use super::groups::Groups;

/// How often records are made durable, which bounds what is replayed after a crash.
const PERSIST_EVERY: Duration = Duration::from_secs(2);
/// How often a leader looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Steps a leader takes in a row for one inode or file, before others get their turn.
const STEPS: usize = 16;
/// Inodes and files that a leader looks after at one look.
const AT_ONCE: usize = 8192;
/// Of these, how many at the same time, so that their steps share writes to the log.
const ABREAST: usize = 64;
/// Sessions ended at one look.
const END_AT_ONCE: usize = 64;
/// How long a replica that asked for a snapshot waits for an answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Makes records durable, again and again.
pub(super) async fn persist(node: Weak<Groups>) {
    loop {
        tokio::time::sleep(PERSIST_EVERY).await;
        let Some(groups) = node.upgrade() else { return };
        for group in groups.all() {
            group.machine().marks().forget();
            if let Err(error) = group.machine().persist_if_dirty().await {
                tracing::error!(group = %group.id(), %error, "make records durable");
            }
        }
    }
}

/// Looks after the groups, again and again.
pub(super) async fn lead(node: Weak<Groups>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(groups) = node.upgrade() else { return };
        for group in groups.all() {
            if group.consensus().ask_for_snapshot(ASK_LIMIT).await || !group.leading() {
                continue;
            }
            match look_after(&group).await {
                Ok(()) | Err(Refusal::NotLeader { .. }) => {}
                Err(refusal) => tracing::warn!(group = %group.id(), %refusal, "look after the group"),
            }
        }
    }
}

async fn look_after(group: &Arc<Group>) -> Result<(), Refusal> {
    let (pending, sessions) =
        group.read_local(|view| Ok((machine::pending(view, AT_ONCE)?, machine::sessions(view)?)))?;
    let due = group.sessions().lock().due(Instant::now(), &sessions, &pending.orphans);
    group.leases().lock().retain(&sessions);
    for (client, space) in due.end.into_iter().take(END_AT_ONCE) {
        tracing::info!(group = %group.id(), %client, %space, "ending a session that fell silent");
        group.propose(None, Command::EndSession { client, space }).await?;
    }
    let cuts = pending.cuts.into_iter().map(|(volume, ino)| Step::FinishCut { volume, ino });
    abreast(group, cuts, ABREAST).await?;
    abreast(group, together(due.reap), ABREAST / STEP_ORPHANS).await
}

async fn abreast(group: &Group, steps: impl Iterator<Item = Step>, most: usize) -> Result<(), Refusal> {
    let mut steps = futures::stream::iter(steps.map(|step| take(group, step))).buffer_unordered(most);
    while let Some(taken) = steps.next().await {
        taken?;
    }
    Ok(())
}

/// Many orphans to a step: each alone would cost as much as the removal that made it one.
fn together(orphans: Vec<(VolumeId, Ino)>) -> impl Iterator<Item = Step> {
    let mut by_volume: BTreeMap<VolumeId, Vec<Ino>> = BTreeMap::new();
    for (volume, ino) in orphans {
        by_volume.entry(volume).or_default().push(ino);
    }
    by_volume.into_iter().flat_map(|(volume, inos)| {
        let steps: Vec<_> =
            inos.chunks(STEP_ORPHANS).map(|inos| Step::ReapOrphans { volume, inos: inos.to_vec() }).collect();
        steps
    })
}

async fn take(group: &Group, step: Step) -> Result<(), Refusal> {
    let most = match &step {
        Step::ReapOrphans { inos, .. } => STEPS * inos.len(),
        _ => STEPS,
    };
    for _ in 0..most {
        match group.propose(None, Command::Step(step.clone())).await {
            Ok(Outcome::Stepped { more: true }) => {}
            Ok(_) => return Ok(()),
            // What has gone meanwhile needs no step.
            Err(Refusal::NoInode { .. } | Refusal::NoVolume { .. }) => return Ok(()),
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(())
}
