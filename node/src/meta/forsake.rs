//! How a node comes by its Raft log, and how it gives up one that is damaged.
//!
//! A log that lost something durable may have lost votes and entries that others count on: to go on with what is left of
//! it could elect two leaders or lose what was acknowledged. So the node becomes another member of its groups, one that
//! has promised nothing: the number of logs it gave up is part of who it is there. With its next heartbeat the site hears
//! of it, and the leaders take it in as they take in any new member, and let the former one go. Its chunks stay.
//!
//! What always holds: a log is read only by the member that wrote it. The mark that says which member the node is now is
//! on media before anything of the former log is touched, and the new log is begun only when nothing of the former one
//! is left in its folder. A log that is all there is of some group is not given up by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use weft_core::ids::{GroupId, NodeId};
use weft_core::site::SiteMap;

use super::log::{LogError, LogSettings, LogState, SegmentLog};
use super::machine::POSITION;
use super::raft;
use crate::identity::{Folder, FolderError, LogLife};
use crate::parts::{Disk, Parts};
use crate::settings::RaftSettings;

/// The folder of the shared log, in the data folder.
pub(super) const LOG_FOLDER: &str = "raft";
/// Where the files of the last damaged log are kept, for people to look at.
pub(super) const DAMAGED_FOLDER: &str = "raft-damaged";

/// The node's log as it is after a start.
pub(super) struct Opened {
    pub(super) log: Arc<SegmentLog>,
    /// What each group has in it.
    pub(super) groups: BTreeMap<GroupId, LogState>,
    /// How many logs were given up before this one.
    pub(super) lost: u32,
}

/// Opens the log. One that is damaged is set aside, and an empty one takes its place under another name of the node, if
/// `map` knows others that hold what it held.
///
/// # Errors
/// The disk failed; the log is damaged and can't be given up.
pub(super) async fn open(
    parts: &Parts,
    settings: &RaftSettings,
    records: &Path,
    node: NodeId,
    map: &SiteMap,
) -> io::Result<Opened> {
    let folder = Folder(&*parts.disk);
    let there = parts.disk.list(Path::new(LOG_FOLDER)).await?.iter().any(|name| name.starts_with("segment-"));
    let mut life = match folder.log_life().await.map_err(unusable)? {
        Some(life) => life,
        None => LogLife { lost: 0, begun: there },
    };
    if life.begun {
        let opened = match there {
            true => open_log(parts, settings).await,
            false => {
                Err(LogError::Damaged { segment: LOG_FOLDER.into(), offset: 0, what: "all segments are gone".into() })
            }
        };
        match opened {
            Ok((log, groups)) => return Ok(Opened { log, groups, lost: life.lost }),
            Err(error @ LogError::Damaged { .. }) => {
                if let Some(why) = sole_holder(parts, records, node, map).await? {
                    return Err(io::Error::other(format!(
                        "{error}; {why}, so what the log lost is nowhere else: restore the data folder from a copy"
                    )));
                }
                tracing::error!(%error, "giving up the damaged log, with all votes in it: the others must take this node in again");
            }
            Err(error) => return Err(error.into()),
        }
        let known = map.nodes.iter().find(|known| known.id == node).map_or(0, |known| known.lost_logs);
        life = LogLife { lost: life.lost.max(known).saturating_add(1), begun: false };
    }
    folder.set_log_life(life).await.map_err(unusable)?;
    set_aside(&*parts.disk, life.lost).await?;
    let (log, groups) = open_log(parts, settings).await?;
    folder.set_log_life(LogLife { begun: true, ..life }).await.map_err(unusable)?;
    Ok(Opened { log, groups, lost: life.lost })
}

/// Why a node's log must not be given up: it may be all there is of a group. The records, where they are whole, know
/// better than the map who votes: those that the map names may not have got there yet.
async fn sole_holder(parts: &Parts, records: &Path, node: NodeId, map: &SiteMap) -> io::Result<Option<String>> {
    if map.version == 0 {
        return Ok(Some("this node does not know who else holds its metadata groups".into()));
    }
    for group in map.groups.iter().filter(|group| group.replicas.iter().any(|replica| replica.node == node)) {
        let mut holders: Vec<NodeId> = group.replicas.iter().map(|replica| replica.node).collect();
        // Where they can't be read they stay as they are: nobody may have another copy.
        let store = parts.records.open(records, group.id).await;
        let position = store.and_then(|store| store.get(POSITION)).ok().flatten();
        if let Some(voters) = position.and_then(|position| raft::voters_at(position).ok()) {
            holders.retain(|holder| voters.iter().any(|voter| voter.node == *holder));
        }
        if holders.iter().all(|holder| *holder == node) {
            return Ok(Some(format!("no other node holds metadata group {}", group.id)));
        }
    }
    Ok(None)
}

/// Empties the log's folder. The files of the log that was given up last are kept, those of earlier ones are not.
async fn set_aside(disk: &dyn Disk, lost: u32) -> io::Result<()> {
    let (from, to) = (Path::new(LOG_FOLDER), Path::new(DAMAGED_FOLDER));
    let names = disk.list(from).await?;
    if names.is_empty() {
        return Ok(());
    }
    disk.make_folder(to).await?;
    let ours = format!("{lost}-");
    for old in disk.list(to).await?.into_iter().filter(|old| !old.starts_with(&ours)) {
        disk.remove(&to.join(old)).await?;
    }
    for name in names {
        disk.rename(&from.join(&name), &to.join(format!("{ours}{name}"))).await?;
    }
    Ok(())
}

async fn open_log(
    parts: &Parts,
    settings: &RaftSettings,
) -> Result<(Arc<SegmentLog>, BTreeMap<GroupId, LogState>), LogError> {
    let cache_bytes = usize::try_from(settings.cache_mib << 20).unwrap_or(usize::MAX);
    let settings = LogSettings { cache_bytes, ..LogSettings::default() };
    SegmentLog::open_with(parts.disk.clone(), Path::new(LOG_FOLDER), parts.dice.clone(), settings).await
}

fn unusable(error: FolderError) -> io::Error {
    io::Error::other(error)
}
