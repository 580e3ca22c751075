//! Nodes of this machine: real parts for real settings, and what can be done with them.

use std::path::Path;

use weft_node::identity::{FolderLock, Identity};
use weft_node::node::Node;
use weft_node::parts::Parts;
use weft_node::real;
use weft_node::settings::Settings;
use weft_node::site::setup;
use weft_node::trust::keeper;
use weft_node::trust::token::JoinToken;

use crate::failure::Failure;

/// A running node and the lock on its folder.
pub(crate) struct Running {
    node: Node,
    _lock: FolderLock,
}

impl Running {
    /// Returns once it serves no more.
    pub(crate) async fn ended(&self) {
        self.node.wait().await;
    }

    /// Stops it cleanly.
    pub(crate) async fn shutdown(self) {
        self.node.shutdown().await;
    }
}

/// Reads settings.
pub(crate) fn load(config: &Path) -> Result<Settings, Failure> {
    Settings::load(config).map_err(|error| {
        Failure::new(error.to_string())
            .hint("`weft node --print-config` shows every setting with its words and default")
    })
}

/// Starts a node.
pub(crate) async fn start(settings: Settings) -> Result<Running, Failure> {
    let folder = settings.data.display().to_string();
    let (parts, lock) = parts(&settings)?;
    let secure = keeper::read(&*parts.disk).await.map_err(|error| Failure::new(error.to_string()))?.is_some();
    if !secure {
        only_here(&settings)?;
    }
    let node = Node::start(settings, parts).await;
    let node = node.map_err(|error| Failure::new(format!("start the node in {folder}: {error}")))?;
    Ok(Running { node, _lock: lock })
}

/// Plain text stays on this machine.
fn only_here(settings: &Settings) -> Result<(), Failure> {
    match settings.beyond_loopback() {
        None => Ok(()),
        Some(addr) => Err(Failure::new(format!(
            "{addr} can be reached from other machines, and this site would speak plain text: everybody on the way could \
             read and change everything"
        ))
        .hint("make the site without --plain, or listen and advertise on 127.0.0.1")),
    }
}

/// Makes a folder the first node of a new site, with an authority. The administrator's credential is written to a file.
pub(crate) async fn found(
    settings: &Settings,
    name: &str,
    groups: u32,
    replication: u8,
    credential: &Path,
) -> Result<Identity, Failure> {
    if credential.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("{} is there already: it may be another site's", credential.display()))
            .hint("name another file for the administrator's credential with --credential FILE"));
    }
    let (parts, _lock) = parts(settings)?;
    let made = setup::found(settings, name, groups, replication, &parts).await;
    let (identity, admin) =
        made.map_err(|error| Failure::new(format!("make a site in {}: {error}", settings.data.display())))?;
    admin.store(credential).map_err(|error| {
        Failure::new(format!("the site is made, but its administrator's credential is lost: {error}"))
            .hint(format!("remove {} and make it again", settings.data.display()))
    })?;
    Ok(identity)
}

/// Makes a folder the first node of a new site in plain text.
pub(crate) async fn init(settings: &Settings, name: &str, groups: u32, replication: u8) -> Result<Identity, Failure> {
    only_here(settings)?;
    let (parts, _lock) = parts(settings)?;
    let made = setup::init(settings, name, groups, replication, &parts).await;
    made.map_err(|error| Failure::new(format!("make a site in {}: {error}", settings.data.display())))
}

/// Makes a folder a new node of a running site.
pub(crate) async fn join(settings: &Settings, peer: &str, token: Option<&str>) -> Result<Identity, Failure> {
    let token = match token {
        Some(text) => Some(text.parse::<JoinToken>().map_err(|error| Failure::usage(error.to_string()))?),
        None => {
            only_here(settings)
                .map_err(|failure| failure.hint("a site with certificates is joined with --token TOKEN"))?;
            None
        }
    };
    let (parts, _lock) = parts(settings)?;
    setup::join_with(settings, peer, token.as_ref(), &parts).await.map_err(|error| {
        let failure = Failure::new(format!("take {} into a site: {error}", settings.data.display()));
        failure.hint(match token {
            Some(_) => "the peer must be a running node of the site that printed the token",
            None => {
                "the peer must be a running node whose site has a leader (`weft cluster status --connect` asks it); one \
                 with certificates wants --token TOKEN"
            }
        })
    })
}

/// Whether a folder belongs to a site.
pub(crate) async fn is_member(settings: &Settings) -> Result<bool, Failure> {
    let (parts, _lock) = parts(settings)?;
    let member = setup::is_member(settings, &parts).await;
    member.map_err(|error| Failure::new(format!("look into {}: {error}", settings.data.display())))
}

fn parts(settings: &Settings) -> Result<(Parts, FolderLock), Failure> {
    real::open(settings).map_err(|error| Failure::new(error.to_string()))
}
