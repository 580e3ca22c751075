//! The newest site map this node has seen, shared by everything in the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_core::ids::{NodeId, PgId};
use weft_core::site::{Node, Pg, SiteMap};

/// Holds the newest site map. Cloning shares it.
#[derive(Clone)]
pub struct MapCell(Arc<watch::Sender<Arc<SiteMap>>>);

impl Default for MapCell {
    fn default() -> Self {
        MapCell(Arc::new(watch::Sender::new(Arc::new(SiteMap::default()))))
    }
}

impl MapCell {
    /// The newest one seen; version 0 before the first.
    pub fn get(&self) -> Arc<SiteMap> {
        self.0.borrow().clone()
    }

    /// Takes a map if it is newer than the one held.
    pub fn offer(&self, map: SiteMap) {
        self.0.send_if_modified(|held| {
            let newer = map.version > held.version;
            if newer {
                *held = Arc::new(map);
            }
            newer
        });
    }

    /// Sees every later map.
    pub fn watch(&self) -> watch::Receiver<Arc<SiteMap>> {
        self.0.subscribe()
    }

    /// Waits until a map is as wanted, but not longer than `within`; whether it came.
    pub async fn watch_until(&self, within: Duration, wanted: impl FnMut(&SiteMap) -> bool) -> bool {
        let mut wanted = wanted;
        let mut maps = self.watch();
        let came = tokio::time::timeout(within, maps.wait_for(|map| wanted(map))).await;
        matches!(came, Ok(Ok(_)))
    }

    /// A node's record.
    pub fn node(&self, id: NodeId) -> Option<Node> {
        self.get().nodes.iter().find(|node| node.id == id).cloned()
    }

    /// A placement group's record.
    pub fn pg(&self, id: PgId) -> Option<Pg> {
        self.get().pgs.iter().find(|pg| pg.id == id).cloned()
    }
}
