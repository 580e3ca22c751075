//! The node in its site: the site map it holds, the peers it talks to, heartbeats, and the system group's duties.
//!
//! Every node answers questions about the site map and about itself. What needs the leader of the system group is
//! passed on to it, once ([`route`]). The leader judges who is there by heartbeats alone ([`beats`]), asks weft-core's
//! planner what should change, and proposes it ([`duties`]). Nothing here decides by itself where data goes.

pub mod beats;
pub mod duties;
pub mod heart;
pub mod lead;
pub mod map;
pub mod peers;
pub mod route;
pub mod service;
pub mod setup;

use weft_core::refusal::Refusal;

use self::map::MapCell;
use crate::meta::Group;

/// Takes the site map from this node's replica of the system group.
///
/// # Errors
/// The replica can't be read.
pub(crate) fn refresh(group: &Group, map: &MapCell) -> Result<(), Refusal> {
    let failed = |error: weft_core::view::ViewError| Refusal::DiskFailed { why: error.to_string() };
    let view = group.local_view()?;
    let newest = weft_core::site::map(&*view).map_err(failed)?;
    map.offer(newest);
    Ok(())
}
