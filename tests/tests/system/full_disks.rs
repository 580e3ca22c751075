//! Disks that fill up: one, and writes go to the others; all, and there is a clear error, nothing is lost, and things go
//! on once something was removed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use weft_tests::{Fabric, wait_for};

/// Room is kept for the log and the records, so little is left for chunks.
const SETTINGS: &str = "[chunks]\nsegment_mib = 16\nreserve_mib = 400\n";
const SMALL: Option<u64> = Some(900);
const FILE: usize = 8 << 20;

fn content(n: usize) -> Vec<u8> {
    let mut bytes = vec![n as u8; FILE];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn write(root: &Path, n: usize) -> std::io::Result<()> {
    let path = root.join(format!("f{n}"));
    let mut file = fs::File::create(path)?;
    std::io::Write::write_all(&mut file, &content(n))?;
    file.sync_all()
}

fn check(root: &Path, files: impl Iterator<Item = usize>) {
    for n in files {
        let path = root.join(format!("f{n}"));
        let found = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        assert!(found == content(n), "{} differs", path.display());
    }
}

fn status_of(fabric: &Fabric, node: usize) -> Option<String> {
    let status = fabric.status()?;
    let nodes = status["nodes"].as_array()?;
    nodes.iter().find(|known| known["id"] == node as u64)?["status"].as_str().map(String::from)
}

#[test]
fn writes_go_past_a_server_that_is_full() {
    let mut fabric = Fabric::start_on(&[None, None, None, SMALL], SETTINGS);
    let mut mount = fabric.mount();
    // Three of four servers hold each chunk: this is about twice what the small one has room for.
    let files = 80;
    for n in 0..files {
        write(&mount.path, n).unwrap_or_else(|error| panic!("write file {n}: {error}\n{}", fabric.logs()));
    }
    wait_for("the small server to be known as full", || status_of(&fabric, 4).as_deref() == Some("full"));
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches");
    check(&mount.path, 0..files);
    for n in 0..files {
        fs::remove_file(mount.path.join(format!("f{n}"))).expect("remove");
    }
    wait_for("the small server to have room again", || status_of(&fabric, 4).as_deref() == Some("up"));
    mount.unmount();
}

#[test]
fn full_servers_refuse_clearly_and_go_on_when_there_is_room() {
    let mut fabric = Fabric::start_on(&[SMALL; 3], SETTINGS);
    let mut mount = fabric.mount();
    let mut files = 0;
    let error = loop {
        match write(&mount.path, files) {
            Ok(()) => files += 1,
            Err(error) => break error,
        }
        assert!(files * FILE < 2 << 30, "the disks never fill up");
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "after {files} files: {error}\n{}", fabric.logs());
    assert!(files > 4, "only {files} files");
    // Not acknowledged: it may be there in part, and must not be taken for whole.
    fs::remove_file(mount.path.join(format!("f{files}"))).expect("remove what was refused");
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop the caches");
    check(&mount.path, 0..files);
    // Names need no chunks.
    fs::create_dir(mount.path.join("folder")).expect("make a folder");
    fs::rename(mount.path.join("f0"), mount.path.join("folder/f0")).expect("rename");
    fs::write(mount.path.join("note"), b"few bytes lie in the records").expect("write a little");
    for n in 1..=files / 2 {
        fs::remove_file(mount.path.join(format!("f{n}"))).expect("remove");
    }
    let mut again = files + 1;
    wait_for("room for another file", || {
        again += 1;
        match write(&mount.path, again) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                let _ = fs::remove_file(mount.path.join(format!("f{again}")));
                false
            }
        }
    });
    check(&mount.path, (files / 2 + 1..files).chain([again]));
    check(&mount.path.join("folder"), 0..1);
    mount.unmount();
}
