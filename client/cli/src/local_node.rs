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
    /// Kept until the node was shut down.
    lock: FolderLock,
}

impl Running {
    /// Returns once it serves no more.
    pub(crate) async fn ended(&self) {
        self.node.wait().await;
    }

    /// Stops it cleanly.
    pub(crate) async fn shutdown(self) {
        self.node.shutdown().await;
        drop(self.lock);
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
    let (parts, lock) = open(&settings)?;
    let node = Node::start(settings, parts).await.map_err(failure)?;
    Ok(Running { node, lock })
}

/// Makes a folder the first node of a new site.
pub(crate) async fn init(settings: &Settings, name: &str, groups: u32, replication: u8) -> Result<Identity, Failure> {
    let (parts, _lock) = open(settings)?;
    setup::init(settings, name, groups, replication, &parts).await.map_err(failure)
}

/// Makes a folder a new node of a running site.
pub(crate) async fn join(settings: &Settings, peer: &str) -> Result<Identity, Failure> {
    let (parts, _lock) = open(settings)?;
    setup::join(settings, peer, &parts).await.map_err(failure)
}

/// Whether a folder belongs to a site.
pub(crate) async fn is_member(settings: &Settings) -> Result<bool, Failure> {
    let (parts, _lock) = open(settings)?;
    setup::is_member(settings, &parts).await.map_err(failure)
}

fn open(settings: &Settings) -> Result<(Parts, FolderLock), Failure> {
    real::open(settings).map_err(failure)
}

fn failure(error: impl std::error::Error) -> Failure {
    Failure::new(error.to_string())
}
