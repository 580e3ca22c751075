//! `weft ls PATH`.

use std::io::IsTerminal;

use serde::Serialize;
use weft_client::{Attr, Cred, Dirent, Ino, Kind, ListedEntry, Name, Volume};

use super::stat::Shown;
use crate::args::{ConnectArgs, LsArgs};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::path::shown;
use crate::table::{Align, Table};
use crate::{humane, output, system};

/// Entries asked for at a time.
const PAGE: u32 = 1024;

/// One line of the listing.
struct Line {
    name: Vec<u8>,
    attr: Attr,
    /// Of a symbolic link.
    target: Option<Vec<u8>>,
    /// The volume that a junction leads to.
    junction: Option<String>,
}

/// An entry as `--json` shows it.
#[derive(Serialize)]
struct ShownLine {
    #[serde(flatten)]
    attr: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    junction_to: Option<String>,
}

/// Lists a directory, or shows one line for anything else.
pub(crate) async fn run(to: &ConnectArgs, args: LsArgs) -> Result<(), Failure> {
    let client = connect(to).await?;
    let cred = system::cred();
    let doing = format!("list {}", args.path);
    let follow = !args.long && !args.directory || args.path.must_be_directory();
    let at = match follow {
        true => client.resolve_follow(&cred, args.path.as_bytes()).await.doing(&doing)?,
        false => client.resolve(&cred, args.path.as_bytes()).await.doing(&doing)?,
    };
    let whole = args.long || args.json;
    if at.found.kind == Kind::Directory && !args.directory {
        if whole {
            let lines = read_all(&at.volume, &cred, at.found.ino).await.doing(&doing)?;
            show(&args, lines)?;
        } else {
            stream_names(&at.volume, &cred, at.found.ino, &doing).await?;
        }
    } else {
        let target = target(&at.volume, &cred, &at.found).await.doing(&doing)?;
        let line = Line { name: args.path.as_bytes().to_vec(), attr: at.found, target, junction: None };
        show(&args, vec![line])?;
    }
    close(&client).await
}

/// Names alone are shown as they come: a directory may have millions.
async fn stream_names(volume: &Volume, cred: &Cred, dir: Ino, doing: &str) -> Result<(), Failure> {
    let raw = !std::io::stdout().is_terminal();
    let mut after: Option<Name> = None;
    loop {
        let page = volume.readdir(cred, dir, after.take(), PAGE, false).await.doing(doing)?;
        let mut text = Vec::new();
        for entry in &page.entries {
            push_name(&mut text, entry.name.as_bytes(), raw);
            text.push(b'\n');
        }
        output::bytes(&text)?;
        after = page.entries.last().map(|entry| entry.name.clone());
        if page.end || after.is_none() {
            return Ok(());
        }
    }
}

/// Names go into pipes as they are and to terminals so that they do no harm.
fn push_name(out: &mut Vec<u8>, name: &[u8], raw: bool) {
    if raw { out.extend_from_slice(name) } else { out.extend_from_slice(shown(name).as_bytes()) }
}

async fn read_all(volume: &Volume, cred: &Cred, dir: Ino) -> weft_client::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut after: Option<Name> = None;
    loop {
        let page = volume.readdir(cred, dir, after.take(), PAGE, true).await?;
        after = page.entries.last().map(|entry| entry.name.clone());
        for entry in page.entries {
            lines.push(line(volume, cred, entry).await?);
        }
        if page.end || after.is_none() {
            return Ok(lines);
        }
    }
}

async fn line(volume: &Volume, cred: &Cred, entry: ListedEntry) -> weft_client::Result<Line> {
    let name = entry.name.as_bytes().to_vec();
    match entry.dirent {
        Dirent::Inode { ino, .. } => {
            let attr = match entry.attr {
                Some(attr) => attr,
                None => volume.getattr(cred, ino).await?,
            };
            let target = target(volume, cred, &attr).await?;
            Ok(Line { name, attr, target, junction: None })
        }
        Dirent::Junction(slot) => {
            let there = volume.follow(slot).await?;
            let attr = there.getattr(cred, Ino::ROOT).await?;
            Ok(Line { name, attr, target: None, junction: Some(there.info().name.clone()) })
        }
    }
}

async fn target(volume: &Volume, cred: &Cred, attr: &Attr) -> weft_client::Result<Option<Vec<u8>>> {
    match attr.kind {
        Kind::Symlink => Ok(Some(volume.readlink(cred, attr.ino).await?.to_vec())),
        _ => Ok(None),
    }
}

fn show(args: &LsArgs, lines: Vec<Line>) -> Result<(), Failure> {
    if args.json {
        let shown: Vec<ShownLine> = lines
            .iter()
            .map(|line| ShownLine {
                attr: Shown::new(&line.name, &line.attr, line.target.as_deref()),
                junction_to: line.junction.clone(),
            })
            .collect();
        return output::json(&shown);
    }
    if !args.long {
        return lines.iter().try_for_each(|line| output::line(shown(&line.name)));
    }
    output::bytes(long(&lines).render().as_bytes())
}

fn long(lines: &[Line]) -> Table {
    use Align::{Left, Right};
    let mut table =
        Table::new([("", Left), ("", Right), ("", Right), ("", Right), ("", Right), ("", Left), ("", Left)]);
    for Line { name, attr, target, junction } in lines {
        let mut name = shown(name);
        if let Some(target) = target {
            name += &format!(" -> {}", shown(target));
        }
        if let Some(volume) = junction {
            name += &format!(" => volume {volume}");
        }
        let size = match attr.kind {
            Kind::CharDevice | Kind::BlockDevice => {
                format!("{},{}", libc::major(attr.rdev.into()), libc::minor(attr.rdev.into()))
            }
            _ => attr.size.to_string(),
        };
        table.row([
            humane::mode(attr.kind, attr.mode),
            attr.nlink.to_string(),
            attr.uid.to_string(),
            attr.gid.to_string(),
            size,
            humane::time(attr.mtime),
            name,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_client::{Timestamp, VolumeId};

    fn attr(kind: Kind, size: u64) -> Attr {
        Attr {
            volume: VolumeId(1),
            ino: Ino(7),
            kind,
            mode: 0o755,
            uid: 1000,
            gid: 100,
            nlink: 2,
            size,
            allocated: size,
            rdev: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
            generation: 0,
            version: 0,
            parent: Ino(1),
            acl: None,
            default_acl: None,
        }
    }

    #[test]
    fn the_long_listing_lines_up_and_says_where_links_and_junctions_lead() {
        let line = |name: &str, kind, size, target: Option<&str>, junction: Option<&str>| Line {
            name: name.into(),
            attr: attr(kind, size),
            target: target.map(Into::into),
            junction: junction.map(Into::into),
        };
        let text = long(&[
            line("a", Kind::File, 12345, None, None),
            line("b", Kind::Symlink, 1, Some("a"), None),
            line("team", Kind::Directory, 3, None, Some("team")),
        ])
        .render();
        assert_eq!(
            text,
            "-rwxr-xr-x  2  1000  100  12345  1970-01-01 00:00:00Z  a\n\
             lrwxr-xr-x  2  1000  100      1  1970-01-01 00:00:00Z  b -> a\n\
             drwxr-xr-x  2  1000  100      3  1970-01-01 00:00:00Z  team => volume team\n"
        );
    }

    #[test]
    fn json_has_the_kind_and_the_junction() {
        let shown = ShownLine {
            attr: Shown::new(b"team\xff", &attr(Kind::Directory, 3), None),
            junction_to: Some("team".into()),
        };
        let value = serde_json::to_value(&shown).unwrap();
        assert_eq!(value["name"], "team\\xff");
        assert_eq!((&value["kind"], &value["junction_to"]), (&"directory".into(), &"team".into()));
        assert_eq!(value["mode"], "0755");
    }
}
