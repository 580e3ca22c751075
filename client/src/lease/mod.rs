//! Write leases: what this client changes on its own and sends in batches.
//!
//! Where it made a directory itself, a client takes a write lease on it with the first thing it makes in there. What is
//! below is then its own: requests about it are answered here by [`weft_core::namespace::lease::Local`], changes are
//! held back in order and sent by one task ([`push`]), another task keeps the leases and hears when one is wanted back
//! ([`listen`]). What always holds:
//! - Nothing is answered here after the lease's end as this client counts it, nor from the moment in which it is being
//!   given up.
//! - Changes reach the group in the order in which they were answered, and all of them before any change that goes to
//!   the server directly.
//! - What is held back is older than a second only while the group can't be reached; then new changes wait.

mod listen;
mod push;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_core::entry::Cred;
use weft_core::ids::{ClientId, Ino, VolumeId};
use weft_core::limits::{LEASE_MS, MAX_LEASES};
use weft_core::namespace::inode::{Attr, ExtentBody, Kind};
use weft_core::namespace::lease::{Held, Local, Tried, Way};
use weft_core::namespace::op::Op;
use weft_core::namespace::outcome::Outcome;
use weft_core::namespace::query::{Answer, Query};
use weft_core::refusal::Refusal;
use weft_core::time::Timestamp;

use crate::client::Shared;
use crate::error::{Error, Result};
use crate::meta::Failed;
use crate::session::Session;
use crate::trial::Trial;

/// Directories made lately that may be worth a lease.
const MOST_FRESH: usize = 256;
/// Inode numbers taken with a lease, and when few are left.
const FIRST_NUMBERS: u32 = 256;
const MORE_NUMBERS: u32 = 8192;
/// Changes held back before new ones wait.
const MOST_HELD: usize = 4096;
/// The same in bytes.
const MOST_HELD_BYTES: usize = 16 << 20;
/// For so long a change is held back at the most; while it can't be sent, new ones wait.
const OLDEST: Duration = Duration::from_secs(1);
/// Lost files that are remembered one by one; of further ones only that there were some.
const MOST_LOST: usize = 64 << 10;
/// Memory for what is known below leased directories, in bytes: beyond it the maps of files are forgotten, and beyond
/// twice as much the leases are given up.
const MOST_KNOWN: usize = 64 << 20;

/// What the write leases of a client have spared it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStats {
    /// Leases taken.
    pub taken: u64,
    /// Leases wanted back by others.
    pub recalled: u64,
    /// Leases lost by silence, with what was held back under them.
    pub lost: u64,
    /// Questions answered without a request.
    pub answered: u64,
    /// Changes answered without a request.
    pub held: u64,
    /// Requests in which those changes went out.
    pub batches: u64,
}

/// The leases of a client, by volume.
#[derive(Default)]
pub(crate) struct Leases {
    volumes: Mutex<BTreeMap<VolumeId, Arc<VolumeLeases>>>,
}

/// What was answered in a volume and then lost, in whatever session, for those who ask for durability.
#[derive(Default)]
struct Lost {
    /// By file.
    files: BTreeMap<Ino, Error>,
    /// The last of all.
    last: Option<Error>,
}

/// The leases of one session in one volume.
pub(crate) struct VolumeLeases {
    session: Arc<Session>,
    volume: VolumeId,
    lost: Arc<Mutex<Lost>>,
    inner: Mutex<Inner>,
    /// One lease is taken at a time.
    taking: tokio::sync::Mutex<()>,
    /// Rung at every change that somebody may wait for.
    changed: Notify,
    /// Rung when there is something to send.
    work: Notify,
}

struct Inner {
    local: Local,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// The number of the next change, and the first that is not in the group.
    next: u64,
    made_below: u64,
    /// Up to where somebody waits.
    wanted_below: u64,
    /// Leases that are being given up: nothing below is answered here.
    closing: BTreeSet<Ino>,
    /// Leases below which a request has gone to the server: what it changes is not known yet.
    busy: BTreeSet<Ino>,
    /// Of closed files below each lease, how many still upload.
    uploading: BTreeMap<Ino, usize>,
    /// Leases whose end is on its way.
    leaving: BTreeSet<Ino>,
    /// The directory of which the lease is being taken.
    taking: Option<Ino>,
    /// Directories that this session made and nobody has made anything in, as far as is known.
    fresh: VecDeque<Ino>,
    /// The group's time at a moment, and the last time given to a change.
    clock: Option<(Timestamp, Instant)>,
    last: Timestamp,
    /// Until when each lease is held without hearing from the group.
    held_until: BTreeMap<Ino, Instant>,
    listening: bool,
    /// Files that the batch under way is about.
    in_flight: Vec<Ino>,
    /// The lowest number among the chunks of this session that they name.
    in_flight_chunk: Option<u64>,
    stats: LeaseStats,
}

struct Queued {
    item: Held,
    weight: usize,
    bytes: usize,
    since: Instant,
}

/// What to do for a request.
enum Step<T> {
    Answer(Result<T, Refusal>),
    /// At the server, behind what is held back.
    Away,
    /// The same, below these leases.
    Through(Vec<Ino>),
    Break(Vec<Ino>),
    /// Takes a lease on the directory, or more numbers under one.
    Take(Ino),
    Wait,
}

impl Leases {
    /// The leases of a session in a volume.
    ///
    /// # Errors
    /// The session has ended.
    fn of(&self, shared: &Arc<Shared>, session: &Arc<Session>, volume: VolumeId) -> Result<Arc<VolumeLeases>> {
        let mut volumes = self.volumes.lock();
        let lost = match volumes.get(&volume) {
            Some(there) if Arc::ptr_eq(&there.session, session) => return Ok(there.clone()),
            // A file that was opened in an earlier session: it must not take the place of what lives.
            Some(_) if session.ended() => return Err(session.end_error()),
            // What the earlier session held back is lost from now on, also for whoever asks in the new one.
            Some(before) => {
                before.lose_all();
                before.lost.clone()
            }
            None => Arc::default(),
        };
        let made = Arc::new(VolumeLeases {
            session: session.clone(),
            volume,
            lost,
            inner: Mutex::new(Inner {
                local: Local::new(volume, session.client, session.space),
                queue: VecDeque::new(),
                queued_bytes: 0,
                next: 0,
                made_below: 0,
                wanted_below: 0,
                closing: BTreeSet::new(),
                busy: BTreeSet::new(),
                uploading: BTreeMap::new(),
                leaving: BTreeSet::new(),
                taking: None,
                fresh: VecDeque::new(),
                clock: None,
                last: Timestamp::default(),
                held_until: BTreeMap::new(),
                listening: false,
                in_flight: Vec::new(),
                in_flight_chunk: None,
                stats: LeaseStats::default(),
            }),
            taking: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            work: Notify::new(),
        });
        volumes.insert(volume, made.clone());
        drop(volumes);
        tokio::spawn(push::run(Arc::downgrade(shared), made.clone()));
        Ok(made)
    }

    fn all(&self) -> Vec<Arc<VolumeLeases>> {
        self.volumes.lock().values().cloned().collect()
    }

    fn find(&self, volume: VolumeId) -> Option<Arc<VolumeLeases>> {
        self.volumes.lock().get(&volume).cloned()
    }

    /// What they have spared so far, in the sessions that are open.
    pub(crate) fn stats(&self) -> LeaseStats {
        let mut sum = LeaseStats::default();
        for leases in self.all() {
            let LeaseStats { taken, recalled, lost, answered, held, batches } = leases.inner.lock().stats;
            sum.taken += taken;
            sum.recalled += recalled;
            sum.lost += lost;
            sum.answered += answered;
            sum.held += held;
            sum.batches += batches;
        }
        sum
    }
}

impl Shared {
    /// Changes a volume: here, where it is leased, else at the server.
    pub(crate) async fn apply_in(
        self: &Arc<Self>,
        session: &Arc<Session>,
        cred: &Cred,
        volume: VolumeId,
        op: &Op,
    ) -> Result<Outcome, Failed> {
        match self.options.write_leases {
            true => {
                let leases = self.leases.of(self, session, volume);
                leases.map_err(|error| Failed { error, ambiguous: false })?.apply(self, cred, op).await
            }
            false => self.apply_at_server(session, cred, volume, op).await,
        }
    }

    /// Asks about a volume: here, where it is leased, else the server.
    pub(crate) async fn query_in(
        self: &Arc<Self>,
        session: &Arc<Session>,
        cred: &Cred,
        volume: VolumeId,
        query: &Query,
    ) -> Result<Answer> {
        match self.options.write_leases {
            true => self.leases.of(self, session, volume)?.query(self, cred, query).await,
            false => self.query_at_server(session, cred, volume, query).await,
        }
    }

    /// Makes what was held back in a volume durable.
    ///
    /// # Errors
    /// Some of what was answered is lost (told once), or the group can't be reached within the deadline.
    pub(crate) async fn settle_leases(&self, volume: VolumeId) -> Result<()> {
        match self.leases.find(volume) {
            Some(leases) => leases.settle(self).await,
            None => Ok(()),
        }
    }

    /// The same for a file: what was held back of it, and before that.
    pub(crate) async fn settle_file(&self, volume: VolumeId, ino: Ino) -> Result<()> {
        let Some(leases) = self.leases.find(volume) else { return Ok(()) };
        if self.is_leased(volume, ino) {
            leases.pushed(self).await?;
        }
        leases.lost.lock().files.remove(&ino).map_or(Ok(()), Err)
    }

    /// Something failed behind an answer about a file; whoever asks for durability is told.
    pub(crate) fn note_lost(&self, volume: VolumeId, ino: Ino, error: &Error) {
        if let Some(leases) = self.leases.find(volume) {
            leases.lost.lock().note([ino], error);
        }
    }

    /// Gives all leases up, after all that was held back.
    pub(crate) async fn end_leases(&self) -> Result<()> {
        let mut result = Ok(());
        for leases in self.leases.all() {
            let roots = leases.inner.lock().local.roots();
            let ended = match leases.give_up(self, roots).await {
                Ok(()) => leases.settle(self).await,
                Err(error) => Err(error),
            };
            result = result.and(ended);
        }
        result
    }

    /// Whether changes of an inode are held back.
    fn is_leased(&self, volume: VolumeId, ino: Ino) -> bool {
        self.options.write_leases
            && self.leases.find(volume).is_some_and(|leases| leases.inner.lock().local.root_of(ino).is_some())
    }

    /// A file below a lease is closed, and its bytes may go on being stored behind the answer: whoever wants the lease
    /// back waits for them. `None` if it is not below one, or below one that is being given up.
    pub(crate) fn begin_upload(&self, volume: VolumeId, ino: Ino) -> Option<Uploading> {
        let leases = self.options.write_leases.then(|| self.leases.find(volume)).flatten()?;
        let mut inner = leases.inner.lock();
        let root = inner.local.root_of(ino).filter(|root| !inner.closing.contains(root))?;
        *inner.uploading.entry(root).or_default() += 1;
        drop(inner);
        Some(Uploading { leases, root })
    }

    /// Makes sure that the group has what was held back in a volume, for a request in another one.
    pub(crate) async fn push_leases(&self, volume: VolumeId) -> Result<()> {
        match self.leases.find(volume) {
            Some(leases) => leases.pushed(self).await,
            None => Ok(()),
        }
    }

    /// What this client believes of files is not so: what it answered about them is lost.
    fn distrust(&self, volume: VolumeId, files: &[Ino]) {
        self.losses.fetch_add(1, Ordering::AcqRel);
        for state in files.iter().filter_map(|file| self.files.find(volume, *file)) {
            state.distrust();
        }
    }
}

/// See [`Shared::begin_upload`].
pub(crate) struct Uploading {
    leases: Arc<VolumeLeases>,
    root: Ino,
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let mut inner = self.leases.inner.lock();
        if let Some(count) = inner.uploading.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                inner.uploading.remove(&self.root);
            }
        }
        drop(inner);
        self.leases.work.notify_one();
    }
}

impl VolumeLeases {
    async fn apply(self: &Arc<Self>, shared: &Arc<Shared>, cred: &Cred, op: &Op) -> Result<Outcome, Failed> {
        let sure = |error| Failed { error, ambiguous: false };
        let trial = Trial::new(&shared.options);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.session.check().map_err(sure)?;
            let step = self.inner.lock().change(cred, op, Instant::now());
            match step {
                Step::Answer(answer) => {
                    self.work.notify_one();
                    if parent_of_new(op).is_some() {
                        self.stock_up(shared);
                    }
                    return answer.map_err(|refusal| sure(Error::Refused(refusal)));
                }
                Step::Away => {
                    self.pushed(shared).await.map_err(sure)?;
                    let outcome = shared.apply_at_server(&self.session, cred, self.volume, op).await?;
                    self.inner.lock().note(op, &outcome);
                    return Ok(outcome);
                }
                Step::Through(roots) => {
                    let Some(_busy) = self.begin(&roots) else { continue };
                    self.pushed(shared).await.map_err(sure)?;
                    let outcome = shared.apply_at_server(&self.session, cred, self.volume, op).await?;
                    if let Outcome::Attr(attr) | Outcome::Copied { attr, .. } = &outcome {
                        self.inner.lock().local.learn(attr);
                    }
                    return Ok(outcome);
                }
                Step::Break(roots) => self.give_up(shared, roots).await.map_err(sure)?,
                Step::Take(dir) => self.take(shared, dir).await,
                Step::Wait => self.wait(&trial, changed).await.map_err(sure)?,
            }
        }
    }

    async fn query(self: &Arc<Self>, shared: &Arc<Shared>, cred: &Cred, query: &Query) -> Result<Answer> {
        let trial = Trial::new(&shared.options);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let step = self.inner.lock().question(cred, query, Instant::now());
            match step {
                Step::Answer(answer) => return answer.map_err(Error::Refused),
                Step::Through(roots) => {
                    let Some(_busy) = self.begin(&roots) else { continue };
                    self.pushed(shared).await?;
                    let answer = shared.query_at_server(&self.session, cred, self.volume, query).await?;
                    return Ok(self.inner.lock().local.correct(answer));
                }
                Step::Wait => self.wait(&trial, changed).await?,
                Step::Away | Step::Break(_) | Step::Take(_) => {
                    let answer = shared.query_at_server(&self.session, cred, self.volume, query).await?;
                    return Ok(self.inner.lock().local.correct(answer));
                }
            }
        }
    }

    async fn wait(&self, trial: &Trial, changed: impl Future<Output = ()>) -> Result<()> {
        // Also to see a lease's end by the clock.
        let left = trial.left();
        if left.is_zero() {
            return Err(trial.over("what was held back under a write lease can't be sent"));
        }
        let _ = tokio::time::timeout(left.min(OLDEST), changed).await;
        Ok(())
    }

    /// Marks leases below which a request goes to the server; nothing if another one does or they are given up.
    fn begin(self: &Arc<Self>, roots: &[Ino]) -> Option<Busy> {
        let mut inner = self.inner.lock();
        let shut = |root: &Ino| {
            let closing = inner.closing.contains(root) && !inner.uploading.contains_key(root);
            closing || inner.busy.contains(root) || inner.leaving.contains(root)
        };
        if roots.iter().any(shut) {
            return None;
        }
        inner.busy.extend(roots);
        Some(Busy { leases: self.clone(), roots: roots.to_vec() })
    }

    /// Returns when all that is held back now is in the group, or lost.
    async fn pushed(&self, shared: &Shared) -> Result<()> {
        let below = {
            let mut inner = self.inner.lock();
            if inner.made_below == inner.next {
                return Ok(());
            }
            inner.wanted_below = inner.next;
            inner.next
        };
        self.work.notify_one();
        self.until(shared, |inner| inner.made_below >= below).await
    }

    /// The same, and whether anything was lost since somebody last asked.
    async fn settle(&self, shared: &Shared) -> Result<()> {
        self.pushed(shared).await?;
        self.lost.lock().last.take().map_or(Ok(()), Err)
    }

    /// Gives leases up, after what is held back.
    async fn give_up(&self, shared: &Shared, roots: Vec<Ino>) -> Result<()> {
        {
            let mut inner = self.inner.lock();
            let held: Vec<Ino> = roots.iter().copied().filter(|root| inner.local.root_of(*root).is_some()).collect();
            inner.closing.extend(held);
        }
        self.work.notify_one();
        self.until(shared, |inner| roots.iter().all(|root| !inner.closing.contains(root))).await
    }

    async fn until(&self, shared: &Shared, is_so: impl Fn(&Inner) -> bool) -> Result<()> {
        let trial = Trial::new(&shared.options);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so(&self.inner.lock()) {
                return Ok(());
            }
            self.session.check()?;
            self.wait(&trial, changed).await?;
        }
    }

    /// Takes more numbers before the last one is used.
    fn stock_up(self: &Arc<Self>, shared: &Arc<Shared>) {
        let root = {
            let inner = self.inner.lock();
            let wanted = inner.few_numbers() && inner.taking.is_none();
            wanted.then(|| inner.local.roots().into_iter().find(|root| !inner.closing.contains(root))).flatten()
        };
        if let Some(root) = root {
            let (leases, shared) = (self.clone(), shared.clone());
            tokio::spawn(async move { leases.take(&shared, root).await });
        }
    }

    /// Takes a lease, or more numbers. Where it is refused, the directory is left to the server.
    async fn take(self: &Arc<Self>, shared: &Arc<Shared>, dir: Ino) {
        let _alone = self.taking.lock().await;
        let (sent, op) = {
            let mut inner = self.inner.lock();
            let more = inner.local.root_of(dir) == Some(dir);
            let needed = if more { inner.few_numbers() } else { inner.fresh.contains(&dir) };
            if !needed || inner.closing.contains(&dir) {
                return;
            }
            inner.taking = Some(dir);
            let numbers = match (more, inner.few_numbers()) {
                (true, _) => MORE_NUMBERS,
                (false, true) => FIRST_NUMBERS,
                (false, false) => 1,
            };
            (Instant::now(), Op::Lease { dir, numbers })
        };
        let taken = shared.apply_at_server(&self.session, &Cred::root(), self.volume, &op).await;
        let listen = {
            let mut inner = self.inner.lock();
            inner.taking = None;
            inner.fresh.retain(|fresh| *fresh != dir);
            match (taken, op) {
                (Ok(Outcome::Leased { first, dir: attr, now }), Op::Lease { numbers, .. }) => {
                    inner.held_until.entry(dir).or_insert(sent + Duration::from_millis(LEASE_MS.into()));
                    inner.local.lease(&attr, first, numbers);
                    // Behind the group's time by the way of the answer, and never before what was said already.
                    inner.clock = Some((now, Instant::now()));
                    inner.stats.taken += 1;
                    !std::mem::replace(&mut inner.listening, true)
                }
                (Ok(_), _) => false,
                (Err(Failed { error, .. }), _) => {
                    tracing::debug!(volume = %self.volume, %dir, %error, "no write lease on the directory");
                    // Without more numbers nothing can be made below: the server goes on.
                    if inner.local.root_of(dir).is_some() {
                        inner.closing.insert(dir);
                    }
                    false
                }
            }
        };
        if listen {
            tokio::spawn(listen::run(Arc::downgrade(shared), self.clone()));
        }
        self.changed.notify_waiters();
        // Perhaps it was wanted back already.
        self.work.notify_one();
    }
}

impl Lost {
    fn note(&mut self, files: impl IntoIterator<Item = Ino>, error: &Error) {
        for file in files {
            if self.files.len() < MOST_LOST {
                self.files.insert(file, error.clone());
            }
        }
        self.last = Some(error.clone());
    }
}

/// See [`VolumeLeases::begin`].
struct Busy {
    leases: Arc<VolumeLeases>,
    roots: Vec<Ino>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.leases.inner.lock().busy.retain(|root| !self.roots.contains(root));
        self.leases.changed.notify_waiters();
    }
}

impl Inner {
    fn change(&mut self, cred: &Cred, op: &Op, now: Instant) -> Step<Outcome> {
        match self.local.way(op) {
            Way::Away => match parent_of_new(op) {
                // Numbers rise: the first is the oldest.
                Some(parent) if self.fresh.contains(&parent) => match &self.local.roots()[..] {
                    [oldest, more @ ..] if more.len() + 1 >= MAX_LEASES => Step::Break(vec![*oldest]),
                    _ => Step::Take(parent),
                },
                _ => Step::Away,
            },
            Way::Through(roots)
                if roots.iter().any(|root| !self.is_open(*root, now) && !self.may_join(*root, op, now)) =>
            {
                Step::Wait
            }
            Way::Through(roots) => Step::Through(roots),
            Way::Break(roots) => Step::Break(roots),
            Way::Here(root) if !self.is_open(root, now) && !self.may_join(root, op, now) => Step::Wait,
            Way::Here(_) if self.is_full(now) => Step::Wait,
            Way::Here(root) if parent_of_new(op).is_some() && self.local.numbers_left() == 0 => Step::Take(root),
            Way::Here(root) => {
                let time = self.time(now);
                match self.local.apply(root, time, cred, op) {
                    Tried::Done(outcome, item, weight) => {
                        self.stats.held += 1;
                        self.hold(*item, weight, now);
                        Step::Answer(Ok(outcome))
                    }
                    Tried::Refused(refusal) => Step::Answer(Err(refusal)),
                    // Only of files: at the server, a leased directory is changed by nobody but through what is held back.
                    Tried::Elsewhere if matches!(op, Op::Commit(_) | Op::Truncate { .. }) => Step::Through(vec![root]),
                    Tried::Elsewhere => Step::Break(vec![root]),
                }
            }
        }
    }

    fn question(&mut self, cred: &Cred, query: &Query, now: Instant) -> Step<Answer> {
        match self.local.way_to_ask(query) {
            Way::Away => Step::Away,
            Way::Here(root) if !self.is_open(root, now) => Step::Wait,
            Way::Through(roots) if roots.iter().any(|root| !self.is_open(*root, now)) => Step::Wait,
            Way::Here(root) => match self.local.ask(cred, query) {
                Ok(answer) => {
                    self.stats.answered += 1;
                    Step::Answer(answer)
                }
                Err(error) => {
                    tracing::warn!(%error, "what is known under a write lease is not whole");
                    Step::Through(vec![root])
                }
            },
            Way::Through(roots) | Way::Break(roots) => Step::Through(roots),
        }
    }

    /// Whether requests below a lease may be answered here now.
    fn is_open(&self, root: Ino, now: Instant) -> bool {
        self.is_held(root, now) && !self.closing.contains(&root)
    }

    fn is_held(&self, root: Ino, now: Instant) -> bool {
        self.held_until.get(&root).is_some_and(|until| now < *until) && !self.busy.contains(&root)
    }

    /// Whether a change below a lease that is being given up may still join the queue: the bytes of a file that was
    /// closed before, for which the giving up waits.
    fn may_join(&self, root: Ino, op: &Op, now: Instant) -> bool {
        matches!(op, Op::Commit(_))
            && self.is_held(root, now)
            && self.uploading.contains_key(&root)
            && !self.leaving.contains(&root)
    }

    fn is_full(&self, now: Instant) -> bool {
        self.queue.len() >= MOST_HELD
            || self.queued_bytes >= MOST_HELD_BYTES
            || self.queue.front().is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= OLDEST)
    }

    fn few_numbers(&self) -> bool {
        self.local.numbers_left() < u64::from(FIRST_NUMBERS) / 2
    }

    /// The group's time, as far as is known; it never goes back.
    fn time(&mut self, now: Instant) -> Timestamp {
        if let Some((time, at)) = self.clock {
            self.last = self.last.max(time.after(now.saturating_duration_since(at)));
        }
        self.last
    }

    fn hold(&mut self, item: Held, weight: usize, now: Instant) {
        let bytes = 256 + bytes_of(&item.op);
        self.queued_bytes += bytes;
        self.queue.push_back(Queued { item, weight, bytes, since: now });
        self.next += 1;
    }

    /// What a change made at the server says about directories worth a lease.
    fn note(&mut self, op: &Op, outcome: &Outcome) {
        match (op, outcome) {
            (Op::Mkdir { .. }, Outcome::Created { attr: Attr { ino, kind: Kind::Directory, .. }, .. }) => {
                if self.fresh.len() == MOST_FRESH {
                    self.fresh.pop_front();
                }
                self.fresh.push_back(*ino);
            }
            _ => {
                if let Some(parent) = parent_of_new(op) {
                    self.fresh.retain(|fresh| *fresh != parent);
                }
            }
        }
    }
}

impl Shared {
    /// No chunk of the session with a lower number will be named for the first time: none that a file has, nor one of what
    /// is held back, which a file lets go of once it is in the queue, and so is looked at second.
    pub(crate) fn named_below(&self, session: &Session) -> u64 {
        let below = self.naming.below();
        let volumes = self.leases.volumes.lock();
        let held = volumes.values().filter(|leases| leases.session.client == session.client).filter_map(|leases| {
            let inner = leases.inner.lock();
            let queued = inner.queue.iter().filter_map(|queued| lowest_chunk(&queued.item, session.client));
            queued.chain(inner.in_flight_chunk).min()
        });
        held.min().unwrap_or(below).min(below)
    }
}

/// The directory in which an operation makes something new.
fn parent_of_new(op: &Op) -> Option<Ino> {
    match op {
        Op::Mkdir { parent, .. }
        | Op::Create { parent, .. }
        | Op::Mknod { parent, .. }
        | Op::Symlink { parent, .. } => Some(*parent),
        _ => None,
    }
}

/// The file that a change makes or is about.
fn file_of(item: &Held) -> Option<Ino> {
    item.new_ino.or(match &item.op {
        Op::Commit(commit) => Some(commit.ino),
        Op::Truncate { ino, .. } | Op::Setattr { ino, .. } | Op::SetXattr { ino, .. } | Op::RemoveXattr { ino, .. } => {
            Some(*ino)
        }
        _ => None,
    })
}

/// The lowest number among the chunks of a client that a change names.
fn lowest_chunk(item: &Held, client: ClientId) -> Option<u64> {
    let Op::Commit(commit) = &item.op else { return None };
    let own = commit.extents.iter().filter_map(|extent| match extent.body {
        ExtentBody::Chunk { chunk, .. } => (chunk.client == client).then_some(chunk.counter),
        _ => None,
    });
    own.min()
}

/// Bytes that an operation carries, roughly.
fn bytes_of(op: &Op) -> usize {
    match op {
        Op::Commit(commit) => commit
            .extents
            .iter()
            .map(|extent| match &extent.body {
                ExtentBody::Inline(bytes) => 32 + bytes.len(),
                _ => 64,
            })
            .sum(),
        Op::SetXattr { value, .. } => value.len(),
        Op::Symlink { target, .. } => target.len(),
        _ => 0,
    }
}
