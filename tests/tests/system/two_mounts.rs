//! Two mounts of one fabric: what one makes under its write leases the other sees at once, and a mount that is killed or
//! stopped holds nobody up for longer than its leases last.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use weft_tests::{Fabric, signal, wait_for};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn exclusive(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[test]
fn what_one_mount_makes_the_other_sees_at_once() {
    let mut fabric = Fabric::start(3);
    let (mut a, mut b) = (fabric.mount(), fabric.mount());
    for round in 0..25usize {
        let dir = format!("round {round}");
        let (here, there) = (a.path.join(&dir), b.path.join(&dir));
        fs::create_dir(&here).expect("make a directory");
        fs::create_dir(here.join("below")).expect("make another below");
        let content = |n: usize| vec![(round + n) as u8; 100 + n * 1000];
        for n in 0..20 {
            fs::write(here.join(format!("below/f{n}")), content(n)).expect("write");
        }
        fs::rename(here.join("below/f0"), here.join("g0")).expect("rename");
        fs::remove_file(here.join("below/f1")).expect("remove");
        // Nothing of it needs to have been sent by now. The other one asks, and has it all.
        match round % 4 {
            0 => assert_eq!(names(&there), ["below", "g0"]),
            1 => assert_eq!(fs::read(there.join("below/f7")).expect("read"), content(7)),
            2 => assert_eq!(exclusive(&there.join("g0")).expect_err("it is taken").kind(), ErrorKind::AlreadyExists),
            _ => fs::remove_file(there.join("below/f2")).expect("remove what the other made"),
        }
        // And the other way round: what the first looked up in vain before.
        assert!(!here.join("new").exists());
        exclusive(&there.join("new")).expect("make").write_all(b"from b").expect("write");
        assert_eq!(exclusive(&here.join("new")).expect_err("it is taken").kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(here.join("new")).expect("read"), b"from b");
        let mut left: Vec<String> = (2..20).filter(|n| round % 4 != 3 || *n != 2).map(|n| format!("f{n}")).collect();
        left.sort();
        assert_eq!(names(&here.join("below")), left);
        assert_eq!(names(&there.join("below")), left);
        for n in 3..20 {
            assert_eq!(fs::read(there.join(format!("below/f{n}"))).expect("read"), content(n), "{round} {n}");
        }
    }
    a.unmount();
    b.unmount();
}

#[test]
fn a_mount_that_dies_loses_only_what_was_not_promised() {
    let mut fabric = Fabric::start(3);
    let (mut a, mut b) = (fabric.mount(), fabric.mount());
    let dir = a.path.join("dir");
    fs::create_dir(&dir).expect("make a directory");
    for n in 0..200 {
        fs::write(dir.join(format!("{n}")), vec![n as u8; 5000]).expect("write");
    }
    let synced = fabric.try_weft(&["sync", dir.to_str().expect("a plain path")]);
    assert!(synced.status.success(), "{}", String::from_utf8_lossy(&synced.stderr));
    for n in 200..400 {
        fs::write(dir.join(format!("{n}")), vec![n as u8; 5000]).expect("write");
    }
    a.child().expect("a process").kill().expect("kill the mount");
    a.forget();
    // The second mount waits for the leases of the first to run out, and then has everything up to some point.
    let there = b.path.join("dir");
    let found = names(&there).len();
    assert!((200..=400).contains(&found), "{found} files");
    for n in 0..found {
        let content = fs::read(there.join(format!("{n}"))).expect("read: files are lost from the end only");
        // The bytes of the last ones may be missing, as of any file that was not synced.
        assert!(content == vec![n as u8; 5000] || n >= 200 && content.is_empty(), "{n}");
    }
    fs::write(there.join("after"), b"it").expect("write");
    b.unmount();
}

#[test]
fn a_stopped_mount_holds_nobody_up_and_serves_nothing_stale() {
    let mut fabric = Fabric::start(3);
    let (mut a, mut b) = (fabric.mount(), fabric.mount());
    let (here, there) = (a.path.join("dir"), b.path.join("dir"));
    fs::create_dir(&here).expect("make a directory");
    fs::write(here.join("one"), b"1").expect("write");
    let mut open = File::create(here.join("two")).expect("create");
    open.write_all(b"2").expect("write");
    let pid = a.child().expect("a process").id();
    std::thread::sleep(Duration::from_secs(2));
    signal(pid, libc::SIGSTOP);
    fs::write(there.join("three"), b"3").expect("write in the other's directory");
    fs::rename(there.join("one"), there.join("uno")).expect("rename");
    assert_eq!(names(&there), ["three", "two", "uno"]);
    signal(pid, libc::SIGCONT);
    assert_eq!(names(&here), ["three", "two", "uno"]);
    assert!(!here.join("one").exists());
    // Held back and sent before it was stopped: nothing is lost.
    open.sync_all().expect("sync");
    wait_for("the kernel to forget", || fs::read(there.join("two")).is_ok_and(|bytes| bytes == b"2"));
    a.unmount();
    b.unmount();
}
