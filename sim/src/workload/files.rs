//! Clients at work on files, each remembering what it was told.
//!
//! Names belong to one client each, so that what must be there follows from that client's answers alone; directories
//! are shared. A change whose outcome stayed unknown leaves every possibility open until a read settles it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_client::{Cred, Error, Found, Ino, Name, RenameMode, Volume};
use weft_core::limits::COMPACT_FROM;

use super::{DIRECTORY, Outcome, Possible, Shared, connect, contend, differs, directory, read_name};
use crate::run::Violation;
use crate::world;

const NAMES_PER_CLIENT: u64 = 12;

/// Works on files of its own names, one call after the other.
pub(crate) struct Worker {
    id: u64,
    rng: SmallRng,
    volume: Volume,
    /// Where its names are.
    pub(crate) dir: Ino,
    contended: Ino,
    cred: Cred,
    shared: Shared,
    /// Whether what it is answered may still be lost.
    suspects: bool,
    /// What it found that should not be, if so.
    pub(crate) suspicion: RefCell<Option<Violation>>,
    /// What its names may have held since all was known to be durable.
    since: RefCell<BTreeMap<String, Possible>>,
}

/// One client's work until `until` of simulated time.
///
/// # Errors
/// The fabric could not be reached at all.
pub async fn client(id: u64, seed: u64, until: Duration, shared: Shared) -> Outcome {
    let (client, volume) = connect().await?;
    let dirs = loop {
        let (ours, contended) = (directory(&volume, DIRECTORY).await, directory(&volume, contend::DIRECTORY).await);
        match ours.and_then(|ours| Ok((ours, contended?))) {
            Ok(dirs) => break dirs,
            Err(error) => tracing::info!(%error, "shared directories"),
        }
    };
    let (dir, contended) = dirs;
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(id));
    // Whoever changes nothing notices last that its leader was deposed. The first client works under every seed.
    let looks = id > 0 && rng.random_bool(0.3);
    let vanishes = rng.random_bool(0.5);
    let mut worker = Worker { contended, ..Worker::new(id, rng, &volume, dir, &shared) };
    while world::now() < until && worker.shared.borrow().broken.is_none() {
        let longest = if looks { 200 } else { 40 };
        match looks {
            true => {
                let place = contend::Place { dir: contended, arena: None };
                contend::look(&mut worker.rng, &worker.volume, place, &worker.shared).await;
            }
            false => worker.step().await,
        }
        let pause = worker.rng.random_range(1..longest);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    worker.shared.borrow_mut().finished += 1;
    if vanishes {
        // As a program that is killed: its sessions stay open, with all replies, until they lapse.
        return Ok(());
    }
    // Its session lapses by itself if the fabric does not answer any more.
    if let Err(error) = client.close().await {
        tracing::info!(%error, "close client");
    }
    Ok(())
}

impl Worker {
    fn new(id: u64, rng: SmallRng, volume: &Volume, dir: Ino, shared: &Shared) -> Worker {
        Worker {
            id,
            rng,
            volume: volume.clone(),
            dir,
            contended: dir,
            cred: Cred::root(),
            shared: shared.clone(),
            suspects: false,
            suspicion: RefCell::default(),
            since: RefCell::default(),
        }
    }

    /// One whose answers may still be lost.
    pub(crate) fn suspecting(id: u64, seed: u64, volume: &Volume, dir: Ino, shared: &Shared) -> Worker {
        Worker { suspects: true, ..Worker::new(id, SmallRng::seed_from_u64(seed), volume, dir, shared) }
    }

    /// All it was answered is durable.
    pub(crate) fn settled(&self) {
        self.since.borrow_mut().clear();
    }

    /// Some of what it was answered since then may be lost.
    pub(crate) fn unsettle(&self) {
        for (name, possible) in std::mem::take(&mut *self.since.borrow_mut()) {
            let all = [possible, self.possible(&name)].concat();
            self.shared.borrow_mut().names.insert(name, all);
        }
    }

    fn pick(&mut self) -> String {
        format!("c{}-{}", self.id, self.rng.random_range(0..NAMES_PER_CLIENT))
    }

    fn content(&mut self) -> Bytes {
        let len = match self.rng.random_range(0..10) {
            0..5 => self.rng.random_range(0..4096),
            5..9 => self.rng.random_range(4096..40_000),
            _ => self.rng.random_range(40_000..300_000),
        };
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes[..]);
        bytes.into()
    }

    fn possible(&self, name: &str) -> Possible {
        self.shared.borrow().names.get(name).cloned().unwrap_or_else(|| vec![None])
    }

    /// If what it was answered may still be lost: the name may have come no further than this.
    fn passed(&self, name: &str, possible: &Possible) {
        if self.suspects {
            let before = self.possible(name);
            let mut since = self.since.borrow_mut();
            let all = since.entry(name.to_string()).or_insert(before);
            all.extend(possible.iter().filter(|one| !all.contains(one)).cloned().collect::<Vec<_>>());
        }
    }

    fn remember(&self, name: &str, possible: Possible, acknowledged: bool) {
        self.passed(name, &possible);
        let mut memory = self.shared.borrow_mut();
        match acknowledged {
            true => memory.faults.acknowledged += 1,
            false => memory.faults.unknown += 1,
        }
        memory.names.insert(name.to_string(), possible);
    }

    async fn step(&mut self) {
        if self.rng.random_bool(0.3) {
            let newest = self.shared.borrow().arenas.iter().enumerate().next_back().map(|(at, arena)| (at, arena.dir));
            let place = match newest.filter(|_| self.rng.random_bool(0.5)) {
                Some((at, dir)) => contend::Place { dir, arena: Some(at) },
                None => contend::Place { dir: self.contended, arena: None },
            };
            contend::step(&mut self.rng, &self.volume, place, &self.shared).await;
            return;
        }
        self.on_files().await;
    }

    /// One call on one of its names, or a few.
    pub(crate) async fn on_files(&mut self) {
        let name = self.pick();
        let roll = self.rng.random_range(0..100);
        match roll {
            0..25 => self.write(&name).await,
            25..32 => self.overwrite(&name).await,
            32..35 => self.truncate(&name).await,
            35..37 => self.journal(&name).await,
            37..50 => self.append(&name).await,
            50..75 => self.read(&name).await,
            75..88 => self.rename(&name).await,
            _ => self.unlink(&name).await,
        }
    }

    /// Creates or empties the file and writes it whole. Between the two it may be seen empty.
    async fn write(&mut self, name: &str) {
        let (before, content) = (self.possible(name), self.content());
        let cut = self.rng.random_range(0..=content.len());
        let done = async {
            let parsed = Name::parse(name.as_bytes().to_vec())?;
            let (file, _, _) = self.volume.create_file(&self.cred, self.dir, parsed, 0o644, false).await?;
            file.truncate(0).await?;
            file.write_at(0, content.slice(..cut)).await?;
            file.write_at(cut as u64, content.slice(cut..)).await?;
            file.close().await
        };
        // A file that is not synced may have its name before its bytes.
        let between = vec![Some(Bytes::new()), Some(content.slice(..cut))];
        match done.await {
            Ok(()) => {
                self.passed(name, &between);
                self.remember(name, vec![Some(content)], true);
            }
            Err(error) => {
                tracing::info!(name, %error, "write stayed unknown");
                let mut possible = before;
                possible.extend(between);
                possible.push(Some(content));
                self.remember(name, possible, false);
            }
        }
    }

    async fn append(&mut self, name: &str) {
        let before = self.possible(name);
        let [Some(old)] = &before[..] else { return };
        let more = self.content();
        let joined = Bytes::from([&old[..], &more[..]].concat());
        let done = async {
            let ino = self.find(name).await?;
            let file = self.volume.open(&self.cred, ino, true, true).await?;
            file.write_at(old.len() as u64, more).await?;
            file.close().await
        };
        self.settled_as(name, "append", before.clone(), joined, done.await);
    }

    /// Appends a little at a time, each durable before the next: enough for the bytes to move from records into a chunk.
    async fn journal(&mut self, name: &str) {
        let before = self.possible(name);
        let [Some(old)] = &before[..] else { return };
        let mut kept = old.clone();
        let opened = async {
            let ino = self.find(name).await?;
            self.volume.open(&self.cred, ino, true, true).await
        };
        let Ok(file) = opened.await else { return };
        for _ in 0..self.rng.random_range(COMPACT_FROM / 2..COMPACT_FROM * 2) {
            let line = vec![self.rng.random::<u8>(); self.rng.random_range(1..60)];
            let joined = Bytes::from([&kept[..], &line[..]].concat());
            let done = async {
                file.write_at(kept.len() as u64, line.into()).await?;
                file.flush().await
            };
            let done = done.await;
            let failed = done.is_err();
            self.settled_as(name, "journal", vec![Some(kept)], joined.clone(), done);
            if failed {
                // What was not stored is tried again in the background, at the latest when the file is closed.
                break;
            }
            kept = joined;
        }
        if let Err(error) = file.close().await {
            tracing::info!(name, %error, "close a journal");
        }
    }

    /// Writes into the middle of a file.
    async fn overwrite(&mut self, name: &str) {
        let before = self.possible(name);
        let [Some(old)] = &before[..] else { return };
        let at = self.rng.random_range(0..=old.len());
        let mut patch = self.content();
        patch.truncate(5000);
        let mut after = old.to_vec();
        after.resize(old.len().max(at + patch.len()), 0);
        after[at..at + patch.len()].copy_from_slice(&patch);
        let done = async {
            let ino = self.find(name).await?;
            let file = self.volume.open(&self.cred, ino, true, true).await?;
            file.write_at(at as u64, patch).await?;
            file.close().await
        };
        self.settled_as(name, "overwrite", before.clone(), after.into(), done.await);
    }

    /// Cuts a file, or lets it grow by a hole.
    async fn truncate(&mut self, name: &str) {
        let before = self.possible(name);
        let [Some(old)] = &before[..] else { return };
        let size = self.rng.random_range(0..=old.len() + 5000);
        let mut after = old.to_vec();
        after.resize(size, 0);
        let done = async {
            let ino = self.find(name).await?;
            let file = self.volume.open(&self.cred, ino, true, true).await?;
            file.truncate(size as u64).await?;
            file.close().await
        };
        self.settled_as(name, "truncate", before.clone(), after.into(), done.await);
    }

    /// A change of one file was made, or it is unknown whether it was.
    fn settled_as(&self, name: &str, what: &str, before: Possible, after: Bytes, done: Result<(), Error>) {
        match done {
            Ok(()) => self.remember(name, vec![Some(after)], true),
            Err(error) => {
                tracing::info!(name, what, %error, "stayed unknown");
                self.remember(name, [before, vec![Some(after)]].concat(), false);
            }
        }
    }

    async fn rename(&mut self, name: &str) {
        let target = self.pick();
        let before = self.possible(name);
        if target == name || before.len() != 1 || before[0].is_none() {
            return;
        }
        let replaced = self.possible(&target);
        // Done twice, an exchange is undone: where an answer is lost and asked for again, it shows.
        let exchanges = replaced.len() == 1 && replaced[0].is_some() && self.rng.random_bool(0.5);
        let (mode, left) = match exchanges {
            true => (RenameMode::Exchange, replaced[0].clone()),
            false => (RenameMode::Replace, None),
        };
        let done = async {
            let (from, to) = (Name::parse(name.as_bytes().to_vec())?, Name::parse(target.as_bytes().to_vec())?);
            self.volume.rename(&self.cred, self.dir, from, self.dir, to, mode).await
        };
        match done.await {
            Ok(_) => {
                self.remember(&target, before, true);
                self.remember(name, vec![left], true);
            }
            Err(error) => {
                tracing::info!(name, %error, "rename stayed unknown");
                let both = [replaced, before.clone()].concat();
                self.remember(&target, both, false);
                self.remember(name, vec![before[0].clone(), left], false);
            }
        }
    }

    async fn unlink(&mut self, name: &str) {
        let before = self.possible(name);
        let done = async {
            let parsed = Name::parse(name.as_bytes().to_vec())?;
            self.volume.unlink(&self.cred, self.dir, parsed).await
        };
        match done.await {
            Ok(_) if before.iter().all(Option::is_none) => self.accuse(name, "unlink removed what was not there"),
            Ok(_) => self.remember(name, vec![None], true),
            Err(error) if error.errno() == libc::ENOENT => {
                if before.iter().any(Option::is_none) {
                    self.remember(name, vec![None], true);
                } else {
                    self.accuse(name, "an acknowledged file is gone");
                }
            }
            Err(error) => {
                tracing::info!(name, %error, "unlink stayed unknown");
                self.remember(name, [before, vec![None]].concat(), false);
            }
        }
    }

    async fn read(&mut self, name: &str) {
        let before = self.possible(name);
        match read_name(&self.volume, &self.cred, self.dir, name).await {
            Ok(found) if before.contains(&found) => {
                let mut memory = self.shared.borrow_mut();
                memory.faults.reads += 1;
                memory.names.insert(name.to_string(), vec![found]);
            }
            Ok(found) => self.accuse(name, &differs(&before, &found)),
            Err(error) => tracing::info!(name, %error, "read failed"),
        }
    }

    async fn find(&self, name: &str) -> Result<Ino, Error> {
        match self.volume.lookup(&self.cred, self.dir, Name::parse(name.as_bytes().to_vec())?).await? {
            Found::Inode(attr) => Ok(attr.ino),
            Found::Junction(_) => unreachable!("nobody makes junctions here"),
        }
    }

    fn accuse(&self, name: &str, what: &str) {
        tracing::warn!(name, what, "not as it was answered");
        let law = "acknowledged data is readable and equal";
        let violation = Violation { law, what: format!("{name}: {what}") };
        match self.suspects {
            true => *self.suspicion.borrow_mut() = Some(violation),
            false => drop(self.shared.borrow_mut().broken.get_or_insert(violation)),
        }
    }
}
