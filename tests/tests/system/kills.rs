//! Nodes are killed, stopped and robbed of their folders at random, while some writers append numbered records with
//! fsync and others make, rename and remove files. Nothing that was acknowledged may be missing or torn, and no call on
//! the mount may fail.
//!
//! A few rounds run with every change, one of each kind. The full length:
//! `WEFT_ROUNDS=50 WEFT_LONGEST_WAIT_S=10 cargo test --release -p weft-tests --test system kills`. `WEFT_SEED` chooses
//! other faults than the usual ones.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_tests::{Fabric, say, wait_for};

const APPENDERS: u64 = 4;
const NAMERS: u64 = 4;
/// Bytes of a record.
const RECORD: usize = 64;
/// Time for the workers between two faults.
const WORK: Duration = Duration::from_secs(2);

/// What all workers share with the one who breaks things.
#[derive(Default)]
struct Shared {
    /// Rises when every worker shall look through what it has; `u64::MAX` ends them.
    round: AtomicU64,
    /// Longest call of any worker in this round, in milliseconds.
    longest_ms: AtomicU64,
}

impl Shared {
    /// Does one call on the mount and takes the time.
    fn timed<T>(&self, what: &str, path: &Path, call: impl FnOnce() -> std::io::Result<T>) -> T {
        let began = Instant::now();
        let result = call();
        let took = began.elapsed();
        self.longest_ms.fetch_max(took.as_millis() as u64, Ordering::Relaxed);
        result.unwrap_or_else(|error| panic!("{what} {} after {took:?}: {error}", path.display()))
    }

    fn ended(&self) -> bool {
        self.round.load(Ordering::Acquire) == u64::MAX
    }
}

/// Gives this thread a table of open files of its own. A process that is started closes those of whoever starts it, and
/// closing a file of a mount waits for the nodes: those that are being started.
fn own_files() {
    // SAFETY: it touches no memory, and no file that this thread has open is used by another.
    let result = unsafe { libc::unshare(libc::CLONE_FILES) };
    assert_eq!(result, 0, "unshare the open files: {}", std::io::Error::last_os_error());
}

fn record(writer: u64, n: u64) -> Vec<u8> {
    let mut text = format!("writer {writer} record {n:012} {:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ writer);
    text.extend(std::iter::repeat_n('.', RECORD - 1 - text.len()));
    text.push('\n');
    text.into_bytes()
}

/// Appends records, each synced before the next; `acked` counts those.
fn append(shared: &Shared, path: &Path, writer: u64, acked: &AtomicU64) {
    let open = || OpenOptions::new().append(true).create(true).open(path);
    own_files();
    let mut file = shared.timed("open", path, open);
    for n in 0.. {
        if shared.ended() {
            return;
        }
        shared.timed("append to", path, || file.write_all(&record(writer, n)));
        shared.timed("sync", path, || file.sync_data());
        acked.store(n + 1, Ordering::Release);
        if n % 97 == 0 {
            file = shared.timed("open again", path, open);
        }
    }
}

/// All records that were acknowledged are in the file, each in its place, and none is torn.
fn check_records(path: &Path, writer: u64, acked: u64) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    assert!(bytes.len() >= acked as usize * RECORD, "{}: {} bytes, {acked} acknowledged", path.display(), bytes.len());
    for (n, found) in bytes.chunks(RECORD).enumerate() {
        let expected = record(writer, n as u64);
        assert!(expected[..found.len()] == *found, "{}: record {n} of {acked} is damaged", path.display());
    }
}

/// Makes, writes over, renames and removes files in a folder of its own, and looks through it when asked to.
fn change_names(shared: &Shared, folder: &Path, worker: u64, looked: &AtomicU64) {
    own_files();
    let mut rng = SmallRng::seed_from_u64(worker);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let pick = |rng: &mut SmallRng, files: &BTreeMap<String, Vec<u8>>| {
        files.keys().nth(rng.random_range(0..files.len().max(1))).cloned()
    };
    for n in 0u64.. {
        let round = shared.round.load(Ordering::Acquire);
        if looked.load(Ordering::Acquire) != round {
            check_names(shared, folder, &files);
            looked.store(round, Ordering::Release);
        }
        if round == u64::MAX {
            return;
        }
        let fresh = format!("{worker}-{n}");
        let path = folder.join(&fresh);
        match rng.random_range(0..10) {
            0..5 => {
                let len = [0, 10, 4000, 20_000, 200_000][rng.random_range(0..5)];
                let content = vec![rng.random::<u8>(); len];
                shared.timed("write", &path, || fs::write(&path, &content));
                files.insert(fresh, content);
            }
            5..7 => {
                let Some(old) = pick(&mut rng, &files) else { continue };
                let target = if rng.random_bool(0.5) { fresh } else { pick(&mut rng, &files).unwrap_or(fresh) };
                shared.timed("rename", &folder.join(&old), || fs::rename(folder.join(&old), folder.join(&target)));
                let content = files.remove(&old).unwrap_or_default();
                files.insert(target, content);
            }
            7 => {
                let Some(old) = pick(&mut rng, &files) else { continue };
                let path = folder.join(&old);
                let mut file = shared.timed("open", &path, || OpenOptions::new().write(true).open(&path));
                let at = rng.random_range(0..5000u64);
                let bytes = vec![n as u8; 3000];
                let write = |file: &mut File| {
                    file.seek(SeekFrom::Start(at))?;
                    file.write_all(&bytes)?;
                    file.sync_all()
                };
                shared.timed("write into", &path, || write(&mut file));
                let content = files.entry(old).or_default();
                content.resize(content.len().max(at as usize + bytes.len()), 0);
                content[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
            }
            _ => {
                let Some(old) = pick(&mut rng, &files) else { continue };
                shared.timed("remove", &folder.join(&old), || fs::remove_file(folder.join(&old)));
                files.remove(&old);
            }
        }
    }
}

fn check_names(shared: &Shared, folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let entries = shared.timed("list", folder, || fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>());
    let mut found: Vec<String> =
        entries.into_iter().map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    found.sort();
    assert!(found.iter().eq(files.keys()), "{}: {found:?} instead of {:?}", folder.display(), files.keys());
    for (name, content) in files {
        let path = folder.join(name);
        let bytes = shared.timed("read", &path, || fs::read(&path));
        assert!(bytes == *content, "{}: {} bytes differ from {}", path.display(), bytes.len(), content.len());
    }
}

/// What is done to the nodes in one round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`, and a start a moment later.
    Kill,
    /// All of them at once.
    KillAll,
    /// SIGSTOP, and SIGCONT a moment later.
    Stop,
    /// Killed, its folder gone, joined again as if it were new.
    Wipe,
}

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::KillAll, Fault::Stop, Fault::Wipe];

/// The node that leads a group: the one whose death is noticed most.
fn leader(fabric: &Fabric, rng: &mut SmallRng) -> usize {
    let status = fabric.status();
    let groups = status.as_ref().and_then(|status| status["groups"].as_array());
    let leaders: Vec<u64> = groups.into_iter().flatten().filter_map(|group| group["leader"].as_u64()).collect();
    match leaders.is_empty() {
        true => rng.random_range(0..fabric.nodes.len()),
        false => leaders[rng.random_range(0..leaders.len())] as usize - 1,
    }
}

fn strike(fabric: &mut Fabric, rng: &mut SmallRng, fault: Fault) {
    let any = rng.random_range(0..fabric.nodes.len());
    let victim = if rng.random_bool(0.5) { leader(fabric, rng) } else { any };
    say(&format!("{fault:?} node {}", victim + 1));
    let pause = Duration::from_millis(rng.random_range(0..6000));
    match fault {
        Fault::Kill => {
            fabric.nodes[victim].kill();
            std::thread::sleep(pause);
            fabric.nodes[victim].start();
        }
        Fault::KillAll => {
            fabric.nodes.iter_mut().for_each(|node| node.kill());
            std::thread::sleep(pause / 4);
            fabric.nodes.iter_mut().for_each(|node| node.start());
        }
        Fault::Stop => {
            fabric.nodes[victim].signal(libc::SIGSTOP);
            std::thread::sleep(pause);
            fabric.nodes[victim].signal(libc::SIGCONT);
        }
        Fault::Wipe => {
            // What the others lack would be lost with it.
            fabric.wait_whole();
            fabric.wipe(victim);
        }
    }
}

/// A worker ends with a panic if anything is not as promised.
fn finish(workers: Vec<JoinHandle<()>>, shared: &Shared) {
    shared.round.store(u64::MAX, Ordering::Release);
    for worker in workers {
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn kills_without_end_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let rounds = number("WEFT_ROUNDS").unwrap_or(FAULTS.len() as u64);
    let longest = number("WEFT_LONGEST_WAIT_S").map(Duration::from_secs);
    let mut rng = SmallRng::seed_from_u64(number("WEFT_SEED").unwrap_or(1));
    let mut fabric = Fabric::start(3);
    // One works, the other looks: what it sees, it was told by the nodes.
    let (mut mount, mut other) = (fabric.mount(), fabric.mount());
    let shared = Arc::new(Shared::default());
    let logs: Vec<(PathBuf, Arc<AtomicU64>)> =
        (0..APPENDERS).map(|n| (PathBuf::from(format!("log{n}")), Arc::default())).collect();
    let mut workers = Vec::new();
    for (writer, (name, acked)) in logs.iter().enumerate() {
        let (shared, path, acked) = (shared.clone(), mount.path.join(name), acked.clone());
        workers.push(std::thread::spawn(move || append(&shared, &path, writer as u64, &acked)));
    }
    let looked: Vec<Arc<AtomicU64>> = (0..NAMERS).map(|_| Arc::default()).collect();
    for (n, looked) in looked.iter().enumerate() {
        let folder = mount.path.join(format!("names{n}"));
        fs::create_dir(&folder).expect("make a folder");
        if n % 2 == 0 {
            // Wanted by the other mount, it is no longer under the write lease of the first.
            assert_eq!(fs::read_dir(other.path.join(format!("names{n}"))).expect("list").count(), 0);
        }
        let (shared, looked) = (shared.clone(), looked.clone());
        workers.push(std::thread::spawn(move || change_names(&shared, &folder, n as u64, &looked)));
    }

    for round in 1..=rounds {
        let fault = match round {
            // Each kind once, then as they come.
            round if round <= FAULTS.len() as u64 => FAULTS[round as usize - 1],
            _ => FAULTS[rng.random_range(0..FAULTS.len())],
        };
        std::thread::sleep(WORK);
        strike(&mut fabric, &mut rng, fault);
        std::thread::sleep(WORK);
        fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches");
        for (writer, (name, acked)) in logs.iter().enumerate() {
            check_records(&other.path.join(name), writer as u64, acked.load(Ordering::Acquire));
        }
        shared.round.store(round, Ordering::Release);
        wait_for("all workers to look through their files", || {
            let alive = workers.iter().all(|worker| !worker.is_finished());
            !alive || looked.iter().all(|looked| looked.load(Ordering::Acquire) == round)
        });
        let waited = Duration::from_millis(shared.longest_ms.swap(0, Ordering::Relaxed));
        let records: u64 = logs.iter().map(|(_, acked)| acked.load(Ordering::Relaxed)).sum();
        say(&format!("round {round} of {rounds}: {records} records, longest call {waited:?}"));
        if workers.iter().any(JoinHandle::is_finished) {
            break;
        }
        assert!(longest.is_none_or(|longest| waited <= longest), "a call took {waited:?} in round {round}");
    }
    finish(workers, &shared);
    fabric.wait_whole();
    for (writer, (name, acked)) in logs.iter().enumerate() {
        let acked = acked.load(Ordering::Acquire);
        assert!(acked > 0, "{} was never written", name.display());
        check_records(&other.path.join(name), writer as u64, acked);
    }
    mount.unmount();
    other.unmount();
    fabric.weft(&["fsck", "--deep"]);
}
