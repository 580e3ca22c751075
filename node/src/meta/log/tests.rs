use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;
use weft_core::ids::GroupId;

use super::record::Header;
use super::{GroupLog, LogError, LogSettings, LogState, SegmentLog};
use crate::disk::{MemDisk, RealDisk};
use crate::parts::{Dice, Disk, WriteDone};

/// Different numbers, also over several lives of a log.
#[derive(Default)]
struct Counting(AtomicU64);

impl Dice for Counting {
    fn roll(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

fn small() -> LogSettings {
    LogSettings { segment_bytes: 8 << 10, cache_bytes: 2 << 10, quiet: Duration::from_millis(20) }
}

type Opened = (Arc<SegmentLog>, BTreeMap<GroupId, LogState>);

async fn open(disk: &MemDisk, dice: &Arc<Counting>) -> Result<Opened, LogError> {
    SegmentLog::open_with(Arc::new(disk.clone()), Path::new("log"), dice.clone(), small()).await
}

fn done() -> (WriteDone, oneshot::Receiver<io::Result<()>>) {
    let (sent, wait) = oneshot::channel();
    (Box::new(move |result| drop(sent.send(result))), wait)
}

async fn append(group: &GroupLog, indexes: std::ops::Range<u64>, len: usize) {
    let (done, wait) = done();
    group.append(indexes.map(|index| (index, payload(index, len))).collect(), done);
    wait.await.unwrap().unwrap();
}

async fn purge(group: &GroupLog, index: u64) {
    let (done, wait) = done();
    group.purge_upto(index, Bytes::from(format!("purged {index}")), done);
    wait.await.unwrap().unwrap();
}

async fn vote(group: &GroupLog, vote: &'static str) {
    let (done, wait) = done();
    group.save_vote(Bytes::from(vote), done);
    wait.await.unwrap().unwrap();
}

fn payload(index: u64, len: usize) -> Bytes {
    Bytes::from(vec![index as u8; len])
}

async fn indexes(group: &GroupLog) -> Vec<u64> {
    group.read(0..u64::MAX, usize::MAX).await.unwrap().into_iter().map(|(index, _)| index).collect()
}

/// The newest segment with records: the one with the highest number that is not the spare.
async fn newest(disk: &MemDisk) -> PathBuf {
    let names = disk.list(Path::new("log")).await.unwrap();
    let begun = |name: &&String| {
        let bytes = disk.bytes(&Path::new("log").join(name));
        name.starts_with("segment")
            && Header::decode(&bytes).is_some_and(|header| bytes[4096..4100] == header.salt.to_be_bytes()[4..])
    };
    Path::new("log").join(names.iter().rfind(begun).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_is_there_after_a_start() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, groups) = open(&disk, &dice).await.unwrap();
    assert!(groups.is_empty());
    let (one, two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    append(&one, 0..10, 100).await;
    append(&two, 5..8, 3000).await;
    vote(&one, "mine").await;
    purge(&one, 3).await;
    let (sent, wait) = done();
    one.truncate_after(Some(8), sent);
    wait.await.unwrap().unwrap();
    let expected = LogState {
        first: Some(4),
        last: Some(8),
        vote: Some(Bytes::from("mine")),
        purge: Some((3, Bytes::from("purged 3"))),
    };
    assert_eq!(one.state(), expected);
    drop((log, one, two));
    disk.crash(1);
    let (log, groups) = open(&disk, &dice).await.unwrap();
    assert_eq!(groups[&GroupId(1)], expected);
    assert_eq!(indexes(&log.group(GroupId(1))).await, [4, 5, 6, 7, 8]);
    assert_eq!(log.group(GroupId(1)).read(6..7, 1).await.unwrap(), [(6, payload(6, 100))]);
    let read = log.group(GroupId(2)).read(0..100, 5000).await.unwrap();
    assert_eq!(read, [(5, payload(5, 3000))], "6000 bytes are too many");
    append(&log.group(GroupId(1)), 9..10, 1).await;
    let (sent, wait) = done();
    log.group(GroupId(1)).append(vec![(11, Bytes::new())], sent);
    assert_eq!(wait.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let (sent, wait) = done();
    log.group(GroupId(1)).append(vec![(10, Bytes::from(vec![0; 9000]))], sent);
    assert_eq!(wait.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(indexes(&log.group(GroupId(1))).await, [4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn segments_are_used_again_and_a_quiet_group_is_carried_along() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    let (busy, quiet) = (log.group(GroupId(1)), log.group(GroupId(9)));
    append(&quiet, 0..5, 50).await;
    purge(&quiet, 1).await;
    vote(&quiet, "kept").await;
    for index in 0..2000 {
        append(&busy, index..index + 1, 200).await;
        if index % 10 == 9 {
            purge(&busy, index - 3).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let names = disk.list(Path::new("log")).await.unwrap();
    assert!(names.len() <= 7, "480 KiB went through segments of 8 KiB, and these are left: {names:?}");
    assert_eq!(indexes(&quiet).await, [2, 3, 4]);
    drop((log, busy, quiet));
    disk.crash(7);
    let (log, groups) = open(&disk, &dice).await.unwrap();
    assert_eq!(groups[&GroupId(9)].vote, Some(Bytes::from("kept")));
    assert_eq!(groups[&GroupId(9)].purge, Some((1, Bytes::from("purged 1"))));
    let entries = log.group(GroupId(9)).read(0..10, usize::MAX).await.unwrap();
    assert_eq!(entries, (2..5).map(|index| (index, payload(index, 50))).collect::<Vec<_>>());
    assert_eq!(indexes(&log.group(GroupId(1))).await, [1997, 1998, 1999]);
}

#[tokio::test(start_paused = true)]
async fn a_torn_end_is_cut_and_stays_cut() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    for seed in 0..40 {
        let (log, _) = open(&disk, &dice).await.unwrap();
        let group = log.group(GroupId(1));
        let next = group.state().last.map_or(0, |last| last + 1);
        append(&group, next..next + 2, 300).await;
        disk.hold(true);
        for index in next + 2..next + 6 {
            // Never answered: any part of them may be there after the crash.
            group.append(vec![(index, payload(index, 300))], done().0);
        }
        drop((log, group));
        disk.crash(seed);
        let (log, _) = open(&disk, &dice).await.unwrap();
        let found = indexes(&log.group(GroupId(1))).await;
        let last = *found.last().unwrap();
        assert!((next + 1..next + 6).contains(&last), "acknowledged {}, found {found:?}", next + 1);
        drop(log);
        disk.crash(seed);
        let (log, _) = open(&disk, &dice).await.unwrap();
        assert_eq!(indexes(&log.group(GroupId(1))).await, found, "seed {seed}");
        purge(&log.group(GroupId(1)), last.saturating_sub(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn damage_before_the_mark_is_an_error_that_says_where() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    let group = log.group(GroupId(1));
    append(&group, 0..3, 100).await;
    append(&group, 3..4, 100).await;
    let path = newest(&disk).await;
    drop((log, group));
    disk.crash(1);
    // Behind the header, the first record is 48 bytes; the first entry's record 144.
    for offset in [4096, 4096 + 48, 4096 + 48 + 3 * 144 - 50] {
        disk.rot(&path, offset, 0x10);
        let Err(LogError::Damaged { segment, offset: found, .. }) = open(&disk, &dice).await else {
            panic!("rot at {offset} goes unnoticed")
        };
        assert_eq!(segment, path.display().to_string());
        assert!(found <= offset as u64 && found + 144 > offset as u64 || offset == 4096, "{found} for {offset}");
        disk.rot(&path, offset, 0x10);
    }
    disk.rot(&path, 20, 1);
    assert!(matches!(open(&disk, &dice).await, Err(LogError::Damaged { .. })), "a lost header");
    disk.rot(&path, 20, 1);
    let (log, _) = open(&disk, &dice).await.unwrap();
    assert_eq!(indexes(&log.group(GroupId(1))).await, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_log_marks_its_last_records_too() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    append(&log.group(GroupId(1)), 0..1, 100).await;
    let path = newest(&disk).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = disk.bytes(&path);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(before, disk.bytes(&path), "once is enough");
    drop(log);
    disk.crash(1);
    disk.rot(&path, 4096 + 48 + 60, 1);
    assert!(matches!(open(&disk, &dice).await, Err(LogError::Damaged { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_missing_segment_is_damage() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    append(&log.group(GroupId(1)), 0..80, 300).await;
    assert!(log.status().segments > 3);
    drop(log);
    let names = disk.list(Path::new("log")).await.unwrap();
    disk.remove(&Path::new("log").join(&names[1])).await.unwrap();
    assert!(matches!(open(&disk, &dice).await, Err(LogError::Damaged { .. })));
}

#[tokio::test(start_paused = true)]
async fn rot_under_an_open_log_is_found_when_read() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    let path = newest(&disk).await;
    append(&log.group(GroupId(1)), 0..100, 300).await;
    disk.rot(&path, 4096 + 48 + 60, 1);
    let read = log.group(GroupId(1)).read(0..100, usize::MAX).await;
    assert!(matches!(read, Err(LogError::Damaged { offset: 4144, .. })), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_write_nothing_more_is_taken() {
    let (disk, dice) = (MemDisk::new(), Arc::default());
    let (log, _) = open(&disk, &dice).await.unwrap();
    let group = log.group(GroupId(1));
    append(&group, 0..1, 10).await;
    disk.fail_writes(Some(io::ErrorKind::StorageFull));
    let (sent, wait) = done();
    group.append(vec![(1, payload(1, 10))], sent);
    assert_eq!(wait.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.fail_writes(None);
    let (sent, wait) = done();
    group.append(vec![(2, payload(2, 10))], sent);
    assert_eq!(wait.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    drop((log, group));
    disk.crash(0);
    let (log, _) = open(&disk, &dice).await.unwrap();
    assert_eq!(indexes(&log.group(GroupId(1))).await, [0]);
}

#[tokio::test]
async fn many_appenders_on_the_real_disk_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(folder.path()).unwrap());
    let settings = LogSettings { segment_bytes: 64 << 10, cache_bytes: 16 << 10, ..LogSettings::default() };
    let dice = Arc::new(Counting::default());
    let (log, _) = SegmentLog::open_with(disk(), Path::new("log"), dice.clone(), settings).await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(BTreeMap::<u32, Vec<u64>>::new()));
    let mut waits = Vec::new();
    for index in 0..500 {
        for id in 0..4 {
            let (sent, order) = (done(), order.clone());
            log.group(GroupId(id)).append(
                vec![(index, payload(index, 100))],
                Box::new(move |result| {
                    order.lock().entry(id).or_default().push(index);
                    sent.0(result);
                }),
            );
            waits.push(sent.1);
        }
    }
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    for answered in order.lock().values() {
        assert_eq!(*answered, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(indexes(&log.group(GroupId(3))).await, (0..500).collect::<Vec<_>>());
    log.flush().await.unwrap();
    drop(log);
    // The upkeep may hold the old log for a moment; its files are the same.
    let (log, groups) = SegmentLog::open_with(disk(), Path::new("log"), dice, settings).await.unwrap();
    assert_eq!(groups.len(), 4);
    let entries = log.group(GroupId(2)).read(0..500, usize::MAX).await.unwrap();
    assert_eq!(entries, (0..500).map(|index| (index, payload(index, 100))).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Act {
    Append {
        group: u32,
        count: u64,
        len: usize,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    Purge {
        group: u32,
        ahead: u64,
    },
    Vote {
        group: u32,
        vote: u8,
    },
    Erase {
        group: u32,
    },
    Hold,
    Release(usize),
    /// Lets the upkeep work.
    Rest,
    Flush,
    Crash {
        seed: u64,
    },
    Check,
}

fn acts() -> impl Strategy<Value = Act> {
    let group = 0..3u32;
    prop_oneof![
        12 => (group.clone(), 1..6u64, prop_oneof![Just(0), 1..60usize, 200..900usize])
            .prop_map(|(group, count, len)| Act::Append { group, count, len }),
        2 => (group.clone(), 0..5u64).prop_map(|(group, back)| Act::Truncate { group, back }),
        4 => (group.clone(), 0..12u64).prop_map(|(group, ahead)| Act::Purge { group, ahead }),
        2 => (group.clone(), any::<u8>()).prop_map(|(group, vote)| Act::Vote { group, vote }),
        1 => group.prop_map(|group| Act::Erase { group }),
        2 => Just(Act::Hold),
        4 => (1..6usize).prop_map(Act::Release),
        3 => Just(Act::Rest),
        2 => Just(Act::Flush),
        2 => any::<u64>().prop_map(|seed| Act::Crash { seed }),
        2 => Just(Act::Check),
    ]
}

/// What a log should hold: the slow, obvious way.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(BTreeMap<u32, ModelGroup>);

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelGroup {
    vote: Option<Bytes>,
    purge: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Bytes>,
}

impl ModelGroup {
    fn next(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(index, _)| *index);
        last.or(self.purge.as_ref().map(|(index, _)| *index)).map_or(0, |index| index + 1)
    }
}

async fn content(log: &SegmentLog) -> Model {
    let mut model = Model::default();
    for id in 0..3 {
        let group = log.group(GroupId(id));
        let state = group.state();
        let entries: BTreeMap<_, _> = group.read(0..u64::MAX, usize::MAX).await.unwrap().into_iter().collect();
        assert_eq!(state.first, entries.first_key_value().map(|(index, _)| *index));
        assert_eq!(state.last, entries.last_key_value().map(|(index, _)| *index));
        let found = ModelGroup { vote: state.vote, purge: state.purge, entries };
        if found != ModelGroup::default() {
            model.0.insert(id, found);
        }
    }
    model
}

/// One life of the log and what it should hold after each record.
struct Life {
    log: Arc<SegmentLog>,
    /// The state after each record; the last one is now.
    history: Vec<Model>,
    /// How much of the history was acknowledged.
    acked: Arc<AtomicU64>,
    content: u64,
}

impl Life {
    fn change(&mut self, group: u32, change: impl FnOnce(&mut ModelGroup)) {
        let mut now = self.history.last().unwrap().clone();
        let found = now.0.entry(group).or_default();
        change(found);
        if *found == ModelGroup::default() {
            now.0.remove(&group);
        }
        self.history.push(now);
    }

    fn done(&self) -> WriteDone {
        let (acked, at) = (self.acked.clone(), self.history.len() as u64 - 1);
        Box::new(move |result| {
            result.unwrap();
            let before = acked.fetch_max(at, Ordering::Relaxed);
            assert!(before <= at, "answers come in order");
        })
    }

    fn group_now(&self, group: u32) -> ModelGroup {
        self.history.last().unwrap().0.get(&group).cloned().unwrap_or_default()
    }

    async fn act(&mut self, act: &Act, disk: &MemDisk) {
        match *act {
            Act::Append { group, count, len } => {
                let next = self.group_now(group).next();
                let mut entries = Vec::new();
                for index in next..next + count {
                    self.content += 1;
                    let mut bytes = vec![self.content as u8; len];
                    bytes.extend(self.content.to_be_bytes());
                    let bytes = Bytes::from(bytes);
                    entries.push((index, bytes.clone()));
                    self.change(group, |group| drop(group.entries.insert(index, bytes)));
                }
                self.log.group(GroupId(group)).append(entries, self.done());
            }
            Act::Truncate { group, back } => {
                let found = self.group_now(group);
                let keep = found.next().checked_sub(1 + back);
                // Raft never removes what is purged.
                let floor = found.purge.as_ref().map(|(index, _)| *index);
                let keep = keep.max(floor);
                self.change(group, |group| drop(group.entries.split_off(&keep.map_or(0, |keep| keep + 1))));
                self.log.group(GroupId(group)).truncate_after(keep, self.done());
            }
            Act::Purge { group, ahead } => {
                let found = self.group_now(group);
                let first = found.entries.first_key_value().map_or(found.next(), |(index, _)| *index);
                let (index, marker) = (first + ahead, Bytes::from(format!("marker {ahead}")));
                self.change(group, |group| {
                    group.entries = group.entries.split_off(&(index + 1));
                    group.purge = Some((index, marker.clone()));
                });
                self.log.group(GroupId(group)).purge_upto(index, marker, self.done());
            }
            Act::Vote { group, vote } => {
                let vote = Bytes::from(vec![vote; 9]);
                self.change(group, |group| group.vote = Some(vote.clone()));
                self.log.group(GroupId(group)).save_vote(vote, self.done());
            }
            Act::Erase { group } => {
                self.change(group, |group| *group = ModelGroup::default());
                self.log.group(GroupId(group)).erase(self.done());
            }
            Act::Hold => disk.hold(true),
            Act::Release(count) => {
                for _ in 0..count {
                    disk.release();
                    tokio::task::yield_now().await;
                }
            }
            Act::Rest => tokio::time::sleep(Duration::from_millis(50)).await,
            Act::Flush => {
                disk.hold(false);
                self.log.flush().await.unwrap();
                assert_eq!(self.acked.load(Ordering::Relaxed), self.history.len() as u64 - 1);
            }
            Act::Check => assert_eq!(content(&self.log).await, *self.history.last().unwrap()),
            Act::Crash { .. } => {}
        }
    }
}

fn run(acts: &[Act]) {
    let (disk, dice) = (MemDisk::new(), Arc::new(Counting::default()));
    let mut acts = acts.iter();
    let mut history = vec![Model::default()];
    let mut acked = 0;
    let mut written = 0;
    loop {
        // A runtime per life: with it go the tasks of the life before.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let crash = runtime.block_on(async {
            let (log, _) = open(&disk, &dice).await.unwrap();
            let found = content(&log).await;
            let possible = &history[acked..];
            assert!(
                possible.contains(&found),
                "acknowledged {acked} of {}: found {found:#?}, acknowledged {:#?}",
                history.len(),
                possible[0]
            );
            let mut life = Life { log, history: vec![found], acked: Arc::default(), content: written };
            for act in acts.by_ref() {
                if let Act::Crash { seed } = act {
                    acked = life.acked.load(Ordering::Relaxed) as usize;
                    history = std::mem::take(&mut life.history);
                    written = life.content;
                    return Some(*seed);
                }
                life.act(act, &disk).await;
                tokio::task::yield_now().await;
            }
            None
        });
        drop(runtime);
        let Some(seed) = crash else { return };
        disk.crash(seed);
    }
}

/// Bits flip at some places of a log that is closed in order: it is opened with everything in it, or not at all.
fn rot(acts: &[Act], flips: &[(u64, u8)]) -> bool {
    let (disk, dice) = (MemDisk::new(), Arc::new(Counting::default()));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let expected = runtime().block_on(async {
        let (log, _) = open(&disk, &dice).await.unwrap();
        let mut life = Life { log, history: vec![Model::default()], acked: Arc::default(), content: 0 };
        for act in acts.iter().filter(|act| !matches!(act, Act::Crash { .. })).chain([&Act::Flush]) {
            life.act(act, &disk).await;
            tokio::task::yield_now().await;
        }
        life.history.pop().unwrap()
    });
    disk.crash(1);
    runtime().block_on(async {
        let names = disk.list(Path::new("log")).await.unwrap();
        for (roll, mask) in flips {
            // Mostly where something was written.
            let path = Path::new("log").join(&names[*roll as usize % names.len()]);
            let bytes = disk.bytes(&path);
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
            disk.rot(&path, (roll >> 8) as usize % end, *mask);
        }
        match open(&disk, &dice).await {
            Ok((log, _)) => {
                assert_eq!(content(&log).await, expected, "damage went unnoticed");
                false
            }
            Err(LogError::Damaged { .. }) => true,
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn most_flipped_bits_are_noticed() {
    let acts: Vec<Act> = (0..60).map(|n| Act::Append { group: n % 3, count: 3, len: 300 }).collect();
    let noticed = (0..100u64).filter(|n| rot(&acts, &[(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), 1)])).count();
    // The others hit what nobody needs any more.
    assert!(noticed > 30, "{noticed} of 100");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_holds_what_was_acknowledged_over_any_crashes(acts in prop::collection::vec(acts(), 1..120)) {
        run(&acts);
    }

    #[test]
    fn no_flipped_bit_takes_anything_from_a_log_unnoticed(
        acts in prop::collection::vec(acts(), 1..60),
        flips in prop::collection::vec((any::<u64>(), 1..=255u8), 1..4),
    ) {
        rot(&acts, &flips);
    }
}
