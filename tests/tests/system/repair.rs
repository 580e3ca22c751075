//! How fast a lost copy is made again, and what that costs those who work meanwhile. It prints figures and judges none:
//! `WEFT_MIB=2048 cargo test --release -p weft-tests --test system repair -- --ignored --nocapture`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_tests::{Fabric, say, wait_for};

const FILE_MIB: usize = 64;
/// Nothing holds the repair back, and nothing waits for it.
const UNLIMITED: &str = "[chunks]\ncatch_up_mib_s = 0\n";

/// One small write made durable, again and again: how long each took.
fn work(path: &Path, end: impl Fn() -> bool) -> Vec<Duration> {
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("open");
    let mut took = Vec::new();
    while !end() {
        let began = Instant::now();
        file.write_all_at(&[took.len() as u8; 4096], 4096 * (took.len() as u64 % 1000)).expect("write");
        file.sync_data().expect("sync");
        took.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort();
    took
}

fn told(what: &str, took: &[Duration]) {
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).copied().unwrap_or_default();
    say(&format!("{what}: {} writes, median {:?}, p99 {:?}", took.len(), at(0.5), at(0.99)));
}

#[test]
#[ignore = "it takes a while and prints figures"]
fn repair_speed() {
    let mib = std::env::var("WEFT_MIB").map_or(1024, |text| text.parse::<usize>().expect("a number"));
    let mut fabric = Fabric::start_on(&[None, None, None], UNLIMITED);
    let mut mount = fabric.mount();
    for n in 0..mib / FILE_MIB {
        let mut file = File::create(mount.path.join(format!("f{n}"))).expect("create");
        for piece in 0..FILE_MIB {
            file.write_all(&vec![(n * 7 + piece) as u8; 1 << 20]).expect("write");
        }
        file.sync_all().expect("sync");
    }
    let (path, began) = (mount.path.join("work"), Instant::now());
    told("before", &work(&path, || began.elapsed() > Duration::from_secs(10)));
    fabric.wipe(2);
    let began = Instant::now();
    wait_for("the node to be behind", || fabric.status().is_some_and(|status| status["healthy"] == false));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(&path, || done.load(std::sync::atomic::Ordering::Relaxed)));
        fabric.wait_whole();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        told("meanwhile", &worker.join().expect("it works"));
    });
    let took = began.elapsed();
    say(&format!("{mib} MiB whole again after {took:?}: {:.0} MB/s", mib as f64 * 1.048_576 / took.as_secs_f64()));
    let report = fabric.report(2).expect("it answers");
    say(&format!("the node holds {} bytes", report["chunk_bytes"]));
    fs::remove_file(&path).expect("remove");
    mount.unmount();
}
