//! `weft cluster init`, `join`, `token` and `rotate`.

use std::path::PathBuf;

use crate::args::ConnectArgs;
use crate::connect::{close, connect, default_credential};
use crate::failure::{Doing, Failure};
use crate::local_node;
use crate::output;

/// Makes a new site.
pub(crate) async fn init(
    to: &ConnectArgs,
    config: PathBuf,
    name: String,
    groups: u32,
    replication: u8,
    plain: bool,
) -> Result<(), Failure> {
    let settings = local_node::load(&config)?;
    let (identity, admin) = match plain {
        true => (local_node::init(&settings, &name, groups, replication).await?, None),
        false => {
            let path = match &to.credential {
                Some(path) => path.clone(),
                None => default_credential().ok_or_else(|| {
                    Failure::new("there is no home folder for the administrator's credential")
                        .hint("name a file for it with --credential FILE")
                })?,
            };
            (local_node::found(&settings, &name, groups, replication, &path).await?, Some(path))
        }
    };
    let (config, node) = (config.display(), identity.node);
    output::line(format!("site {name} made, with node {node} in {}", settings.data.display()))?;
    if let Some(path) = &admin {
        output::line(format!("the administrator's credential is {}: keep it safe", path.display()))?;
    }
    output::line(format!("start it:        weft node --config {config}"))?;
    let addr = reached(&settings);
    match admin {
        Some(_) => {
            output::line(format!("add other nodes: weft cluster token --connect {addr}, and with what it prints"))?;
            output::line(format!("                 weft cluster join --config FILE --peer {addr} --token TOKEN"))?;
            output::line("add users:       weft user add NAME --uids UID")?;
        }
        None => output::line(format!("add other nodes: weft cluster join --config FILE --peer {addr}"))?,
    }
    if replication > 1 {
        output::line(format!(
            "files keep {replication} copies: the first can be written once two nodes or more are running"
        ))?;
    }
    Ok(())
}

/// Joins a running site.
pub(crate) async fn join(config: PathBuf, peer: String, token: Option<String>) -> Result<(), Failure> {
    let settings = local_node::load(&config)?;
    let token = match token.as_deref() {
        Some("-") => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).doing("read the join token from standard input")?;
            Some(line)
        }
        _ => token,
    };
    let identity = local_node::join(&settings, &peer, token.as_deref()).await?;
    let (site, node) = (&identity.site_name, identity.node);
    output::line(format!("joined site {site} as node {node}, with data in {}", settings.data.display()))?;
    output::line(format!("start it: weft node --config {}", config.display()))
}

/// Prints a join token.
pub(crate) async fn token(to: &ConnectArgs, expires: u32) -> Result<(), Failure> {
    let client = connect(to).await?;
    let token = client.join_token(expires).await.doing("ask for a join token")?;
    output::line(token)?;
    close(&client).await
}

/// Makes new keys.
pub(crate) async fn rotate(to: &ConnectArgs, authority: bool, drop: bool) -> Result<(), Failure> {
    let client = connect(to).await?;
    let said = match (authority, drop) {
        (true, _) => {
            client.rotate_authority().await.doing("make a new authority")?;
            "a new authority signs; nodes take new certificates by themselves. Once users have new credentials: \
             weft cluster rotate --drop"
        }
        (_, true) => {
            client.drop_authorities().await.doing("drop the former authorities")?;
            "only the newest authority is believed"
        }
        _ => {
            client.rotate_keys().await.doing("make a new key of capabilities")?;
            "a new key of capabilities is in use"
        }
    };
    output::line(said)?;
    close(&client).await
}

fn reached(settings: &weft_node::settings::Settings) -> String {
    settings.advertised(&settings.listen)
}
