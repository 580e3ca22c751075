//! What is removed through the mount leaves the disks of the nodes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_tests::{Fabric, run};

/// A spare segment of a quarter of `segment_mib`, and what file systems and the index need besides.
const KEPT: u64 = 32 << 20;
/// Bound for the grace, the reaping and a walk, on a slow machine.
const LONGEST: Duration = Duration::from_secs(180);

/// Bytes of blocks, as du counts.
fn used(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| used(&entry.path()));
    meta.blocks() * 512 + below.sum::<u64>()
}

fn chunks(fabric: &Fabric) -> Vec<u64> {
    let status = fabric.nodes.iter().map(|node| {
        let page = run("curl", &["-s", &format!("http://{}/metrics", node.http)]);
        let line = page.lines().find_map(|line| line.strip_prefix("weft_chunks "));
        line.and_then(|value| value.parse().ok()).unwrap_or(u64::MAX)
    });
    status.collect()
}

#[test]
fn after_everything_is_removed_the_disks_are_as_empty_as_before() {
    let mut fabric = Fabric::start(3);
    for node in &mut fabric.nodes {
        node.stop();
        node.configure("[chunks]\nkeep_freed_s = 1\nwalk_s = 10");
        node.start();
    }
    fabric.wait_whole();
    let folders: Vec<_> = fabric.nodes.iter().map(|node| node.folder.join("data/chunks")).collect();
    let at_first: Vec<u64> = folders.iter().map(|folder| used(folder)).collect();
    let mut mount = fabric.mount();
    let root = mount.path.join("much");
    for folder in 0..20 {
        let folder = root.join(format!("{folder}"));
        fs::create_dir_all(&folder).expect("make a folder");
        for file in 0..150 {
            fs::write(folder.join(format!("{file}")), vec![file as u8; 5000 + file * 100]).expect("write a file");
        }
    }
    for file in 0..3 {
        fs::write(root.join(format!("large{file}")), vec![file; 70 << 20]).expect("write a large file");
    }
    run("sync", &["-f", root.to_str().expect("a plain path")]);
    let full: Vec<u64> = folders.iter().map(|folder| used(folder)).collect();
    for (before, after) in at_first.iter().zip(&full) {
        assert!(after - before > 200 << 20, "{before} then {after} bytes of blocks");
    }
    fs::remove_dir_all(&root).expect("remove it all");
    // Ends the session, so that what was stored and never named goes too.
    mount.unmount();
    let begun = Instant::now();
    loop {
        let (left, now) = (chunks(&fabric), folders.iter().map(|folder| used(folder)).collect::<Vec<u64>>());
        let gone = left.iter().all(|left| *left == 0);
        if gone && at_first.iter().zip(&now).all(|(first, now)| *now <= first + first / 20 + KEPT) {
            break;
        }
        assert!(begun.elapsed() < LONGEST, "{left:?} chunks, {now:?} bytes of blocks, {at_first:?} at first");
        std::thread::sleep(Duration::from_millis(500));
    }
    // And there is room for more.
    let mut mount = fabric.mount();
    fs::write(mount.path.join("again"), vec![7; 10 << 20]).expect("write again");
    assert!(fs::read(mount.path.join("again")).expect("read") == vec![7; 10 << 20]);
    mount.unmount();
}
