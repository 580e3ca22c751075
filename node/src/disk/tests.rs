use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{MemDisk, RealDisk};
use crate::parts::{Disk, OpenMode, write_durable};

fn real() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(&folder.path().join("a/b")).unwrap());
    (folder, disk)
}

/// What both disks promise.
async fn keeps_promises(disk: Arc<dyn Disk>) {
    let path = Path::new("log/one");
    assert_eq!(disk.open(path, OpenMode::Read).await.err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.list(Path::new("log")).await.unwrap(), Vec::<String>::new());
    disk.make_folder(Path::new("log")).await.unwrap();
    disk.make_folder(Path::new("log")).await.unwrap();
    let reserved = disk.open(Path::new("log/reserved"), OpenMode::Reserve { len: 9_000 }).await.unwrap();
    assert_eq!(reserved.len(), 9_000);
    assert_eq!(reserved.read(0, 9_000).await.unwrap(), vec![0; 9_000]);
    write_durable(&*reserved, 4_000, vec![Bytes::from_static(b"written")]).await.unwrap();
    let reserved = disk.open(Path::new("log/reserved"), OpenMode::Reserve { len: 9_500 }).await.unwrap();
    assert_eq!((reserved.len(), &reserved.read(3_999, 9).await.unwrap()[..]), (9_500, &b"\0written\0"[..]));
    drop(reserved);
    disk.remove(Path::new("log/reserved")).await.unwrap();

    let file = disk.open(path, OpenMode::Create { len: 10_000 }).await.unwrap();
    assert_eq!(file.len(), 10_000);
    assert_eq!(file.read(0, 10_000).await.unwrap(), vec![0; 10_000]);
    assert_eq!(file.read(9_999, 2).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(file.read(u64::MAX, 2).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    // Many writes at once, some neighbours, some not, durable or not: each is answered, in order, and later wins.
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waits = Vec::new();
    for n in 0..200u64 {
        let (sent, wait) = tokio::sync::oneshot::channel();
        let order = order.clone();
        let done = Box::new(move |result: io::Result<()>| {
            order.lock().push(n);
            sent.send(result).unwrap();
        });
        let parts = vec![Bytes::from(vec![n as u8; 7]), Bytes::new(), Bytes::from(vec![n as u8; 3])];
        let offset = if n % 5 == 4 { 3000 + n } else { n * 10 };
        if n % 3 == 0 {
            file.write(offset, parts, done)
        } else {
            file.write_durable(offset, parts, done)
        }
        waits.push(wait);
    }
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    assert_eq!(*order.lock(), (0..200).collect::<Vec<_>>());
    assert_eq!(file.read(1980, 10).await.unwrap(), vec![198; 10]);
    assert_eq!(file.read(3199, 10).await.unwrap(), vec![199; 10]);
    assert_eq!(file.read(40, 10).await.unwrap(), vec![0; 10]);
    file.sync().await.unwrap();

    file.punch(1980, 5).await.unwrap();
    assert_eq!(&file.read(1979, 7).await.unwrap()[..], [197, 0, 0, 0, 0, 0, 198]);
    write_durable(&*file, 20_000, vec![Bytes::from_static(b"beyond")]).await.unwrap();
    assert_eq!(file.len(), 20_006);

    // A file opened again has everything, one opened for reading refuses writes, a longer `Create` only fills up.
    drop(file);
    let file = disk.open(path, OpenMode::Read).await.unwrap();
    assert_eq!(file.read(20_000, 6).await.unwrap(), &b"beyond"[..]);
    let refused = write_durable(&*file, 0, vec![Bytes::from_static(b"x")]).await;
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let file = disk.open(path, OpenMode::Create { len: 30_000 }).await.unwrap();
    assert_eq!((file.len(), file.read(20_000, 6).await.unwrap()), (30_000, Bytes::from_static(b"beyond")));

    disk.write_small(Path::new("log/small"), b"first").await.unwrap();
    disk.write_small(Path::new("log/small"), b"second").await.unwrap();
    assert_eq!(disk.read_small(Path::new("log/small")).await.unwrap(), &b"second"[..]);
    assert_eq!(disk.read_small(Path::new("log/none")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.rename(Path::new("log/small"), Path::new("log/two")).await.unwrap();
    assert_eq!(disk.list(Path::new("log")).await.unwrap(), ["one", "two"]);
    disk.remove(Path::new("log/two")).await.unwrap();
    assert_eq!(disk.list(Path::new("log")).await.unwrap(), ["one"]);
    for outside in ["../x", "/etc/passwd", "log/../../x"] {
        assert_eq!(disk.read_small(Path::new(outside)).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert!(disk.space().await.unwrap().total_bytes > 0);
}

#[tokio::test]
async fn the_real_disk_keeps_promises() {
    let (_folder, disk) = real();
    keeps_promises(disk).await;
}

#[tokio::test]
async fn the_memory_disk_keeps_promises() {
    keeps_promises(Arc::new(MemDisk::new())).await;
}

#[tokio::test]
async fn unfinished_files_are_not_listed_and_are_overwritten() {
    let (folder, disk) = real();
    let root = folder.path().join("a/b");
    std::fs::write(root.join("segment.weft-tmp"), b"left by a crash").unwrap();
    assert_eq!(disk.list(Path::new("")).await.unwrap(), Vec::<String>::new());
    let file = disk.open(Path::new("segment"), OpenMode::Create { len: 8 }).await.unwrap();
    assert_eq!(file.read(0, 8).await.unwrap(), vec![0; 8]);
    assert!(!root.join("segment.weft-tmp").exists());
}

#[tokio::test]
async fn a_full_device_is_an_error_and_no_panic() {
    // Writing to /dev/full fails with ENOSPC; the file stays usable, since nothing unflushed was lost.
    let file = Arc::new(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let writer = super::writer::Writer::new(file, "/dev/full".into(), Arc::default());
    for _ in 0..2 {
        let (sent, wait) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| sent.send(result).unwrap());
        writer.submit(super::writer::Job::Write {
            offset: 0,
            parts: vec![Bytes::from_static(b"x")],
            durable: true,
            done,
        });
        assert_eq!(wait.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}

#[tokio::test]
async fn after_a_failed_flush_the_file_keeps_failing() {
    // A pipe can be written but not flushed: fdatasync answers EINVAL.
    let (_reader, pipe) = io::pipe().unwrap();
    let file = Arc::new(std::fs::File::from(std::os::fd::OwnedFd::from(pipe)));
    let writer = super::writer::Writer::new(file, "pipe".into(), Arc::default());
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (sent, wait) = tokio::sync::oneshot::channel();
        writer.submit(super::writer::Job::Sync { done: Box::new(move |result| sent.send(result).unwrap()) });
        answers.push(wait.await.unwrap().unwrap_err().to_string());
    }
    assert!(answers[0].starts_with("pipe: flush:"), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_crash_keeps_what_was_flushed_and_kills_open_files() {
    let disk = MemDisk::new();
    let file = disk.open(Path::new("f"), OpenMode::Create { len: 4096 }).await.unwrap();
    write_durable(&*file, 0, vec![Bytes::from(vec![1; 1024])]).await.unwrap();
    file.write(1024, vec![Bytes::from(vec![2; 3072])], Box::new(|result| result.unwrap()));
    disk.crash(3);
    assert!(file.read(0, 1).await.is_err());
    let file = disk.open(Path::new("f"), OpenMode::Write).await.unwrap();
    assert_eq!(file.read(0, 1024).await.unwrap(), vec![1; 1024]);
    let rest = file.read(1024, 3072).await.unwrap();
    let sectors: Vec<u8> = rest.chunks(512).map(|sector| sector[0]).collect();
    assert!(rest.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "torn within a sector");
    assert!(sectors.contains(&0) && sectors.contains(&2), "this seed keeps some and loses some: {sectors:?}");
}
