//! Every chunk that a record names against what the servers hold, both in the order of their keys, page by page.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use weft_core::ids::{ChunkId, ClientId, PgId, ReplicaId, SpaceId};
use weft_core::machine::NamedChunk;
use weft_core::site::{MemberState, Pg};
use weft_proto::pb;

use super::ask::{Asker, Listing};
use super::cursor::{Cursor, Key};
use super::report::{Degraded, FsckReport, Surplus, WhatIsWrong};
use super::suspects::{Suspect, Suspects};
use super::{FsckOptions, FsckProgress, Scope, Watch};
use crate::error::Result;

/// Bytes of chunks of one placement group that are reread together.
const BATCH_BYTES: u64 = 16 << 20;
/// Chunks of them.
const BATCH_CHUNKS: usize = 256;
/// Chunks whose standing is asked for together.
const ASK_CHUNKS: usize = 512;

/// One member of a placement group.
type Place = (PgId, ReplicaId);

/// Where the comparison is.
struct Walk<'a> {
    asker: &'a Asker,
    scope: &'a Scope,
    options: &'a FsckOptions,
    report: &'a mut FsckReport,
    /// The placement groups as they were at the start.
    pgs: BTreeMap<PgId, Pg>,
    cursors: BTreeMap<Place, Cursor<Listing>>,
    /// Servers that no longer answer.
    gone: BTreeSet<Place>,
    used: BTreeSet<PgId>,
    batches: BTreeMap<PgId, Vec<(Key, u32)>>,
    /// Held and not named.
    others: Vec<Key>,
    suspects: Suspects,
    pace: Pace,
}

/// Looks at all chunks. What looks wrong is returned, to be looked at again.
pub(super) async fn check(
    asker: &Asker,
    scope: &Scope,
    options: &FsckOptions,
    report: &mut FsckReport,
    watch: Watch<'_>,
) -> Result<Suspects> {
    let pgs: BTreeMap<PgId, Pg> = asker.map().pgs.iter().map(|pg| (pg.id, pg.clone())).collect();
    let pace = Pace { bytes_per_s: options.bytes_per_s, since: Instant::now(), moved: 0 };
    let mut walk = Walk {
        asker,
        scope,
        options,
        report,
        pgs,
        cursors: BTreeMap::new(),
        gone: BTreeSet::new(),
        used: BTreeSet::new(),
        batches: BTreeMap::new(),
        others: Vec::new(),
        suspects: Suspects::default(),
        pace,
    };
    for (space, group) in &scope.spaces {
        let mut after = None;
        loop {
            let (named, end) = match walk.asker.named(*group, *space, after).await {
                Ok(page) => page,
                Err(error) => {
                    walk.report.unseen(format!("the chunks of space {space}: {error}"));
                    break;
                }
            };
            for named in &named {
                walk.look_at(*space, named).await;
            }
            let what = if options.deep { "rereading chunks" } else { "chunks" };
            watch(FsckProgress { what: what.into(), done: walk.report.chunks, bytes: walk.report.bytes });
            after = named.last().map(|named| named.chunk).or(after);
            if end {
                break;
            }
        }
        if scope.part {
            // The next space may begin further on than the cursors are.
            walk.cursors.clear();
        }
    }
    walk.finish().await;
    Ok(walk.suspects)
}

impl Walk<'_> {
    async fn look_at(&mut self, space: SpaceId, named: &NamedChunk) {
        let key = (space, named.chunk);
        self.report.chunks += 1;
        self.report.bytes += u64::from(named.len);
        let Some(pg) = self.pgs.get(&named.pg) else {
            self.report.unseen(format!("placement group {}, which the site map does not have", named.pg));
            return;
        };
        self.used.insert(pg.id);
        let members: Vec<ReplicaId> = serving(pg).collect();
        for member in members {
            let place = (named.pg, member);
            if self.gone.contains(&place) {
                continue;
            }
            let start = self.scope.part.then(|| before(space));
            let listing = || Listing { asker: self.asker.clone(), pg: named.pg, of: member };
            let cursor = self.cursors.entry(place).or_insert_with(|| Cursor::new(listing(), start.flatten()));
            match cursor.find(key, &mut self.others).await {
                Ok(found) => {
                    self.report.copies += 1;
                    let what = match found {
                        Some(len) if len == named.len => None,
                        Some(_) => Some(WhatIsWrong::OtherLength),
                        None => Some(WhatIsWrong::Missing),
                    };
                    if let Some(what) = what {
                        self.suspects.add(Suspect { key, pg: named.pg, len: named.len, on: member, what });
                    }
                }
                Err(refusal) => {
                    self.report.unseen(format!("the chunks on node {}: {refusal}", member.node));
                    self.gone.insert(place);
                }
            }
        }
        self.count_others(ASK_CHUNKS).await;
        if self.options.deep {
            let batch = self.batches.entry(named.pg).or_default();
            batch.push((key, named.len));
            let bytes: u64 = batch.iter().map(|(_, len)| u64::from(*len)).sum();
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_CHUNKS {
                self.reread(named.pg).await;
            }
        }
    }

    /// Rereads a batch on all members at once.
    async fn reread(&mut self, pg: PgId) {
        let (Some(batch), Some(members)) = (self.batches.remove(&pg), self.pgs.get(&pg)) else { return };
        let members: Vec<ReplicaId> = serving(members).filter(|at| !self.gone.contains(&(pg, *at))).collect();
        let asked = members.iter().map(|member| self.asker.verify(*member, pg, &batch));
        let answers = join_all(asked).await;
        let bytes: u64 = batch.iter().map(|(_, len)| u64::from(*len)).sum();
        for (member, answer) in members.iter().zip(answers) {
            let verified = match answer {
                Ok(verified) => verified,
                Err(refusal) => {
                    self.report.unseen(format!("rereading chunks on node {}: {refusal}", member.node));
                    self.gone.insert((pg, *member));
                    continue;
                }
            };
            self.report.reread += bytes;
            for ((key, len), verified) in batch.iter().zip(verified) {
                let what = match verified.copy() {
                    pb::Copy::Whole => continue,
                    pb::Copy::Missing => WhatIsWrong::Missing,
                    pb::Copy::Rotten => WhatIsWrong::Rotten,
                    pb::Copy::OtherLength => WhatIsWrong::OtherLength,
                    pb::Copy::Unread => {
                        self.report.unseen(format!("a chunk on node {}: {}", member.node, verified.why));
                        continue;
                    }
                };
                self.suspects.add(Suspect { key: *key, pg, len: *len, on: *member, what });
            }
        }
        self.pace.wait(bytes).await;
    }

    /// What is left in batches and in cursors.
    async fn finish(&mut self) {
        for pg in self.batches.keys().copied().collect::<Vec<_>>() {
            self.reread(pg).await;
        }
        if !self.scope.part {
            self.drain().await;
        }
        self.count_others(1).await;
        for pg in self.used.iter().filter_map(|pg| self.pgs.get(pg)) {
            let held: Vec<_> = serving(pg).map(|member| member.node).collect();
            if held.len() < usize::from(pg.factor) || held.len() < pg.members.len() {
                let lacking = pg.members.iter().filter(|member| member.state != MemberState::Serving);
                self.report.degraded.push(Degraded {
                    pg: pg.id,
                    factor: pg.factor,
                    serving: held,
                    lacking: lacking.map(|member| member.replica.node).collect(),
                });
            }
        }
    }

    /// What servers hold beyond the last named chunk. Where nothing is named, nothing is missed on a server that lost its
    /// folder: placement groups of volumes that there are not wait for such a one.
    async fn drain(&mut self) {
        let places: Vec<Place> = self.pgs.values().flat_map(|pg| serving(pg).map(|member| (pg.id, member))).collect();
        let asker = self.asker.clone();
        let places = places.into_iter().filter(|(pg, member)| self.used.contains(pg) || asker.is_there(*member));
        let places: Vec<Place> = places.collect();
        for place in places {
            loop {
                if self.gone.contains(&place) {
                    break;
                }
                let listing = || Listing { asker: self.asker.clone(), pg: place.0, of: place.1 };
                let cursor = self.cursors.entry(place).or_insert_with(|| Cursor::new(listing(), None));
                match cursor.rest().await {
                    Ok(rest) if rest.is_empty() => break,
                    Ok(rest) => self.others.extend(rest),
                    Err(refusal) => {
                        self.report.unseen(format!("the chunks on node {}: {refusal}", place.1.node));
                        self.gone.insert(place);
                    }
                }
                self.count_others(ASK_CHUNKS).await;
            }
        }
    }

    /// Asks how copies stand that nothing names, once there are so many.
    async fn count_others(&mut self, enough: usize) {
        if self.others.len() < enough {
            return;
        }
        let mut by_space: BTreeMap<SpaceId, Vec<ChunkId>> = BTreeMap::new();
        for (space, chunk) in std::mem::take(&mut self.others) {
            by_space.entry(space).or_default().push(chunk);
        }
        for (space, chunks) in by_space {
            let Some(group) = self.scope.spaces.get(&space) else {
                if !self.scope.part {
                    self.report.surplus.unknown += chunks.len() as u64;
                }
                continue;
            };
            for chunks in chunks.chunks(ASK_CHUNKS) {
                match self.asker.states(*group, space, chunks).await {
                    Ok(states) => states.iter().for_each(|state| count(&mut self.report.surplus, state.standing())),
                    Err(error) => self.report.unseen(format!("surplus chunks of space {space}: {error}")),
                }
            }
        }
    }
}

fn count(surplus: &mut Surplus, standing: pb::Standing) {
    match standing {
        // Named since.
        pb::Standing::Named => {}
        pb::Standing::Freed => surplus.freed += 1,
        pb::Standing::Open => surplus.open += 1,
        pb::Standing::Abandoned => surplus.abandoned += 1,
        pb::Standing::Unknown => surplus.unknown += 1,
    }
}

/// Members that hold all chunks of a placement group.
pub(super) fn serving(pg: &Pg) -> impl Iterator<Item = ReplicaId> {
    pg.members.iter().filter(|member| member.state == MemberState::Serving).map(|member| member.replica)
}

/// The last key below a space.
fn before(space: SpaceId) -> Option<Key> {
    let last = ChunkId { client: ClientId(u64::MAX), counter: u64::MAX };
    space.0.checked_sub(1).map(|below| (SpaceId(below), last))
}

/// Spreads rereading over time.
struct Pace {
    bytes_per_s: u64,
    since: Instant,
    moved: u64,
}

impl Pace {
    /// So many bytes were reread: waits until that was not too fast.
    async fn wait(&mut self, bytes: u64) {
        self.moved += bytes;
        if self.bytes_per_s > 0 {
            let due = Duration::from_secs_f64(self.moved as f64 / self.bytes_per_s as f64);
            tokio::time::sleep_until(self.since + due).await;
        }
    }
}
