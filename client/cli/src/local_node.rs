//! Nodes of this machine: real parts for real settings, and what can be done with them.

use std::path::Path;

use weft_node::identity::{FolderLock, Identity};
use weft_node::settings::Settings;

use crate::failure::Failure;

/// A running node and the lock on its folder.
pub(crate) struct Running {
    _lock: FolderLock,
}

impl Running {
    /// Returns once it serves no more.
    pub(crate) async fn ended(&self) {
        std::future::pending().await
    }

    /// Stops it cleanly.
    pub(crate) async fn shutdown(self) {}
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
    let _lock = FolderLock::take(&settings.data).map_err(|error| Failure::new(error.to_string()))?;
    not_yet()
}

/// Makes a folder the first node of a new site.
pub(crate) async fn init(_: &Settings, _: &str, _: u32, _: u8) -> Result<Identity, Failure> {
    not_yet()
}

/// Makes a folder a new node of a running site.
pub(crate) async fn join(_: &Settings, _: &str) -> Result<Identity, Failure> {
    not_yet()
}

/// Whether a folder belongs to a site.
pub(crate) async fn is_member(_: &Settings) -> Result<bool, Failure> {
    not_yet()
}

fn not_yet<T>() -> Result<T, Failure> {
    Err(Failure::new("this version can't run nodes yet"))
}
