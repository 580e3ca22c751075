//! Two mounts of one volume.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_after_a_close_sees_what_was_written() {
    let Some(rig) = Rig::start(2).await else { return };
    for round in 0..60usize {
        let (here, there) = (rig.path(round % 2), rig.path((round + 1) % 2));
        let len = [10, 100, 4096, 5000, 70_000, 0][(round * 7) % 6];
        let bytes = vec![round as u8; len];
        fs::write(here.join("file"), &bytes).unwrap();
        assert_eq!(fs::read(there.join("file")).unwrap(), bytes, "round {round}");
        assert_eq!(fs::read(here.join("file")).unwrap(), bytes, "round {round}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_a_growing_file_never_sees_bytes_that_were_not_written() {
    let Some(rig) = Rig::start(2).await else { return };
    let path = rig.path(0).join("log");
    fs::write(&path, b"").unwrap();
    let mut follower = File::open(rig.path(1).join("log")).unwrap();
    let (mut wanted, mut got) = (Vec::new(), Vec::new());
    for line in 0..8 {
        let text = format!("line {line}\n").repeat(1 + line * 3);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        wanted.extend_from_slice(text.as_bytes());
        let begun = Instant::now();
        while got.len() < wanted.len() {
            follower.read_to_end(&mut got).unwrap();
            assert!(wanted.starts_with(&got), "line {line}: {} bytes of {}", got.len(), wanted.len());
            assert!(begun.elapsed() < Duration::from_secs(4), "line {line} does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_two_mounts_come_one_behind_the_other() {
    let Some(rig) = Rig::start(2).await else { return };
    let mut wanted = String::new();
    for number in 0..40 {
        let line = format!("{number:04}\n");
        let path = rig.path(number % 2).join("log");
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
        wanted += &line;
    }
    for mount in 0..2 {
        assert_eq!(fs::read_to_string(rig.path(mount).join("log")).unwrap(), wanted);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_there_for_everyone_at_once() {
    let Some(rig) = Rig::start(2).await else { return };
    let (here, there) = (rig.path(0), rig.path(1));
    for number in 0..20 {
        let name = format!("file{number}");
        assert!(!there.join(&name).exists());
        File::create(here.join(&name)).unwrap();
        assert!(there.join(&name).exists());
        assert!(fs::read_dir(&there).unwrap().any(|entry| entry.unwrap().file_name() == *name));
        let again = OpenOptions::new().write(true).create_new(true).open(there.join(&name));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_open_here_outlives_its_removal_there() {
    let Some(rig) = Rig::start(2).await else { return };
    fs::write(rig.path(0).join("file"), b"still here").unwrap();
    let open = File::open(rig.path(1).join("file")).unwrap();
    fs::remove_file(rig.path(0).join("file")).unwrap();
    let mut bytes = [0; 10];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"still here");
    drop(open);
    rig.stop().await;
}
