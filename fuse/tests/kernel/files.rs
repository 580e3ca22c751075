//! Open files of one mount.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::Rig;
use crate::model::Mapped;

fn both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_lives_as_long_as_it_is_open() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    let mut open = both(&path);
    open.write_all(b"written before").unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    open.write_all(b" and after").unwrap();
    open.sync_all().unwrap();
    // Longer than the site takes to ask whether it is still open.
    std::thread::sleep(std::time::Duration::from_millis(700));
    open.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "written before and after");
    open.set_len(7).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 7);
    drop(open);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_over_an_open_file_leaves_its_bytes_to_who_has_it_open() {
    let Some(rig) = Rig::start(1).await else { return };
    let (old, new) = (rig.path(0).join("old"), rig.path(0).join("new"));
    fs::write(&old, b"old").unwrap();
    fs::write(&new, b"new").unwrap();
    let mut open = File::open(&old).unwrap();
    fs::rename(&new, &old).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::read_to_string(&old).unwrap().as_str()), ("old", "new"));
    drop(open);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mapped_pages_are_written() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    let file = both(&path);
    file.set_len(100_000).unwrap();
    let mut mapped = Mapped::new(&file, 100_000);
    mapped.bytes()[5000..5005].copy_from_slice(b"hello");
    mapped.sync();
    let mut found = [0; 5];
    file.read_exact_at(&mut found, 5000).unwrap();
    assert_eq!(&found, b"hello");
    // The descriptor is closed before the mapping.
    drop(file);
    mapped.bytes()[99_995..].copy_from_slice(b"world");
    drop(mapped);
    let bytes = fs::read(&path).unwrap();
    assert_eq!((bytes.len(), &bytes[5000..5005], &bytes[99_995..]), (100_000, &b"hello"[..], &b"world"[..]));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_are_found_made_and_skipped() {
    let Some(rig) = Rig::start(1).await else { return };
    let path = rig.path(0).join("file");
    let file = both(&path);
    file.set_len(50 << 20).unwrap();
    file.write_all_at(&[7; 10_000], 20 << 20).unwrap();
    let seek = |from: u64, whence| {
        // SAFETY: the descriptor is open; the call touches no memory of ours.
        unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) }
    };
    assert_eq!(seek(0, libc::SEEK_DATA), 20 << 20);
    assert_eq!(seek(20 << 20, libc::SEEK_HOLE), (20 << 20) + 10_000);
    file.sync_all().unwrap();
    assert_eq!(seek(0, libc::SEEK_DATA), 20 << 20);
    assert_eq!(seek(20 << 20, libc::SEEK_HOLE), (20 << 20) + 10_000);
    assert_eq!(seek(30 << 20, libc::SEEK_DATA), -1);
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), punch, 20 << 20, 5000) }, 0);
    assert_eq!(seek(0, libc::SEEK_DATA), (20 << 20) + 5000);
    drop(file);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_inside_the_mount_moves_no_bytes() {
    let Some(rig) = Rig::start(1).await else { return };
    let bytes: Vec<u8> = (0..9_000_000u32).map(|n| (n / 7) as u8).collect();
    let (source, target) = (rig.path(0).join("source"), rig.path(0).join("target"));
    fs::write(&source, &bytes).unwrap();
    let before = rig.site.chunks();
    // `fs::copy` goes through copy_file_range.
    fs::copy(&source, &target).unwrap();
    assert!(fs::read(&target).unwrap() == bytes);
    assert_eq!(rig.site.chunks(), before);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_at_an_unmount_is_written() {
    let Some(mut rig) = Rig::start(1).await else { return };
    let mut open = both(&rig.path(0).join("file"));
    open.write_all(b"not closed").unwrap();
    let mounted = rig.mounted.remove(0);
    // Somebody holds a file: the mount leaves the tree all the same.
    let unmounting = tokio::spawn(async move { mounted.unmount().await.map(|()| mounted) });
    while rig.path(0).join("file").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    open.write_all(b", and more").unwrap();
    drop(open);
    unmounting.await.unwrap().unwrap();
    rig.mounted.push(crate::mount(&rig.clients[0], &rig.path(0)).await);
    assert_eq!(fs::read_to_string(rig.path(0).join("file")).unwrap(), "not closed, and more");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_write_is_stored_when_it_returns() {
    let Some(rig) = Rig::start(1).await else { return };
    for flags in [libc::O_SYNC, libc::O_DSYNC, libc::O_SYNC | libc::O_DIRECT] {
        let path = rig.path(0).join("file");
        let file = OpenOptions::new().write(true).create(true).custom_flags(flags).open(&path).unwrap();
        #[repr(align(4096))]
        struct Aligned([u8; 4096]);
        file.write_all_at(&Aligned([3; 4096]).0, 0).unwrap();
        let other = rig.site.client().await;
        let volume = other.volume("root").await.unwrap();
        let found = other.resolve(&weft_client::Cred::root(), b"/file").await.unwrap().found;
        assert_eq!((found.volume, found.size), (volume.id(), 4096));
        other.close().await.unwrap();
        drop(file);
        fs::remove_file(&path).unwrap();
    }
    rig.stop().await;
}
