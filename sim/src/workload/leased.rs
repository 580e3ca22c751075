//! Clients that work under write leases: in directories of their own, and in *arenas*, directories that one of them makes
//! and all of them contend in at once.
//!
//! What such a client is answered may still be lost as long as it was not made durable, but only with its lease, and
//! then the next `sync` says so. After that, whatever it was answered since the last `sync` that did not fail counts as
//! unknown: changes may have happened or not, and what it read may have been its own.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_client::{Client, Cred, Error, Ino, Name, Volume};

use super::files::Worker;
use super::{Shared, connect_with, contend};
use crate::world;

/// Worker numbers of these clients begin here, and again at each further multiple with each new directory of their own.
const FIRST: u64 = 1000;
/// The newest arenas, in which they contend.
const OPEN_ARENAS: usize = 3;

/// A directory that clients contend in, and their calls.
pub struct Arena {
    /// Which.
    pub dir: Ino,
    /// The calls.
    pub history: contend::History,
}

struct Leased {
    id: u64,
    rng: SmallRng,
    client: Client,
    volume: Volume,
    shared: Shared,
    worker: Worker,
    made: u64,
    /// Calls in arenas since the last `sync`: which arena, which call.
    unsettled: Vec<(usize, usize)>,
}

/// One client's work until `until` of simulated time.
///
/// # Errors
/// The fabric could not be reached at all.
pub async fn client(id: u64, seed: u64, until: Duration, shared: Shared) -> Result<(), Box<dyn std::error::Error>> {
    let (client, volume) = connect_with(|options| options.write_leases = true).await?;
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(7_368_787).wrapping_add(id));
    let worker = Worker::suspecting(FIRST + id, rng.random(), &volume, Ino::ROOT, &shared);
    let mut leased = Leased { id, rng, client, volume, shared, worker, made: 0, unsettled: Vec::new() };
    leased.new_place().await;
    while world::now() < until && leased.shared.borrow().broken.is_none() {
        leased.step().await;
        let pause = leased.rng.random_range(1..60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    leased.settle().await;
    let stats = leased.client.lease_stats();
    {
        let mut memory = leased.shared.borrow_mut();
        memory.faults.leases += stats.taken;
        memory.faults.recalls += stats.recalled;
        memory.faults.lost_leases += stats.lost;
        memory.faults.held += stats.held;
        memory.finished += 1;
    }
    if let Err(error) = leased.client.close().await {
        tracing::info!(%error, "close client");
    }
    Ok(())
}

impl Leased {
    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..5 => self.new_arena().await,
            5..8 => self.new_place().await,
            8..14 => drop(self.settle().await),
            14..55 => self.contend().await,
            _ => {
                if self.worker.dir != Ino::ROOT {
                    self.worker.on_files().await;
                }
                if let Some(violation) = self.worker.suspicion.take() {
                    // Unless it was lost with a lease, which the next `sync` would say.
                    if self.settle().await {
                        self.shared.borrow_mut().broken.get_or_insert(violation);
                    }
                }
            }
        }
    }

    async fn mkdir(&mut self, kind: &str) -> Option<Ino> {
        self.made += 1;
        let name = Name::parse(format!("{kind}-{}-{}", self.id, self.made)).ok()?;
        let made = self.volume.mkdir(&Cred::root(), Ino::ROOT, name, 0o755).await;
        made.inspect_err(|error| tracing::info!(%error, kind, "new directory")).ok().map(|attr| attr.ino)
    }

    /// A directory of its own, with files of its own.
    async fn new_place(&mut self) {
        self.settle().await;
        if let Some(dir) = self.mkdir("own").await {
            let id = self.id + FIRST * (self.made + 1);
            self.shared.borrow_mut().places.insert(id, dir);
            self.worker = Worker::suspecting(id, self.rng.random(), &self.volume, dir, &self.shared);
        }
    }

    async fn new_arena(&mut self) {
        if let Some(dir) = self.mkdir("arena").await {
            self.shared.borrow_mut().arenas.push(Arena { dir, history: Vec::new() });
        }
    }

    async fn contend(&mut self) {
        let arenas = self.shared.borrow().arenas.len();
        if arenas == 0 {
            return;
        }
        let arena = self.rng.random_range(arenas.saturating_sub(OPEN_ARENAS)..arenas);
        let dir = self.shared.borrow().arenas[arena].dir;
        let place = contend::Place { dir, arena: Some(arena) };
        let calls = contend::step(&mut self.rng, &self.volume, place, &self.shared).await;
        self.unsettled.extend(calls.into_iter().map(|call| (arena, call)));
    }

    /// Makes everything durable. Says whether everything answered so far is; else it is forgotten what was answered.
    async fn settle(&mut self) -> bool {
        let result: Result<(), Error> = self.volume.sync().await;
        let unsettled = std::mem::take(&mut self.unsettled);
        match result {
            Ok(()) => {
                self.worker.settled();
                true
            }
            Err(error) => {
                tracing::info!(%error, "answers were lost");
                let mut memory = self.shared.borrow_mut();
                for (arena, call) in unsettled {
                    memory.arenas[arena].history[call].end = None;
                }
                drop(memory);
                self.worker.unsettle();
                false
            }
        }
    }
}
