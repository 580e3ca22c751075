//! `weft get PATH LOCAL`.

use std::fs::Permissions;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use weft_client::{Attr, Cred, Dirent, Ino, Kind, Name, Timestamp, Volume};

use super::cat::Stdout;
use crate::args::{ConnectArgs, GetArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::interrupt::until_interrupted;
use crate::path::SitePath;
use crate::system;
use crate::transfer::{Half, PIECE, Transfer, temporary};

/// Entries asked for at a time.
const PAGE: u32 = 1024;

/// A file of the site and where it goes.
struct Item {
    volume: Volume,
    attr: Attr,
    shown: SitePath,
    local: PathBuf,
}

/// Copies a file or a tree of the site to this machine.
pub(crate) async fn run(to: &ConnectArgs, args: GetArgs) -> Result<(), Failure> {
    let client = until_interrupted(connect(to)).await?;
    let transfer = Transfer::new(system::cred(), &args.how);
    let result = until_interrupted(async {
        let path = &args.source;
        let cred = &transfer.cred;
        if args.target == Path::new("-") {
            let size = client.resolve_follow(cred, path.as_bytes()).await.doing(format!("read {path}"))?.found.size;
            transfer.progress.begin(&path.to_string(), size);
            let mut before = 0;
            let mut progress = |so_far: u64| {
                transfer.progress.advance(so_far - before);
                before = so_far;
            };
            client.copy_out(cred, path.as_bytes(), &mut Stdout, &mut progress).await.doing(format!("read {path}"))?;
            return Ok(());
        }
        let at = client.resolve_follow(cred, path.as_bytes()).await.doing(format!("get {path}"))?;
        if at.found.kind == Kind::Directory && !args.how.recursive {
            return Err(
                Failure::new(format!("get {path}: it is a directory")).hint("-r copies it with all that is in it")
            );
        }
        let local = local_place(&args.target, path)?;
        get(&transfer, Item { volume: at.volume, attr: at.found, shown: path.clone(), local }).await
    });
    let result = result.await;
    let result = transfer.finish(args.how.json, result).await;
    result.and(close(&client).await)
}

/// Into a folder under the own name, or under the name given.
fn local_place(target: &Path, source: &SitePath) -> Result<PathBuf, Failure> {
    let shown = target.display();
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => match source.name() {
            Some(name) => Ok(target.join(std::ffi::OsString::from_vec(name.to_vec()))),
            // The root of the site has no name of its own: what is in it goes into the folder.
            None => Ok(target.to_path_buf()),
        },
        Ok(_) => Ok(target.to_path_buf()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !parent.is_dir() {
                return Err(Failure::new(format!("write {shown}: there is no folder {}", parent.display()))
                    .hint(format!("make it first: mkdir -p {}", parent.display())));
            }
            Ok(target.to_path_buf())
        }
        Err(error) => Err(Failure::new(format!("write {shown}: {error}"))),
    }
}

async fn get(transfer: &Transfer, first: Item) -> Result<(), Failure> {
    let mut files = JoinSet::new();
    let mut waiting = vec![first];
    // Folders get their modes and times when they are full.
    let mut folders = Vec::new();
    while let Some(item) = waiting.pop() {
        match item.attr.kind {
            Kind::Directory => match get_dir(transfer, &item, &mut waiting).await {
                Ok(()) => folders.push((item.local, item.attr)),
                Err(failure) => transfer.tell(&failure),
            },
            Kind::File | Kind::Symlink => {
                let own = transfer.clone();
                transfer.spawn(&mut files, async move { get_file(&own, item).await }).await;
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                let failure = format!("get {}: only files, directories and links are copied", item.shown);
                transfer.tell(&Failure::new(failure));
            }
        }
    }
    while files.join_next().await.is_some() {}
    for (folder, attr) in folders.into_iter().rev() {
        let finished = finish_local(transfer, &folder, &attr);
        if let Err(failure) = finished.doing(format!("set the mode of {}", folder.display())) {
            transfer.tell(&failure);
        }
    }
    Ok(())
}

/// Makes a folder and lists what is to go into it.
async fn get_dir(transfer: &Transfer, item: &Item, waiting: &mut Vec<Item>) -> Result<(), Failure> {
    match std::fs::create_dir(&item.local) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && item.local.is_dir() => {}
        made => made.doing(format!("make folder {}", item.local.display()))?,
    }
    transfer.progress.count(|totals| totals.directories += 1);
    let mut after: Option<Name> = None;
    loop {
        let page = item.volume.readdir(&transfer.cred, item.attr.ino, after.take(), PAGE, true).await;
        let page = page.doing(format!("list {}", item.shown))?;
        after = page.entries.last().map(|entry| entry.name.clone());
        for entry in page.entries {
            let shown = item.shown.join(entry.name.as_bytes());
            let local = item.local.join(std::ffi::OsString::from_vec(entry.name.as_bytes().to_vec()));
            let found = look(&item.volume, &transfer.cred, entry.dirent, entry.attr).await;
            match found.doing(format!("get {shown}")) {
                Ok((volume, attr)) => waiting.push(Item { volume, attr, shown, local }),
                Err(failure) => transfer.tell(&failure),
            }
        }
        if page.end || after.is_none() {
            return Ok(());
        }
    }
}

async fn look(volume: &Volume, cred: &Cred, dirent: Dirent, attr: Option<Attr>) -> weft_client::Result<(Volume, Attr)> {
    match (dirent, attr) {
        (Dirent::Inode { .. }, Some(attr)) => Ok((volume.clone(), attr)),
        (Dirent::Inode { ino, .. }, None) => Ok((volume.clone(), volume.getattr(cred, ino).await?)),
        (Dirent::Junction(slot), _) => {
            let there = volume.follow(slot).await?;
            let attr = there.getattr(cred, Ino::ROOT).await?;
            Ok((there, attr))
        }
    }
}

/// Writes a file or link under a temporary name and gives it its real one when it is whole.
async fn get_file(transfer: &Transfer, item: Item) -> Result<(), Failure> {
    let folder = item.local.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let half_path = folder.join(temporary("get"));
    let half = transfer.half_made(Half::Local(half_path.clone()));
    let writing = || format!("write {}", item.local.display());
    if item.local.is_dir() && !item.local.is_symlink() {
        return Err(Failure::new(format!("{}: a folder is in the way", writing())));
    }
    let cred = &transfer.cred;
    if item.attr.kind == Kind::Symlink {
        let target = item.volume.readlink(cred, item.attr.ino).await.doing(format!("read {}", item.shown))?;
        let target = std::ffi::OsString::from_vec(target.to_vec());
        symlink(target, &half_path).doing(writing())?;
        std::fs::rename(&half_path, &item.local).doing(writing())?;
        transfer.progress.count(|totals| totals.symlinks += 1);
    } else {
        transfer.progress.begin(&item.shown.to_string(), item.attr.size);
        let bytes = get_bytes(transfer, &item, &half_path).await?;
        finish_local(transfer, &half_path, &item.attr).doing(writing())?;
        std::fs::rename(&half_path, &item.local).doing(writing())?;
        transfer.progress.count(|totals| {
            totals.files += 1;
            totals.bytes += bytes;
        });
    }
    half.settled();
    Ok(())
}

async fn get_bytes(transfer: &Transfer, item: &Item, half_path: &Path) -> Result<u64, Failure> {
    let reading = || format!("read {}", item.shown);
    let writing = || format!("write {}", item.local.display());
    let source = item.volume.open(&transfer.cred, item.attr.ino, true, false).await.doing(reading())?;
    let mut target = tokio::fs::File::create_new(half_path).await.doing(writing())?;
    target.set_max_buf_size(PIECE);
    let mut offset = 0;
    loop {
        let piece = source.read_at(offset, PIECE).await.doing(reading())?;
        if piece.is_empty() {
            break;
        }
        target.write_all(&piece).await.doing(writing())?;
        offset += piece.len() as u64;
        transfer.progress.advance(piece.len() as u64);
    }
    target.flush().await.doing(writing())?;
    source.close().await.doing(reading())?;
    Ok(offset)
}

fn finish_local(transfer: &Transfer, path: &Path, attr: &Attr) -> io::Result<()> {
    // Set-id bits mean nothing under another owner.
    std::fs::set_permissions(path, Permissions::from_mode(u32::from(attr.mode & 0o1777)))?;
    if transfer.preserve {
        let times =
            std::fs::FileTimes::new().set_modified(system_time(attr.mtime)).set_accessed(system_time(attr.atime));
        std::fs::File::open(path)?.set_times(times)?;
    }
    Ok(())
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let whole = match time.secs {
        secs @ 0.. => UNIX_EPOCH.checked_add(Duration::from_secs(secs.unsigned_abs())),
        secs => UNIX_EPOCH.checked_sub(Duration::from_secs(secs.unsigned_abs())),
    };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_into_folders_and_under_names() {
        let folder = tempfile::tempdir().unwrap();
        let site = |text: &str| SitePath::parse(text.into()).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert_eq!(local_place(folder.path(), &site("/a/b")).unwrap(), folder.path().join("b"));
        assert_eq!(local_place(folder.path(), &site("/")).unwrap(), folder.path());
        assert_eq!(local_place(&file, &site("/a/b")).unwrap(), file);
        assert_eq!(local_place(&folder.path().join("new"), &site("/a/b")).unwrap(), folder.path().join("new"));
        let missing = local_place(&folder.path().join("no/new"), &site("/a/b")).unwrap_err();
        assert!(missing.next().unwrap().contains("mkdir -p"));
    }

    #[test]
    fn times_before_and_after_1970() {
        let at = |secs| system_time(Timestamp { secs, nanos: 5 });
        assert_eq!(at(3), UNIX_EPOCH + Duration::new(3, 5));
        assert_eq!(at(-3), UNIX_EPOCH - Duration::from_secs(3) + Duration::from_nanos(5));
        at(i64::MIN);
        at(i64::MAX);
    }
}
