//! What looked wrong is asked again after a moment, by the newest records and the newest map, before it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_core::ids::{ChunkId, GroupId, PgId, ReplicaId, SpaceId};
use weft_proto::convert;
use weft_proto::pb;

use super::ask::{Asker, piece};
use super::chunks::serving;
use super::cursor::Key;
use super::report::{DamagedChunk, DamagedFile, FsckReport, MOST, WhatIsWrong};
use super::{FsckProgress, Scope, Watch};
use crate::error::{Error, Result};

/// The moment.
const MOMENT: Duration = Duration::from_secs(1);
/// Copies, or chunks, that are asked about together.
const TOGETHER: usize = 256;

/// A copy that looked wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) key: Key,
    pub(super) pg: PgId,
    pub(super) len: u32,
    pub(super) on: ReplicaId,
    pub(super) what: WhatIsWrong,
}

/// All that looked wrong.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    found: BTreeMap<(Key, ReplicaId), Suspect>,
    more: u64,
}

impl Suspects {
    /// Takes one; the first word on a copy counts.
    pub(super) fn add(&mut self, suspect: Suspect) {
        if self.found.len() < MOST {
            self.found.entry((suspect.key, suspect.on)).or_insert(suspect);
        } else {
            self.more += 1;
        }
    }
}

/// Looks again. What still is wrong goes into the report, with the files it belongs to.
pub(super) async fn settle(
    asker: &Asker,
    scope: &Scope,
    suspects: Suspects,
    report: &mut FsckReport,
    watch: Watch<'_>,
) -> Result<()> {
    report.more_damage = suspects.more;
    if suspects.found.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(MOMENT).await;
    asker.refresh().await;
    watch(FsckProgress { what: "looking again".into(), done: suspects.found.len() as u64, bytes: 0 });
    let named = still_named(asker, scope, &suspects, report).await;
    let mut by_place: BTreeMap<(PgId, ReplicaId), Vec<Suspect>> = BTreeMap::new();
    for suspect in suspects.found.values().filter(|suspect| named.contains(&suspect.key)) {
        by_place.entry((suspect.pg, suspect.on)).or_default().push(*suspect);
    }
    for ((pg, on), suspects) in by_place {
        let map = asker.map();
        let members: Vec<ReplicaId> = map.pgs.iter().filter(|known| known.id == pg).flat_map(serving).collect();
        if !members.contains(&on) {
            // It is no longer counted on; that is told of the placement group.
            continue;
        }
        for suspects in suspects.chunks(TOGETHER) {
            look_again(asker, pg, on, &members, suspects, report).await;
        }
    }
    find_files(asker, scope, report, watch).await;
    Ok(())
}

/// The chunks that are named now.
async fn still_named(asker: &Asker, scope: &Scope, suspects: &Suspects, report: &mut FsckReport) -> BTreeSet<Key> {
    let mut by_space: BTreeMap<SpaceId, BTreeSet<ChunkId>> = BTreeMap::new();
    for suspect in suspects.found.values() {
        by_space.entry(suspect.key.0).or_default().insert(suspect.key.1);
    }
    let mut named = BTreeSet::new();
    for (space, chunks) in by_space {
        let Some(group) = scope.spaces.get(&space) else { continue };
        let chunks: Vec<ChunkId> = chunks.into_iter().collect();
        for chunks in chunks.chunks(TOGETHER) {
            match asker.states(*group, space, chunks).await {
                Ok(states) => {
                    let states = chunks.iter().zip(states);
                    let still = states.filter(|(_, state)| state.standing() == pb::Standing::Named);
                    named.extend(still.map(|(chunk, _)| (space, *chunk)));
                }
                Err(error) => report.unseen(format!("chunks of space {space} that look wrong: {error}")),
            }
        }
    }
    named
}

/// Rereads copies on their server, and those that are wrong on the other members too.
async fn look_again(
    asker: &Asker,
    pg: PgId,
    on: ReplicaId,
    members: &[ReplicaId],
    suspects: &[Suspect],
    report: &mut FsckReport,
) {
    let chunks: Vec<_> = suspects.iter().map(|suspect| (suspect.key, suspect.len)).collect();
    let verified = match asker.verify(on, pg, &chunks).await {
        Ok(verified) => verified,
        Err(refusal) => {
            report.unseen(format!("chunks on node {} that look wrong: {refusal}", on.node));
            return;
        }
    };
    let mut damaged = Vec::new();
    for (suspect, verified) in suspects.iter().zip(verified) {
        let what = match verified.copy() {
            pb::Copy::Whole => continue,
            pb::Copy::Missing => WhatIsWrong::Missing,
            pb::Copy::Rotten => WhatIsWrong::Rotten,
            pb::Copy::OtherLength => WhatIsWrong::OtherLength,
            pb::Copy::Unread => {
                report.unseen(format!("a chunk on node {}: {}", on.node, verified.why));
                continue;
            }
        };
        damaged.push(DamagedChunk {
            space: suspect.key.0,
            chunk: suspect.key.1,
            pg,
            len: suspect.len,
            node: on.node,
            what,
            why: verified.why,
            whole_on: Vec::new(),
            files: Vec::new(),
        });
    }
    let chunks: Vec<_> = damaged.iter().map(|damaged| ((damaged.space, damaged.chunk), damaged.len)).collect();
    for other in members.iter().filter(|other| **other != on && !chunks.is_empty()) {
        match asker.verify(*other, pg, &chunks).await {
            Ok(verified) => {
                for (damaged, verified) in damaged.iter_mut().zip(verified) {
                    if verified.copy() == pb::Copy::Whole {
                        damaged.whole_on.push(other.node);
                    }
                }
            }
            Err(refusal) => report.unseen(format!("other copies on node {}: {refusal}", other.node)),
        }
    }
    report.damage.extend(damaged);
}

/// Finds the files of damaged chunks.
async fn find_files(asker: &Asker, scope: &Scope, report: &mut FsckReport, watch: Watch<'_>) {
    let mut by_space: BTreeMap<SpaceId, BTreeSet<ChunkId>> = BTreeMap::new();
    for damaged in &report.damage {
        by_space.entry(damaged.space).or_default().insert(damaged.chunk);
    }
    for (space, chunks) in by_space {
        let Some(group) = scope.spaces.get(&space) else { continue };
        watch(FsckProgress { what: "files of damaged chunks".into(), done: chunks.len() as u64, bytes: 0 });
        let chunks: Vec<ChunkId> = chunks.into_iter().collect();
        for chunks in chunks.chunks(TOGETHER) {
            match files_of(asker, *group, space, chunks).await {
                Ok(files) => {
                    for (chunk, file) in files {
                        let of_it = |damaged: &&mut DamagedChunk| damaged.space == space && damaged.chunk == chunk;
                        report.damage.iter_mut().filter(of_it).for_each(|damaged| damaged.files.push(file.clone()));
                    }
                }
                Err(error) => report.unseen(format!("the files of damaged chunks of space {space}: {error}")),
            }
        }
    }
}

async fn files_of(
    asker: &Asker,
    group: GroupId,
    space: SpaceId,
    chunks: &[ChunkId],
) -> Result<Vec<(ChunkId, DamagedFile)>> {
    let mut pieces = asker
        .leader(group, |mut client, envelope| {
            let chunks = chunks.iter().copied().map(convert::chunk_ref).collect();
            let request = pb::FilesOfRequest { envelope, group: group.0, space: space.0, chunks };
            async move { client.files_of(request).await }
        })
        .await?;
    let map = asker.map();
    let mut found = Vec::new();
    loop {
        let piece = piece(&mut pieces).await.map_err(Error::Refused)?;
        for file in piece.files {
            let (volume, ino) = convert::parse_inode_ref(pb::InodeRef { volume: file.volume, ino: file.ino })?;
            let name = map.volumes.iter().find(|known| known.id == volume).map(|known| known.name.clone());
            let named = DamagedFile {
                volume: name.unwrap_or_else(|| format!("number {volume}")),
                ino,
                paths: file.paths.iter().map(|path| path.to_vec()).collect(),
            };
            for chunk in file.chunks {
                found.push((convert::parse_chunk_ref(Some(chunk))?, named.clone()));
            }
        }
        if piece.end {
            return Ok(found);
        }
    }
}
