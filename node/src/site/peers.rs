//! Channels to the other nodes of the site, one per address, connected when first used.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;
use weft_core::ids::NodeId;
use weft_core::refusal::Refusal;
use weft_proto::link::{self, Dial};
use weft_proto::trust::Whom;

use super::map::MapCell;

/// By address, and whom it must be.
type Channels = BTreeMap<(String, Option<NodeId>), Channel>;

/// Channels to other nodes. Cloning shares them.
#[derive(Clone)]
pub struct Peers {
    dial: Arc<dyn Dial>,
    map: MapCell,
    channels: Arc<Mutex<Channels>>,
}

impl Peers {
    /// None yet.
    pub fn new(dial: Arc<dyn Dial>, map: MapCell) -> Peers {
        Peers { dial, map, channels: Arc::default() }
    }

    /// The channel to a node of the site map.
    ///
    /// # Errors
    /// The map has no such node, or its address is not one.
    pub fn node(&self, id: NodeId) -> Result<Channel, Refusal> {
        match self.map.node(id) {
            Some(node) => self.node_at(id, &node.addr),
            None => Err(Refusal::Unknown { why: format!("node {id} is not in the site map") }),
        }
    }

    /// The channel to an address, `host:port`, whichever node of the site answers there.
    ///
    /// # Errors
    /// It is not an address.
    pub fn addr(&self, addr: &str) -> Result<Channel, Refusal> {
        self.open(addr, None)
    }

    /// The channel to a node that is said to be at an address; another one there is not taken for it.
    ///
    /// # Errors
    /// It is not an address.
    pub fn node_at(&self, id: NodeId, addr: &str) -> Result<Channel, Refusal> {
        self.open(addr, Some(id))
    }

    fn open(&self, addr: &str, node: Option<NodeId>) -> Result<Channel, Refusal> {
        let mut channels = self.channels.lock();
        let key = (addr.to_string(), node);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = link::channel_to(self.dial.clone(), addr, node.map_or(Whom::AnyNode, Whom::Node))
            .map_err(|error| Refusal::Invalid { why: format!("address {addr}: {error}") })?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}
