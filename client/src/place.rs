//! Nodes that are to be emptied, and nodes that are to be forgotten.

use std::sync::Arc;
use std::time::Duration;

use weft_core::ids::NodeId;
use weft_core::refusal::Refusal;
use weft_core::site::SiteMap;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::servers::NodeOrder;
use crate::trial::Trial;

impl Client {
    /// Has a node emptied, or no longer. Returns when the site knows it; what the node holds moves from then on.
    ///
    /// # Errors
    /// There is no such node; no answer within the deadline.
    pub async fn drain_node(&self, node: NodeId, on: bool) -> Result<Arc<SiteMap>> {
        self.order_node(node, NodeOrder::Drain { on }).await
    }

    /// Has the site forget a node; with `force` also one that is away and held what kept one copy only.
    ///
    /// # Errors
    /// It holds something yet, or there is no such node; no answer within the deadline.
    pub async fn remove_node(&self, node: NodeId, force: bool) -> Result<Arc<SiteMap>> {
        let is_known = |map: &SiteMap| map.nodes.iter().any(|known| known.id == node);
        let known = is_known(&*self.refresh_map().await?);
        match self.order_node(node, NodeOrder::Remove { force }).await {
            // Asked again since the first answer was lost, the site says that there is no such node.
            Err(Error::Refused(Refusal::Invalid { why })) if known => match self.refresh_map().await? {
                map if is_known(&map) => Err(Error::Refused(Refusal::Invalid { why })),
                map => Ok(map),
            },
            answer => answer,
        }
    }

    /// Asks one node after the other, which pass it on to who can answer, until there is an answer. Done twice, an order
    /// does no harm.
    async fn order_node(&self, node: NodeId, order: NodeOrder) -> Result<Arc<SiteMap>> {
        let shared = &self.shared;
        let mut trial = Trial::new(&shared.options);
        loop {
            shared.open()?;
            let mut last = Refusal::Unknown { why: "no address to ask".into() };
            for addr in shared.topology.addrs(&shared.options.addrs) {
                match shared.servers.order_node(&addr, shared.plain_call(trial.wait()), node, order).await {
                    Ok(map) => {
                        shared.topology.offer(map);
                        return Ok(self.site_map());
                    }
                    Err(
                        refusal @ (Refusal::NotLeader { .. }
                        | Refusal::NotServed { .. }
                        | Refusal::Unknown { .. }
                        | Refusal::Busy { .. }
                        | Refusal::WrongRecipient { .. }
                        | Refusal::DiskFailed { .. }),
                    ) => last = refusal,
                    Err(refusal) => return Err(Error::Refused(refusal)),
                }
            }
            trial.pause(&*shared.parts.dice, Duration::ZERO, &last.to_string()).await?;
        }
    }
}
