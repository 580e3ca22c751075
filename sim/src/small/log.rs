//! The log of a node alone, on a simulated disk that crashes again and again: several groups append, vote, truncate and
//! purge, segments are tiny so that each is soon used again, and power is cut while writes are on their way.
//!
//! Judged by one law: after a start the log holds all that was acknowledged, in order, and of what was not a front part.
//! No disk fails here: the whole simulation does that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_core::ids::GroupId;
use weft_node::meta::log::{LogError, LogSettings, SegmentLog};
use weft_node::parts::{Dice, WriteDone};

use super::{Tally, broken};
use crate::disk::{Habits, SimDisk};
use crate::run::Violation;

const LAW: &str = "the log holds what it acknowledged";
const FOLDER: &str = "log";
const GROUPS: u32 = 3;
/// Lives of the log under one seed.
const LIVES: usize = 40;

const SEGMENT: u32 = 8 << 10;
/// Bytes on their way at the most: more than several segments hold, so that a crash may take the first record of a segment
/// and leave that of the next one.
const UNDER_WAY: usize = 80 << 10;

/// Seeded dice.
struct Rolls(Mutex<SmallRng>);

impl Dice for Rolls {
    fn roll(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

/// What one group has in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    vote: Option<Bytes>,
    purge: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Bytes>,
}

impl Part {
    fn next(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purge.as_ref().map(|(index, _)| *index)).map_or(0, |index| index + 1)
    }
}

/// The whole log, by group.
type Content = BTreeMap<u32, Part>;

/// One life of the log, and what it should hold after each record.
struct Life<'a> {
    rng: &'a mut SmallRng,
    tally: &'a mut Tally,
    log: Arc<SegmentLog>,
    /// The last is now.
    history: Vec<Content>,
    /// How far the history was acknowledged.
    acked: Arc<AtomicUsize>,
    /// Number of the next payload, so that no two are the same.
    written: &'a mut u64,
    /// Bytes of payload since all was acknowledged.
    under_way: usize,
}

/// Runs one seed.
pub(super) fn run(seed: u64, tally: &mut Tally) -> Result<(), Violation> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x106);
    let disk = SimDisk::new(rng.random(), Habits::default());
    let dice = Arc::new(Rolls(Mutex::new(SmallRng::seed_from_u64(rng.random()))));
    let settings = LogSettings { segment_bytes: SEGMENT, cache_bytes: 2 << 10, quiet: Duration::from_millis(20) };
    let mut history = vec![Content::new()];
    let (mut acked, mut written) = (0, 0);
    for life in 0..LIVES {
        // A runtime per life: with it go the tasks of the life before.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|error| broken("the simulator works", error.to_string()))?;
        (history, acked) = runtime.block_on(async {
            let opened = SegmentLog::open_with(Arc::new(disk.clone()), Path::new(FOLDER), dice.clone(), settings);
            let (log, _) = opened.await.map_err(damaged)?;
            let found = content(&log).await.map_err(damaged)?;
            if !history[acked..].contains(&found) {
                let due = &history[acked];
                let what = format!("start {life}: found {}, acknowledged {}", sum_up(&found), sum_up(due));
                return Err(broken(LAW, what));
            }
            tally.fold(format!("{found:?}").as_bytes());
            let (history, acked, written) = (vec![found], Arc::default(), &mut written);
            let mut life = Life { rng: &mut rng, tally: &mut *tally, log, history, acked, written, under_way: 0 };
            for _ in 0..life.rng.random_range(0..60) {
                life.act().await?;
            }
            let acked = life.acked.load(Ordering::Relaxed);
            Ok((life.history, acked))
        })?;
        drop(runtime);
        tally.count("log_crashes");
        disk.crash();
    }
    Ok(())
}

impl Life<'_> {
    async fn act(&mut self) -> Result<(), Violation> {
        self.tally.steps += 1;
        let group = self.rng.random_range(0..GROUPS);
        match self.rng.random_range(0..100u32) {
            0..=49 => self.append(group),
            50..=56 => self.truncate(group),
            57..=66 => self.purge(group),
            67..=73 => {
                let vote = self.payload(9);
                self.change(group, |part| part.vote = Some(vote.clone()));
                self.log.group(GroupId(group)).save_vote(vote, self.done());
            }
            74 => {
                self.change(group, |part| *part = Part::default());
                self.log.group(GroupId(group)).erase(self.done());
            }
            // Time for a flush or two, or until the log falls quiet.
            75..=98 => tokio::time::sleep(Duration::from_micros(self.rng.random_range(10..6000))).await,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        tokio::task::yield_now().await;
        while self.under_way > UNDER_WAY {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.acked.load(Ordering::Relaxed) + 1 == self.history.len() || self.log.status().broken {
                self.under_way = 0;
            }
        }
        if self.log.status().broken {
            return Err(broken(LAW, "the log gave up on a sound disk"));
        }
        Ok(())
    }

    fn now(&self, group: u32) -> Part {
        self.history.last().and_then(|now| now.get(&group)).cloned().unwrap_or_default()
    }

    fn change(&mut self, group: u32, change: impl FnOnce(&mut Part)) {
        let mut now = self.history.last().cloned().unwrap_or_default();
        let part = now.entry(group).or_default();
        change(part);
        if *part == Part::default() {
            now.remove(&group);
        }
        self.history.push(now);
    }

    /// Called when the newest record, and all before, are acknowledged.
    fn done(&self) -> WriteDone {
        let (acked, at) = (self.acked.clone(), self.history.len() - 1);
        // A failed write breaks the log, which is looked at.
        Box::new(move |result| drop(result.map(|()| acked.fetch_max(at, Ordering::Relaxed))))
    }

    fn payload(&mut self, len: usize) -> Bytes {
        *self.written += 1;
        let mut bytes = vec![*self.written as u8; len];
        bytes.extend(self.written.to_be_bytes());
        self.under_way += bytes.len();
        bytes.into()
    }

    fn append(&mut self, group: u32) {
        let next = self.now(group).next();
        let longest = if self.rng.random_bool(0.2) { 3000 } else { 300 };
        let mut entries = Vec::new();
        for index in next..next + self.rng.random_range(1..4) {
            let len = self.rng.random_range(0..longest);
            let payload = self.payload(len);
            entries.push((index, payload.clone()));
            self.change(group, |part| drop(part.entries.insert(index, payload)));
        }
        self.log.group(GroupId(group)).append(entries, self.done());
    }

    fn truncate(&mut self, group: u32) {
        let part = self.now(group);
        // Raft never removes what is purged.
        let floor = part.purge.as_ref().map(|(index, _)| *index);
        let keep = part.next().checked_sub(1 + self.rng.random_range(0..4)).max(floor);
        self.change(group, |part| drop(part.entries.split_off(&keep.map_or(0, |keep| keep + 1))));
        self.log.group(GroupId(group)).truncate_after(keep, self.done());
    }

    fn purge(&mut self, group: u32) {
        let part = self.now(group);
        let first = part.entries.first_key_value().map_or(part.next(), |(index, _)| *index);
        let (index, marker) = (first + self.rng.random_range(0..6), self.payload(20));
        self.change(group, |part| {
            part.entries = part.entries.split_off(&(index + 1));
            part.purge = Some((index, marker.clone()));
        });
        self.log.group(GroupId(group)).purge_upto(index, marker, self.done());
    }
}

async fn content(log: &SegmentLog) -> Result<Content, LogError> {
    let mut content = Content::new();
    for id in 0..GROUPS {
        let group = log.group(GroupId(id));
        let state = group.state();
        let entries = group.read(0..u64::MAX, usize::MAX).await?.into_iter().collect();
        let part = Part { vote: state.vote, purge: state.purge, entries };
        if part != Part::default() {
            content.insert(id, part);
        }
    }
    Ok(content)
}

fn damaged(error: LogError) -> Violation {
    broken(LAW, error.to_string())
}

/// A log in a few words.
fn sum_up(content: &Content) -> String {
    let part = |(group, part): (&u32, &Part)| {
        let (first, last) = (part.entries.first_key_value(), part.entries.last_key_value());
        let (first, last) = (first.map(|(index, _)| index), last.map(|(index, _)| index));
        format!("group {group}: entries {first:?} to {last:?}, purged {:?}", part.purge.as_ref().map(|(at, _)| at))
    };
    content.iter().map(part).collect::<Vec<_>>().join(", ")
}
