//! What a group's leader does about its freed chunks: it has them deleted by all members of their placement groups, and
//! then forgets them.
//!
//! A chunk that is named is never deleted. Only chunks among the freed are looked at, and freed is final: while the record
//! is there the machine refuses to name the chunk again, and it lets the record go only once the only client that could
//! name the chunk can't any more: its session has ended, or it said so with a sign of life, and that is in the records
//! too (`weft_core::namespace::garbage`). A commit on its way that names it is
//! refused like any later one. So it does not matter how old the records are that this is read from, nor whether this
//! replica still leads.
//!
//! A deleted chunk does not come back by copying. All members serve, and all confirm at one epoch. A member that joins at
//! a later epoch copies only from members that have adopted that epoch, and those confirmed before. What else may bring a
//! replica back (a put that was on its way for longer than the grace, a disk that was a member before) is found by the
//! walk of the chunk servers (`chunk/orphans.rs`).
//!
//! Everything here is soft: a new leader begins anew, waits the grace again and has deleted what was deleted before,
//! which costs a question.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use futures::StreamExt;
use futures::future::try_join_all;
use tokio::time::Instant;
use weft_core::entry::Command;
use weft_core::ids::{ChunkId, ClientId, GroupId, PgId, SpaceId};
use weft_core::limits::STEP_RECORDS;
use weft_core::namespace::garbage::{self, Freed};
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;
use weft_core::site::MemberState;

use super::group::Group;
use super::groups::Groups;
use crate::chunk::delete;

/// How often a leader looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Freed chunks read at a time, and deleted with one request.
const PAGE: usize = 512;
/// Pages read at one look; where they ended the next look goes on.
const PAGES: usize = 16;
/// Requests of deletion on their way at a time, each to all members of a placement group.
const ABREAST: usize = 4;
/// Chunks, and stretches of chunks, that are remembered at the most. Beyond it new ones wait for their turn, and what
/// was deleted is forgotten and deleted again.
const MOST: usize = 200_000;

/// What a client says of chunks that it names no more goes into the records this often at the most.
const SAY_EVERY: Duration = Duration::from_secs(5);

type Key = (SpaceId, ChunkId);

/// What a leader remembers of its group's freed chunks.
#[derive(Default)]
pub(crate) struct GarbageTable {
    /// Since when those that wait were seen.
    since: BTreeMap<Key, Instant>,
    /// Those that all members have deleted, by uploader: first to last counter of each stretch.
    deleted: BTreeMap<(SpaceId, ClientId), BTreeMap<u64, u64>>,
    stretches: usize,
    /// Up to where the records were read.
    cursor: Option<Key>,
    /// When clients' words that they name none below were last put into the records.
    said: BTreeMap<(SpaceId, ClientId), Instant>,
}

/// What should be done about a page of freed chunks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// To be deleted by their placement group.
    pub(crate) delete: BTreeMap<PgId, Vec<Freed>>,
    /// Deleted everywhere, and nobody can name them: their records may go.
    pub(crate) forget: BTreeMap<SpaceId, Vec<ChunkId>>,
    /// Deleted everywhere, and kept so that their uploader can't name them: the lowest of each.
    pub(crate) kept: BTreeMap<(SpaceId, ClientId), u64>,
}

impl GarbageTable {
    /// What to do about a page, freed for `keep` at least as far as this leader knows.
    pub(crate) fn due(&mut self, page: &[Freed], now: Instant, keep: Duration) -> Due {
        let mut due = Due::default();
        for freed in page {
            if self.is_deleted(freed) {
                match freed.ended {
                    true => due.forget.entry(freed.space).or_default().push(freed.chunk),
                    // In the order of the records: the lowest comes first.
                    false => {
                        due.kept.entry((freed.space, freed.chunk.client)).or_insert(freed.chunk.counter);
                    }
                }
                continue;
            }
            let key = (freed.space, freed.chunk);
            let since = match self.since.get(&key) {
                Some(since) => *since,
                None if self.since.len() >= MOST => continue,
                None => *self.since.entry(key).or_insert(now),
            };
            if now.saturating_duration_since(since) >= keep {
                due.delete.entry(freed.pg).or_default().push(*freed);
            }
        }
        due
    }

    /// All members have deleted it.
    pub(crate) fn deleted(&mut self, freed: &Freed) {
        self.since.remove(&(freed.space, freed.chunk));
        if self.is_deleted(freed) {
            return;
        }
        if self.stretches >= MOST {
            self.deleted.clear();
            self.stretches = 0;
        }
        let counter = freed.chunk.counter;
        let stretches = self.deleted.entry((freed.space, freed.chunk.client)).or_default();
        let (mut first, mut last) = (counter, counter);
        let before = stretches.range(..counter).next_back().map(|(first, last)| (*first, *last));
        if let Some((its_first, _)) = before.filter(|(_, its_last)| its_last.checked_add(1) == Some(counter)) {
            first = its_first;
        }
        if let Some(after) = counter.checked_add(1)
            && let Some(its_last) = stretches.remove(&after)
        {
            last = its_last;
            self.stretches -= 1;
        }
        if stretches.insert(first, last).is_none() {
            self.stretches += 1;
        }
    }

    /// Its record is gone.
    fn forgotten(&mut self, space: SpaceId, client: ClientId) {
        // Ended: as a whole, once nothing of it is left to be done, or deleted again, which costs a question.
        if let Some(stretches) = self.deleted.remove(&(space, client)) {
            self.stretches -= stretches.len();
        }
    }

    /// Whether what a client said of chunks it names no more should go into the records: it makes some record
    /// superfluous, and not too often.
    pub(crate) fn should_say(&mut self, of: (SpaceId, ClientId), kept: u64, named_below: u64, now: Instant) -> bool {
        if named_below <= kept || self.said.get(&of).is_some_and(|at| now.saturating_duration_since(*at) < SAY_EVERY) {
            return false;
        }
        if self.said.len() >= MOST {
            self.said.clear();
        }
        self.said.insert(of, now);
        true
    }

    fn is_deleted(&self, freed: &Freed) -> bool {
        let counter = freed.chunk.counter;
        let stretches = self.deleted.get(&(freed.space, freed.chunk.client));
        let stretch = stretches.and_then(|stretches| stretches.range(..=counter).next_back());
        stretch.is_some_and(|(_, last)| *last >= counter)
    }
}

/// Looks after the freed chunks of the groups that this node leads, again and again.
pub(super) async fn run(node: Weak<Groups>) {
    let mut tables: BTreeMap<GroupId, GarbageTable> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(groups) = node.upgrade() else { return };
        let led: Vec<_> = groups.all().into_iter().filter(|group| group.leading()).collect();
        tables.retain(|id, _| led.iter().any(|group| group.id() == *id));
        for group in led {
            let table = tables.entry(group.id()).or_default();
            match look(&groups, &group, table).await {
                Ok(()) | Err(Refusal::NotLeader { .. } | Refusal::Busy { .. }) => {}
                Err(refusal) => tracing::warn!(group = %group.id(), %refusal, "look after freed chunks"),
            }
        }
    }
}

async fn look(groups: &Groups, group: &Group, table: &mut GarbageTable) -> Result<(), Refusal> {
    let mut all = Due::default();
    for _ in 0..PAGES {
        let page = group.read_local(|view| garbage::freed(view, table.cursor, PAGE))?;
        table.cursor = page.last().filter(|_| page.len() == PAGE).map(|last| (last.space, last.chunk));
        let due = table.due(&page, Instant::now(), groups.keep_freed());
        due.delete.into_iter().for_each(|(pg, chunks)| all.delete.entry(pg).or_default().extend(chunks));
        due.forget.into_iter().for_each(|(space, chunks)| all.forget.entry(space).or_default().extend(chunks));
        for (of, lowest) in due.kept {
            all.kept.entry(of).or_insert(lowest);
        }
        if table.cursor.is_none() {
            break;
        }
    }
    for ((space, client), lowest) in std::mem::take(&mut all.kept) {
        let counter = group.sessions().lock().names_none_below((client, space));
        if table.should_say((space, client), lowest, counter, Instant::now()) {
            // What it makes superfluous is seen with the next look.
            group.propose(None, Command::NameNoneBelow { client, space, counter }).await?;
        }
    }
    let mut batches: Vec<(PgId, Vec<Freed>)> = Vec::new();
    for (pg, chunks) in std::mem::take(&mut all.delete) {
        batches.extend(chunks.chunks(PAGE).map(|part| (pg, part.to_vec())));
    }
    let batches = batches.into_iter().map(|(pg, chunks)| delete_all(groups, pg, chunks));
    let mut batches = futures::stream::iter(batches).buffer_unordered(ABREAST);
    while let Some((pg, part, result)) = batches.next().await {
        if let Err(why) = result {
            tracing::debug!(group = %group.id(), %pg, %why, "freed chunks wait");
            continue;
        }
        tracing::debug!(group = %group.id(), %pg, chunks = part.len(), "freed chunks are deleted");
        for freed in &part {
            table.deleted(freed);
            if freed.ended {
                all.forget.entry(freed.space).or_default().push(freed.chunk);
            }
        }
    }
    for (space, chunks) in all.forget {
        for part in chunks.chunks(STEP_RECORDS) {
            let step = Step::ForgetFreed { space, chunks: part.to_vec() };
            group.propose(None, Command::Step(step)).await?;
        }
        if table.cursor.is_none() {
            let clients: BTreeSet<ClientId> = chunks.iter().map(|chunk| chunk.client).collect();
            clients.into_iter().for_each(|client| table.forgotten(space, client));
        }
    }
    Ok(())
}

/// Has all members of a placement group delete chunks. `Ok` only if all of them serve and confirmed it at one epoch,
/// which is still the newest known here.
async fn delete_all(groups: &Groups, id: PgId, chunks: Vec<Freed>) -> (PgId, Vec<Freed>, Result<(), Refusal>) {
    let keys: Vec<Key> = chunks.iter().map(|freed| (freed.space, freed.chunk)).collect();
    let result = confirmed(groups, id, &keys).await;
    (id, chunks, result)
}

async fn confirmed(groups: &Groups, id: PgId, keys: &[Key]) -> Result<(), Refusal> {
    let unknown = || Refusal::Unknown { why: format!("placement group {id} is not known") };
    let pg = groups.map().pg(id).ok_or_else(unknown)?;
    if pg.members.is_empty() || pg.members.iter().any(|member| member.state != MemberState::Serving) {
        return Err(Refusal::Unknown { why: format!("not all members of placement group {id} serve") });
    }
    let all = pg.members.iter().map(|member| delete::ask(groups.peers(), member.replica, id, pg.epoch, keys));
    try_join_all(all).await?;
    match groups.map().pg(id).is_some_and(|now| now.epoch == pg.epoch) {
        true => Ok(()),
        false => Err(Refusal::StalePlacement { pg: id, epoch: pg.epoch }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn freed(counter: u64, ended: bool) -> Freed {
        let chunk = ChunkId { client: ClientId(7), counter };
        Freed { space: SpaceId(1), chunk, pg: PgId((counter % 2) as u32), ended }
    }

    #[test]
    fn a_freed_chunk_waits_is_deleted_once_and_forgotten_when_its_session_has_ended() {
        let start = Instant::now();
        let mut table = GarbageTable::default();
        let page: Vec<Freed> = (0..10).map(|counter| freed(counter, false)).collect();
        assert_eq!(table.due(&page, start, KEEP), Due::default());
        assert_eq!(table.due(&page, start + KEEP / 2, KEEP), Due::default());
        let due = table.due(&page, start + KEEP, KEEP);
        assert_eq!((due.delete[&PgId(0)].len(), due.delete[&PgId(1)].len(), due.forget.len()), (5, 5, 0));
        assert!(due.kept.is_empty(), "not deleted yet");
        page.iter().filter(|freed| freed.chunk.counter != 4).for_each(|freed| table.deleted(freed));
        let due = table.due(&page, start + 2 * KEEP, KEEP);
        assert_eq!(due.delete, BTreeMap::from([(PgId(0), vec![freed(4, false)])]), "one was not confirmed");
        assert_eq!(due.kept.values().copied().collect::<Vec<_>>(), [0], "the others wait for their client");
        let ended: Vec<Freed> = (0..10).map(|counter| freed(counter, true)).collect();
        let due = table.due(&ended, start + 2 * KEEP, KEEP);
        let all_but_one: Vec<ChunkId> = ended.iter().map(|freed| freed.chunk).filter(|c| c.counter != 4).collect();
        assert_eq!(due.forget, BTreeMap::from([(SpaceId(1), all_but_one)]));
    }

    #[test]
    fn what_a_client_says_is_kept_where_it_helps_and_not_too_often() {
        let start = Instant::now();
        let mut table = GarbageTable::default();
        let page: Vec<Freed> = (5..10).map(|counter| freed(counter, false)).collect();
        page.iter().for_each(|freed| table.deleted(freed));
        let of = (SpaceId(1), ClientId(7));
        assert_eq!(table.due(&page, start, KEEP).kept, BTreeMap::from([(of, 5)]));
        assert!(!table.should_say(of, 5, 0, start), "it said nothing");
        assert!(!table.should_say(of, 5, 5, start), "it may name the first of them yet");
        assert!(table.should_say(of, 5, 6, start));
        assert!(!table.should_say(of, 6, 10, start + SAY_EVERY / 2));
        assert!(table.should_say(of, 6, 10, start + SAY_EVERY));
    }

    #[test]
    fn what_was_deleted_is_remembered_in_stretches() {
        let mut table = GarbageTable::default();
        let mut plain = BTreeSet::new();
        for n in 0..3000u64 {
            let counter = n.wrapping_mul(7919) % 1000;
            table.deleted(&freed(counter, false));
            plain.insert(counter);
            let stretches = plain.iter().filter(|counter| !plain.contains(&(**counter + 1))).count();
            assert_eq!(table.stretches, stretches);
            assert_eq!(table.deleted.values().map(BTreeMap::len).sum::<usize>(), stretches);
            for probe in [counter, counter + 1, counter.wrapping_sub(1)] {
                assert_eq!(table.is_deleted(&freed(probe, false)), plain.contains(&probe));
            }
        }
        assert_eq!(table.stretches, 1);
    }
}
