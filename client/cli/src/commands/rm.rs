//! `weft rm PATH..`.

use weft_client::{Cred, Dirent, Found, Ino, Kind, Name, Refusal, Volume};

use crate::args::{ConnectArgs, RmArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::interrupt::Troubles;
use crate::path::SitePath;
use crate::system;

/// Entries asked for at a time.
const PAGE: u32 = 1024;

/// Removes each; goes on with the others when one fails.
pub(crate) async fn run(to: &ConnectArgs, args: RmArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let cred = system::cred();
    let troubles = Troubles::default();
    for path in &args.paths {
        let removed = async {
            if path.name().is_none() {
                return Err(Failure::new(format!("remove {path}: name what is to go by its own name")));
            }
            let at = client.resolve_parent(&cred, path.as_bytes()).await;
            let found = match at {
                Ok(at) => at.volume.lookup(&cred, at.parent, at.name.clone()).await.map(|found| (at, found)),
                Err(error) => Err(error),
            };
            let (at, found) = match found {
                Err(error) if args.force && error.refusal() == Some(&Refusal::NoEntry) => return Ok(()),
                found => found.doing(format!("remove {path}"))?,
            };
            remove(&at.volume, &cred, at.parent, at.name, found, path, &args, &troubles).await
        };
        if let Err(failure) = removed.await {
            troubles.tell(&failure);
        }
    }
    close(&client).await?;
    troubles.outcome()
}

#[allow(clippy::too_many_arguments)]
async fn remove(
    volume: &Volume,
    cred: &Cred,
    parent: Ino,
    name: Name,
    found: Found,
    path: &SitePath,
    args: &RmArgs,
    troubles: &Troubles,
) -> Result<(), Failure> {
    let doing = || format!("remove {path}");
    let attr = match found {
        Found::Junction(_) => {
            return Err(Failure::new(format!("{}: a volume is seen here", doing()))
                .hint("its files are within it; the volume itself stays"));
        }
        Found::Inode(attr) => attr,
    };
    if attr.kind != Kind::Directory {
        if path.must_be_directory() {
            return Err(Failure::new(format!("{}: it is not a directory", doing())));
        }
        return gone(volume.unlink(cred, parent, name).await.map(drop)).doing(doing());
    }
    if !args.recursive {
        return Err(
            Failure::new(format!("{}: it is a directory", doing())).hint("-r removes it with all that is in it")
        );
    }
    empty(volume, cred, attr.ino, path, troubles).await?;
    gone(volume.rmdir(cred, parent, name).await.map(drop)).doing(doing())
}

/// Removes everything in a directory. Depth first, without recursion: trees may be deeper than stacks.
async fn empty(volume: &Volume, cred: &Cred, dir: Ino, path: &SitePath, troubles: &Troubles) -> Result<(), Failure> {
    struct Level {
        dir: Ino,
        path: SitePath,
        /// How the level above calls it.
        name: Option<Name>,
        after: Option<Name>,
        subs: Vec<(Ino, Name)>,
        end: bool,
        /// Something in it could not be removed.
        kept: bool,
    }
    let level = |dir, path, name| Level { dir, path, name, after: None, subs: Vec::new(), end: false, kept: false };
    let mut levels = vec![level(dir, path.clone(), None)];
    while let Some(at) = levels.last_mut() {
        if let Some((ino, name)) = at.subs.pop() {
            let path = at.path.join(name.as_bytes());
            levels.push(level(ino, path, Some(name)));
            continue;
        }
        if at.end {
            let (done, kept) = (levels.pop(), levels.last_mut());
            if let (Some(done), Some(above)) = (done, kept) {
                let name = done.name.clone().unwrap_or_else(|| unreachable!("only the first level has no name"));
                let removed = match done.kept {
                    true => Err(Failure::told()),
                    false => {
                        gone(volume.rmdir(cred, above.dir, name).await.map(drop)).doing(format!("remove {}", done.path))
                    }
                };
                if let Err(failure) = removed {
                    troubles.tell(&failure);
                    above.kept = true;
                }
                continue;
            }
            return Ok(());
        }
        let page = volume.readdir(cred, at.dir, at.after.take(), PAGE, false).await;
        let page = page.doing(format!("list {}", at.path))?;
        at.end = page.end || page.entries.is_empty();
        at.after = page.entries.last().map(|entry| entry.name.clone());
        for entry in page.entries {
            let doing = || format!("remove {}", at.path.join(entry.name.as_bytes()));
            let removed = match entry.dirent {
                Dirent::Inode { ino, kind: Kind::Directory } => {
                    at.subs.push((ino, entry.name));
                    continue;
                }
                Dirent::Inode { .. } => {
                    gone(volume.unlink(cred, at.dir, entry.name.clone()).await.map(drop)).doing(doing())
                }
                Dirent::Junction(_) => Err(Failure::new(format!("{}: a volume is seen here", doing()))),
            };
            if let Err(failure) = removed {
                troubles.tell(&failure);
                at.kept = true;
            }
        }
    }
    Ok(())
}

/// What somebody else removed meanwhile is gone as well.
fn gone(removed: weft_client::Result<()>) -> weft_client::Result<()> {
    match removed {
        Err(error) if error.refusal() == Some(&Refusal::NoEntry) => Ok(()),
        removed => removed,
    }
}
