use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::parts::{DiskFile, OpenMode, Space};

/// A disk of small files in memory.
#[derive(Default)]
struct SmallFiles(Mutex<BTreeMap<PathBuf, Bytes>>);

#[async_trait::async_trait]
impl Disk for SmallFiles {
    async fn open(&self, _: &Path, _: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    async fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.0.lock().keys().map(|path| path.display().to_string()).collect())
    }
    async fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    async fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
    async fn read_small(&self, path: &Path) -> io::Result<Bytes> {
        self.0.lock().get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
    async fn write_small(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().insert(path.into(), Bytes::copy_from_slice(bytes));
        Ok(())
    }
    async fn space(&self) -> io::Result<Space> {
        Ok(Space::default())
    }
}

fn somebody() -> Identity {
    Identity { site: SiteId(77), site_name: "north west".into(), node: NodeId(3), incarnation: Incarnation(u64::MAX) }
}

#[tokio::test]
async fn what_a_folder_was_told_it_says_again() {
    let disk = SmallFiles::default();
    let folder = Folder(&disk);
    folder.must_be_fresh().await.unwrap();
    assert_eq!(folder.identity().await.unwrap(), None);
    assert_eq!(folder.joining(5).await.unwrap(), folder.joining(6).await.unwrap());
    folder.must_be_fresh().await.unwrap();
    folder.set_identity(&somebody()).await.unwrap();
    assert_eq!(folder.identity().await.unwrap(), Some(somebody()));
    assert!(matches!(folder.must_be_fresh().await, Err(FolderError::Taken { node: NodeId(3), .. })));
    let mark = Bootstrap { groups: 2, replication: 3 };
    folder.set_bootstrap(Some(mark)).await.unwrap();
    assert_eq!(folder.bootstrap().await.unwrap(), Some(mark));
    folder.set_bootstrap(None).await.unwrap();
    folder.set_bootstrap(None).await.unwrap();
    assert_eq!(folder.bootstrap().await.unwrap(), None);
    folder.set_last_map(b"map").await.unwrap();
    assert_eq!(folder.last_map().await.as_deref(), Some(&b"map"[..]));
}

#[tokio::test]
async fn a_folder_of_a_future_format_is_refused_with_what_to_do() {
    let disk = SmallFiles::default();
    let folder = Folder(&disk);
    folder.set_identity(&somebody()).await.unwrap();
    folder.write(FORMAT_FILE, &[("format", "2".into())]).await.unwrap();
    let error = folder.identity().await.unwrap_err().to_string();
    assert!(error.contains("format 2") && error.contains("version that wrote it"), "{error}");
    assert!(folder.must_be_fresh().await.is_err());
}

#[tokio::test]
async fn damage_at_any_byte_is_noticed() {
    let disk = SmallFiles::default();
    let folder = Folder(&disk);
    folder.set_identity(&somebody()).await.unwrap();
    folder.set_last_map(b"map").await.unwrap();
    for file in [IDENTITY_FILE, FORMAT_FILE] {
        let good = disk.read_small(Path::new(file)).await.unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.to_vec();
            bad[at] ^= 0x15;
            disk.write_small(Path::new(file), &bad).await.unwrap();
            assert!(matches!(folder.identity().await, Err(FolderError::Damaged { .. })), "{file} byte {at}");
            disk.write_small(Path::new(file), &good[..at]).await.unwrap();
            assert!(matches!(folder.identity().await, Err(FolderError::Damaged { .. })), "{file} cut at {at}");
        }
        disk.write_small(Path::new(file), &good).await.unwrap();
    }
    disk.write_small(Path::new(MAP_FILE), b"mop\0\0\0\0").await.unwrap();
    assert_eq!(folder.last_map().await, None);
}

#[tokio::test]
async fn a_folder_with_other_things_in_it_is_refused() {
    let disk = SmallFiles::default();
    disk.write_small(Path::new("holiday.jpg"), b"x").await.unwrap();
    assert!(matches!(Folder(&disk).must_be_fresh().await, Err(FolderError::Foreign { .. })));
}

#[test]
fn two_holders_of_one_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = FolderLock::take(folder.path()).unwrap();
    assert!(matches!(FolderLock::take(folder.path()), Err(FolderError::InUse { .. })));
    drop(first);
    FolderLock::take(folder.path()).unwrap();
}
