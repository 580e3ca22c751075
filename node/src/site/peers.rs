//! Channels to the other nodes of the site, one per address, connected when first used.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;
use weft_core::ids::NodeId;
use weft_core::refusal::Refusal;
use weft_proto::link::{self, Dial};

use super::map::MapCell;

/// Channels to other nodes. Cloning shares them.
#[derive(Clone)]
pub struct Peers {
    dial: Arc<dyn Dial>,
    map: MapCell,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
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
            Some(node) => self.addr(&node.addr),
            None => Err(Refusal::Unknown { why: format!("node {id} is not in the site map") }),
        }
    }

    /// The channel to an address, `host:port`.
    ///
    /// # Errors
    /// It is not an address.
    pub fn addr(&self, addr: &str) -> Result<Channel, Refusal> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = link::channel(self.dial.clone(), addr)
            .map_err(|error| Refusal::Invalid { why: format!("address {addr}: {error}") })?;
        channels.insert(addr.to_string(), channel.clone());
        Ok(channel)
    }
}
