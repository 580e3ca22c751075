//! `weft volume create|list|info|delete`.

use std::io::IsTerminal;

use serde::Serialize;
use tokio::io::AsyncBufReadExt;
use weft_client::{VolumeUse, site};
use weft_proto::convert::parse_volume_name;

use crate::args::{ConnectArgs, VolumeCommand};
use crate::connect::{close, connect};
use crate::failure::{Doing, Failure};
use crate::path::SitePath;
use crate::table::{Align, Table};
use crate::{humane, output, system};

/// A volume as `--json` shows it.
#[derive(Serialize)]
pub(crate) struct ShownVolume {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) space: u64,
    pub(crate) group: u32,
    pub(crate) slot: u64,
    pub(crate) view: u32,
    pub(crate) replication: u8,
    pub(crate) tenant: u32,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) ready: bool,
    pub(crate) deleting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) junction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<ShownUse>,
}

/// Use and limits; a limit of `null` is none.
#[derive(Serialize)]
pub(crate) struct ShownUse {
    bytes: u64,
    inodes: u64,
    max_bytes: Option<u64>,
    max_inodes: Option<u64>,
}

impl From<&site::Volume> for ShownVolume {
    fn from(volume: &site::Volume) -> ShownVolume {
        ShownVolume {
            name: volume.name.clone(),
            id: volume.id.0,
            space: volume.space.0,
            group: volume.group.0,
            slot: volume.slot.0,
            view: volume.view.0,
            replication: volume.replication,
            tenant: volume.tenant.0,
            created: volume.created.secs,
            ready: volume.ready,
            deleting: volume.deleting,
            junction: None,
            used: None,
        }
    }
}

/// Does one of them.
pub(crate) async fn run(to: &ConnectArgs, command: VolumeCommand) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { name, replication, at, no_junction, json } => {
            let at = match (no_junction, at) {
                (true, _) => None,
                (false, Some(at)) => Some(at),
                (false, None) => Some(own_place(&name)?),
            };
            create(to, &name, replication, at, json).await
        }
        VolumeCommand::Delete { name, yes } => delete(to, &name, yes).await,
        VolumeCommand::List { json } => list(to, json).await,
        VolumeCommand::Info { name, json } => info(to, &name, json).await,
    }
}

/// `/NAME`.
fn own_place(name: &str) -> Result<SitePath, Failure> {
    let name = parse_volume_name(name.to_string()).map_err(|refusal| Failure::usage(refusal.to_string()))?;
    SitePath::parse(format!("/{name}").into()).map_err(Failure::usage)
}

async fn create(
    to: &ConnectArgs,
    name: &str,
    replication: Option<u8>,
    at: Option<SitePath>,
    json: bool,
) -> Result<(), Failure> {
    let client = connect(to).await?;
    let doing = format!("create volume {name}");
    let replication = match replication {
        Some(replication) => replication,
        None => client.volume(site::ROOT_VOLUME).await.doing(&doing)?.info().replication,
    };
    let made = client.create_volume(name, replication, at.as_ref().map(SitePath::as_bytes)).await;
    let volume = made.doing(&doing)?;
    let mut shown = ShownVolume::from(volume.info());
    shown.junction = at.as_ref().map(SitePath::to_string);
    if json {
        output::json(&shown)?;
    } else {
        let place = shown.junction.map(|at| format!(", seen at {at}")).unwrap_or_default();
        let copies = if replication == 1 { "one copy".into() } else { format!("{replication} copies") };
        output::line(format!("volume {name} made: {copies} of each chunk{place}"))?;
    }
    close(&client).await
}

async fn list(to: &ConnectArgs, json: bool) -> Result<(), Failure> {
    use Align::{Left, Right};
    let client = connect(to).await?;
    let volumes = client.volumes().await.doing("list volumes")?;
    if json {
        output::json(&volumes.iter().map(ShownVolume::from).collect::<Vec<_>>())?;
    } else {
        let head = [("NAME", Left), ("ID", Right), ("COPIES", Right), ("GROUP", Right), ("MADE", Left), ("", Left)];
        let mut table = Table::new(head);
        for volume in &volumes {
            table.row([
                volume.name.clone(),
                volume.id.to_string(),
                volume.replication.to_string(),
                volume.group.to_string(),
                humane::time(volume.created),
                match (volume.deleting, volume.ready) {
                    (true, _) => "being deleted".into(),
                    (false, true) => String::new(),
                    (false, false) => "being made".into(),
                },
            ]);
        }
        output::bytes(table.render().as_bytes())?;
    }
    close(&client).await
}

async fn delete(to: &ConnectArgs, name: &str, yes: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let doing = format!("delete volume {name}");
    if !yes {
        let volume = client.volume(name).await.doing(&doing)?;
        let used = volume.statfs(&system::cred()).await.doing(&doing)?;
        let what = format!("{} in {} inodes", humane::bytes(used.bytes), used.inodes);
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("{doing}: {what} would be gone for ever")).hint("say so with --yes"));
        }
        output::note(format!("{doing}: {what} will be gone for ever. Type the name to go on:"));
        let mut stdin = tokio::io::BufReader::new(tokio::io::stdin());
        let mut typed = String::new();
        stdin.read_line(&mut typed).await.map_err(|error| Failure::new(format!("{doing}: {error}")))?;
        if typed.trim() != name {
            return Err(Failure::new(format!("{doing}: not done")));
        }
    }
    client.delete_volume(name).await.doing(&doing)?;
    output::line(format!("volume {name} is being deleted: its name is free, its space comes back by and by"))?;
    close(&client).await
}

async fn info(to: &ConnectArgs, name: &str, json: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let doing = format!("show volume {name}");
    let volume = client.volume(name).await.doing(&doing)?;
    let used = volume.statfs(&system::cred()).await.doing(&doing)?;
    let mut shown = ShownVolume::from(volume.info());
    if json {
        let limit = |limit: u64| (limit != 0).then_some(limit);
        let VolumeUse { bytes, inodes, max_bytes, max_inodes } = used;
        shown.used = Some(ShownUse { bytes, inodes, max_bytes: limit(max_bytes), max_inodes: limit(max_inodes) });
        output::json(&shown)?;
    } else {
        let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
        let mut row = |name: &str, value: String| table.row([name.to_string(), value]);
        let most = |max: u64, shown: String| if max == 0 { "no limit".into() } else { format!("at most {shown}") };
        row("name", shown.name);
        row("id", shown.id.to_string());
        row("copies of each chunk", shown.replication.to_string());
        row("metadata group", shown.group.to_string());
        row("made", humane::time(volume.info().created));
        row("bytes", format!("{}, {}", humane::bytes(used.bytes), most(used.max_bytes, humane::bytes(used.max_bytes))));
        row("inodes", format!("{}, {}", used.inodes, most(used.max_inodes, used.max_inodes.to_string())));
        output::bytes(table.render().as_bytes())?;
    }
    close(&client).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_seen_under_its_own_name() {
        assert_eq!(own_place("team").unwrap().to_string(), "/team");
        for bad in ["", ".", "..", "a/b", "-x"] {
            assert_eq!(own_place(bad).unwrap_err().code(), 2, "{bad:?}");
        }
    }
}
