//! Nodes of this machine: real parts for real settings, and what can be done with them.

use std::path::Path;

use weft_node::identity::{FolderLock, Identity};
use weft_node::node::Node;
use weft_node::parts::Parts;
use weft_node::real;
use weft_node::settings::Settings;
use weft_node::site::setup;

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
    let node = Node::start(settings, parts).await;
    let node = node.map_err(|error| Failure::new(format!("start the node in {folder}: {error}")))?;
    Ok(Running { node, _lock: lock })
}

/// Makes a folder the first node of a new site.
pub(crate) async fn init(settings: &Settings, name: &str, groups: u32, replication: u8) -> Result<Identity, Failure> {
    let (parts, _lock) = parts(settings)?;
    let made = setup::init(settings, name, groups, replication, &parts).await;
    made.map_err(|error| Failure::new(format!("make a site in {}: {error}", settings.data.display())))
}

/// Makes a folder a new node of a running site.
pub(crate) async fn join(settings: &Settings, peer: &str) -> Result<Identity, Failure> {
    let (parts, _lock) = parts(settings)?;
    setup::join(settings, peer, &parts).await.map_err(|error| {
        Failure::new(format!("take {} into a site: {error}", settings.data.display())).hint(
            "the peer must be a running node whose site has a leader: ask it with `weft cluster status --connect`",
        )
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
