//! `weft stat PATH`.

use serde::Serialize;
use weft_client::{Attr, Client, Cred, Kind, Resolved, Timestamp};

use crate::args::{ConnectArgs, StatArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::path::{SitePath, shown};
use crate::table::{Align, Table};
use crate::{humane, output, system};

/// A file or directory, as `--json` shows it.
#[derive(Serialize)]
pub(crate) struct Shown {
    /// As far as it is UTF-8; other bytes are escaped.
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Octal, as chmod takes it.
    pub(crate) mode: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) volume: u64,
    pub(crate) ino: u64,
    pub(crate) version: u64,
    /// Seconds since 1970, with nanoseconds after the point.
    pub(crate) mtime: String,
    pub(crate) atime: String,
    pub(crate) ctime: String,
    pub(crate) btime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

impl Shown {
    /// From attributes, a name for them, and a symbolic link's target.
    pub(crate) fn new(name: &[u8], attr: &Attr, target: Option<&[u8]>) -> Shown {
        let seconds = |time: Timestamp| format!("{}.{:09}", time.secs, time.nanos);
        Shown {
            name: shown(name),
            kind: humane::kind(attr.kind),
            mode: format!("{:04o}", attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            volume: attr.volume.0,
            ino: attr.ino.0,
            version: attr.version,
            mtime: seconds(attr.mtime),
            atime: seconds(attr.atime),
            ctime: seconds(attr.ctime),
            btime: seconds(attr.btime),
            target: target.map(shown),
        }
    }
}

/// Shows it.
pub(crate) async fn run(to: &ConnectArgs, args: StatArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let cred = system::cred();
    let doing = format!("show {}", args.path);
    let follow = args.follow || args.path.must_be_directory();
    let at = resolve(&client, &cred, &args.path, follow).await.doing(&doing)?;
    let attr = &at.found;
    let target = match attr.kind {
        Kind::Symlink => Some(at.volume.readlink(&cred, attr.ino).await.doing(&doing)?),
        _ => None,
    };
    if args.json {
        output::json(&Shown::new(args.path.as_bytes(), attr, target.as_deref()))?;
    } else {
        output::bytes(table(&args.path, &at, target.as_deref()).render().as_bytes())?;
    }
    close(&client).await
}

async fn resolve(client: &Client, cred: &Cred, path: &SitePath, follow: bool) -> weft_client::Result<Resolved> {
    match follow {
        true => client.resolve_follow(cred, path.as_bytes()).await,
        false => client.resolve(cred, path.as_bytes()).await,
    }
}

fn table(path: &SitePath, at: &Resolved, target: Option<&[u8]>) -> Table {
    let attr = &at.found;
    let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
    let mut row = |name: &str, value: String| table.row([name.to_string(), value]);
    row("path", path.to_string());
    row("kind", humane::kind(attr.kind).to_string());
    if let Some(target) = target {
        row("leads to", shown(target));
    }
    match attr.kind {
        Kind::Directory => row("entries", attr.size.to_string()),
        _ => row("size", format!("{} ({})", attr.size, humane::bytes(attr.size))),
    }
    if attr.kind == Kind::File {
        row("allocated", format!("{} ({})", attr.allocated, humane::bytes(attr.allocated)));
    }
    row("mode", format!("{:04o} ({})", attr.mode, humane::mode(attr.kind, attr.mode)));
    row("owner", format!("uid {}, gid {}", attr.uid, attr.gid));
    row("links", attr.nlink.to_string());
    row("volume", format!("{} ({})", at.volume.info().name, attr.volume));
    row("inode", attr.ino.to_string());
    row("changed", humane::time(attr.mtime));
    row("attributes changed", humane::time(attr.ctime));
    row("read", humane::time(attr.atime));
    row("made", humane::time(attr.btime));
    table
}
