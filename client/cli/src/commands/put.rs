//! `weft put LOCAL.. PATH`.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinSet;
use weft_client::{Cred, Found, Ino, Kind, Name, Refusal, RenameMode, SetAttr, SetTime, Timestamp, Volume};

use crate::args::{ConnectArgs, PutArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::interrupt::until_interrupted;
use crate::path::{SitePath, shown};
use crate::system;
use crate::transfer::{Half, PIECE, Transfer, temporary};

/// A name in a directory of the site.
#[derive(Clone)]
struct Place {
    volume: Volume,
    parent: Ino,
    name: Name,
    shown: SitePath,
}

/// Copies each local file or tree into the site.
pub(crate) async fn run(to: &ConnectArgs, args: PutArgs) -> Result<(), Failure> {
    let client = until_interrupted(connect(to)).await?;
    let transfer = Transfer::new(system::cred(), &args.how);
    let result = until_interrupted(async {
        let target = target(&client, &transfer.cred, &args).await?;
        let mut files = JoinSet::new();
        for source in &args.sources {
            let put = async {
                let place = target.place(source)?;
                put(&transfer, &mut files, source, place).await
            };
            if let Err(failure) = put.await {
                transfer.tell(&failure);
            }
        }
        while files.join_next().await.is_some() {}
        Ok(())
    });
    let result = result.await;
    let result = transfer.finish(args.how.json, result).await;
    result.and(close(&client).await)
}

/// Where the sources go.
enum Target {
    /// Each under its own name into a directory.
    Into { volume: Volume, dir: Ino, shown: SitePath },
    /// The only one under this name.
    As(Place),
}

impl Target {
    fn place(&self, source: &Path) -> Result<Place, Failure> {
        match self {
            Target::As(place) => Ok(place.clone()),
            Target::Into { volume, dir, shown } => {
                // `.` and `..` have names too.
                let named = source.file_name().map(ToOwned::to_owned);
                let named = named.or_else(|| source.canonicalize().ok()?.file_name().map(ToOwned::to_owned));
                let name = named.filter(|_| source != Path::new("-")).ok_or_else(|| {
                    Failure::new(format!("put {}: what is it to be called?", source.display()))
                        .hint("give its name in the site too: PATH/NAME")
                })?;
                let name = name.into_vec();
                let place = shown.join(&name);
                let name = Name::parse(name).map_err(|refusal| Failure::new(format!("put {place}: {refusal}")))?;
                Ok(Place { volume: volume.clone(), parent: *dir, name, shown: place })
            }
        }
    }
}

async fn target(client: &weft_client::Client, cred: &Cred, args: &PutArgs) -> Result<Target, Failure> {
    let path = &args.target;
    let doing = || format!("put into {path}");
    match client.resolve_follow(cred, path.as_bytes()).await {
        Ok(at) if at.found.kind == Kind::Directory => {
            return Ok(Target::Into { volume: at.volume, dir: at.found.ino, shown: path.clone() });
        }
        Ok(_) if path.must_be_directory() || args.sources.len() > 1 => {
            return Err(Failure::new(format!("{}: it is not a directory", doing())));
        }
        Ok(_) => {}
        Err(error) if error.refusal() == Some(&Refusal::NoEntry) => {
            if path.must_be_directory() || args.sources.len() > 1 {
                return Err(Failure::new(format!("{}: there is no such directory", doing()))
                    .hint(format!("make it first: weft mkdir -p {path}")));
            }
        }
        Err(error) => return Err(error).doing(doing()),
    }
    let at = client.resolve_parent(cred, path.as_bytes()).await.doing(doing())?;
    Ok(Target::As(Place { volume: at.volume, parent: at.parent, name: at.name, shown: path.clone() }))
}

/// Copies a file, or a directory with all that is in it. Directories are made one after the other, files are copied side
/// by side.
async fn put(transfer: &Transfer, files: &mut JoinSet<()>, source: &Path, place: Place) -> Result<(), Failure> {
    if source == Path::new("-") {
        transfer.progress.begin("standard input", 0);
        let mode = 0o666 & !system::umask();
        return put_bytes(transfer, tokio::io::stdin(), place, mode, None).await;
    }
    // What is named on the command line is meant, not the link to it.
    let found = std::fs::metadata(source).doing(format!("read {}", source.display()))?;
    if found.is_dir() && !transfer.recursive {
        return Err(Failure::new(format!("put {}: it is a directory", source.display()))
            .hint("-r copies it with all that is in it"));
    }
    let mut waiting = vec![(source.to_path_buf(), found, place)];
    while let Some((source, found, place)) = waiting.pop() {
        if found.is_dir() {
            let inside = match put_dir(transfer, &source, &found, &place).await {
                Ok(inside) => inside,
                Err(failure) => {
                    transfer.tell(&failure);
                    continue;
                }
            };
            // The last goes first: in the order of their names.
            waiting.extend(inside.into_iter().rev());
        } else {
            put_other(transfer, files, source, found, place).await;
        }
    }
    Ok(())
}

type Waiting = (PathBuf, std::fs::Metadata, Place);

/// Makes a directory, or finds it there, and lists what is to go into it.
async fn put_dir(
    transfer: &Transfer,
    source: &Path,
    found: &std::fs::Metadata,
    place: &Place,
) -> Result<Vec<Waiting>, Failure> {
    let doing = || format!("make directory {}", place.shown);
    let Place { volume, parent, name, .. } = place;
    // Writable by its maker until it is filled, whatever it is to be.
    let mode = (found.mode() & 0o7777) as u16;
    let (volume, dir) = match volume.mkdir(&transfer.cred, *parent, name.clone(), mode | 0o700).await {
        Ok(made) => (volume.clone(), made.ino),
        Err(error) if matches!(error.refusal(), Some(Refusal::Exists { .. })) => {
            match volume.lookup(&transfer.cred, *parent, name.clone()).await.doing(doing())? {
                Found::Inode(attr) if attr.kind == Kind::Directory => (volume.clone(), attr.ino),
                Found::Inode(_) => return Err(Failure::new(format!("{}: a file of that name is there", doing()))),
                Found::Junction(slot) => (volume.follow(slot).await.doing(doing())?, Ino::ROOT),
            }
        }
        Err(error) => return Err(error).doing(doing()),
    };
    transfer.progress.count(|totals| totals.directories += 1);
    let mut names = Vec::new();
    let reading = || format!("list {}", source.display());
    for entry in std::fs::read_dir(source).doing(reading())? {
        names.push(entry.doing(reading())?.file_name());
    }
    names.sort();
    let mut inside = Vec::with_capacity(names.len());
    for name in names {
        let local = source.join(&name);
        let shown = place.shown.join(name.as_bytes());
        // A name that the local system allows is one here.
        let entry = Name::parse(name.into_vec())
            .map_err(|refusal| Failure::new(format!("put {shown}: {refusal}")))
            .and_then(|name| Ok((name, local.symlink_metadata().doing(format!("read {}", local.display()))?)));
        match entry {
            Ok((name, found)) => {
                inside.push((local, found, Place { volume: volume.clone(), parent: dir, name, shown }));
            }
            Err(failure) => transfer.tell(&failure),
        }
    }
    Ok(inside)
}

/// Copies what is no directory.
async fn put_other(
    transfer: &Transfer,
    files: &mut JoinSet<()>,
    source: PathBuf,
    found: std::fs::Metadata,
    place: Place,
) {
    let kind = found.file_type();
    let own = transfer.clone();
    if kind.is_symlink() {
        transfer.spawn(files, async move { put_symlink(&own, &source, place).await }).await;
    } else if kind.is_file() {
        transfer.spawn(files, async move { put_file(&own, &source, found, place).await }).await;
    } else {
        transfer.tell(&Failure::new(format!("put {}: only files, directories and links are copied", source.display())));
    }
}

async fn put_symlink(transfer: &Transfer, source: &Path, place: Place) -> Result<(), Failure> {
    let doing = || format!("make link {}", place.shown);
    let target = std::fs::read_link(source).doing(format!("read {}", source.display()))?;
    let target = bytes::Bytes::from(target.into_os_string().into_vec());
    let cred = &transfer.cred;
    let temporary = name(temporary("put"));
    place.volume.symlink(cred, place.parent, temporary.clone(), target).await.doing(doing())?;
    let half = transfer.half_made(Half::Site(place.volume.clone(), place.parent, temporary.clone()));
    let moved =
        place.volume.rename(cred, place.parent, temporary, place.parent, place.name.clone(), RenameMode::Replace).await;
    moved.doing(doing())?;
    half.settled();
    transfer.progress.count(|totals| totals.symlinks += 1);
    Ok(())
}

async fn put_file(transfer: &Transfer, source: &Path, found: std::fs::Metadata, place: Place) -> Result<(), Failure> {
    let file = tokio::fs::File::open(source).await.doing(format!("read {}", source.display()))?;
    transfer.progress.begin(&shown(source.as_os_str().as_bytes()), found.len());
    let times = transfer.preserve.then(|| SetAttr {
        mtime: Some(SetTime::To(Timestamp { secs: found.mtime(), nanos: found.mtime_nsec() as u32 })),
        atime: Some(SetTime::To(Timestamp { secs: found.atime(), nanos: found.atime_nsec() as u32 })),
        ..SetAttr::default()
    });
    put_bytes(transfer, file, place, (found.mode() & 0o7777) as u16, times).await
}

/// Writes a file under a temporary name and gives it its real one when all of it is durable.
async fn put_bytes(
    transfer: &Transfer,
    mut source: impl AsyncRead + Unpin,
    place: Place,
    mode: u16,
    times: Option<SetAttr>,
) -> Result<(), Failure> {
    let doing = || format!("write {}", place.shown);
    let (cred, volume) = (&transfer.cred, &place.volume);
    let temporary = name(temporary("put"));
    // Known before it exists: a file made by a request that is then interrupted is removed too.
    let half = transfer.half_made(Half::Site(volume.clone(), place.parent, temporary.clone()));
    let (file, ..) = volume.create_file(cred, place.parent, temporary.clone(), mode, true).await.doing(doing())?;
    let mut offset = 0;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        while piece.len() < PIECE {
            if source.read_buf(&mut piece).await.doing("read the local file")? == 0 {
                break;
            }
        }
        if piece.is_empty() {
            break;
        }
        let len = piece.len() as u64;
        file.write_at(offset, piece.freeze()).await.doing(doing())?;
        offset += len;
        transfer.progress.advance(len);
    }
    if let Some(times) = times {
        file.setattr(cred, times).await.doing(doing())?;
    }
    file.close().await.doing(doing())?;
    let named = place.name.clone();
    volume.rename(cred, place.parent, temporary, place.parent, named, RenameMode::Replace).await.doing(doing())?;
    half.settled();
    transfer.progress.count(|totals| {
        totals.files += 1;
        totals.bytes += offset;
    });
    Ok(())
}

fn name(temporary: String) -> Name {
    Name::parse(temporary.into_bytes()).expect("a temporary name is short and plain")
}
