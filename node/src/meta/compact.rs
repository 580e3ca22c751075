//! What a group's leader does about files of many small writes: it moves bytes that lie in their records into chunks, a
//! bounded piece at a time (`weft_core::namespace::compact`).
//!
//! The chunk is durable on its placement group before the step that names it is proposed, and the step swaps only what is
//! still as it was read. So it does not matter how old the records are that this is read from, nor whether this replica
//! still leads: at the worst a chunk was stored that nobody names, and goes with the session that stored it.
//!
//! To name chunks a leader has a session of its own in each space where it has something to do. It holds no file open,
//! and ends when there was nothing to do for a while; after a change of leader, like any that fell silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_core::entry::Command;
use weft_core::ids::{ChunkId, ClientId, GroupId, Ino, SpaceId, VolumeId};
use weft_core::limits::COMPACT_FROM;
use weft_core::namespace::compact::{self, Gathered, Piece};
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::step::Step;
use weft_core::refusal::Refusal;

use super::group::Group;
use super::groups::Groups;
use super::upload::{Upload, upload};
use crate::node::stopped;
use crate::site::peers::Peers;

/// How often a leader looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files looked after at one look; where they ended the next look goes on.
const FILES: usize = 64;
/// Steps in a row for one file, before others get their turn.
const STEPS: usize = 8;
/// Less than this at the end of a file is left for later, where there may be more before it.
const FEWEST: usize = 16;
/// Files whose place is remembered at the most. Beyond it they begin anew, which costs reading.
const MOST: usize = 4096;
/// A session that stored nothing for so long is ended.
const IDLE: Duration = Duration::from_secs(600);

/// Asks the system group for a client id.
pub(crate) type NewClient = Box<dyn Fn() -> BoxFuture<'static, Result<ClientId, Refusal>> + Send + Sync>;

/// What was moved into chunks since the start.
#[derive(Debug, Default)]
pub(crate) struct Compacted {
    /// Extent records.
    pub(crate) extents: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
}

/// What a leader remembers of one group.
#[derive(Default)]
struct Table {
    uploaders: BTreeMap<SpaceId, Uploader>,
    /// The file behind which the next look begins.
    after: Option<(VolumeId, Ino)>,
    /// How far files have been looked through.
    places: BTreeMap<(VolumeId, Ino), u64>,
}

struct Uploader {
    client: ClientId,
    counter: u64,
    used: Instant,
}

/// What is to be done with what was gathered.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    /// It moves into a chunk.
    Swap,
    /// It is not worth one: all of the file has too little.
    Settle,
    /// It is looked on from here.
    GoOn(u64),
}

/// Looks after the groups that this node leads, again and again, until the node stops.
pub(crate) async fn run(groups: Arc<Groups>, peers: Peers, client: NewClient, mut stop: watch::Receiver<bool>) {
    let mut tables: BTreeMap<GroupId, Table> = BTreeMap::new();
    let work = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let led: Vec<_> = groups.all().into_iter().filter(|group| group.leading()).collect();
            for group in &led {
                let table = tables.entry(group.id()).or_default();
                let mut leader = Leader { groups: &groups, peers: &peers, client: &client, group, table };
                match leader.look().await {
                    Ok(()) | Err(Refusal::NotLeader { .. } | Refusal::Busy { .. }) => {}
                    Err(refusal) => tracing::info!(group = %group.id(), %refusal, "bytes wait to be compacted"),
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stopped(&mut stop) => {}
        () = work => {}
    }
}

struct Leader<'a> {
    groups: &'a Groups,
    peers: &'a Peers,
    client: &'a NewClient,
    group: &'a Group,
    table: &'a mut Table,
}

impl Leader<'_> {
    async fn look(&mut self) -> Result<(), Refusal> {
        // Said at each look: a leader that led before with a break in between has forgotten it.
        for (space, uploader) in &self.table.uploaders {
            let mut sessions = self.group.sessions().lock();
            sessions.own((uploader.client, *space));
            // Nothing is under way now.
            sessions.named_below((uploader.client, *space), uploader.counter + 1);
        }
        let files = self.group.read_local(|view| compact::waiting(view, self.table.after, FILES))?;
        self.table.after = files.last().filter(|_| files.len() == FILES).copied();
        if files.is_empty() {
            return self.end_idle().await;
        }
        if self.table.places.len() > MOST {
            self.table.places.clear();
        }
        for (volume, ino) in files {
            match self.compact(volume, ino).await {
                // What has gone meanwhile needs nothing.
                Ok(()) | Err(Refusal::NoVolume { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// Takes some steps for one file.
    async fn compact(&mut self, volume: VolumeId, ino: Ino) -> Result<(), Refusal> {
        let mut from = self.table.places.remove(&(volume, ino)).unwrap_or(0);
        for _ in 0..STEPS {
            let gathered = self.group.read_local(|view| compact::gather(view, volume, ino, from))?.unwrap_or_default();
            let more = match todo(&gathered, from) {
                Todo::GoOn(to) => {
                    from = to;
                    continue;
                }
                Todo::Settle => {
                    let none = ChunkId { client: ClientId(0), counter: 0 };
                    self.step(volume, ino, none, 0, Vec::new()).await?;
                    return Ok(());
                }
                Todo::Swap => self.swap(volume, ino, &gathered).await?,
            };
            if !more {
                return Ok(());
            }
            from = gathered.more_from.unwrap_or(0);
        }
        self.table.places.insert((volume, ino), from);
        Ok(())
    }

    /// Stores what was gathered and has it named. Says whether the file waits for more.
    async fn swap(&mut self, volume: VolumeId, ino: Ino, gathered: &Gathered) -> Result<bool, Refusal> {
        let map = self.groups.map().get();
        let Some(known) = map.volumes.iter().find(|known| known.id == volume) else {
            return Err(Refusal::NoVolume { what: volume.to_string() });
        };
        let (space, factor) = (known.space, known.replication);
        let chunk = self.next_chunk(space).await?;
        let what = Upload { space, chunk, factor, data: gathered.bytes.clone() };
        let pg = upload(self.peers, &map, self.groups.dice(), what).await?;
        let swapped = self.step(volume, ino, chunk, pg, gathered.pieces.clone()).await;
        if matches!(swapped, Err(Refusal::SessionEnded { .. } | Refusal::NoSession { .. })) {
            self.table.uploaders.remove(&space);
        }
        let more = swapped?;
        let compacted = self.groups.compacted();
        compacted.extents.fetch_add(gathered.extents as u64, Ordering::Relaxed);
        compacted.bytes.fetch_add(gathered.bytes.len() as u64, Ordering::Relaxed);
        tracing::debug!(group = %self.group.id(), %volume, %ino, extents = gathered.extents, "bytes moved into a chunk");
        Ok(more)
    }

    async fn step(
        &self,
        volume: VolumeId,
        ino: Ino,
        chunk: ChunkId,
        pg: u32,
        pieces: Vec<Piece>,
    ) -> Result<bool, Refusal> {
        let step = Step::Compact { volume, ino, chunk, pg: weft_core::ids::PgId(pg), pieces };
        match self.group.propose(None, Command::Step(step)).await? {
            Outcome::Stepped { more } => Ok(more),
            _ => Ok(false),
        }
    }

    /// A chunk id of this leader's session in a space, which is opened if there is none.
    async fn next_chunk(&mut self, space: SpaceId) -> Result<ChunkId, Refusal> {
        if !self.table.uploaders.contains_key(&space) {
            let client = (self.client)().await?;
            self.group.propose(None, Command::OpenSession { client, space }).await?;
            self.group.sessions().lock().own((client, space));
            self.table.uploaders.insert(space, Uploader { client, counter: 0, used: Instant::now() });
        }
        let Some(uploader) = self.table.uploaders.get_mut(&space) else {
            return Err(Refusal::NotServed { what: format!("space {space}") });
        };
        uploader.counter += 1;
        uploader.used = Instant::now();
        Ok(ChunkId { client: uploader.client, counter: uploader.counter })
    }

    async fn end_idle(&mut self) -> Result<(), Refusal> {
        let idle = |(_, uploader): &(&SpaceId, &Uploader)| uploader.used.elapsed() >= IDLE;
        let Some(space) = self.table.uploaders.iter().find(idle).map(|(space, _)| *space) else { return Ok(()) };
        if let Some(Uploader { client, .. }) = self.table.uploaders.remove(&space) {
            self.group.propose(None, Command::EndSession { client, space }).await?;
        }
        Ok(())
    }
}

fn todo(gathered: &Gathered, from: u64) -> Todo {
    match gathered {
        Gathered { extents: 0, more_from: Some(to), .. } => Todo::GoOn(*to),
        Gathered { extents, more_from: None, .. } if from == 0 && *extents < COMPACT_FROM as usize => Todo::Settle,
        Gathered { extents, more_from: None, .. } if from > 0 && *extents < FEWEST => Todo::GoOn(0),
        _ => Todo::Swap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(extents: usize, more_from: Option<u64>) -> Gathered {
        Gathered { extents, more_from, ..Gathered::default() }
    }

    #[test]
    fn little_is_left_where_it_is_and_much_moves() {
        assert_eq!(todo(&gathered(64, None), 0), Todo::Swap);
        assert_eq!(todo(&gathered(63, None), 0), Todo::Settle, "fewer than made it wait");
        assert_eq!(todo(&gathered(0, None), 0), Todo::Settle, "no file any more, or all written over");
        // Behind what was looked at already there may be little, and much before it again.
        assert_eq!(todo(&gathered(15, None), 500), Todo::GoOn(0));
        assert_eq!(todo(&gathered(16, None), 500), Todo::Swap);
        // Among many chunks bytes are rare.
        assert_eq!(todo(&gathered(0, Some(900)), 500), Todo::GoOn(900));
        assert_eq!(todo(&gathered(1, Some(900)), 0), Todo::Swap);
    }
}
