//! `weft sync`.

use std::fs::File;
use std::path::PathBuf;

use crate::failure::{Doing, Failure};

/// The kernel passes fsync on to the mount, and the mount makes the whole volume durable for that of a folder.
pub(crate) async fn run(path: PathBuf) -> Result<(), Failure> {
    let doing = format!("make {} durable", path.display());
    let synced = tokio::task::spawn_blocking(move || {
        // Of a file, its folder: whatever was done around it is durable as well.
        let folder = if path.is_dir() { path.clone() } else { path.parent().unwrap_or(&path).to_path_buf() };
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        File::open(&path)?.sync_all()?;
        File::open(folder)?.sync_all()
    });
    synced.await.map_err(|error| Failure::new(format!("{doing}: {error}")))?.doing(doing)
}
